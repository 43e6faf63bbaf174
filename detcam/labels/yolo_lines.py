"""YOLO's label files: one object a line, in fractions of the picture's width and height."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detcam.errors import InputError
from detcam.labels.masks import Polygon
from detcam.labels.text import MOST_TEXT, read_limited, read_text

FloatArray = npt.NDArray[np.float64]

_BEYOND = 0.01  # of a side: how far rounding may put a point outside the picture
_LEAST_SHARED = 0.3  # IoU of a box and the extent of an outline that are taken for one object's
_BOX_COLUMNS = 5


@dataclass(frozen=True, eq=False)
class Marked:
    """One object of a label file.

    Attributes:
        label: its class id.
        box: (4,) float64 xyxy in pixels, within the picture.
        outline: (P, 2) float32 in pixels, or None.
    """

    label: int
    box: FloatArray
    outline: Polygon | None = None


def read_objects(
    path: Path, size: tuple[int, int], known: Container[int], keypoint_columns: int = 0
) -> list[Marked]:
    """Read a label file.

    Args:
        path: of the file. Its lines are `class x y w h` (the box's centre and size), or `class x1 y1 x2 y2 …`
            (an outline, whose extent is the box).
        size: (H, W) of the picture.
        known: the class ids there are.
        keypoint_columns: how many numbers follow a box that are keypoints, and left out.

    Raises:
        InputError: a line is neither; the text names it.
    """
    marked = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if columns := line.split():
            place = f"{path}, line {number}"
            if keypoint_columns:
                columns = _without_keypoints(columns, keypoint_columns, place)
            marked.append(_object(columns, size, known, place))
    return marked


def class_ids(path: Path) -> set[int]:
    """Class ids that a label file's lines begin with; lines that do not are left to `read_objects`."""
    firsts = (line.split()[0] for line in read_limited(path, MOST_TEXT).splitlines() if line.strip())
    values = (_number(first.decode("ascii", "replace")) for first in firsts)
    return {int(value) for value in values if value >= 0 and value.is_integer()}


def with_outlines(marked: Sequence[Marked], outlines: Sequence[Marked]) -> list[Marked]:
    """Objects, each without an outline given the one of its class whose extent fits its box best.

    The best fit is given away first, none below an IoU of .3; what fits no object is left out.
    """
    fits = sorted(
        (-_iou(one.box, other.box), row, column)
        for row, one in enumerate(marked)
        for column, other in enumerate(outlines)
        if one.outline is None and one.label == other.label
    )
    result, free_rows, free_columns = list(marked), set(range(len(marked))), set(range(len(outlines)))
    for negative, row, column in fits:
        if -negative >= _LEAST_SHARED and row in free_rows and column in free_columns:
            result[row] = replace(marked[row], outline=outlines[column].outline)
            free_rows.remove(row)
            free_columns.remove(column)
    return result


def _object(columns: Sequence[str], size: tuple[int, int], known: Container[int], place: str) -> Marked:
    if len(columns) != _BOX_COLUMNS and (len(columns) < 7 or len(columns) % 2 == 0):
        hint = "; a sixth is the score of a prediction: give labels" if len(columns) == 6 else ""
        raise InputError(
            f"{place}: {len(columns)} columns, where a box has 5 (class x y w h) "
            f"and an outline 7, 9, 11 … (class x1 y1 x2 y2 x3 y3 …){hint}"
        )
    label, values = _label(columns[0], known, place), _fractions(columns[1:], place)
    sides = np.array([size[1], size[0]], np.float64)
    if len(columns) == _BOX_COLUMNS:
        centre, extent = values[:2], values[2:]
        if (extent < 0).any():
            raise InputError(f"{place}: width and height are {extent[0]:g} {extent[1]:g}, below 0")
        corners = np.stack([centre - extent / 2, centre + extent / 2])
        return Marked(label, (corners.clip(0, 1) * sides).reshape(4))
    points = values.reshape(-1, 2)
    corners = np.stack([points.min(axis=0), points.max(axis=0)])
    return Marked(label, (corners.clip(0, 1) * sides).reshape(4), (points * sides).astype(np.float32))


def _label(text: str, known: Container[int], place: str) -> int:
    value = _number(text)
    if not value.is_integer() or value < 0:
        raise InputError(f"{place}: the first column is a class id, 0, 1, 2 …, got {text!r}")
    if int(value) not in known:
        raise InputError(f"{place}: class {int(value)} has no name; correct the line, or add it to `names:`")
    return int(value)


def _fractions(columns: Sequence[str], place: str) -> FloatArray:
    values = []
    for column, text in enumerate(columns, start=2):
        value = _number(text)
        if math.isnan(value):
            raise InputError(f"{place}, column {column}: {text!r} is no number")
        if not -_BEYOND <= value <= 1 + _BEYOND:
            raise InputError(
                f"{place}, column {column}: {text} is outside 0..1; "
                "divide x and w by the picture's width, y and h by its height"
            )
        values.append(value)
    return np.array(values)


def _number(text: str) -> float:
    """What the text says, nan where it says no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _without_keypoints(columns: list[str], keypoint_columns: int, place: str) -> list[str]:
    expected = _BOX_COLUMNS + keypoint_columns
    if len(columns) not in (_BOX_COLUMNS, expected):
        raise InputError(f"{place}: {len(columns)} columns, where `kpt_shape:` asks for {expected}")
    return columns[:_BOX_COLUMNS]


def _iou(one: FloatArray, other: FloatArray) -> float:
    sides = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(min=0)
    shared = sides.prod()
    joint = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared
    return float(shared / joint) if joint > 0 else 0.0
