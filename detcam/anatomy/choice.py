"""Which channels of a layer are looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from detcam.errors import InputError


@dataclass(frozen=True)
class Channels:
    """Which channels of a layer are shown.

    Attributes:
        indices: these ones, in this order; None for all or the strongest.
        strongest: that many channels with the largest mean absolute activation, the largest first; None
            for all.
    """

    indices: tuple[int, ...] | None = None
    strongest: int | None = None

    @classmethod
    def parse(cls, wanted: str | int | Sequence[int]) -> Channels:
        """Read "all", "top16", "3,7", 3 or [3, 7].

        Raises:
            InputError: it is none of these, or no channel.
        """
        if isinstance(wanted, str):
            if wanted == "all":
                return cls()
            top = re.fullmatch(r"top(\d+)", wanted)
            if top and int(top[1]):
                return cls(strongest=int(top[1]))
            if not re.fullmatch(r"\d+(,\d+)*", wanted):
                raise InputError(
                    f"channels are all, topN such as top16, or numbers such as 3,7, got {wanted!r}"
                )
            wanted = [int(number) for number in wanted.split(",")]
        indices = (wanted,) if isinstance(wanted, int) else tuple(dict.fromkeys(wanted))
        if not indices or any(not isinstance(index, int) or index < 0 for index in indices):
            raise InputError(f"channels are numbers from 0 on, got {wanted!r}")
        return cls(indices=indices)

    def of(self, values: Tensor, layer: str) -> tuple[int, ...]:
        """The channels of (C, h, w) activations that are meant; equally strong ones in their own order.

        Raises:
            InputError: the layer has no such channel.
        """
        count = len(values)
        if self.indices is None:
            return strongest(values, self.strongest) if self.strongest else tuple(range(count))
        missing = [index for index in self.indices if index >= count]
        if missing:
            raise InputError(
                f"layer {layer!r} has {count} channels, 0 to {count - 1}: there is no {missing[0]}"
            )
        return self.indices


def strongest(values: Tensor, count: int) -> tuple[int, ...]:
    """The channels of (C, h, w) with the largest mean absolute value, largest first."""
    order = values.abs().mean(dim=(1, 2)).argsort(descending=True, stable=True)
    return tuple(order[:count].tolist())
