"""From candidates to detections, carrying the candidate indices: what is explained is what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from detcam.adapters.base import DetectOptions
from detcam.geometry import Letterbox
from detcam.structures import Detections, RawPrediction

Chosen = tuple[Tensor, Tensor, Tensor]
"""Candidates (M,) int64, scores (M,) and labels (M,) int64, best score first."""

_MOST_CANDIDATES = 30_000
_CLASS_OFFSET = 7680.0  # pixels between the planes of two classes


@torch.no_grad()
def suppress(raw: RawPrediction, options: DetectOptions, own_iou: float) -> Chosen:
    """Best class of each candidate, thresholded, then non-maximum suppression within each class.

    Classes are kept apart as predict does it, by a distance: at class 61 it rounds boxes to 1/32 pixel, and
    now and then that decides whether two boxes overlap too much.

    Args:
        raw: the candidates.
        options: which to keep.
        own_iou: the detector's own overlap threshold, where the options leave it open.
    """
    candidates, scores, labels = _ranked(raw, options)
    iou = own_iou if options.iou is None else options.iou
    planes = labels[:, None] * _CLASS_OFFSET
    if raw.rotated_boxes is None:
        kept = nms(raw.boxes(candidates) + planes, scores, iou)
    else:
        boxes = raw.rotated_boxes(candidates)
        kept = _rotated_nms(torch.cat([boxes[:, :2] + planes, boxes[:, 2:]], dim=1), iou)
    kept = kept[: options.max_det]
    return candidates[kept], scores[kept], labels[kept]


@torch.no_grad()
def suppress_across_classes(raw: RawPrediction, options: DetectOptions, own_iou: float) -> Chosen:
    """As `suppress`, but a box gives way to any better one, of whatever class."""
    candidates, scores, labels = _ranked(raw, options)
    iou = own_iou if options.iou is None else options.iou
    kept = nms(raw.boxes(candidates), scores, iou)[: options.max_det]
    return candidates[kept], scores[kept], labels[kept]


@torch.no_grad()
def take_best(raw: RawPrediction, options: DetectOptions, most: int = 300) -> Chosen:
    """The best (candidate, class) pairs of an end-to-end head, which needs no suppression.

    As such heads are trained and shipped: the `most` candidates with the best class, of those the `most`
    best pairs, then threshold and class filter. One candidate may appear under several classes.
    """
    scores = raw.scores()
    most = max(most, options.max_det)
    best = scores.amax(dim=1).topk(min(most, len(scores))).indices
    values, pairs = scores[best].flatten().topk(min(most, len(best)))
    candidates, labels = best[pairs // scores.shape[1]], pairs % scores.shape[1]
    kept = (_wanted(labels, options) & (values > options.conf)).nonzero().flatten()[: options.max_det]
    return candidates[kept], values[kept], labels[kept]


@torch.no_grad()
def take_each(raw: RawPrediction, options: DetectOptions) -> Chosen:
    """Every candidate under its best class, thresholded: heads trained to give each object one candidate.

    Carion et al. 2020, DETR, arXiv:2005.12872, sec. 3.1: the matching in training takes the place of
    suppression.
    """
    candidates, scores, labels = _ranked(raw, options)
    kept = slice(options.max_det)
    return candidates[kept], scores[kept], labels[kept]


@torch.no_grad()
def take_pairs(raw: RawPrediction, options: DetectOptions, most: int) -> Chosen:
    """The `most` best (candidate, class) pairs of all, then threshold and class filter.

    Unlike `take_best`, without choosing candidates by their best class before.
    """
    scores = raw.scores()
    values, pairs = scores.flatten().topk(min(most, scores.numel()))
    candidates, labels = pairs // scores.shape[1], pairs % scores.shape[1]
    kept = (_wanted(labels, options) & (values > options.conf)).nonzero().flatten()[: options.max_det]
    return candidates[kept], values[kept], labels[kept]


@torch.no_grad()
def upright_detections(
    raw: RawPrediction, chosen: Chosen, geometry: Letterbox, options: DetectOptions
) -> Detections:
    """The chosen candidates as detections, their boxes clipped to the picture."""
    candidates, scores, labels = chosen
    boxes = geometry.boxes_to_image(raw.boxes(candidates))
    return Detections(boxes, scores, labels, candidates, best_score=best_score(raw, options))


@torch.no_grad()
def best_score(raw: RawPrediction, options: DetectOptions) -> float:
    """Highest score of any candidate whose best class is wanted, 0..1; 0 if there is none."""
    scores, labels = raw.scores().max(dim=1)
    scores = scores[_wanted(labels, options)]
    return float(scores.max()) if len(scores) else 0.0


@torch.no_grad()
def best_pair_score(raw: RawPrediction, options: DetectOptions) -> float:
    """Highest score of any candidate under any wanted class, 0..1; 0 if there is none."""
    scores = raw.scores()
    scores = scores[:, _wanted(torch.arange(scores.shape[1], device=scores.device), options)]
    return float(scores.max()) if scores.numel() else 0.0


def prob_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Overlap of rotated boxes seen as Gaussians: 1 - Hellinger distance.

    Llerena et al. 2021, arXiv:2106.06072, eqs. 3-8: a box is the Gaussian with its centre and the
    covariance of the uniform distribution over it.

    Args:
        boxes: (n, 5) cx, cy, w, h and the angle in radians.
        others: (m, 5) likewise.

    Returns:
        (n, m) in 0..1.
    """
    a1, b1, c1 = (value[:, None] for value in _covariance(boxes))
    a2, b2, c2 = (value[None, :] for value in _covariance(others))
    dx = boxes[:, None, 0] - others[None, :, 0]
    dy = boxes[:, None, 1] - others[None, :, 1]
    a, b, c, eps = a1 + a2, b1 + b2, c1 + c2, 1e-7
    determinant = a * b - c.square()
    mahalanobis = (a * dy.square() + b * dx.square() - 2 * c * dx * dy) / (determinant + eps)
    own = (a1 * b1 - c1.square()).clamp(min=0) * (a2 * b2 - c2.square()).clamp(min=0)
    spread = (determinant / (4 * own.sqrt() + eps) + eps).log()
    bhattacharyya = (mahalanobis / 4 + spread / 2).clamp(eps, 100)
    return 1 - (1 - (-bhattacharyya).exp() + eps).sqrt()


