"""Several threads at once: each network lent to one at a time, and the process left as the first found it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import nn

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State")


@dataclass
class _Turn:
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0


_TURNS: dict[int, _Turn] = {}  # by the id of a network that somebody is using or waiting for
_TURNS_LOCK = threading.Lock()


@contextmanager
def turn_with(model: nn.Module) -> Iterator[None]:
    """Wait until no other thread uses the network, and keep others waiting until the block ends.

    A thread that has it already goes on at once. Nothing is kept on the network or after it.
    """
    with _TURNS_LOCK:
        turn = _TURNS.setdefault(id(model), _Turn())
        turn.users += 1
    try:
        with turn.lock:
            yield
    finally:
        with _TURNS_LOCK:
            turn.users -= 1
            if not turn.users:
                del _TURNS[id(model)]


class Shared(Generic[Key, State]):
    """A state of the process that blocks change: the first one in notes it, the last one out restores it.

    If each block restored what itself had found, two that overlap would leave what one of them had set.

    Args:
        read: the state under a key.
        write: sets it.
    """

    def __init__(self, read: Callable[[Key], State], write: Callable[[Key, State], None]) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._users: dict[Key, int] = {}
        self._found: dict[Key, State] = {}

    @contextmanager
    def kept(self, keys: Collection[Key]) -> Iterator[None]:
        """Keep what is under these keys."""
        with self._lock:
            for key in keys:
                if key not in self._found:
                    self._found[key], self._users[key] = self._read(key), 0
                self._users[key] += 1
        try:
            yield
        finally:
            with self._lock:
                for key in keys:
                    self._users[key] -= 1
                    if not self._users[key]:
                        self._write(key, self._found.pop(key))


def _read_random(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _write_random(device: torch.device, state: torch.Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)


RANDOM_STATE = Shared(_read_random, _write_random)
"""torch's random state, by device."""

FAST_TRANSFORMERS = Shared[str, bool](
    lambda _: torch.backends.mha.get_fastpath_enabled(),
    lambda _, enabled: torch.backends.mha.set_fastpath_enabled(enabled),
)
"""Whether torch's transformer layers run as one kernel."""
