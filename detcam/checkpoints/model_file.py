"""Any file with a model in it, looked at before it is decided who reads it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from detcam.checkpoints.files import CheckpointFile, open_checkpoint, printable, read_bytes, unread
from detcam.checkpoints.reading import unknown_globals
from detcam.checkpoints.rebuilding import Rebuilder
from detcam.checkpoints.records import DAMAGE
from detcam.errors import CheckpointError, UnsafeCheckpointError

Value = TypeVar("Value")

# Where training scripts put the weights, the better ones first.
_WRAPPERS = (
    "ema",
    "model_ema",
    "ema_model",
    "state_dict_ema",
    "ema_state_dict",
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "weights",
    "module",
)
_PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGES_COUNTED = "n_averaged"
_MOST_WRAPPERS = 4  # {"ema": {"module": {...}}} has two
WAYS_WITH_A_WHOLE_MODEL = (
    "Where its code is, load it and save its state_dict(), or give the live model to detcam.wrap(model)"
)
"""What to do about a pickled model of no family that is known."""

_WHOLE_MODELS = ("ultralytics.", "models.")  # vendors whose files hold the model itself


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A file that is said to hold a model; nothing in it has run.

    Attributes:
        path: as given.
        sha256: of its bytes.
        kind: "torch" for a zip-format checkpoint, "safetensors", or "darknet" for `.weights`.
        data: its bytes, read once.
        checkpoint: the torch file, or None for another kind.
    """

    path: Path
    sha256: str
    kind: Literal["torch", "safetensors", "darknet"]
    data: bytes
    checkpoint: CheckpointFile | None = None

    @property
    def globals(self) -> tuple[str, ...]:
        """Dotted names that a torch file wants."""
        return self.checkpoint.globals if self.checkpoint else ()

    @cached_property
    def tensors(self) -> dict[str, Tensor] | None:
        """The state dict in the file, prefixes of wrappers removed; None if it holds no plain one.

        What else is in the file, an optimizer or a configuration of classes nobody knows say, is not built.

        Raises:
            UnsafeCheckpointError: there is no state dict, and the file names what nobody knows.
            CheckpointError: the file is damaged.
        """
        if self.kind == "safetensors":
            return _unwrapped(_safetensors(self))
        if self.checkpoint is None or any(name.startswith(_WHOLE_MODELS) for name in self.globals):
            return None
        return _state_dict_in(self.checkpoint)


def open_model_file(path: str | PathLike[str]) -> ModelFile:
    """Look at a model file without running anything in it. Its content says what it is, not its name.

    Raises:
        CheckpointError: there is no such file, or it holds no model.
    """
    path = Path(path)
    data = read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if is_safetensors(path, data):
        return ModelFile(path, digest, "safetensors", data)
    if path.suffix == ".weights" and _is_darknet(data):
        return ModelFile(path, digest, "darknet", data)
    file = open_checkpoint(path)
    return ModelFile(path, file.sha256, "torch", file.data, file)


def is_safetensors(path: Path, data: bytes) -> bool:
    """Whether a file begins as safetensors do, or is called one and is no zip archive."""
    return data[8:10] == b'{"' or (path.suffix == ".safetensors" and not data.startswith(b"PK"))


def find_state_dict(content: Any) -> dict[str, Tensor] | None:
    """The state dict in what a checkpoint holds: itself, or under one of the usual keys.

    Entries that are no tensors (`_metadata`, counters) are left out.
    """
    return _find(content, _MOST_WRAPPERS)


def find_model(content: Any, depth: int = _MOST_WRAPPERS) -> nn.Module | None:
    """The network in what a checkpoint holds: itself, or under one of the usual keys; not its wrapper.

    Args:
        content: what was saved.
        depth: of the keys and wrappers that are followed.
    """
    if not depth:
        return None
    if isinstance(content, Mapping):
        found = (find_model(content.get(key), depth - 1) for key in _WRAPPERS)
        return next((one for one in found if one is not None), None)
    if isinstance(content, nn.Module) and list(content._modules) == ["module"]:
        return find_model(content._modules["module"], depth - 1)
    return content if isinstance(content, nn.Module) else None


def _find(content: Any, depth: int) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or not depth:
        return None
    # Under a key first: beside the weights a training script may keep a loss, which is a tensor too.
    for key in _WRAPPERS:
        found = _find(content.get(key), depth - 1)
        if found is not None:
            return found
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return _unwrapped(tensors) if tensors and not _has_parts(content) else None


def unwrapped_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of a state dict's weights without the prefixes of wrappers -> with them, in the same order."""
    return _unwrapped({name: name for name in tensors})


def _has_parts(content: Mapping[Any, Any]) -> bool:
    """Whether tensors also lie deeper: what stands beside them is then not all of a model."""
    return any(
        isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())
        for value in content.values()
    )


def _unwrapped(tensors: dict[str, Value]) -> dict[str, Value]:
    """Remove what DataParallel, torch.compile and Lightning put before every name, in whatever order.

    torch's `AveragedModel`, of moving averages, has a counter beside the one prefix: it goes as well.
    """
    weights = {name: value for name, value in tensors.items() if name != _AVERAGES_COUNTED}
    for prefix in _PREFIXES:
        if weights and all(_can_lose(name, prefix) for name in weights):
            return _unwrapped({name.removeprefix(prefix): value for name, value in weights.items()})
    return tensors


def _can_lose(name: str, prefix: str) -> bool:
    """Whether a prefix is a wrapper's: `model.0.conv` is a numbered layer of a network that calls it so."""
    rest = name.removeprefix(prefix)
    return rest not in ("", name) and not (prefix == "model." and rest.partition(".")[0].isdigit())


def _state_dict_in(file: CheckpointFile) -> dict[str, Tensor] | None:
    """The state dict among a file's records; only its tensors are taken out of them."""
    try:
        found = find_state_dict(file.records())
    except DAMAGE as error:
        _refuse_whole_model(file)
        raise unread(file.path, error) from error
    if found is None:
        _refuse_whole_model(file)
        return None
    plain: dict[str, Tensor] = Rebuilder(file.path, {}, ()).build(found)
    return plain


def _refuse_whole_model(file: CheckpointFile) -> None:
    """Refuse a file of foreign classes: even if its names were allowed, no family would know the model."""
    unknown = unknown_globals(file.globals, resolve=lambda _: None)
    if unknown:
        raise UnsafeCheckpointError(
            f"{file.path} holds no plain state dict but names of code that no family here reads: "
            f"{printable(', '.join(unknown))}. Nothing was run. {WAYS_WITH_A_WHOLE_MODEL}",
            unknown,
        )


def _is_darknet(data: bytes) -> bool:
    """Whether a file begins with Darknet's version: major, minor and revision, small numbers."""
    return len(data) >= 16 and all(0 <= number < 1000 for number in struct.unpack("<3i", data[:12]))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts "model.9" before "model.10"."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _safetensors(file: ModelFile) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # The reader gives them in an order of chance; the order of names is mostly the network's own.
        return dict(sorted(load(file.data).items(), key=lambda item: _natural(item[0])))
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, MemoryError) as error:
        said = printable(" ".join(str(error).split())[:200])
        raise CheckpointError(
            f"{file.path} is no valid safetensors file: {said}. Copy or download it again"
        ) from error
