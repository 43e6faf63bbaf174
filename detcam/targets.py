"""Score targets: what is being explained, as one number of the live graph.

A target is a frozen dataclass, called with a `RawPrediction`. `TARGETS` names them; `target_for` builds
the one a user asked for, for one detection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from torch import Tensor

from detcam.errors import InputError, UnknownNameError
from detcam.structures import RawPrediction


class Target(Protocol):
    """One 0-dim tensor of the live graph."""

    def __call__(self, raw: RawPrediction) -> Tensor: ...


TargetFactory = Callable[[int, int], Target]
"""(candidate, class_id) of a detection -> its target."""


@dataclass(frozen=True)
class ClassLogit:
    """The detection's score where it does not saturate: the class logit, or what the head makes of it.

    The default: a probability's gradient vanishes as it saturates (exactly 0 in float32 from logit 17 on).
    See `detcam.scoring` for each way of scoring: log-odds for a softmax, log σ(objectness) + log σ(class) for
    a product.
    """

    candidate: int
    class_id: int

    def __call__(self, raw: RawPrediction) -> Tensor:
        objectness = None if raw.objectness_logits is None else raw.objectness_logits[self.candidate]
        return raw.scoring.unsaturated(raw.class_logits[self.candidate], objectness, self.class_id)


@dataclass(frozen=True)
class Probability:
    """The detection's score in 0..1."""

    candidate: int
    class_id: int

    def __call__(self, raw: RawPrediction) -> Tensor:
        return raw.scores()[self.candidate, self.class_id]


@dataclass(frozen=True)
class Objectness:
    """The objectness before the sigmoid, in logits, for heads that have one."""

    candidate: int
    class_id: int

    def __call__(self, raw: RawPrediction) -> Tensor:
        if raw.objectness_logits is None:
            raise InputError("this detector has no objectness: use the target 'class-logit'")
        return raw.objectness_logits[self.candidate]


@dataclass(frozen=True)
class BoxEdge:
    """One edge of the box, in network-input pixels: what pushes it right (x) or down (y)."""

    candidate: int
    class_id: int
    edge: Literal["x1", "y1", "x2", "y2"]

    def __call__(self, raw: RawPrediction) -> Tensor:
        index = raw.class_logits.new_tensor([self.candidate]).long()
        return raw.boxes(index)[0, ("x1", "y1", "x2", "y2").index(self.edge)]


@dataclass(frozen=True)
class BoxSize:
    """Width plus height of the box, in network-input pixels: what pushes its four edges outward."""

    candidate: int
    class_id: int

    def __call__(self, raw: RawPrediction) -> Tensor:
        index = raw.class_logits.new_tensor([self.candidate]).long()
        box = raw.boxes(index)[0]
        return (box[2:] - box[:2]).sum()


@dataclass(frozen=True)
class ClassDifference:
    """Logit of the detected class minus logit of another one: why this class and not that one."""

    candidate: int
    class_id: int
    other: int

    def __call__(self, raw: RawPrediction) -> Tensor:
        logits = raw.class_logits[self.candidate]
        return logits[self.class_id] - logits[self.other]


TARGETS: dict[str, Callable[..., Target]] = {
    "class-logit": ClassLogit,
    "probability": Probability,
    "objectness": Objectness,
    "x1": partial(BoxEdge, edge="x1"),
    "y1": partial(BoxEdge, edge="y1"),
    "x2": partial(BoxEdge, edge="x2"),
    "y2": partial(BoxEdge, edge="y2"),
    "box": BoxSize,
    "class-difference": ClassDifference,
}

UNITS: dict[str, str] = {
    "probability": "probability",
    **dict.fromkeys(("x1", "y1", "x2", "y2", "box"), "input pixels"),
}
"""Unit of a target's value where it is not the logit."""


def summary(name: str) -> str:
    """What a key of `TARGETS` stands for, in a line."""
    factory = TARGETS[name]
    kind = factory.func if isinstance(factory, partial) else factory
    return (kind.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")


def target_for(spec: str, class_names: Mapping[int, str]) -> TargetFactory:
    """Read a target's name, with its argument after a colon: "class-logit", "class-difference:truck".

    Args:
        spec: a key of `TARGETS`; "class-difference" takes the other class's name or id.
        class_names: class id -> name.

    Raises:
        UnknownNameError: no such target or class.
        InputError: an argument is missing or one too many.
    """
    name, _, argument = spec.partition(":")
    if name not in TARGETS:
        raise UnknownNameError("target", name, TARGETS, "List all: detcam methods")
    if name != "class-difference":
        if argument:
            raise InputError(f"target {name!r} takes no argument, got {argument!r}")
        return TARGETS[name]
    if not argument:
        raise InputError(
            "target 'class-difference' needs the other class: class-difference:truck or class-difference:7"
        )
    return partial(TARGETS[name], other=class_id(argument, class_names))


def class_id(name_or_id: str | int, class_names: Mapping[int, str]) -> int:
    """A class's id from its name or id.

    Raises:
        UnknownNameError: no class of that name; the closest are offered.
        InputError: the id is out of range.
    """
    ids = {name: index for index, name in class_names.items()}
    if isinstance(name_or_id, str) and name_or_id in ids:
        return ids[name_or_id]
    try:
        index = int(name_or_id)
    except ValueError:
        if all(name == str(index) for index, name in class_names.items()):
            hint = f"This model has no names for its {len(ids)} classes: give --names, or the id"
            raise UnknownNameError("class", str(name_or_id), (), hint) from None
        raise UnknownNameError("class", str(name_or_id), ids) from None
    if index not in class_names:
        raise InputError(
            f"no class {index}: this model has {len(class_names)} classes, 0 to {max(class_names)}"
        )
    return index
