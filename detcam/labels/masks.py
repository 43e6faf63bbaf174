"""Which pixels an object covers: outlines filled, COCO's run lengths decoded.

Sizes are (H, W), points (x, y); the pixel in row r and column c covers [c, c+1] × [r, r+1] and counts as
covered where its centre is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detcam.errors import InputError

Polygon = npt.NDArray[np.float32]
"""An outline, (P, 2) points (x, y) in picture pixels; the last is joined to the first."""
Mask = npt.NDArray[np.bool_]

_FIRST_CHARACTER = 48  # of the run lengths written as text: "0" is 0
_BITS, _MORE, _SIGN = 5, 0x20, 0x10  # of one character: payload, another follows, negative
_LONGEST_NUMBER = 7  # characters: more than 32 bits


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A mask as COCO stores it: down the columns, so many pixels outside, so many inside, and so on.

    Attributes:
        size: (H, W).
        counts: (R,) int64 >= 0, of the runs outside and inside in turn; they add up to H·W.
    """

    size: tuple[int, int]
    counts: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or (self.counts < 0).any():
            raise InputError("run lengths must be one list of numbers >= 0")
        total, pixels = sum(self.counts.tolist()), self.size[0] * self.size[1]
        if total != pixels:
            raise InputError(f"run lengths add up to {total}, not to the {pixels} pixels of {self.size}")

    @classmethod
    def from_text(cls, size: tuple[int, int], text: str) -> RunLengths:
        """Decode COCO's compressed form: 5 bits a character, most numbers as differences.

        A number is written from its lowest bits up; from the fourth on it is the difference to the one
        before the last.

        Raises:
            InputError: the text is no such list, or its runs do not add up to the size.
        """
        counts: list[int] = []
        for number in _numbers(text):
            counts.append(number + counts[-2] if len(counts) > 2 else number)
        return cls(size, np.array(counts, np.int64))

    @classmethod
    def of(cls, mask: Mask) -> RunLengths:
        """Encode (H, W) bool."""
        down = np.concatenate([[False], mask.ravel(order="F")])
        starts = np.flatnonzero(down[1:] != down[:-1])
        bounds = np.concatenate([[0], starts, [mask.size]])
        return cls((mask.shape[0], mask.shape[1]), np.diff(bounds).astype(np.int64))

    def mask(self) -> Mask:
        """Decode to (H, W) bool."""
        is_inside = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(is_inside, self.counts).reshape(self.size, order="F")


def fill(polygons: Iterable[Polygon], size: tuple[int, int]) -> Mask:
    """Pixels whose centre lies in any of the polygons, (H, W) bool.

    Within one polygon what an outline goes around twice is outside (even-odd), so that parts may be joined,
    and holes cut, by a line there and back. A centre on an edge counts at the left and upper one.
    """
    mask = np.zeros(size, bool)
    for polygon in polygons:
        _fill_one(polygon.astype(np.float64), mask)
    return mask


def resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """What lies under the pixel centres of a picture scaled to another size, (H', W') bool."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for old, new in zip(mask.shape, size, strict=True)
    )
    sampled: Mask = mask[rows[:, None], columns]
    return sampled


def _fill_one(polygon: npt.NDArray[np.float64], mask: Mask) -> None:
    """Set the pixels of one polygon (P, 2)."""
    height, width = mask.shape
    (left, top), (right, bottom) = _first_centre(polygon.min(axis=0)), _first_centre(polygon.max(axis=0))
    left, right = (int(min(max(column, 0), width)) for column in (left, right))
    top, bottom = (int(min(max(row, 0), height)) for row in (top, bottom))
    if left >= right or top >= bottom:
        return
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, axis=0).T
    # An edge crosses the centre lines of the rows first … last - 1, each at one place.
    first = _first_centre(np.minimum(y1, y2)).clip(top, bottom).astype(int)
    lines = _first_centre(np.maximum(y1, y2)).clip(top, bottom).astype(int) - first
    edge = np.repeat(np.arange(len(polygon)), lines)
    rows = first[edge] + np.arange(len(edge)) - (np.cumsum(lines) - lines)[edge]
    along = (rows + 0.5 - y1[edge]) / (y2 - y1)[edge]
    columns = _first_centre(x1[edge] + along * (x2 - x1)[edge]).clip(left, right).astype(int)
    stride = right - left + 1
    places = (rows - top) * stride + columns - left
    crossed = np.bincount(places, minlength=(bottom - top) * stride).reshape(-1, stride)
    mask[top:bottom, left:right] |= crossed[:, :-1].cumsum(axis=1) % 2 == 1


def _first_centre(edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The first pixel whose centre is not before an edge."""
    return np.ceil(edges - 0.5)


def _numbers(text: str) -> Sequence[int]:
    numbers: list[int] = []
    value = length = 0
    for position, character in enumerate(text):
        code = ord(character) - _FIRST_CHARACTER
        if not 0 <= code < 2 * _MORE or length == _LONGEST_NUMBER:
            raise InputError(f"compressed run lengths cannot hold {character!r} at position {position}")
        value |= (code & (_MORE - 1)) << (_BITS * length)
        length += 1
        if not code & _MORE:
            numbers.append(value - (1 << (_BITS * length)) if code & _SIGN else value)
            value = length = 0
    if length:
        raise InputError("compressed run lengths end within a number: the text was cut off")
    return numbers


def turned_points(points: npt.NDArray[Any], size: tuple[int, int], orientation: int) -> npt.NDArray[Any]:
    """Points (…, 2) of a stored picture of `size` -> of the picture after its EXIF orientation, 5..8."""
    height, width = size
    x, y = points[..., 0], points[..., 1]
    upright = {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}
    return np.stack(upright[orientation], axis=-1)


def turned_mask(mask: Mask, orientation: int) -> Mask:
    """A mask (H, W) of a stored picture -> of the picture after its EXIF orientation, 5..8."""
    upright: dict[int, Mask] = {5: mask.T, 6: mask.T[:, ::-1], 7: mask.T[::-1, ::-1], 8: mask.T[::-1]}
    return upright[orientation]
