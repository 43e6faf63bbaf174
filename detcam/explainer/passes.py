"""One forward pass over a batch of pictures, and the maps of every box in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detcam.cam.capture import Capture, borrowed, capture
from detcam.cam.layers import shift_of
from detcam.cam.replay import replayed
from detcam.cam.rescoring import ablated_scores, masked_scores
from detcam.cam.tokens import InputFrame, Unfold
from detcam.errors import InputError, NoGradientError
from detcam.explainer.candidates import RawCandidates
from detcam.explainer.gradients import explain_by_gradients
from detcam.explainer.judging import explained_of
from detcam.explainer.layers import explained_layers
from detcam.explainer.plan import Plan, PreparedPicture, Subject
from detcam.explanation import ExplainedLayer, Explanation, Verdict
from detcam.structures import Detections, RawPrediction
from detcam.targets import Target


def explain_batch(plan: Plan, inputs: Sequence[PreparedPicture]) -> list[Explanation]:
    """Explanations of pictures whose inputs are of one size, in one forward pass.

    Raises:
        InputError: the method cannot be had from this detector.
        CaptureError: the network did not give what was to be captured.
        NoGradientError: a box's target depends on none of the layers.
    """
    detector = plan.detector
    with capture(detector.model, plan.modules, plan.path) as caught:
        raws = detector.forward(torch.stack([one.tensor for one in inputs]))
        subjects = [_subject(plan, one, raw) for one, raw in zip(inputs, raws, strict=True)]
        layouts = layouts_of(plan, caught, len(inputs), inputs[0].geometry.input_size)
        maps = {name: layouts[name](one.detach()) for name, one in caught.activations.items()}
        for subject in subjects:
            subject.make_room(maps)
        if plan.method.uses_gradients:
            explain_by_gradients(plan, caught, layouts, maps, subjects)
    for i, subject in enumerate(subjects):
        activations = {name: one[i : i + 1] for name, one in maps.items()}
        if plan.method.rescores is not None:
            _explain_by_rescoring(plan, subject, activations, layouts)
        elif not plan.method.uses_gradients:
            _explain_by_placement(plan, subject, activations)
    grids = {name: (one.shape[2], one.shape[3]) for name, one in maps.items()}
    layers = explained_layers(detector, grids, inputs[0].geometry)
    return [
        _explanation(plan, layers, subject, {name: one[i] for name, one in maps.items()})
        for i, subject in enumerate(subjects)
    ]


def layouts_of(plan: Plan, caught: Capture, batch: int, input_size: tuple[int, int]) -> dict[str, Unfold]:
    """Captured name -> how what it gives becomes feature maps.

    Raises:
        CaptureError: a layer did not run, or its grid cannot be told.
    """
    caught.check_all_ran()
    frame = InputFrame(batch, input_size)
    return {
        name: frame.layout(one, name, shift_of(plan.detector.model, name))
        for name, one in caught.activations.items()
    }


def check_rescorable(plan: Plan, raw: RawPrediction) -> None:
    """Check that a candidate is the same in a changed picture, if the method scores such.

    Raises:
        InputError: it is not; the text names the method.
    """
    # Random masks find proposals anew in every picture.
    is_same_asked = plan.method.rescores in ("masked", "ablated")
    if is_same_asked and raw.located is not None and len(raw.class_logits) > 1:
        raise InputError(
            f"method {plan.method.name!r} scores changed pictures, and {plan.detector.family} sees other "
            "regions in each: choose a method that uses gradients"
        )


def _subject(plan: Plan, one: PreparedPicture, raw: RawPrediction) -> Subject:
    found, chosen, verdicts = asked_of(plan, one, raw)
    targets = tuple(
        plan.target(candidate, label)
        for candidate, label in zip(chosen.candidates.tolist(), chosen.labels.tolist(), strict=True)
    )
    return Subject(
        input=one,
        raw=raw,
        found=found,
        verdicts=verdicts,
        chosen=chosen,
        targets=targets,
        values=_values(targets, raw).detach(),
        # What was asked for stays where it was, whatever a changed network makes of the candidate.
        boxes=raw.boxes(chosen.candidates).detach()
        if one.asked is None
        else one.geometry.boxes_to_input(chosen.boxes),
        cells=_cells(raw, chosen, one.geometry.input_size),
    )


class Asked(NamedTuple):
    """How many boxes there are in a picture, which are explained, and what they are."""

    found: int
    chosen: Detections
    verdicts: tuple[Verdict, ...] = ()


def asked_of(plan: Plan, one: PreparedPicture, raw: RawPrediction) -> Asked:
    """What is asked about in a picture.

    Raises:
        InputError: a candidate or class that is asked for does not exist in this prediction, or nothing is
            known of a picture that is to be judged.
    """
    if one.asked is not None:
        _check_exist(one.asked, raw)
        return Asked(len(one.asked), one.asked)
    most = plan.options.max_boxes
    if plan.judge is None:
        found = plan.detector.detect(raw, one.geometry, plan.detect)
        return Asked(len(found), found[:most])
    candidates = RawCandidates(plan.detector, raw, one.geometry, plan.detect)
    with torch.no_grad():
        verdicts = plan.judge(one.picture, candidates)
    can_be = [one for one in verdicts if one.candidate is not None]
    return Asked(len(can_be), *explained_of(verdicts, candidates.found, most))


def _check_exist(asked: Detections, raw: RawPrediction) -> None:
    rows, classes = raw.class_logits.shape
    for what, indices, count in (("candidate", asked.candidates, rows), ("class", asked.labels, classes)):
        for index in indices.tolist():
            if not 0 <= index < count:
                raise InputError(
                    f"no {what} {index} of {count}: the boxes must have been found in this very input"
                )


def _values(targets: Sequence[Target], raw: RawPrediction) -> Tensor:
    """The targets' values (T,) in one picture."""
    values = [target(raw) for target in targets]
    return torch.stack(values) if values else raw.class_logits.new_zeros(0)


