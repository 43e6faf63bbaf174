"""From a detector and pictures to explanations: one forward pass a picture, whatever is asked."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, Detector
from detcam.cam.capture import Capture, GradientPath, capture
from detcam.cam.methods import Method, get_method
from detcam.errors import DetcamError, InputError, NoGradientError, UnknownNameError
from detcam.explanation import ExplainedLayer, Explanation, Question
from detcam.geometry import Letterbox
from detcam.images import Picture, as_picture
from detcam.structures import Detections, LayerSet, RawPrediction, level_name
from detcam.targets import UNITS, TargetFactory, class_id, target_for


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain and how; `explain` documents each field."""

    classes: tuple[int | str, ...] | None = None
    conf: float = 0.25
    iou: float | None = None
    max_det: int = 300
    imgsz: int | tuple[int, int] | None = None
    max_boxes: int = 16
    method: str = "layer-cam"
    layers: str | tuple[str, ...] = "backbone"
    target: str = "class-logit"
    path: GradientPath = "direct"
    keep_features: bool = False

    def __post_init__(self) -> None:
        if self.path not in ("direct", "total"):
            raise UnknownNameError("gradient path", self.path, ("direct", "total"))
        for name in ("max_det", "max_boxes"):
            check_count(name, getattr(self, name))
        sides = self.imgsz if isinstance(self.imgsz, tuple) else (self.imgsz or 0, self.imgsz or 0)
        if self.imgsz is not None and (
            len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides)
        ):
            raise InputError(f"imgsz must be pixels, or (H, W), got {self.imgsz!r}")


