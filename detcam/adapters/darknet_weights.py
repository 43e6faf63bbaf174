"""Darknet's `.weights` files: a header, then the numbers of each convolution in the order of the layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from detcam.adapters.darknet_modules import Convolutional
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.adapters.weights import check_weights_are_finite
from detcam.checkpoints import ModelFile
from detcam.errors import CheckpointError

_INT32, _FLOAT32 = np.dtype("<i4"), np.dtype("<f4")


def load_weights(network: DarknetNetwork, file: ModelFile) -> None:
    """Give a network its weights. Its size is compared with the file's before anything is allocated.

    Raises:
        CheckpointError: file and network do not belong together, the file is cut short, or it holds numbers
            that are not finite.
    """
    slots = dict(_slots(network))
    wanted = sum(tensor.numel() for tensor in slots.values())
    body = len(file.data) - header_length(file)
    if body != wanted * _FLOAT32.itemsize:
        raise CheckpointError(
            f"{file.path} holds {body / _FLOAT32.itemsize:.10g} weights where "
            f"{network.nodes[0].section.source} describes {wanted}: "
            "the two do not belong together, or the file is cut short"
        )
    values = np.frombuffer(file.data, _FLOAT32, offset=len(file.data) - body)
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    tensors = _filled(slots, values) | {name: torch.tensor(0) for name in counters}
    network.load_state_dict(tensors, assign=True)
    check_weights_are_finite(network, file.path)


def header_length(file: ModelFile) -> int:
    """Bytes before the weights: major, minor, revision, and the pictures seen, 8 bytes wide from 0.2 on.

    Raises:
        CheckpointError: the file is shorter than that.
    """
    if len(file.data) < 5 * _INT32.itemsize:
        raise CheckpointError(f"{file.path} has {len(file.data)} bytes: no Darknet .weights file is so short")
    major, minor, _revision = np.frombuffer(file.data, _INT32, count=3).tolist()
    return (5 if major * 10 + minor >= 2 else 4) * _INT32.itemsize


def _slots(network: DarknetNetwork) -> Iterator[tuple[str, Tensor]]:
    """Names and empty tensors in the file's order: each convolution's β, γ, μ, σ² or bias, then weights."""
    for index, layer in enumerate(network.layers):
        if not isinstance(layer, Convolutional):
            continue
        if layer.norm is None:
            names = ["conv.bias"]
        else:
            names = ["norm.bias", "norm.weight", "norm.running_mean", "norm.running_var"]
        own = layer.state_dict()
        for name in (*names, "conv.weight"):
            yield f"layers.{index}.{name}", own[name]


def _filled(slots: dict[str, Tensor], values: np.ndarray) -> dict[str, Tensor]:
    filled, start = {}, 0
    for name, slot in slots.items():
        part = values[start : start + slot.numel()].astype(np.float32)  # a copy: torch wants to own it
        filled[name] = torch.from_numpy(part).reshape(slot.shape)
        start += slot.numel()
    return filled
