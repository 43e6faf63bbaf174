"""Weights of a file put into a network that is there already."""

from __future__ import annotations

from os import PathLike
from typing import TypeVar

from torch import Tensor, nn

from detcam.checkpoints.model_file import open_model_file, unwrapped_names
from detcam.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)
_COUNTER = "num_batches_tracked"  # files of before torch 0.4.1 lack it, and evaluation does not need it


def load_weights(model: Network, path: str | PathLike[str]) -> Network:
    """Put the weights of a file into a network; nothing in the file runs.

    The file is a state dict, or a training checkpoint that holds one beside an optimizer and whatever else;
    prefixes that DataParallel, torch.compile or Lightning put before the names are taken off on both sides.

    Args:
        model: whose weights are replaced, all of them or none.
        path: `.pt`, `.pth` or `.safetensors`.

    Returns:
        The model.

    Raises:
        CheckpointError: the file holds no state dict, or not this network's.
        UnsafeCheckpointError: the file would have to run code to be read.
    """
    file = open_model_file(path)
    if file.tensors is None:
        raise CheckpointError(f"{file.path} holds no plain state dict: save model.state_dict()")
    found = file.tensors
    own = model.state_dict()
    names = unwrapped_names(own)
    wanted = {short: own[name] for short, name in names.items()}
    complaints = _complaints(wanted, found)
    if complaints:
        raise CheckpointError(
            f"{file.path} does not fit this {type(model).__name__}: {'; '.join(complaints)}. "
            "Build the network as it was when it was saved"
        )
    model.load_state_dict(own | {names[short]: found.get(short, kept) for short, kept in wanted.items()})
    return model


def _complaints(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """What keeps weights from fitting, an example of each kind."""
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    unexpected = [name for name in found if name not in wanted]
    reshaped = [name for name in wanted if name in found and wanted[name].shape != found[name].shape]
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} weights are missing (first {missing[0]!r})")
    if unexpected:
        complaints.append(f"{len(unexpected)} are not wanted (first {unexpected[0]!r})")
    if reshaped:
        name = reshaped[0]
        complaints.append(
            f"{len(reshaped)} have other shapes ({name!r} is {tuple(found[name].shape)}, wanted "
            f"{tuple(wanted[name].shape)})"
        )
    return complaints
