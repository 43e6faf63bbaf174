"""How much of an explained detection is left in a changed picture: one score, from what is found there.

Each is a pure function of the detection and the candidates of a changed picture, or of k pictures with the
same number of candidates at once: shapes are then (k, N, …) and there are k scores. With no candidate it is
0: the detection is gone, which is an answer. Which candidates there are (raw or after suppression, above
which threshold) is the caller's choice and changes every number: `Preset` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from detcam.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Wanted:
    """The explained detection, as it is in the unchanged picture.

    Attributes:
        box: (4,) xyxy in pixels.
        class_id: its class.
        probabilities: (K,), of its candidate.
    """

    box: Tensor
    class_id: int
    probabilities: Tensor

    def __post_init__(self) -> None:
        if self.box.shape != (4,) or self.probabilities.ndim != 1:
            raise ShapeError(
                "a detection needs a box (4,) and probabilities (K,), "
                f"got {tuple(self.box.shape)} and {tuple(self.probabilities.shape)}"
            )
        if not 0 <= self.class_id < len(self.probabilities):
            raise ShapeError(f"class {self.class_id} of {len(self.probabilities)} classes")


@dataclass(frozen=True, eq=False)
class Candidates:
    """What the detector finds in a changed picture, or in k of them.

    Attributes:
        boxes: (…, N, 4) xyxy in the same pixels as the detection's.
        probabilities: (…, N, K) of the classes, in 0..1, without objectness.
        objectness: (…, N) in 0..1, or None for a detector without it: then it counts as 1.
    """

    boxes: Tensor
    probabilities: Tensor
    objectness: Tensor | None = None

    def __post_init__(self) -> None:
        rows = tuple(self.boxes.shape[:-1])
        fits = self.boxes.ndim >= 2 and self.boxes.shape[-1] == 4
        fits = fits and tuple(self.probabilities.shape[:-1]) == rows
        if not fits or (self.objectness is not None and tuple(self.objectness.shape) != rows):
            objectness = None if self.objectness is None else tuple(self.objectness.shape)
            raise ShapeError(
                "boxes, probabilities and objectness must be (…, N, 4), (…, N, K) and (…, N), got "
                f"{tuple(self.boxes.shape)}, {tuple(self.probabilities.shape)} and {objectness}"
            )

    def class_scores(self, class_id: int) -> Tensor:
        """p(class)·objectness, (…, N)."""
        return self.probabilities[..., class_id] * self._objectness()

    def _objectness(self) -> Tensor:
        return torch.ones_like(self.boxes[..., 0]) if self.objectness is None else self.objectness


Match = Callable[[Wanted, Candidates], Tensor]


def match_iou_probability(wanted: Wanted, found: Candidates) -> Tensor:
    """max_j IoU_j · p_j(class)·objectness_j: the score in units of confidence, no class compared but its own.

    No paper: what this house's first measurements were taken with.

    Returns:
        (…,), 0..1.
    """
    return _largest(_iou(wanted, found) * found.class_scores(wanted.class_id))


def match_odam(wanted: Wanted, found: Candidates) -> Tensor:
    """ODAM: the best confidence of the class among candidates of IoU > .5; how well they fit does not matter.

    Zhao and Chan 2023, arXiv:2304.06354, as in `tools/eval_delet.py`. There the box and class are those of
    the annotated object, the candidates the network's output after suppression, one for each box and class.

    Returns:
        (…,), 0..1.
    """
    return _largest(found.class_scores(wanted.class_id) * (_iou(wanted, found) > 0.5))


def match_d_close(wanted: Wanted, found: Candidates) -> Tensor:
    """D-CLOSE: IoU · exp(-d² / (2·.25²)) of the candidate that fits best, d its cosine distance in classes.

    Truong et al. 2023, arXiv:2306.02744, as in its `evaluation.py`: among the candidates whose likeliest
    class is the detection's, the one of the largest IoU; d = 1 - cos of the two vectors of class
    probabilities. Confidence takes no part: the unchanged picture scores 1 if the detection is among its
    candidates, and it falls through the fit and through candidates below the threshold being gone.

    Returns:
        (…,), 0..1.
    """
    is_same = found.probabilities.argmax(dim=-1) == wanted.class_id
    fit = _with_none(_iou(wanted, found) * is_same)
    distance = 1 - _with_none(_cosine(wanted, found))
    scores = fit * torch.exp(-(distance**2) / (2 * 0.25**2))
    return scores.gather(-1, fit.argmax(dim=-1, keepdim=True))[..., 0]


def match_d_rise(wanted: Wanted, found: Candidates) -> Tensor:
    """D-RISE: max_j IoU(L_t, L_j) · cos(P_t, P_j) · O_j over all proposals.

    Petsiuk et al. 2021, arXiv:2006.03204: without objectness that factor is left out. A vector of
    zeros is like nothing: its cosine is 0.

    Returns:
        (…,), 0..1.
    """
    return _largest(_iou(wanted, found) * _cosine(wanted, found) * found._objectness())


MATCHES: dict[str, Match] = {
    "iou-probability": match_iou_probability,
    "odam": match_odam,
    "d-close": match_d_close,
    "d-rise": match_d_rise,
}


def _iou(wanted: Wanted, found: Candidates) -> Tensor:
    """Intersection over union with each candidate, (…, N); 0 where neither box has an area."""
    box, boxes = wanted.box.to(found.boxes), found.boxes
    corner = torch.minimum(box[2:], boxes[..., 2:]) - torch.maximum(box[:2], boxes[..., :2])
    shared = corner.clamp(min=0).prod(dim=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1) + (box[2:] - box[:2]).prod()
    joint = areas - shared
    return (shared / joint.where(joint > 0, 1.0)).where(joint > 0, 0.0)


def _cosine(wanted: Wanted, found: Candidates) -> Tensor:
    classes = wanted.probabilities.to(found.probabilities)
    if len(classes) != found.probabilities.shape[-1]:
        raise ShapeError(f"{len(classes)} classes and candidates of {found.probabilities.shape[-1]}")
    return functional.cosine_similarity(found.probabilities, classes, dim=-1)


def _with_none(scores: Tensor) -> Tensor:
    """Scores (…, N + 1): one more candidate, worth 0, for where there are none."""
    return functional.pad(scores, (0, 1))


def _largest(scores: Tensor) -> Tensor:
    return _with_none(scores).amax(dim=-1)
