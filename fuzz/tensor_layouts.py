"""The readings of a head's tensors, of whatever shapes."""

from __future__ import annotations

from contextlib import suppress

from detcam.adapters.class_count import class_count, infer
from detcam.adapters.layouts import LAYOUTS, HeadFacts
from detcam.errors import DetcamError

_SIDES = (0, 1, 32, 61, 64, 97, 320, 416, 480, 640, 1280)
_NAMES = [None, *LAYOUTS]


class _Numbers:
    """Numbers out of bytes, 0 behind their end."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def below(self, end: int) -> int:
        return (next(self._bytes, 0) * 256 + next(self._bytes, 0)) % end

    def maybe(self, end: int) -> int | None:
        """None half of the time."""
        number = self.below(2 * end)
        return number if number < end else None


def facts_of(data: bytes) -> HeadFacts:
    """What is known of a head, as the bytes say."""
    say = _Numbers(data)
    size = (_SIDES[say.below(len(_SIDES))], _SIDES[say.below(len(_SIDES))])
    levels, dimensions = say.below(5), 2 + say.below(5)
    shapes = []
    for _ in range(levels):
        stride = 4 << say.below(6)
        grid = (-(-size[0] // stride), -(-size[1] // stride))
        values = say.below(300)
        usual = {3: (1, grid[0] * grid[1] * (1 + say.below(5)), values), 4: (1, values, *grid),
                 5: (1, 1 + say.below(5), *grid, values)}.get(dimensions, (1,) * dimensions)  # fmt: skip
        shapes.append(tuple(say.below(20_000) for _ in usual) if say.below(8) == 0 else usual)
    has_strides, has_convolutions = say.below(2), say.below(3) == 0
    return HeadFacts(
        input_size=size,
        shapes=tuple(shapes),
        strides=tuple(say.below(70) for _ in range(say.below(5))) if has_strides else None,
        anchors=say.maybe(12),
        reg_max=say.maybe(40),
        layout=_NAMES[say.below(len(_NAMES))],
        convolutions=tuple(tuple(say.below(300) for _ in range(say.below(4))) for _ in range(levels))
        if has_convolutions
        else None,
        num_names=say.maybe(100),
        num_classes=say.maybe(100),
    )


def seeds() -> list[bytes]:
    """A few heads of each number of dimensions."""
    return [
        bytes([0, 9, 0, 9, 0, 3, 0, dims, *range(step, step + 60)]) for dims in (1, 2, 3) for step in (0, 7)
    ]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    for read in (infer, class_count):
        with suppress(DetcamError):
            read(facts_of(data))