def _cells(raw: RawPrediction, chosen: Detections, input_size: tuple[int, int]) -> Tensor:
    """The cell that predicted each box, (M, 4) xyxy in network-input pixels."""
    cells = []
    for candidate in chosen.candidates.tolist():
        level, row, column, _ = raw.locate(candidate)
        # Not the stride: a grid whose last cells stick out of the input is squeezed into it, as its map is.
        height, width = input_size[0] / level.grid[0], input_size[1] / level.grid[1]
        cells.append([column * width, row * height, (column + 1) * width, (row + 1) * height])
    return chosen.boxes.new_tensor(cells).reshape(-1, 4)


def _explain_by_placement(plan: Plan, subject: Subject, activations: Mapping[str, Tensor]) -> None:
    """Explain the boxes of a picture by activations (1, C, h, w) and where each box lies."""
    for name, one in activations.items():
        for box in range(len(subject.chosen)):
            if box and plan.method.needs == ("activations",):  # the same map for every box: compute it once
                subject.maps[name][box] = subject.maps[name][0]
                continue
            available = {"activations": one, **subject.placement(box, (one.shape[2], one.shape[3]))}
            found = plan.method.compute(**{need: available[need] for need in plan.method.needs})
            subject.maps[name][box] = found[0]


def _explain_by_rescoring(
    plan: Plan, subject: Subject, activations: Mapping[str, Tensor], layouts: Mapping[str, Unfold]
) -> None:
    """Explain all boxes of a picture by what they score when it, or a layer, is changed."""
    if not subject.targets:
        return
    check_rescorable(plan, subject.raw)
    for name, one in activations.items():
        repeated = one.expand(len(subject.targets), *one.shape[1:])
        available = {"activations": repeated, "scores": subject.values}
        available[f"{plan.method.rescores}_scores"] = _rescored(plan, subject, name, one[0], layouts[name])
        subject.maps[name] = plan.method.compute(**{need: available[need] for need in plan.method.needs})


def _rescored(plan: Plan, subject: Subject, name: str, activations: Tensor, unfold: Unfold) -> Tensor:
    """(T, C) values of all targets with each channel of a layer as a mask, or left out."""
    model, picture = plan.detector.model, subject.input.tensor[None]

    def score(pictures: tuple[Tensor, ...]) -> Tensor:
        raws = plan.detector.forward(pictures[0])
        return torch.stack([_values(subject.targets, raw) for raw in raws], dim=1)

    if plan.method.rescores == "masked":
        with borrowed(model), torch.no_grad():
            return masked_scores((picture,), activations, score, plan.options.batch_size, plan.progress)
    with replayed(model, name, score, (picture,)) as replay:
        return ablated_scores(replay, unfold, plan.options.batch_size, plan.progress)


def _explanation(
    plan: Plan, layers: dict[str, ExplainedLayer], subject: Subject, activations: Mapping[str, Tensor]
) -> Explanation:
    levels = {layer.level: subject.maps[name] for name, layer in layers.items()}
    features = {layer.level: activations[name].clone() for name, layer in layers.items()}
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
        target_values=tuple(subject.values.tolist()),
        features=features if plan.options.keep_features else None,
        verdicts=subject.verdicts,
    )


def _involved(plan: Plan, layers: dict[str, ExplainedLayer], subject: Subject) -> dict[str, Tensor]:
    """Level name -> (M,) whether each box's target depends on that layer.

    Raises:
        NoGradientError: a box's target depends on none of them, or its gradient is not a number.
    """
    count = len(subject.chosen)
    if not plan.method.uses_gradients or not count:
        return {layer.level: torch.ones(count, dtype=torch.bool) for layer in layers.values()}
    reach = torch.stack([subject.reach[name] for name in layers])
    for box, column in enumerate(reach.T):
        if not column.isfinite().all() or not column.any():
            what = "is zero" if column.isfinite().all() else "is not finite"
            raise NoGradientError(
                f"the gradient of target {plan.question.target!r} of box {box} {what} at the layers "
                f"{', '.join(layers)}: choose other layers or another target"
            )
    return {layer.level: row > 0 for layer, row in zip(layers.values(), reach, strict=True)}
