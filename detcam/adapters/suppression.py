"""From candidates to detections, carrying the candidate indices: what is explained is what is seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from detcam.adapters.base import DetectOptions
from detcam.structures import RawPrediction

_MOST_CANDIDATES = 30_000
_CLASS_OFFSET = 7680.0  # pixels between the planes of two classes


@torch.no_grad()
def suppress(raw: RawPrediction, options: DetectOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Best class of each candidate, thresholded, then non-maximum suppression within each class.

    Classes are kept apart as predict does it, by a distance: at class 61 it rounds boxes to 1/32 pixel, and
    now and then that decides whether two boxes overlap too much.

    Returns:
        Candidates (M,) int64, scores (M,) and labels (M,) int64, best score first.
    """
    scores, labels = raw.scores().max(dim=1)
    candidates = (_wanted(labels, options) & (scores > options.conf)).nonzero().flatten()
    candidates = candidates[scores[candidates].argsort(descending=True, stable=True)[:_MOST_CANDIDATES]]
    planes = labels[candidates, None] * _CLASS_OFFSET
    if raw.rotated_boxes is None:
        kept = nms(raw.boxes(candidates) + planes, scores[candidates], options.iou)
    else:
        boxes = raw.rotated_boxes(candidates)
        kept = _rotated_nms(torch.cat([boxes[:, :2] + planes, boxes[:, 2:]], dim=1), options.iou)
    candidates = candidates[kept[: options.max_det]]
    return candidates, scores[candidates], labels[candidates]


@torch.no_grad()
def take_best(raw: RawPrediction, options: DetectOptions, most: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """The best (candidate, class) pairs of an end-to-end head, which needs no suppression.

    As such heads are trained and shipped: the `most` candidates with the best class, of those the `most`
    best pairs, then threshold and class filter. One candidate may appear under several classes.

    Returns:
        As `suppress`.
    """
    scores = raw.scores()
    most = max(most, options.max_det)
    best = scores.amax(dim=1).topk(min(most, len(scores))).indices
    values, pairs = scores[best].flatten().topk(min(most, len(best)))
    candidates, labels = best[pairs // scores.shape[1]], pairs % scores.shape[1]
    kept = (_wanted(labels, options) & (values > options.conf)).nonzero().flatten()[: options.max_det]
    return candidates[kept], values[kept], labels[kept]


@torch.no_grad()
def best_score(raw: RawPrediction, options: DetectOptions) -> float:
    """Highest score of any candidate whose best class is wanted, 0..1; 0 if there is none."""
    scores, labels = raw.scores().max(dim=1)
    scores = scores[_wanted(labels, options)]
    return float(scores.max()) if len(scores) else 0.0


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


def _covariance(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def _wanted(labels: Tensor, options: DetectOptions) -> Tensor:
    if options.classes is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return torch.isin(labels, labels.new_tensor(options.classes))
