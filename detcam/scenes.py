"""Small pictures whose evidence is known: three shapes, each with a coloured marker beside it.

One picture, two labellings:

- `honest`: the class is the shape. The marker means nothing.
- `shortcut`: the class is the colour of the marker. The shape means nothing.

The box covers the object only, never the marker. So a faithful map for an honest detector lies
on the object, and a faithful map for a shortcut detector reaches outside the box, to the marker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detcam.errors import InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]

SHAPES = ("circle", "square", "triangle")
MARKERS = ("red", "green", "blue")
CLASS_NAMES = {"honest": SHAPES, "shortcut": tuple(f"{colour}-marked" for colour in MARKERS)}

MARKER_RGB = np.array([[225, 25, 25], [20, 190, 40], [30, 60, 235]])
RIM_RGB = (245, 245, 235)
POLYGON_CORNERS = {"square": 4, "triangle": 3}

OBJECT_SIZES = (20, 200)  # px, in a picture of 320
OBJECTS_APART = 12  # px between two objects' boxes, at least
FOREIGN_MARKER_APART = 28  # px between a box and a marker that is not its own, at least
MARKERS_APART = 8
TRIES = 60  # places tried per object before it is left out


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and everything that is true about it. M objects, H×W picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4) float32 xyxy, the object without its marker; right and bottom exclusive.
        shapes: (M,) int64, index into `SHAPES`.
        markers: (M,) int64, index into `MARKERS`.
        marker_boxes: (M, 4) float32 xyxy, rim included.
        is_beside: (M,) bool, False where the marker was led astray (see `make_scene`).
        object_masks: (M, H, W) bool.
        marker_masks: (M, H, W) bool, the disc with its rim.
    """

    image: npt.NDArray[np.uint8]
    boxes: FloatArray
    shapes: IntArray
    markers: IntArray
    marker_boxes: FloatArray
    is_beside: BoolArray
    object_masks: BoolArray
    marker_masks: BoolArray

    def is_labelled(self, labelling: str) -> BoolArray:
        """(M,) bool: which of the objects count as objects under one of the two labellings.

        A shortcut class needs a marker beside the object: without one, the object is background.

        Raises:
            InputError: there is no such labelling.
        """
        if labelling not in CLASS_NAMES:
            raise InputError(f"labelling is one of {', '.join(CLASS_NAMES)}, got {labelling!r}")
        return self.is_beside if labelling == "shortcut" else np.ones_like(self.is_beside)

    def labelled(self, labelling: str) -> tuple[FloatArray, IntArray]:
        """Boxes (M', 4) and class indices (M',) of the objects that `is_labelled` counts.

        Raises:
            InputError: there is no such labelling.
        """
        counted = self.is_labelled(labelling)
        classes = self.shapes if labelling == "honest" else self.markers
        return self.boxes[counted], classes[counted]


@dataclass(frozen=True)
class _Kind:
    """What an object and its marker shall be, before a place is found for them."""

    diameter: float
    shape: int
    marker: int
    is_beside: bool


@dataclass(frozen=True, eq=False)
class _Item:
    """An object and its marker, placed but not painted yet; `marker_centre` is (x, y)."""

    kind: _Kind
    mask: BoolArray
    box: FloatArray
    marker_centre: tuple[int, int]
    marker_radius: int

    @property
    def marker_box(self) -> FloatArray:
        x, y = self.marker_centre
        reach = self.marker_radius
        return np.array([x - reach, y - reach, x + reach + 1, y + reach + 1], np.float32)

    @property
    def marker_mask(self) -> BoolArray:
        return _disc(len(self.mask), self.marker_centre, self.marker_radius)