def _covariance(boxes: Tensor) -> Chosen:
    """Variances along x and y and the covariance, each (n,)."""
    along, across = (boxes[:, 2:4].square() / 12).unbind(1)
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    return (
        along * cos.square() + across * sin.square(),
        along * sin.square() + across * cos.square(),
        (along - across) * cos * sin,
    )


def _rotated_nms(boxes: Tensor, iou: float) -> Tensor:
    """Fast NMS (arXiv:1904.02689) on boxes sorted best first: anything a better one overlaps goes."""
    overlaps = prob_iou(boxes, boxes).triu(diagonal=1)
    return (overlaps <= iou).all(dim=0).nonzero().flatten()


def _ranked(raw: RawPrediction, options: DetectOptions) -> Chosen:
    """Candidates whose best class is wanted and scores high enough, with score and label, best first."""
    scores, labels = raw.scores().max(dim=1)
    candidates = (_wanted(labels, options) & (scores > options.conf)).nonzero().flatten()
    candidates = candidates[scores[candidates].argsort(descending=True, stable=True)[:_MOST_CANDIDATES]]
    return candidates, scores[candidates], labels[candidates]


def _wanted(labels: Tensor, options: DetectOptions) -> Tensor:
    if options.classes is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return torch.isin(labels, labels.new_tensor(options.classes))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Candidates, each seen as one class: where a head may find several classes in one candidate.

    Attributes:
        candidates: (n,) int64 rows of `RawPrediction`.
        labels: (n,) int64.
        scores: (n,).
    """

    candidates: Tensor
    labels: Tensor
    scores: Tensor

    def at(self, rows: Tensor) -> Pairs:
        """The pairs at `rows` (m,) int64."""
        return Pairs(self.candidates[rows], self.labels[rows], self.scores[rows])


@torch.no_grad()
def pairs_above(scores: Tensor, conf: float, labels: Sequence[int]) -> Pairs:
    """Every pair of a candidate and one of the `labels` that scores more than `conf`.

    Args:
        scores: (N, K) of all candidates and classes.
        conf: threshold, exclusive.
        labels: class ids, ascending.

    Returns:
        Candidate by candidate, for each in the order of `labels`.
    """
    columns = torch.as_tensor(list(labels), dtype=torch.long, device=scores.device)
    candidates, places = (scores[:, columns] > conf).nonzero(as_tuple=True)
    found = columns[places]
    return Pairs(candidates, found, scores[candidates, found])


@torch.no_grad()
def best_of_each(scores: Tensor, groups: Tensor, most: int) -> Tensor:
    """Indices of the `most` highest scores of each group, group by group.

    Args:
        scores: (n,).
        groups: (n,) int64, which group each belongs to.
        most: of a group that are kept.
    """
    kept = [torch.empty(0, dtype=torch.long, device=scores.device)]
    for group in sorted(set(groups.tolist())):
        members = (groups == group).nonzero().flatten()
        kept.append(members[scores[members].topk(min(most, len(members))).indices])
    return torch.cat(kept)
