"""A run's pictures dealt out to several processes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from detcam.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a run.

    Attributes:
        number: 1 to count.
        count: how many share the run.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"a shard is i/n with i from 1 to n, such as 1/4, got {self.number}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n".

        Raises:
            InputError: it is none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None:
            raise InputError(f"a shard is i/n with i from 1 to n, such as 1/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th of them: neighbours, which are often alike, go to different processes."""
        return items[self.number - 1 :: self.count]

    @property
    def part(self) -> str | None:
        """What the share's own list of rows is called; None where there is only one."""
        return None if self.count == 1 else f"{self.number}-of-{self.count}"


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class TorchrunWorker:
    """A process among those that torchrun started.

    Attributes:
        shard: its share.
        local: its number on this machine, and so of its GPU.
        is_restart: whether torchrun has started it again after a failure.
    """

    shard: Shard
    local: int
    is_restart: bool


def shard_of_torchrun(environment: Mapping[str, str] = os.environ) -> TorchrunWorker | None:
    """Read torchrun's RANK, WORLD_SIZE and LOCAL_RANK; None in a process that it has not started.

    Raises:
        InputError: they are no numbers, or do not fit each other.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    try:
        rank, world, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
    except (KeyError, ValueError) as error:
        raise InputError(f"torchrun's RANK, WORLD_SIZE and LOCAL_RANK cannot be read: {error}") from error
    return TorchrunWorker(Shard(rank + 1, world), local, restarts > 0)
