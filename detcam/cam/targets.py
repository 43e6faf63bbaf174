"""What may be explained of any network: one number of its output for one picture.

A target is any callable from one picture's part of the output to a 0-dim tensor. Those here read the output
themselves where it is a tensor, and the part named by `output` where it is a dict or a tuple. One that points
at places has `flipped()`, which gives the target of the mirrored picture; one that reads what it is about off
the output has `settled()`, which gives the same target for changed pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from detcam.errors import InputError, ShapeError

Target = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class ClassScore:
    """The score of a class before any softmax, of a classifier's (K,) scores.

    Attributes:
        class_id: 0..K-1.
        output: key or index of the scores in the output, where that is no tensor.
    """

    class_id: int
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        return _class(_scores(output, self.output), self.class_id)


@dataclass(frozen=True, eq=False)
class TopClass:
    """The score of the class that scores highest, before any softmax."""

    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        return _scores(output, self.output).amax()

    def settled(self, output: Any) -> ClassScore:
        """The class that scores highest here, whatever scores highest in changed pictures."""
        return ClassScore(int(_scores(output, self.output).argmax()), self.output)


@dataclass(frozen=True, eq=False)
class ClassProbability:
    """The softmax probability of a class. It saturates: where it is all but 1, gradients are all but 0."""

    class_id: int
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        return _class(_scores(output, self.output).softmax(dim=0), self.class_id)


@dataclass(frozen=True, eq=False)
class ReST:
    """Score plus log-probability of a class: both what speaks for it and what sets it apart.

    arXiv:2501.06261.
    """

    class_id: int
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        scores = _scores(output, self.output)
        return _class(scores, self.class_id) + scores.log_softmax(dim=0)[self.class_id]


@dataclass(frozen=True, eq=False)
class BinaryScore:
    """The one score of a binary classifier, or with `positive=False` what speaks for the other class."""

    positive: bool = True
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        score = _single(_tensor(output, self.output))
        return score if self.positive else -score


@dataclass(frozen=True, eq=False)
class Value:
    """One number of a regression's output: what raises it, or with `sign=-1` what lowers it.

    Attributes:
        index: of the number; () where the output is a single one.
    """

    index: tuple[int, ...] = ()
    sign: int = 1
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        found = _tensor(output, self.output)
        return self.sign * _single(found[self.index] if self.index else found)


@dataclass(frozen=True, eq=False)
class MaskedClass:
    """The scores of a class summed over a mask, of semantic segmentation's (K, H, W) scores.

    Attributes:
        class_id: 0..K-1.
        mask: (H, W), weights of the pixels; None for those where the class scores highest.
    """

    class_id: int
    mask: Any = None
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        found = _tensor(output, self.output)
        scores = _class(found, self.class_id)
        if self.mask is not None:
            return (scores * _mask_for(scores, self.mask)).sum()
        return scores[found.argmax(dim=0) == self.class_id].sum()

    def settled(self, output: Any) -> MaskedClass:
        """The pixels where the class scores highest here, whatever they are in changed pictures."""
        if self.mask is not None:
            return self
        return replace(self, mask=_tensor(output, self.output).detach().argmax(dim=0) == self.class_id)

    def flipped(self) -> MaskedClass:
        """The target of the mirrored picture."""
        return replace(self, mask=_mirrored(self.mask))


@dataclass(frozen=True, eq=False)
class MaskScore:
    """A dense map of one channel, (H, W) or (1, H, W), summed over a mask: a manipulation map, a depth map.

    Attributes:
        mask: (H, W), weights of the pixels; None for all.
    """

    mask: Any = None
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        scores = _tensor(output, self.output)
        if scores.ndim < 2 or scores.shape[:-2].numel() != 1:
            raise ShapeError(f"a map of one channel is (H, W) or (1, H, W), got {tuple(scores.shape)}")
        scores = scores.flatten(0, -2).reshape(scores.shape[-2:])
        return scores.sum() if self.mask is None else (scores * _mask_for(scores, self.mask)).sum()

    def flipped(self) -> MaskScore:
        """The target of the mirrored picture."""
        return replace(self, mask=_mirrored(self.mask))


@dataclass(frozen=True, eq=False)
class CosineSimilarity:
    """How alike the output and an embedding are, -1..1: a text's or another picture's.

    Attributes:
        embedding: (E,), of any length.
    """

    embedding: Any
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        found = _tensor(output, self.output)
        return functional.cosine_similarity(found, _embedding_for(found, self.embedding), dim=0)


@dataclass(frozen=True, eq=False)
class Contrast:
    """How much more the output is like one embedding than like others: similarities, the others' mean off.

    Attributes:
        positive: (E,).
        negatives: (n, E), at least one.
    """

    positive: Any
    negatives: Any
    output: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        others = [CosineSimilarity(one, self.output)(output) for one in self.negatives]
        if not others:
            raise InputError("a contrast needs at least one negative embedding")
        return CosineSimilarity(self.positive, self.output)(output) - torch.stack(others).mean()


def targets_for(target: Target | int | Sequence[Target | int] | None, batch: int) -> list[Target]:
    """One target for each picture.

    Args:
        target: one for all, or as many as pictures, class ids also as an array or tensor; an int is a class,
            None each picture's top class.
        batch: pictures.

    Raises:
        InputError: another number of targets than pictures, or what is no target.
    """
    plain = getattr(target, "tolist", None)  # of class ids in a tensor or array
    target = target if plain is None else plain()
    if target is None or isinstance(target, int) or callable(target):
        return [_target(target)] * batch
    if not isinstance(target, Sequence) or len(target) != batch:
        what = f"{len(target)} targets" if isinstance(target, Sequence) else f"a {type(target).__name__}"
        raise InputError(f"give one target, or one for each of the {batch} pictures; got {what}")
    return [_target(one) for one in target]


def picture_of(output: Any, index: int, batch: int) -> Any:
    """One picture's part of the output of `batch` pictures; tensors of another length are kept whole.

    Of a list of one dict for each picture, as torchvision's detectors give it, that dict.
    """
    if isinstance(output, list) and len(output) == batch and all(isinstance(x, Mapping) for x in output):
        return output[index]

    def part(leaf: Any) -> Any:
        is_batched = isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch
        return leaf[index] if is_batched else leaf

    return pytree.tree_map(part, output)


def check_scalar(score: object) -> Tensor:
    """Give a target's value back if it is a single number.

    Raises:
        ShapeError: it is not; the text has what it is.
    """
    if not isinstance(score, Tensor) or score.ndim:
        what = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else f"a {type(score).__name__}"
        raise ShapeError(f"a target must give a 0-dim tensor, got {what}: index, sum or average it")
    return score


def mirrored(target: Target) -> Target:
    """The target of the mirrored picture: what `flipped()` says, or the same where places do not matter."""
    flipped = getattr(target, "flipped", None)
    return target if flipped is None else flipped()


def settled(target: Target, output: Any) -> Target:
    """The target with what it leaves open read off a picture's output; changed pictures keep to it."""
    settle = getattr(target, "settled", None)
    return target if settle is None else settle(output)