def check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        InputError: it is not; the text has its name.
    """
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")


@overload
def explain(detector: Detector, image: list[Any] | tuple[Any, ...], **options: Any) -> list[Explanation]: ...


@overload
def explain(detector: Detector, image: Any, **options: Any) -> Explanation: ...


def explain(  # type: ignore[misc]  # the overloads tell one picture from several, not every keyword
    detector: Detector,
    image: Any,
    *,
    classes: int | str | Sequence[int | str] | None = None,
    conf: float = 0.25,
    iou: float | None = None,
    max_det: int = 300,
    imgsz: int | tuple[int, int] | None = None,
    max_boxes: int = 16,
    method: str = "layer-cam",
    layers: str | Sequence[str] = "backbone",
    target: str = "class-logit",
    path: GradientPath = "direct",
    keep_features: bool = False,
    batch: int = 1,
) -> Any:
    """Explain why a detector fired on a picture, box by box and level by level.

    Args:
        detector: from `detcam.load` or `detcam.wrap`.
        image: a path, PIL picture, numpy RGB array or tensor, or a list of these.
        classes: class ids or names to explain, or one of them; None for all.
        conf: lowest score, 0..1.
        iou: overlap from which the weaker box of a class is suppressed, 0..1; None for what the detector's
            own predict takes, 0.7 for ultralytics.
        max_det: detections kept per picture.
        imgsz: the input's largest side, or (H, W); None for the size the model was trained at.
        max_boxes: boxes explained per picture, best first.
        method: key of `detcam.METHODS`.
        layers: "backbone", "neck" or "head" (one layer at each of the head's strides), or dotted names.
        target: what of the prediction is explained: a key of `TARGETS`.
        path: "direct" gradients add up over the layers; "total" ones also run through deeper captured layers.
        keep_features: keep the captured activations in `Explanation.features`.
        batch: pictures of one input size per forward pass.

    Returns:
        An `Explanation`, or a list of them for a list of images. No detection is an answer: an
        explanation of length 0.

    Raises:
        InputError: something asked for does not exist or cannot be used.
        CaptureError: the network did not give what was to be captured.
        NoGradientError: a box's target depends on none of the layers.
    """
    wanted = (classes,) if isinstance(classes, int | str) else classes
    options = ExplainOptions(
        classes=None if wanted is None else tuple(wanted),
        conf=conf,
        iou=iou,
        max_det=max_det,
        imgsz=imgsz,
        max_boxes=max_boxes,
        method=method,
        layers=layers if isinstance(layers, str) else tuple(layers),
        target=target,
        path=path,
        keep_features=keep_features,
    )
    explainer = Explainer.of(detector, options)
    several = isinstance(image, list | tuple)
    pictures = (as_picture(one) for one in (image if several else [image]))
    explanations = list(explainer.explain(pictures, batch))
    return explanations if several else explanations[0]


@dataclass(frozen=True, eq=False)
class Explainer:
    """A detector and what is asked of it, looked up and checked once for any number of pictures."""

    detector: Detector
    options: ExplainOptions
    method: Method
    detect: DetectOptions
    modules: Mapping[str, nn.Module]
    target: TargetFactory
    question: Question

    @classmethod
    def of(cls, detector: Detector, options: ExplainOptions) -> Explainer:
        """Look the options up in the registries.

        Raises:
            InputError: something asked for does not exist or cannot be used.
        """
        names = detector.class_names
        wanted = None if options.classes is None else tuple(class_id(c, names) for c in options.classes)
        method = get_method(options.method)
        return cls(
            detector=detector,
            options=options,
            method=method,
            detect=DetectOptions(options.conf, options.iou, wanted, options.max_det),
            modules=select_layers(detector, options.layers),
            target=target_for(options.target, names),
            question=Question(method.name, options.target, UNITS.get(options.target, "logit"), options.path),
        )

    def explain(self, pictures: Iterable[Picture], batch: int = 1) -> Iterator[Explanation]:
        """Explanations in the order of `pictures`; neighbours of one input size share forward passes.

        Raises:
            InputError: `batch` is no count.
            CaptureError: the network did not give what was to be captured.
            NoGradientError: a box's target depends on none of the layers.
        """
        check_count("batch", batch)
        inputs = (_Input(one, *self.detector.prepare(one.pixels, self.options.imgsz)) for one in pictures)
        for _, alike in groupby(inputs, key=lambda one: one.tensor.shape):
            while members := list(islice(alike, batch)):
                yield from _explain_batch(self, members)

    def rehearse(self) -> None:
        """Ask the question once of a small black picture: what would fail for every picture fails here.

        Raises:
            InputError: the target cannot be had from this detector.
            CaptureError: the network did not give what was to be captured.
            NoGradientError: no level's target depends on any of the layers.
        """
        side = 2 * max(self.detector.strides)
        black = np.zeros((side, side, 3), np.uint8)
        self.detector.prepare(black, self.options.imgsz)
        # Too small for some: a network of one fixed size, one with more queries than the input has cells.
        with suppress(DetcamError, RuntimeError):
            self._ask_all_levels(black, side)
            return
        self._ask_all_levels(black, self.options.imgsz)

    def _ask_all_levels(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> None:
        """Ask of one candidate of each level, whatever it found."""
        tensor, _ = self.detector.prepare(pixels, imgsz)
        with capture(self.detector.model, self.modules, self.options.path) as caught:
            (raw,) = self.detector.forward(tensor[None])
            caught.check_all_ran()
            candidates = raw.central_candidates().values()
            scores = [self.target(candidate, min(self.detector.class_names))(raw) for candidate in candidates]
            if self.method.uses_gradients and scores:  # a head of regions may see none in a black picture
                caught.gradients(torch.stack(scores).sum())


def select_layers(detector: Detector, layers: str | Sequence[str]) -> dict[str, nn.Module]:
    """Dotted name -> module of a layer set or of layers named one by one.

    Raises:
        UnknownNameError: no such layer; the closest are offered.
    """
    if isinstance(layers, str):
        members = [layer.name for layer in detector.layers() if layer.member_of == layers]
        if not members and layers in get_args(LayerSet):
            raise InputError(
                f"this {detector.family} model has no layers in the set {layers!r}: name layers instead"
            )
        names = members or [name.strip() for name in layers.split(",")]
    else:
        names = list(layers)
    if not names:
        raise InputError("no layers given: name a set (backbone, neck, head) or layers")
    modules = dict(detector.model.named_modules())
    for name in names:
        if not name or name not in modules:
            known = [
                "backbone",
                "neck",
                "head",
                *(layer.name for layer in detector.layers()),
                *filter(None, modules),
            ]
            raise UnknownNameError("layer", name, known, "List all: detcam layers MODEL")
    return {name: modules[name] for name in names}


@dataclass(frozen=True, eq=False)
class _Input:
    """A picture as the network sees it."""

    picture: Picture
    tensor: Tensor
    geometry: Letterbox


@dataclass(frozen=True, eq=False)
class _Subject:
    """A picture after the forward pass, and what is gathered for it box by box."""

    input: _Input
    raw: RawPrediction
    found: int
    chosen: Detections
    boxes: Tensor
    cells: Tensor
    values: list[Tensor] = field(default_factory=list)
    maps: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    reach: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


def _explain_batch(plan: Explainer, inputs: Sequence[_Input]) -> list[Explanation]:
    detector = plan.detector
    with capture(detector.model, plan.modules, plan.options.path) as caught:
        raws = detector.forward(torch.stack([one.tensor for one in inputs]))
        caught.check_all_ran()
        subjects = [_subject(plan, one, raw) for one, raw in zip(inputs, raws, strict=True)]
        for box in range(max(len(subject.chosen) for subject in subjects)):
            _explain_box(plan, caught, subjects, box)
        layers = _explained_layers(detector, caught, inputs[0].geometry)
        return [
            _explanation(plan, layers, subject, {n: a[i] for n, a in caught.activations.items()})
            for i, subject in enumerate(subjects)
        ]


def _subject(plan: Explainer, one: _Input, raw: RawPrediction) -> _Subject:
    found = plan.detector.detect(raw, one.geometry, plan.detect)
    chosen = found[: plan.options.max_boxes]
    cells = _cells(raw, chosen, one.geometry.input_size)
    return _Subject(one, raw, len(found), chosen, raw.boxes(chosen.candidates).detach(), cells)


def _cells(raw: RawPrediction, chosen: Detections, input_size: tuple[int, int]) -> Tensor:
    """The cell that predicted each box, (M, 4) xyxy in network-input pixels."""
    cells = []
    for candidate in chosen.candidates.tolist():
        level, row, column, _ = raw.locate(candidate)
        # Not the stride: a grid whose last cells stick out of the input is squeezed into it, as its map is.
        height, width = input_size[0] / level.grid[0], input_size[1] / level.grid[1]
        cells.append([column * width, row * height, (column + 1) * width, (row + 1) * height])
    return chosen.boxes.new_tensor(cells).reshape(-1, 4)


def _explain_box(plan: Explainer, caught: Capture, subjects: Sequence[_Subject], box: int) -> None:
    """Explain box number `box` of every picture that has so many, in one backward pass for all."""
    rows = [i for i, subject in enumerate(subjects) if box < len(subject.chosen)]
    asked = [subjects[i] for i in rows]
    scores = []
    for subject in asked:
        target = plan.target(int(subject.chosen.candidates[box]), int(subject.chosen.labels[box]))
        scores.append(target(subject.raw))
        subject.values.append(scores[-1].detach())
    gradients = caught.gradients(torch.stack(scores).sum()) if plan.method.uses_gradients else {}
    for name, activations in caught.activations.items():
        gradient = gradients.get(name)
        gradient = torch.zeros_like(activations[rows]) if gradient is None else gradient[rows]
        available = {"activations": activations[rows].detach(), "gradients": gradient}
        available |= _placement(asked, box, grid=(activations.shape[2], activations.shape[3]))
        if box and plan.method.needs == ("activations",):  # the same map for every box: compute it once
            maps = torch.stack([subject.maps[name][0] for subject in asked])
        else:
            maps = plan.method.compute(**{need: available[need] for need in plan.method.needs})
        for subject, one, reach in zip(asked, maps, gradient.abs().amax(dim=(1, 2, 3)), strict=True):
            subject.maps[name].append(one)
            subject.reach[name].append(reach)


def _placement(asked: Sequence[_Subject], box: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """What a method may know of where the box is: box and deciding cell on the layer's grid, and a seed."""
    rows = slice(box, box + 1)
    return {
        "boxes": torch.cat([s.input.geometry.boxes_to_grid(s.boxes[rows], grid) for s in asked]),
        "cells": torch.cat([s.input.geometry.boxes_to_grid(s.cells[rows], grid) for s in asked]),
        "seeds": torch.cat([s.chosen.candidates[rows] for s in asked]),
    }


def _explained_layers(detector: Detector, caught: Capture, geometry: Letterbox) -> dict[str, ExplainedLayer]:
    """Captured name -> what it stands for, finest level first."""
    member_of = {layer.name: layer.member_of for layer in detector.layers()}
    grids = {name: (a.shape[2], a.shape[3]) for name, a in caught.activations.items()}
    strides = {name: geometry.input_size[0] / grid[0] for name, grid in grids.items()}
    levels = {name: _level_name(stride) for name, stride in strides.items()}
    shared = {level for level, times in Counter(levels.values()).items() if times > 1}
    return {
        name: ExplainedLayer(
            level=f"{levels[name]}:{name}" if levels[name] in shared else levels[name],
            module=name,
            member_of=member_of.get(name),
            stride=strides[name],
            grid=grids[name],
        )
        for name in sorted(grids, key=lambda name: strides[name])
    }


def _level_name(stride: float) -> str:
    power = math.log2(stride)
    # Where the input is no multiple of the stride, a grid is rounded up or down.
    return level_name(2 ** round(power)) if abs(power - round(power)) < 0.25 else f"stride-{stride:g}"


def _explanation(
    plan: Explainer,
    layers: dict[str, ExplainedLayer],
    subject: _Subject,
    activations: dict[str, Tensor],
) -> Explanation:
    levels = {
        layer.level: torch.stack(subject.maps[name]) if len(subject.chosen) else torch.zeros(0, *layer.grid)
        for name, layer in layers.items()
    }
    return Explanation(
        picture=subject.input.picture,
        geometry=subject.input.geometry,
        detections=subject.chosen,
        found=subject.found,
        class_names=plan.detector.class_names,
        question=plan.question,
        layers=tuple(layers.values()),
        levels=levels,
        involved=_involved(plan, layers, subject),
        deciding=tuple(subject.raw.locate(c).level.name for c in subject.chosen.candidates.tolist()),
        target_values=tuple(torch.stack(subject.values).tolist() if subject.values else ()),
        features=_features(layers, activations) if plan.options.keep_features else None,
    )


def _features(layers: dict[str, ExplainedLayer], activations: dict[str, Tensor]) -> dict[str, Tensor]:
    return {layer.level: activations[name].detach().clone() for name, layer in layers.items()}


def _involved(plan: Explainer, layers: dict[str, ExplainedLayer], subject: _Subject) -> dict[str, Tensor]:
    """Level name -> (M,) whether each box's target depends on that layer.

    Raises:
        NoGradientError: a box's target depends on none of them, or its gradient is not a number.
    """
    count = len(subject.chosen)
    if not plan.method.uses_gradients or not count:
        return {layer.level: torch.ones(count, dtype=torch.bool) for layer in layers.values()}
    reach = torch.stack([torch.stack(subject.reach[name]) for name in layers]).cpu()
    for box, column in enumerate(reach.T):
        if not column.isfinite().all() or not column.any():
            what = "is zero" if column.isfinite().all() else "is not finite"
            raise NoGradientError(
                f"the gradient of target {plan.question.target!r} of box {box} {what} at the layers "
                f"{', '.join(layers)}: choose other layers or another target"
            )
    return {layer.level: row > 0 for layer, row in zip(layers.values(), reach, strict=True)}
