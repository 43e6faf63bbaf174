"""How an explanation looks: which scale, which map, which boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detcam.errors import InputError, UnknownNameError
from detcam.explanation.verdicts import NOT_FOUND, RIGHT, Box
from detcam.geometry import Letterbox
from detcam.render import (
    COLORMAPS,
    blend,
    class_colour,
    contact_sheet,
    corners_of,
    draw_boxes,
    scale_map,
    strongest_share,
    with_colour_bar,
)

if TYPE_CHECKING:
    from detcam.explanation.core import ExplainedLayer, Explanation

SCALES = ("energy", "box", "image", "level", "fixed")
MERGED = "merged"
_PLACE = (255, 255, 255)


@dataclass(frozen=True)
class Scale:
    """Which value is drawn in full colour.

    Attributes:
        kind: "energy": what the strongest cells of a box reach that hold a tenth of its evidence, so that
            sharp peaks do not leave everything else dark. "box": the maximum of each box over its levels and
            their sum, so that a box's levels can be compared. "image": one value for all boxes. "level":
            each box's maximum at the level drawn. "fixed": the given value.
        value: for "fixed", in the target's unit.
    """

    kind: str
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Read "energy", "box", "image", "level" or "fixed:VALUE".

        Raises:
            UnknownNameError: another word.
            InputError: "fixed" without a positive number, or another word with one.
        """
        kind, colon, value = text.partition(":")
        if kind not in SCALES:
            raise UnknownNameError("scale", kind, SCALES)
        if kind != "fixed":
            if colon:
                raise InputError(f"the scale {kind!r} takes no value, got {text!r}: use fixed:VALUE")
            return cls(kind)
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not 0 < number < float("inf"):
            raise InputError(f"the scale 'fixed' needs a positive number: fixed:0.5, got {text!r}")
        return cls(kind, number)

    def tops(self, explanation: Explanation, level: str) -> list[float]:
        """The value drawn in full colour for each box, at a level or `MERGED`; at least 0."""
        if self.value is not None:
            return [self.value] * len(explanation)
        # Levels that each hold the whole evidence have no sum to be compared in.
        is_whole = self.kind == "energy" and explanation.question.merge == "finest"
        levels = [level] if self.kind == "level" or is_whole else [*explanation.levels, MERGED]
        if self.kind == "energy":
            return _largest(explanation, levels, strongest_share)
        tops = _largest(explanation, levels, np.max)
        return [max(tops, default=0.0)] * len(tops) if self.kind == "image" else tops


@dataclass(frozen=True)
class Style:
    """How a picture is drawn.

    Attributes:
        scale: see `Scale`.
        colormap: key of `detcam.render.COLORMAPS`.
        opacity: of the strongest evidence, 0..1.
    """

    scale: Scale = Scale("energy")
    colormap: str = "inferno"
    opacity: float = 0.85

    def __post_init__(self) -> None:
        if self.colormap not in COLORMAPS:
            raise UnknownNameError("colour map", self.colormap, COLORMAPS)


def draw(explanation: Explanation, style: Style, level: str = MERGED) -> npt.NDArray[np.uint8]:
    """The picture with the maps of all its boxes at one level, the boxes and the colour bar, (H', W, 3) RGB.

    Where boxes' maps meet, the one that is stronger on its own scale is seen.
    """
    tops = style.scale.tops(explanation, level)
    bar = _bar(explanation, style.scale, tops, level)
    return with_colour_bar(_panel(explanation, style, level, tops), style.colormap, *bar)


def draw_levels(explanation: Explanation, style: Style) -> npt.NDArray[np.uint8]:
    """One sheet with a panel for every level and their sum."""
    panels = _panels(explanation, style)
    tops = _all_tops(explanation, style.scale)
    return with_colour_bar(
        contact_sheet(panels, tile_side=640), style.colormap, *_bar(explanation, style.scale, tops, "")
    )


def _panels(explanation: Explanation, style: Style) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    names = {MERGED: "all levels", **{x.level: _titled(x) for x in explanation.layers}}
    return [
        (title, _panel(explanation, style, level, style.scale.tops(explanation, level)))
        for level, title in names.items()
    ]


def _all_tops(explanation: Explanation, scale: Scale) -> list[float]:
    """What is drawn in full colour in any of the panels, for the one bar they share."""
    return [top for level in (*explanation.levels, MERGED) for top in scale.tops(explanation, level)]


