"""Boxes and their labels on a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from detcam.errors import InputError, ShapeError
from detcam.render.colour import UInt8Array, check_image
from detcam.render.text import (
    BLACK,
    SMALLEST,
    Colour,
    fit,
    line_height,
    readable_on,
    text_size_for,
    text_width,
    write,
)

Outline = list[tuple[float, float]]

_MARGIN = 2  # pixels between a label and the sides of its plate
_ROWS_AWAY = 2  # further from its box, a label seems to belong to whatever lies there

# Hues that the default colour map does not use, so that a box is never taken for a hot edge.
PALETTE: tuple[Colour, ...] = (
    (0, 229, 255),
    (118, 255, 3),
    (255, 255, 255),
    (41, 121, 255),
    (0, 190, 130),
    (213, 170, 255),
    (190, 200, 205),
    (150, 230, 190),
    (0, 140, 160),
    (130, 130, 255),
)


@dataclass(frozen=True)
class Plate:
    """The rectangle behind a label, in whole pixels: columns left..right - 1, rows top..bottom - 1."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Pixels it covers."""
        return (self.right - self.left) * (self.bottom - self.top)

    def overlap(self, other: Plate) -> int:
        """Pixels the two share."""
        columns = min(self.right, other.right) - max(self.left, other.left)
        rows = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, columns) * max(0, rows)


@dataclass(frozen=True)
class Lettering:
    """How labels are written.

    Attributes:
        size: of the text.
        margin: between a text and the sides of its plate.
        smallest: size down to which a text shrinks to fit, before it is shortened.
    """

    size: int
    margin: int
    smallest: int = SMALLEST


@dataclass(frozen=True)
class PlacedLabel:
    """A text on its plate, and the size in which it fits there."""

    plate: Plate
    text: str
    size: int


def class_colour(class_id: int) -> Colour:
    """Give a class its colour: always the same one; ten colours take turns."""
    return PALETTE[class_id % len(PALETTE)]


def corners_of(boxes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Corner points (x, y) of upright boxes (M, 4) xyxy, in order around each, (M, 4, 2)."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def draw_boxes(
    image: UInt8Array,
    boxes: npt.NDArray[Any],
    labels: Sequence[str],
    colours: Sequence[Colour],
    corners: npt.NDArray[Any] | None = None,
    dashed: Sequence[bool] | None = None,
) -> UInt8Array:
    """Draw detections on a copy of the picture.

    Args:
        image: (H, W, 3) RGB.
        boxes: (M, 4) xyxy in the picture's pixels.
        labels: M texts, each on a plate next to its box; an empty one draws none. Where plates would
            cover each other, the later one moves a little; without room near its box it is left out, and so
            are further ones once plates cover a third of the picture, since they would hide what they name.
        colours: M RGB triples.
        corners: (M, 4, 2) corner points (x, y) of rotated boxes, drawn instead of the upright ones.
        dashed: M flags, which boxes are dashed: those that are no detections; by default none.

    Raises:
        ShapeError: the parts are not of one length, or of a wrong shape.
        InputError: coordinates are not finite, or a box has x1 > x2 or y1 > y2.
    """
    check_image(image)
    outlines = box_outlines(boxes, corners, image.shape[:2])
    dashed = [False] * len(outlines) if dashed is None else dashed
    if not len(outlines) == len(labels) == len(colours) == len(dashed):
        raise ShapeError(
            f"a label, a colour and a flag for each box: got {len(outlines)} boxes, {len(labels)} labels, "
            f"{len(colours)} colours and {len(dashed)} flags"
        )
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    line_width = max(1, round(0.0015 * sum(image.shape[:2])))
    for outline, colour, is_dashed in zip(outlines, colours, dashed, strict=True):
        for line in _dashes(outline, 8 * line_width) if is_dashed else [_closed(outline)]:
            _draw_line(draw, line, colour, line_width)
    size = text_size_for(*image.shape[:2])
    placed = place_labels(outlines, labels, image.shape[:2], Lettering(size, _MARGIN))
    for label, colour in zip(placed, colours, strict=True):
        if label is not None:
            _draw_label(draw, label, colour)
    return np.array(drawn)


def place_labels(
    outlines: Sequence[Outline],
    labels: Sequence[str],
    picture: tuple[int, ...],
    lettering: Lettering,
) -> list[PlacedLabel | None]:
    """Where the labels of a picture go; None for one that is empty or finds no room.

    Args:
        outlines: corner points (x, y) of M boxes.
        labels: M texts.
        picture: (H, W).
        lettering: of all of them.
    """
    placed: list[PlacedLabel | None] = []
    for outline, label in zip(outlines, labels, strict=True):
        taken = [one.plate for one in placed if one is not None]
        placed.append(_fitted_label(outline, label, picture, taken, lettering))
    return placed


