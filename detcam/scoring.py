"""How a head's logits become scores, one class per way that detectors do it.

Each gives the scores of every candidate and, for one of them, a number that does not saturate: what is
explained by default. Sources are in `RawPrediction`'s families: see the adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Scoring(Protocol):
    """A head's way from logits to scores."""

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """Scores (N, K) in 0..1 of class logits (N, K) and objectness logits (N,) or None."""
        ...

    def class_probabilities(self, class_logits: Tensor) -> Tensor:
        """Probability (N, K) of each class in 0..1, without objectness and the like."""
        ...

    def unsaturated(self, class_logits: Tensor, objectness_logit: Tensor | None, class_id: int) -> Tensor:
        """A 0-dim tensor that grows with a candidate's score; its logits are (K,), and () or None."""
        ...


class _EachByItself:
    """Heads whose classes do not compete."""

    def class_probabilities(self, class_logits: Tensor) -> Tensor:
        """See `Scoring`."""
        return class_logits.sigmoid()


@dataclass(frozen=True)
class Sigmoid(_EachByItself):
    """Each class by itself: σ(class). Unsaturated: the logit."""

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """See `Scoring`."""
        return class_logits.sigmoid()

    def unsaturated(self, class_logits: Tensor, objectness_logit: Tensor | None, class_id: int) -> Tensor:
        """See `Scoring`."""
        return class_logits[class_id]


SIGMOID = Sigmoid()


@dataclass(frozen=True)
class ObjectTimesClass(_EachByItself):
    """YOLOv3 to v5 and YOLOX: σ(objectness)·σ(class). Unsaturated: its logarithm.

    Attributes:
        is_class_trained: false for one-class models whose training skips the class loss (YOLOv3, v5): the
            untrained class logit still scales the score but explains nothing, the objectness logit does.
    """

    is_class_trained: bool = True

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """See `Scoring`."""
        return class_logits.sigmoid() * _required(objectness_logits).sigmoid()[:, None]

    def unsaturated(self, class_logits: Tensor, objectness_logit: Tensor | None, class_id: int) -> Tensor:
        """See `Scoring`."""
        objectness = _required(objectness_logit)
        if not self.is_class_trained:
            return objectness
        return F.logsigmoid(objectness) + F.logsigmoid(class_logits[class_id])


@dataclass(frozen=True)
class ObjectAlone(_EachByItself):
    """One-class YOLOv7: σ(objectness), the class logit takes no part. Unsaturated: the objectness logit."""

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """See `Scoring`."""
        return _required(objectness_logits).sigmoid()[:, None].expand_as(class_logits)

    def unsaturated(self, class_logits: Tensor, objectness_logit: Tensor | None, class_id: int) -> Tensor:
        """See `Scoring`."""
        return _required(objectness_logit)


@dataclass(frozen=True)
class RootOfProduct(_EachByItself):
    """FCOS: √(σ(class)·σ(centredness)). Unsaturated: its logarithm."""

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """See `Scoring`."""
        return (class_logits.sigmoid() * _required(objectness_logits).sigmoid()[:, None]).sqrt()

    def unsaturated(self, class_logits: Tensor, objectness_logit: Tensor | None, class_id: int) -> Tensor:
        """See `Scoring`."""
        return (F.logsigmoid(_required(objectness_logit)) + F.logsigmoid(class_logits[class_id])) / 2


@dataclass(frozen=True)
class Softmax:
    """Classes against each other and a background: softmax. Unsaturated: the log-odds.

    Attributes:
        background: column of "nothing there", whose score is given as 0: 0 in torchvision, -1 in DETR; None
            if every column is a class.
    """

    background: int | None

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """See `Scoring`."""
        return self.class_probabilities(class_logits)

    def class_probabilities(self, class_logits: Tensor) -> Tensor:
        """See `Scoring`; 0 for the background."""
        scores = class_logits.softmax(dim=1)
        if self.background is None:
            return scores
        column = torch.arange(scores.shape[1], device=scores.device) == self.background % scores.shape[1]
        return scores.masked_fill(column, 0.0)

    def unsaturated(self, class_logits: Tensor, objectness_logit: Tensor | None, class_id: int) -> Tensor:
        """See `Scoring`."""
        others = torch.arange(len(class_logits), device=class_logits.device) != class_id
        return class_logits[class_id] - class_logits[others].logsumexp(dim=0)


def _required(objectness: Tensor | None) -> Tensor:
    if objectness is None:
        raise AssertionError("this scoring multiplies with an objectness that the adapter did not give")
    return objectness