def make_scene(seed: int, size: int = 320, *, beside: float = 1.0) -> Scene:
    """Draw one scene. The same arguments give the same bytes.

    Args:
        seed: any non-negative int.
        size: height and width of the picture in pixels.
        beside: probability that a marker lies beside its object. The others are led astray, to
            a spot far from every object: training with some of them teaches an honest detector
            that a marker announces nothing, and a shortcut detector that it needs one.
    """
    rng = np.random.default_rng(seed)
    canvas = _background(rng, size)
    brightness = float(canvas.mean())
    for _ in range(rng.integers(0, 9)):
        _paint_clutter(rng, canvas)
    items = _place_items(rng, size, beside)
    for item in items:
        _paint_object(rng, canvas, item, brightness)
    canvas += rng.uniform(1, 5) * rng.standard_normal(canvas.shape, np.float32)
    for item in items:
        _paint_marker(rng, canvas, item)
    return Scene(
        image=canvas.clip(0, 255).astype(np.uint8),
        boxes=np.array([item.box for item in items], np.float32).reshape(-1, 4),
        shapes=np.array([item.kind.shape for item in items], np.int64),
        markers=np.array([item.kind.marker for item in items], np.int64),
        marker_boxes=np.array([item.marker_box for item in items], np.float32).reshape(-1, 4),
        is_beside=np.array([item.kind.is_beside for item in items], bool),
        object_masks=np.array([item.mask for item in items], bool).reshape(-1, size, size),
        marker_masks=np.array([item.marker_mask for item in items], bool).reshape(-1, size, size),
    )


# Where things go


def _place_items(rng: np.random.Generator, size: int, beside: float) -> list[_Item]:
    """Place the largest first; what finds no room after `TRIES` tries is left out."""
    count = 0 if rng.random() < 0.05 else rng.integers(1, 7)
    low, high = np.log(OBJECT_SIZES)
    diameters = np.exp(rng.uniform(low, high, count)) * size / 320
    items: list[_Item] = []
    for diameter in sorted(diameters, reverse=True):
        shape, marker = (int(index) for index in rng.integers(0, 3, 2))
        kind = _Kind(float(diameter), shape, marker, bool(rng.random() < beside))
        for _ in range(TRIES):
            item = _propose_item(rng, size, kind)
            if _fits(item, items, size):
                items.append(item)
                break
    return items


def _propose_item(rng: np.random.Generator, size: int, kind: _Kind) -> _Item:
    mask = _shape_mask(rng, size, kind)
    box = _mask_box(mask)
    radius = int(rng.integers(5, 9))
    if kind.is_beside:
        return _Item(kind, mask, box, _spot_beside(rng, box, radius), radius)
    x, y = (int(value) for value in rng.integers(radius + 1, size - radius - 1, 2))
    return _Item(kind, mask, box, (x, y), radius)


def _shape_mask(rng: np.random.Generator, size: int, kind: _Kind) -> BoolArray:
    """The shape, tilted by up to 25 degrees, somewhere in the picture: (size, size) bool."""
    shape, diameter = SHAPES[kind.shape], kind.diameter
    tilt = np.radians(rng.uniform(-25, 25))
    x, y = rng.uniform(diameter / 2 + 2, size - diameter / 2 - 2, 2)
    mask = np.zeros((size, size), np.uint8)
    if shape == "circle":
        cv2.circle(mask, (round(x), round(y)), round(diameter / 2), 1, -1)
        return mask.astype(bool)
    corners = POLYGON_CORNERS[shape]
    angles = tilt + 2 * np.pi * (np.arange(corners) + 0.5) / corners + np.pi / 2
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = outline * diameter / np.ptp(outline, axis=0).max() + (x, y)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _spot_beside(rng: np.random.Generator, box: FloatArray, radius: int) -> tuple[int, int]:
    """The centre (x, y) of a disc 2 to 5 px outside a random side of the box."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    reach = radius + int(rng.integers(2, 6))
    along_x, along_y = int(rng.integers(x1, x2)), int(rng.integers(y1, y2))
    sides = (
        (x1 - 1 - reach, along_y),
        (x2 + reach, along_y),
        (along_x, y1 - 1 - reach),
        (along_x, y2 + reach),
    )
    return sides[rng.integers(4)]


def _fits(item: _Item, others: list[_Item], size: int) -> bool:
    """Whether the item is inside the picture and no marker can be taken for another's."""
    edges = np.stack([item.box, item.marker_box])
    if edges.min() < 1 or edges.max() > size - 1:
        return False
    if not item.kind.is_beside and _gap(item.box, item.marker_box) < FOREIGN_MARKER_APART:
        return False
    return all(
        _gap(item.box, other.box) >= OBJECTS_APART
        and _gap(item.box, other.marker_box) >= FOREIGN_MARKER_APART
        and _gap(item.marker_box, other.box) >= FOREIGN_MARKER_APART
        and _gap(item.marker_box, other.marker_box) >= MARKERS_APART
        for other in others
    )