def place_label(
    outline: Outline, size: tuple[int, int], picture: tuple[int, int], taken: Sequence[Plate]
) -> Plate | None:
    """Where a label goes: above its box, else inside, below, or a few rows away, where it is still its box's.

    Args:
        outline: corner points (x, y) of the box.
        size: (H, W) of the plate, not larger than the picture.
        picture: (H, W).
        taken: plates that are there already.

    Returns:
        A plate inside the picture that hides none of these, or None where there is no room for one.
    """
    height, width = size
    x1, y1 = (round(min(values)) for values in zip(*outline, strict=True))
    x2, y2 = (round(max(values)) for values in zip(*outline, strict=True))
    inside = range(y1 + height, y2 - height, height)
    around = [top for row in range(1, _ROWS_AWAY + 1) for top in (y1 - (row + 1) * height, y2 + row * height)]
    tops = [y1 - height, y1, y2, y2 - height, *inside, *around]
    for top, left in itertools.product(tops, (x1, x2 - width)):
        inside_left = min(max(left, 0), picture[1] - width)
        inside_top = min(max(top, 0), picture[0] - height)
        plate = Plate(inside_left, inside_top, inside_left + width, inside_top + height)
        if not any(map(plate.overlap, taken)):
            return plate
    return None


def box_outlines(
    boxes: npt.NDArray[Any], corners: npt.NDArray[Any] | None, picture: tuple[int, ...]
) -> list[Outline]:
    """The corner points (x, y) of boxes; a side outside the picture is moved to its rim.

    Args:
        boxes: (M, 4) xyxy in the picture's pixels.
        corners: (M, 4, 2) of rotated boxes, used instead.
        picture: (H, W).

    Raises:
        ShapeError: a wrong shape.
        InputError: coordinates are not finite, or a box has x1 > x2 or y1 > y2.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"boxes must be (M, 4) xyxy, got {boxes.shape}")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise InputError("boxes must be xyxy with x1 <= x2 and y1 <= y2; are these cxcywh?")
    if corners is None:
        # A side outside the picture is drawn on its rim, so that the box still reads as a box.
        inside = boxes.clip(0, np.array([picture[1], picture[0]] * 2) - 1)
        corners = corners_of(inside)
    if corners.shape != (len(boxes), 4, 2):
        raise ShapeError(f"corners must be {(len(boxes), 4, 2)}, got {corners.shape}")
    if not np.isfinite(corners).all():
        raise InputError("boxes and corners must be finite")
    return [[(float(x), float(y)) for x, y in points] for points in corners]


def _closed(outline: Outline) -> Outline:
    """Twice around the first corner, so that it is mitred too."""
    return [*outline, *outline[:2]]


def _dashes(outline: Outline, length: int) -> list[Outline]:
    """Strokes of about `length` pixels along the sides, gaps as long; a side begins and ends with one."""
    strokes = []
    for (x1, y1), (x2, y2) in itertools.pairwise([*outline, outline[0]]):
        parts = 2 * round(math.hypot(x2 - x1, y2 - y1) / (2 * length)) + 1
        steps = [(x1 + (x2 - x1) * i / parts, y1 + (y2 - y1) * i / parts) for i in range(parts + 1)]
        strokes += [steps[i : i + 2] for i in range(0, parts, 2)]
    return strokes


def _draw_line(draw: ImageDraw.ImageDraw, line: Outline, colour: Colour, line_width: int) -> None:
    if line_width > 1:
        # A dark rim keeps a bright line visible on a bright sky; on tiny pictures it would cost too much.
        draw.line(line, fill=BLACK, width=line_width + 2, joint="curve")
    draw.line(line, fill=colour, width=line_width, joint="curve")


def _fitted_label(
    outline: Outline,
    label: str,
    picture: tuple[int, ...],
    taken: Sequence[Plate],
    lettering: Lettering,
) -> PlacedLabel | None:
    height, width = picture
    margins = 2 * lettering.margin
    text, size = fit(label, lettering.size, width - margins, lettering.smallest)
    plate_size = (line_height(size), text_width(text, size) + margins)
    covered = sum(plate.area for plate in taken) + plate_size[0] * plate_size[1]
    if not text or plate_size[0] > height or (taken and covered > height * width / 3):
        return None
    plate = place_label(outline, plate_size, (height, width), taken)
    return None if plate is None else PlacedLabel(plate, text, size)


def _draw_label(draw: ImageDraw.ImageDraw, label: PlacedLabel, colour: Colour) -> None:
    plate = label.plate
    draw.rectangle((plate.left, plate.top, plate.right - 1, plate.bottom - 1), fill=colour)
    at = (plate.left + _MARGIN, (plate.top + plate.bottom) / 2)
    write(draw, at, label.text, label.size, readable_on(colour))
