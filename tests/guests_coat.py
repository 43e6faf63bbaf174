"""What a borrowed network and its surroundings must be again afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor, nn


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Fails if the block leaves the network or the state of the process other than it found them."""
    modules, tensors, process = _modules(model), _tensors(model), _process()
    # No identity is given out again.
    alive = [[*own.values(), *_items(own)] for own in map(vars, model.modules())]
    yield
    assert alive
    for before, after in ((modules, _modules(model)), (tensors, _tensors(model)), (process, _process())):
        assert list(after) == list(before)
        changed = [key for key in before if after[key] != before[key]]
        assert not changed


def _modules(model: nn.Module) -> dict[str, Any]:
    """Identity, mode and hooks of every module, identity of its attributes and of the items of lists."""
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = vars(module)
        found[f"{name}: mode"] = (id(module), module.training)
        found[f"{name}: hooks"] = {
            key: list(own[key].items()) for key in own if "_hooks" in key and isinstance(own[key], dict)
        }
        found[f"{name}: attributes"] = {key: id(value) for key, value in own.items() if key != "training"}
        found[f"{name}: items"] = [id(item) for item in _items(own)]
    return found


def _items(own: dict[str, Any]) -> list[Any]:
    """What is in the lists among a module's attributes, such as a head's grids."""
    return [item for value in own.values() if isinstance(value, list) for item in value]


def _tensors(model: nn.Module) -> dict[str, Any]:
    """Identity, type, device, flags, every bit and the gradient of every parameter and buffer."""
    return {
        f"{name}.{key}": tensor
        if tensor is None
        else (
            *(id(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_inference()),
            *(_bits(tensor), tensor.grad_fn),
            *((id(tensor.grad), _bits(tensor.grad)) if tensor.is_leaf else ()),
        )
        for name, module in model.named_modules(remove_duplicate=False)
        for key, tensor in {**module._parameters, **module._buffers}.items()
    }


def _process() -> dict[str, Any]:
    return {
        "random state of Python": random.getstate(),
        "random state of numpy": [str(part) for part in np.random.get_state()],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads()),
        "Pillow's limits": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "types": (torch.get_default_dtype(), torch.get_default_device()),
        "algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.mha.get_fastpath_enabled(),
        ),
        "random state": _bits(torch.get_rng_state()),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def _bits(tensor: Tensor | None) -> bytes | None:
    if tensor is None:
        return None
    return tensor.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes()