def _target(target: Target | int | None) -> Target:
    if target is None:
        return TopClass()
    if isinstance(target, int):
        return ClassScore(target)
    if not callable(target):
        raise InputError(f"a target is a callable, a class id or None, got a {type(target).__name__}")
    return target


def _tensor(output: Any, key: str | int | None) -> Tensor:
    """The tensor that a target reads, out of one picture's output."""
    found = output
    if key is not None:
        try:
            found = output[key]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"the output has no part {key!r}: {_parts(output)}") from None
    if not isinstance(found, Tensor):
        raise InputError(f"the output is no tensor: name its part with output=…; {_parts(output)}")
    return found


def _parts(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"it has {', '.join(map(repr, output))}"
    if isinstance(output, list | tuple):
        return f"it has the parts 0 to {len(output) - 1}"
    return f"it is a {type(output).__name__}"


def _scores(output: Any, key: str | int | None) -> Tensor:
    scores = _tensor(output, key)
    if scores.ndim != 1:
        raise ShapeError(f"a classifier gives (K,) scores for a picture, got {tuple(scores.shape)}")
    return scores


def _class(scores: Tensor, class_id: int) -> Tensor:
    if not 0 <= class_id < len(scores):
        raise InputError(f"no class {class_id}: the output has {len(scores)}, 0 to {len(scores) - 1}")
    return scores[class_id]


def _single(value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise ShapeError(f"the output is {tuple(value.shape)}, not one number: say which")
    return value.reshape(())


def _mask_for(scores: Tensor, mask: Any) -> Tensor:
    weights = torch.as_tensor(mask, device=scores.device, dtype=scores.dtype)
    if weights.shape != scores.shape:
        raise ShapeError(f"the mask must be {tuple(scores.shape)} as the output, got {tuple(weights.shape)}")
    return weights


def _mirrored(mask: Any) -> Any:
    return None if mask is None else torch.as_tensor(mask).flip(-1)


def _embedding_for(found: Tensor, embedding: Any) -> Tensor:
    wanted = torch.as_tensor(embedding, device=found.device, dtype=found.dtype)
    if found.ndim != 1 or wanted.shape != found.shape:
        raise ShapeError(f"embeddings must be (E,), got {tuple(found.shape)} and {tuple(wanted.shape)}")
    return wanted