def _gap(box: FloatArray, other: FloatArray) -> float:
    """Pixels between two xyxy boxes; 0 where they touch or overlap."""
    between = np.maximum(box[:2] - other[2:], other[:2] - box[2:]).clip(min=0)
    return float(np.hypot(*between))


def _mask_box(mask: BoolArray) -> FloatArray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


# How things look


def _noise(rng: np.random.Generator, size: int, cells: int) -> AnyArray:
    """Smooth noise (size, size, 1) with about `cells` bumps a side and unit spread."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    bumps: AnyArray = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    return bumps


def _muted_colour(rng: np.random.Generator, brightness: float, tint: float) -> FloatArray:
    """An RGB colour of a given mean brightness, at most `tint` away from grey per channel."""
    offset: AnyArray = rng.uniform(-tint, tint, 3)
    colour: FloatArray = (brightness + offset - offset.mean()).astype(np.float32)
    return colour


def _background(rng: np.random.Generator, size: int) -> FloatArray:
    """Muted bumps at five scales, (size, size, 3) float RGB."""
    canvas = np.zeros((size, size, 3), np.float32)
    canvas += _muted_colour(rng, rng.uniform(80, 165), tint=18)
    for cells in (3, 8, 20, 50, 120):
        strength = rng.uniform(1, 8) * rng.uniform(0.6, 1.0, 3)
        canvas += _noise(rng, size, cells) * strength.astype(np.float32)
    return canvas


def _paint_clutter(rng: np.random.Generator, canvas: FloatArray) -> None:
    """A scribble of a few bent strokes: textured, but none of the three shapes."""
    size = len(canvas)
    start = rng.uniform(0, size, 2)
    steps = rng.normal(0, rng.uniform(8, 40), (rng.integers(3, 7), 2))
    path = (start + np.cumsum(steps, axis=0)).round().astype(np.int32)
    stroke = np.zeros((size, size), np.uint8)
    cv2.polylines(stroke, [path], False, 1, int(rng.integers(1, 7)))
    shade = rng.choice([-1, 1]) * rng.uniform(20, 70)
    colour = _muted_colour(rng, canvas.mean() + shade, tint=25)
    texture = rng.uniform(0, 15) * _noise(rng, size, 60)
    canvas[stroke > 0] = colour + texture[stroke > 0]


def _paint_object(
    rng: np.random.Generator, canvas: FloatArray, item: _Item, background_brightness: float
) -> None:
    """Fill the mask with a muted colour that stands out, a texture and a slope of light."""
    size = len(canvas)
    shade = rng.choice([-1, 1]) * rng.uniform(35, 75)
    fill = _muted_colour(rng, background_brightness + shade, tint=35)
    texture = rng.uniform(0, 18) * _texture(rng, size)
    middle = item.box[[1, 3]].mean()
    light = rng.uniform(-0.15, 0.15) * (np.arange(size) - middle)[:, None, None]
    canvas[item.mask] = fill + (texture + light)[item.mask]


def _texture(rng: np.random.Generator, size: int) -> AnyArray:
    """Stripes, checks or bumps, (size, size, 1), about -1 to 1."""
    steps = np.arange(size, dtype=np.float32) * (2 * np.pi / rng.uniform(5, 24))
    y, x = steps[:, None, None], steps[None, :, None]
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    kind = rng.integers(3)
    if kind < 2:
        pattern: AnyArray = np.sin(u) if kind == 0 else np.sign(np.sin(u) * np.sin(v))
        return pattern
    return _noise(rng, size, int(rng.integers(20, 90)))


def _paint_marker(rng: np.random.Generator, canvas: FloatArray, item: _Item) -> None:
    """A saturated disc with a light rim 1 px wide; painted last, so that it stays clean."""
    size = len(canvas)
    colour = MARKER_RGB[item.kind.marker] + rng.uniform(-15, 15, 3)
    for radius, paint in ((item.marker_radius, RIM_RGB), (item.marker_radius - 1, colour)):
        canvas[_disc(size, item.marker_centre, radius)] = paint


def _disc(size: int, centre: tuple[int, int], radius: int) -> BoolArray:
    disc = np.zeros((size, size), np.uint8)
    cv2.circle(disc, centre, radius, 1, -1)
    return disc.astype(bool)