def blended(
    explanation: Explanation, style: Style, level: str, tops: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """The picture with the maps of all its boxes at one level and nothing else, (H, W, 3) RGB.

    Args:
        explanation: what to draw.
        style: colour map and opacity.
        level: a key of `levels`, or "merged".
        tops: the value drawn in full colour for each box.
    """
    return lay_maps(
        explanation.picture.pixels, maps_of(explanation, level), tops, explanation.geometry, style
    )


def lay_maps(
    pixels: npt.NDArray[np.uint8], maps: Tensor, tops: Sequence[float], geometry: Letterbox, style: Style
) -> npt.NDArray[np.uint8]:
    """Lay boxes' maps over a picture; where they meet, the one that is stronger on its own scale is seen.

    Args:
        pixels: (H, W, 3) RGB.
        maps: (M, h, w) raw, on a grid over the network's input.
        tops: the value drawn in full colour for each of them.
        geometry: picture <-> network input.
        style: colour map and opacity.
    """
    values = np.zeros(pixels.shape[:2], np.float32)
    for box, top in enumerate(tops):  # one at a time: all at once would fill the memory on large pictures
        if top > 0:
            heatmap = geometry.maps_to_image(maps[box : box + 1])[0].cpu().numpy()
            values = np.maximum(values, scale_map(heatmap, 0.0, top))
    return blend(pixels, values, style.colormap, opacity=style.opacity)


def top_text(scale: Scale) -> str:
    """What the end of a colour bar says where boxes differ in what is drawn in full colour."""
    return "top tenth" if scale.kind == "energy" else f"{scale.kind} max"


@dataclass(frozen=True, eq=False)
class Marks:
    """The boxes on a picture, as `render.draw_boxes` takes them: M explained ones, then places.

    Attributes:
        boxes: xyxy in picture pixels.
        labels: a text each.
        colours: RGB each.
        corners: corner points of rotated boxes, or None.
        dashed: which are no detections.
    """

    boxes: npt.NDArray[np.float32]
    labels: list[str]
    colours: list[tuple[int, int, int]]
    corners: npt.NDArray[np.float32] | None
    dashed: list[bool]


def marks(explanation: Explanation, captions: Sequence[str]) -> Marks:
    """What is marked on the picture of an explanation.

    Args:
        explanation: of M boxes.
        captions: their labels.
    """
    detections, places = explanation.detections, _places(explanation)
    count, more = len(explanation), len(places)
    others = np.array([place for place, _ in places], np.float32).reshape(-1, 4)
    corners = None
    if detections.corners is not None:
        upright = corners_of(others)
        corners = np.concatenate([detections.corners.cpu().numpy(), upright])
    return Marks(
        boxes=np.concatenate([detections.boxes.cpu().numpy(), others]),
        labels=[*captions, *(text for _, text in places)],
        colours=[*map(class_colour, detections.labels.tolist()), *[_PLACE] * more],
        corners=corners,
        dashed=[*(_is_dashed(explanation, box) for box in range(count)), *[True] * more],
    )


def named(explanation: Explanation, box: int) -> str:
    """Class and score; what is wrong with it in front."""
    verdict = explanation.verdict_of.get(box)
    wrong = f"{verdict.kind}: " if verdict is not None and verdict.kind not in RIGHT else ""
    return wrong + explanation.label(box)


def _panel(explanation: Explanation, style: Style, level: str, tops: list[float]) -> npt.NDArray[np.uint8]:
    on_it = marks(explanation, [_caption(explanation, box) for box in range(len(explanation))])
    return draw_boxes(
        blended(explanation, style, level, tops),
        on_it.boxes,
        on_it.labels,
        on_it.colours,
        on_it.corners,
        on_it.dashed,
    )


def _is_dashed(explanation: Explanation, box: int) -> bool:
    verdict = explanation.verdict_of.get(box)
    return verdict is not None and verdict.kind in NOT_FOUND


def _places(explanation: Explanation) -> list[tuple[Box, str]]:
    """Boxes that the detector did not give, and their labels: the region asked about, objects of errors."""
    region = [] if explanation.region is None else [(explanation.region, "asked about")]
    objects = [
        (one.truth, f"missed: {one.truth_class}" if one.row is None else "")
        for one in explanation.verdicts
        if one.truth is not None and (one.kind == "missed" or (one.row is not None and one.kind not in RIGHT))
    ]
    return [*region, *objects]


def _caption(explanation: Explanation, box: int) -> str:
    """Class, score and the level that predicted the box, where that is known; what is wrong in front."""
    return " ".join(filter(None, (named(explanation, box), explanation.deciding[box])))


def _titled(layer: ExplainedLayer) -> str:
    return " · ".join(filter(None, (layer.level, layer.module)))


def maps_of(explanation: Explanation, level: str) -> Tensor:
    """The boxes' raw maps at a level or `MERGED`, (M, h, w).

    Raises:
        UnknownNameError: no such level.
    """
    if level not in (*explanation.levels, MERGED):
        raise UnknownNameError("level", level, [*explanation.levels, MERGED])
    return explanation.merged if level == MERGED else explanation.levels[level]


def _largest(
    explanation: Explanation, levels: list[str], value: Callable[[npt.NDArray[Any]], float]
) -> list[float]:
    """A value of each box's maps, the largest over the levels; at least 0."""
    maps = [maps_of(explanation, level).cpu().numpy() for level in levels]
    return [max(0.0, *(float(value(one[box])) for one in maps)) for box in range(len(explanation))]


def _bar(explanation: Explanation, scale: Scale, tops: list[float], level: str) -> tuple[str, str, str]:
    """Texts of the colour bar: its two ends and what is measured."""
    question = explanation.question
    what = f"{question.method} · {question.target}"
    if level not in ("", MERGED):
        what += f" · {level}"
    if not tops:
        return "", "", f"{what} · nothing detected"
    high = f"{max(tops):.3g}" if _is_one_number(tops) else top_text(scale)
    return "0", high, f"{what} · scale: {scale.kind}"


def _is_one_number(tops: list[Any]) -> bool:
    return len(set(tops)) == 1
