"""Every layer that is explained by default has a gradient, in the cell that decided, for its own picture."""

import pytest
import torch
from vendor_zoo import BRANCHES, picture

from detcam.adapters import DetectOptions, LoadOptions, UltralyticsDetector
from detcam.cam.capture import capture
from detcam.targets import TARGETS


def modules(detector, member_of):
    named = dict(detector.model.named_modules())
    return {layer.name: named[layer.name] for layer in detector.layers() if layer.member_of == member_of}


def best_of_each_level(raw):
    """Level -> (candidate, class) with the highest score on it."""
    best, first = {}, 0
    scores, labels = raw.scores().max(dim=1)
    for level in raw.levels:
        candidate = first + int(scores[first : first + level.rows].argmax())
        best[level.name] = (candidate, int(labels[candidate]))
        first += level.rows
    return best


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_class_logits_reach_every_default_layer(zoo, family, branch):
    example = zoo(family)
    detector = UltralyticsDetector(example.model, LoadOptions(branch=branch))
    tensor, geometry = detector.prepare(picture(), example.imgsz)
    with capture(detector.model, modules(detector, "backbone")) as caught:
        (raw,) = detector.forward(tensor[None])
        found = detector.detect(raw, geometry, DetectOptions())
        best = {**best_of_each_level(raw), "of all": (int(found.candidates[0]), int(found.labels[0]))}
        for candidate, label in best.values():
            gradients = caught.gradients(raw.class_logits[candidate, label])
            assert all(one is None or one.isfinite().all() for one in gradients.values())
            reached = [name for name, one in gradients.items() if one is not None and one.any()]
            if family.startswith("yolov3"):
                # Its neck only leads down, from coarse to fine: no box knows a finer stage than its own.
                own = raw.levels.index(raw.locate(candidate).level)
                assert reached == list(gradients)[own:]
            else:
                assert reached == list(gradients)
            assert len(gradients) == len(raw.levels)


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_at_the_heads_input_a_logit_looks_at_the_cells_around_its_own(zoo, family, branch):
    example = zoo(family)
    detector = UltralyticsDetector(example.model, LoadOptions(branch=branch))
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with capture(detector.model, modules(detector, "head")) as caught:
        (raw,) = detector.forward(tensor[None])
        for candidate, label in best_of_each_level(raw).values():
            level, row, column, _ = raw.locate(candidate)
            # Each level has its own towers, and each feeder was cut off from the others.
            gradients = caught.gradients(raw.class_logits[candidate, label])
            found = {name: one for name, one in gradients.items() if one is not None and one.any()}
            ((name, gradient),) = found.items()
            assert gradient.shape[2:] == level.grid
            rows, columns = gradient[0].abs().sum(dim=0).nonzero().T
            assert gradient[0, :, row, column].any(), name
            assert (rows - row).abs().max() <= 2  # two 3x3 convolutions
            assert (columns - column).abs().max() <= 2


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), [("yolov8n", "one2many"), ("yolov10n", "one2one")])
@pytest.mark.parametrize("edge", ["x1", "y1", "x2", "y2"])
def test_box_edges_have_gradients_too(zoo, family, branch, edge):
    example = zoo(family)
    detector = UltralyticsDetector(example.model, LoadOptions(branch=branch))
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with capture(detector.model, modules(detector, "backbone")) as caught:
        (raw,) = detector.forward(tensor[None])
        for candidate, label in best_of_each_level(raw).values():
            gradients = caught.gradients(TARGETS[edge](candidate, label)(raw))
            assert all(gradient.any() for gradient in gradients.values())


@pytest.mark.compat
@pytest.mark.parametrize("family", ["yolov8n-obb", "yolo11n-obb", "yolo26n-obb"])
def test_edges_of_the_box_around_a_rotated_one_have_gradients(zoo, family):
    example = zoo(family)
    detector = UltralyticsDetector(example.model, LoadOptions(branch="one2many"))
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with capture(detector.model, modules(detector, "backbone")) as caught:
        (raw,) = detector.forward(tensor[None])
        gradients = caught.gradients(TARGETS["x1"](5, 0)(raw))
    assert all(gradient.any() for gradient in gradients.values())


def test_levels_couple_one_way_at_the_heads_inputs(zoo):
    example = zoo("yolov8n")
    detector = UltralyticsDetector(example.model)
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with capture(detector.model, modules(detector, "head"), "total") as caught:
        (raw,) = detector.forward(tensor[None])
        reached = {}
        for level, (candidate, label) in best_of_each_level(raw).items():
            gradients = caught.gradients(raw.class_logits[candidate, label])
            reached[level] = {name for name, one in gradients.items() if one is not None and one.any()}
    assert reached == {
        "P3": {"model.15"},
        "P4": {"model.15", "model.18"},
        "P5": {"model.15", "model.18", "model.21"},
    }


def test_a_branch_that_detaches_its_input_is_reattached(zoo):
    # The newest releases detach in training only: here as releases up to 8.4.112 do it.
    example = zoo("yolo26n")
    detector = UltralyticsDetector(example.model, LoadOptions(branch="one2one"))
    tensor, _ = detector.prepare(picture(), example.imgsz)
    head, attached = example.model.model[-1], type(example.model.model[-1]).forward_head

    def detached(self, x, **towers):
        return attached(self, [one.detach() for one in x], **towers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(head), "forward_head", detached)
        with capture(detector.model, modules(detector, "backbone")) as caught:
            (raw,) = detector.forward(tensor[None])
            gradients = caught.gradients(raw.class_logits[5, 0])
    assert all(gradient.any() for gradient in gradients.values())


@pytest.mark.compat
@pytest.mark.parametrize(
    ("family", "branch"),
    [("yolo11n", "one2many"), ("yolov10n", "one2one"), ("yolo12n", "one2many"), ("yolo26n", "one2many")],
)
@pytest.mark.parametrize("path", ["direct", "total"])
def test_a_batch_gives_each_picture_what_it_gets_alone(zoo, family, branch, path):
    example = zoo(family)
    detector = UltralyticsDetector(example.model, LoadOptions(branch=branch))
    tensors = [detector.prepare(picture(seed=seed), example.imgsz)[0] for seed in (0, 5, 6)]

    def explain(batch, candidates):
        with capture(detector.model, modules(detector, "backbone"), path) as caught:
            raws = detector.forward(batch)
            scores = [raw.class_logits[i].max() for raw, i in zip(raws, candidates, strict=True)]
            return [raw.class_logits.detach() for raw in raws], caught.gradients(torch.stack(scores).sum())

    candidates = (3, 250, 311)
    logits, gradients = explain(torch.stack(tensors), candidates)
    for index, (tensor, candidate) in enumerate(zip(tensors, candidates, strict=True)):
        alone_logits, alone = explain(tensor[None], (candidate,))
        torch.testing.assert_close(logits[index], alone_logits[0], rtol=1e-4, atol=1e-4)
        for name, gradient in alone.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(
                gradients[name][index : index + 1], gradient, rtol=0, atol=1e-4 * scale
            )
