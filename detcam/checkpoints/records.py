"""What a pickle says, written down instead of done."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import threading
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

# What torch's unpickler raises on a pickle that makes no sense; a damaged or hostile file may bring up any.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


class Record:
    """All a pickle said about one object. Neither making it nor giving it a state does anything."""

    __slots__ = ("args", "state")
    name: ClassVar[str]
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: object) -> Record:  # noqa: D102 -- see the class
        self = super().__new__(cls)
        self.args = args
        self.state = None
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state


def list_globals(data: bytes) -> list[str]:
    """Dotted names a checkpoint wants, sorted, less the tensor machinery that torch itself calls safe."""
    with _torch_knows_only([]):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))


def unpickle_records(data: bytes, names: Sequence[str]) -> Any:
    """Unpickle with a `Record` for every object of the named classes; see `CheckpointFile.records`."""
    stand_ins = [(type("Record", (Record,), {"__slots__": (), "name": name}), name) for name in names]
    with _torch_knows_only(stand_ins):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_TORCH_REGISTRY = threading.Lock()


@contextlib.contextmanager
def _torch_knows_only(stand_ins: Sequence[tuple[type[Record], str]]) -> Iterator[None]:
    """Swap torch's process-wide list of safe globals for ours.

    Anyone may have put real classes on that list (ultralytics does, for its own safe loading). A name on it
    is neither reported by the scan nor replaced by our record.
    """
    with _TORCH_REGISTRY:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(stand_ins))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
