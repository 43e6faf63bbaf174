"""From a file to what it holds: names checked, records made, objects rebuilt."""

from __future__ import annotations

import importlib
import io
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import nn

from detcam.checkpoints.files import CheckpointFile, printable, unread
from detcam.checkpoints.rebuilding import (
    ARRAY_CALLS,
    ARRAY_CLASS,
    METHOD_LOOKUP,
    PLAIN_CALLS,
    Ignored,
    ParallelWrapper,
    Rebuilder,
)
from detcam.checkpoints.records import DAMAGE
from detcam.errors import CheckpointError, UnsafeCheckpointError

_PLAIN_CLASSES: dict[str, type] = {
    "types.SimpleNamespace": SimpleNamespace,
    "argparse.Namespace": SimpleNamespace,
    METHOD_LOOKUP: Ignored,  # a layer's own `forward` is recognised where it stands; all else is refused
    ARRAY_CLASS: Ignored,  # stands in front of an array's contents; these are read without it
    "torch.nn.parallel.data_parallel.DataParallel": ParallelWrapper,
    "torch.nn.parallel.distributed.DistributedDataParallel": ParallelWrapper,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file gave, and how far it had to be trusted for it.

    Attributes:
        path: where the file was.
        sha256: of the file.
        content: the object that was saved.
        trust: "safe": nothing was run or imported for the file. "named globals": what the user named was
            imported. "unsafe": the file ran whatever it liked.
        allowed_globals: the user's names that the file made use of.
    """

    path: Path
    sha256: str
    content: Any
    trust: Literal["safe", "named globals", "unsafe"]
    allowed_globals: tuple[str, ...] = ()


def read_checkpoint(
    file: CheckpointFile,
    *,
    resolve: Callable[[str], type | None],
    ignore_attributes: Collection[str] = (),
    allow_globals: Sequence[str] = (),
    unsafe: bool = False,
) -> Checkpoint:
    """Unpickle a checkpoint; unless `unsafe`, nothing in it runs.

    Args:
        file: from `open_checkpoint`.
        resolve: gives the class behind a dotted name, `Ignored`, or None for a name it does not know.
            torch.nn modules, paths, namespaces and numpy numbers are known without it.
        ignore_attributes: attributes left out of every object, with all that hangs on them.
        allow_globals: names the user vouches for: "lab.blocks.CBAM", or "lab.blocks.CBAM=mine.CBAM" to make
            the file's lab.blocks.CBAM from mine.CBAM. They are imported; the file still cannot call them.
        unsafe: let the file run whatever it likes.

    Raises:
        UnsafeCheckpointError: the file needs a name nobody vouched for, or would act while it is read.
        CheckpointError: the file is damaged, or an allowed name cannot be imported.
    """
    if unsafe:
        return Checkpoint(file.path, file.sha256, _run(file), "unsafe")
    allowed = _import_allowed(allow_globals, file.globals)
    classes = _known_classes(file.globals, resolve) | allowed
    _refuse_unknown(file, [name for name in unknown_globals(file.globals, resolve) if name not in allowed])
    try:
        records = file.records()
        content = Rebuilder(file.path, classes, ignore_attributes).build(records)
    except DAMAGE as error:
        raise unread(file.path, error) from error
    return Checkpoint(file.path, file.sha256, content, "named globals" if allowed else "safe", tuple(allowed))


def imported_module_class(name: str, *packages: str) -> type[nn.Module] | None:
    """Find the `nn.Module` class of that dotted name, if it was defined inside one of the packages.

    Looks only among what is imported already: the name comes from the file, and importing is running.
    """

    def is_inside(module: str) -> bool:
        return any(module == package or module.startswith(f"{package}.") for package in packages)

    home, _, attribute = name.rpartition(".")
    if not is_inside(home) or home not in sys.modules:
        return None
    found = vars(sys.modules[home]).get(attribute)
    if isinstance(found, type) and issubclass(found, nn.Module) and is_inside(found.__module__):
        return found
    return None


def _known_classes(names: Sequence[str], resolve: Callable[[str], type | None]) -> dict[str, object]:
    """Find what each name stands for; names that nobody knows are left out."""
    found = {
        name: _PLAIN_CLASSES.get(name) or imported_module_class(name, "torch.nn.modules") or resolve(name)
        for name in names
    }
    return {name: meaning for name, meaning in found.items() if meaning is not None}


def _import_allowed(allow_globals: Sequence[str], names: Sequence[str]) -> dict[str, object]:
    """Import what the user named, as far as the file has a use for it."""
    allowed = {}
    for entry in allow_globals:
        name, _, replacement = entry.partition("=")
        if name in names:
            allowed[name] = _import_object(replacement or name, entry)
    return allowed


def _import_object(dotted: str, entry: str) -> object:
    home, _, attribute = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(home), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"--allow-global {entry}: cannot import {dotted!r} ({error}). Is its folder on PYTHONPATH?"
        ) from error


def unknown_globals(names: Sequence[str], resolve: Callable[[str], type | None]) -> list[str]:
    """Those of the names that could not be read safely; nothing is imported for them.

    Args:
        names: dotted names from a file.
        resolve: as in `read_checkpoint`.
    """
    known = _known_classes(names, resolve).keys() | PLAIN_CALLS.keys() | ARRAY_CALLS
    return [name for name in names if name not in known]


def _refuse_unknown(file: CheckpointFile, unknown: Sequence[str]) -> None:
    if unknown:
        raise UnsafeCheckpointError(
            f"{file.path} needs names that are not known to be safe: {printable(', '.join(unknown))}. "
            "Nothing was run. "
            "If you have their code and trust it: --allow-global NAME, or "
            "--allow-global NAME=your.module.Class. To let the file run whatever it likes: --unsafe-load",
            unknown,
        )


def _run(file: CheckpointFile) -> Any:
    logger.warning("UNSAFE: reading %s (sha256 %s) runs whatever code is in it", file.path, file.sha256)
    try:
        return torch.load(io.BytesIO(file.data), map_location="cpu", weights_only=False)
    except ImportError as error:
        raise CheckpointError(f"{file.path} needs code that is not installed: {error}") from error
    except DAMAGE as error:
        raise unread(file.path, error) from error
