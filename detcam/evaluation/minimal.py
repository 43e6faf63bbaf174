"""Minimal evidence: how little of a picture, by a map's order, keeps a detection, and how little kills it.

Every share that is reported was checked by a forward pass at that very share. It is the smallest that was
found, not proven to be the smallest: a score need not fall or rise steadily as pixels go or come, and
another map's order may need fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detcam.cam.capture import borrowed
from detcam.evaluation.sanity import on_input
from detcam.evaluation.scorer import PixelUnits, Rescorer, wanted_from
from detcam.explainer import Explainer
from detcam.explanation import Explanation
from detcam.metrics import get_preset, pixel_ranks

HALF = 0.5
SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Of the input's pixels: scored first; what lies between is halved `HALVINGS` times."""
HALVINGS = 4

# Confidence times overlap, of candidates however weak: half of a weak detection still counts.
PRESET = replace(get_preset("d-close"), name="minimal", match="iou-probability", score_threshold=None)
_LOWEST = 0.001


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the picture's pixels.

    Attributes:
        share: of the input's pixels, padding included, 0..1.
        score: what is left of the detection with these pixels there alone, or gone; in its own units.
        mask: (H, W) bool on the picture, which pixels they are.
    """

    share: float
    score: float
    mask: Tensor


@dataclass(frozen=True, eq=False)
class MinimalEvidence:
    """Of one detection, by one map.

    Attributes:
        box: its number in the explanation.
        score: of the unchanged picture: confidence times overlap with itself.
        keeps: the smallest part that alone, on a blurred copy, keeps half of the score or more; none of the
            pixels if the blurred copy does; None if not even 64 % of them do.
        kills: the smallest part whose removal, to black, leaves less than half; likewise.
        forwards: pictures that were scored.
    """

    box: int
    score: float
    keeps: Part | None
    kills: Part | None
    forwards: int


def minimal_evidence(explainer: Explainer, explanation: Explanation) -> list[MinimalEvidence]:
    """How little of the picture each explained box needs, by the order of its merged map.

    Insertion and deletion as in the preset `d-close`, with another score: IoU times confidence of the class,
    of the candidate that fits best.

    Args:
        explainer: that made the explanation.
        explanation: of M boxes.

    Raises:
        InputError: the detector's preparation does not allow to take pixels away.
        CaptureError: the network gave values that are no numbers.
    """
    if not len(explanation):
        return []
    detector, picture = explainer.detector, explanation.picture
    tensor, geometry = detector.prepare(picture.pixels, explainer.options.imgsz)
    units = PixelUnits.of(detector, geometry.image_size, explainer.options.imgsz)
    rescorer = Rescorer(detector, geometry, units, PRESET, _LOWEST)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    whole = units.to_brightness(tensor)
    found = []
    for box, ranks in enumerate(pixel_ranks(on_input(explanation).to(whole.device))):
        score = rescorer.of(wanted_from(explanation.detections, raw, box))
        unchanged = float(score(whole[None])[0])
        search = _Search(score, ranks, HALF * unchanged)
        keeps = search.smallest(PRESET.insertion_from.of(whole), whole, is_wanted_above=True)
        kills = search.smallest(whole, PRESET.deletion_to.of(whole), is_wanted_above=False)
        keeps_part, kills_part = (_part(explanation, ranks, one) for one in (keeps, kills))
        found.append(MinimalEvidence(box, unchanged, keeps_part, kills_part, search.forwards + 1))
    return found


@dataclass
class _Search:
    """For the fewest pixels, most salient first, with which a score passes half of what it was."""

    score: Callable[[Tensor], Tensor]
    ranks: Tensor
    half: float
    forwards: int = 0

    def smallest(self, start: Tensor, end: Tensor, *, is_wanted_above: bool) -> tuple[int, float] | None:
        """Pixels and the score with them, as they go from `start` to `end`."""
        total = self.ranks.numel()

        def scored(count: int) -> tuple[float, bool]:
            self.forwards += 1
            value = float(self.score(torch.where(self.ranks < count, end, start)[None])[0])
            return value, value >= self.half if is_wanted_above else value < self.half

        value, is_passed = scored(0)
        if is_passed:  # blur may leave a large thing recognisable: no pixel of the map is needed
            return 0, value
        below = 0
        for share in SHARES:
            count = max(round(share * total), 1)
            value, is_passed = scored(count)
            if is_passed:
                break
            below = count
        else:
            return None
        for _ in range(HALVINGS):
            middle = (below + count) // 2
            if middle in (below, count):
                break
            between, is_passed = scored(middle)
            if is_passed:
                count, value = middle, between
            else:
                below = middle
        return count, value


def _part(explanation: Explanation, ranks: Tensor, found: tuple[int, float] | None) -> Part | None:
    if found is None:
        return None
    count, score = found
    chosen = (ranks < count).float()
    mask = explanation.geometry.maps_to_image(chosen[None])[0] > 0.5
    return Part(count / ranks.numel(), score, mask.cpu())
