"""PRESETS: the published ways to take deletion and insertion, every parameter named.

Two numbers can be compared only if every one of these is the same; so a result carries its preset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from detcam.errors import InputError, UnknownNameError
from detcam.metrics.baselines import BLUR_11, BLUR_51, NOISE, ZEROS, Baseline
from detcam.metrics.matching import MATCHES, Match


@dataclass(frozen=True)
class Step:
    """How many pixels come or go at a time.

    Attributes:
        of: what is divided: the explained "box"'s area or the "picture"'s; "pixels" for a fixed number.
        parts: into how many; for "pixels" the number itself.
        count: steps at most; None for as many as there are pixels.
        scored_every: steps between two scores.
    """

    of: Literal["box", "picture", "pixels"]
    parts: int
    count: int | None = None
    scored_every: int = 1

    def __post_init__(self) -> None:
        if self.of not in ("box", "picture", "pixels"):
            raise InputError(f"no steps of {self.of!r}: choose box, picture or pixels")
        if self.parts < 1 or self.scored_every < 1 or (self.count is not None and self.count < 1):
            raise InputError(f"parts, count and scored_every must be at least 1, got {self}")

    def pixels(
        self, picture_size: tuple[int, int], box: tuple[float, float, float, float] | None = None
    ) -> list[int]:
        """How many pixels are changed at each score, from 0, ascending.

        A share of a box is rounded down (as ODAM does), of a picture up, to at least one pixel; the last step
        may be smaller.

        Args:
            picture_size: (H, W).
            box: the explained box, xyxy in pixels.

        Raises:
            InputError: steps are parts of a box, and none was given.
        """
        total = picture_size[0] * picture_size[1]
        step = self._at_a_time(total, box)
        needed = math.ceil(total / step)
        steps = needed if self.count is None else min(self.count, needed)
        marks = [*range(0, steps, self.scored_every), steps]
        return [min(mark * step, total) for mark in marks]

    def _at_a_time(self, total: int, box: tuple[float, float, float, float] | None) -> int:
        if self.of == "pixels":
            return self.parts
        if self.of == "picture":
            return math.ceil(total / self.parts)
        if box is None:
            raise InputError("this preset's steps are parts of the explained box: give the box")
        return max(int((box[2] - box[0]) * (box[3] - box[1]) / self.parts), 1)


@dataclass(frozen=True)
class Preset:
    """A protocol for deletion and insertion.

    What `faithfulness` does: `deletion_to`, `insertion_from`, `step`, `ties`, the divisions. What the caller
    must do to deserve the name, by the score and the choice of boxes: `match`, `score_threshold`, `nms_iou`,
    `picture_size`, `inclusion_iou`.

    Attributes:
        name: key of `PRESETS`, or of a variant.
        source: paper and code.
        deletion_to: what deleted pixels become.
        insertion_from: what the picture is before pixels come.
        step: how many pixels at a time.
        match: key of `MATCHES`.
        divides_deletion: whether the area is divided by f(0), the unchanged picture's score.
        divides_insertion: likewise.
        ties: which of equally salient pixels goes first: "first" row by row from the top left, "shuffled"
            in an order drawn from `seed`.
        seed: of that order.
        picture_size: (H, W) that figures were published at; None: not fixed, or not known.
        score_threshold: below it a candidate does not take part; None: all do, or not known.
        nms_iou: of the suppression that candidates went through; None: raw candidates, or not known.
        inclusion_iou: boxes count only if their IoU with the annotated one is above it; None: all do.
        unsure: what the source does not settle, and what was taken instead.
    """

    name: str
    source: str
    deletion_to: Baseline
    insertion_from: Baseline
    step: Step
    match: str
    divides_deletion: bool = False
    divides_insertion: bool = False
    ties: Literal["first", "shuffled"] = "first"
    seed: int = 0
    picture_size: tuple[int, int] | None = None
    score_threshold: float | None = None
    nms_iou: float | None = None
    inclusion_iou: float | None = None
    unsure: str = ""

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise UnknownNameError("match", self.match, MATCHES)
        if self.ties not in ("first", "shuffled"):
            raise InputError(f"ties must be 'first' or 'shuffled', got {self.ties!r}")

    @property
    def matching(self) -> Match:
        """The function that scores what is found in a changed picture."""
        return MATCHES[self.match]

    def with_steps(self, steps: int) -> Preset:
        """The same in `steps` equal parts of the picture, for fewer forwards; another name, other numbers."""
        return replace(self, name=f"{self.name}-{steps}-steps", step=Step("picture", steps))

    def divided(self) -> Preset:
        """The same with both areas divided by f(0)."""
        if self.divides_deletion and self.divides_insertion:
            return self
        return replace(self, name=f"{self.name}-f0", divides_deletion=True, divides_insertion=True)


PRESETS: dict[str, Preset] = {
    "odam": Preset(
        "odam",
        "Zhao and Chan 2023, arXiv:2304.06354; github.com/Cyang-Zhao/ODAM tools/eval_{delet,insert}.py",
        deletion_to=NOISE,
        insertion_from=ZEROS,
        step=Step("box", 100, count=100, scored_every=10),
        match="odam",
        divides_deletion=True,
        divides_insertion=False,
        inclusion_iou=0.9,
        unsure="The code runs at the network's input, draws unseeded noise, takes annotated boxes, does not "
        "measure insertion's first point (it is set to 0) and prints mean curves: that the area is a "
        "trapezoid, and the inclusion rule, are not in it. Its thresholds are the network's.",
    ),
    "d-close": Preset(
        "d-close",
        "Truong et al. 2023, arXiv:2306.02744; github.com/Binh24399/D-CLOSE evaluation.py",
        deletion_to=ZEROS,
        insertion_from=BLUR_51,
        step=Step("pixels", 2000),
        match="d-close",
        picture_size=(640, 640),
        score_threshold=0.25,
        nms_iou=0.45,
        unsure="2000 pixels are the default of the authors' later code (github.com/Analytics-Everywhere-Lab/"
        "odexai), D-CLOSE's own leaves the step open. Zeros and blur are applied to the letterboxed input, "
        "padding included; suppression there knows no classes. Ties fall as numpy's quicksort lets them.",
    ),
    "d-rise": Preset(
        "d-rise",
        "Petsiuk et al. 2021, arXiv:2006.03204; steps and baselines from RISE, arXiv:1806.07421",
        deletion_to=ZEROS,
        insertion_from=BLUR_11,
        step=Step("picture", 224),
        match="d-rise",
        unsure="The paper's steps, baselines and size were not to be had: taken are those of RISE's "
        "published code (224 of 224² pixels a step, zeros, an 11-pixel blur of sigma 5, zero-padded). "
        "Published D-RISE figures should not be compared with these.",
    ),
}


def get_preset(name: str) -> Preset:
    """Look a preset up by its name.

    Raises:
        UnknownNameError: there is none; the text has the closest names.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownNameError("preset", name, PRESETS) from None
