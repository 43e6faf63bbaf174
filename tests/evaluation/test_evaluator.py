"""Numbers of one picture, against the same taken by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from known_truth import found_in
from small_yolo import detector

import detcam
from detcam.adapters.base import DetectOptions
from detcam.cam.capture import borrowed
from detcam.errors import UnknownNameError
from detcam.evaluation import (
    DEFAULT_METRICS,
    SANITY_METRICS,
    EvaluateOptions,
    Evaluator,
    MeasuredPicture,
    Truth,
    Way,
    ways_for,
)
from detcam.metrics import METRICS, get_preset

LAYER_CAM = Way("layer-cam", "backbone", "direct", "class-logit")


def measured(scene, ways=(LAYER_CAM,), **options):
    return Evaluator(detector(), ways, EvaluateOptions(**options)).measure(*scene)


def changed(truth, **fields):
    parts = {name: getattr(truth, name) for name in ("boxes", "labels", "is_crowd", "has_region", "regions")}
    return Truth(**parts | fields)


def test_metrics_are_all_there_and_sanity_checks_only_when_asked():
    assert set(DEFAULT_METRICS) | set(SANITY_METRICS) == set(METRICS)
    assert set(SANITY_METRICS) == {"spearman", "spearman-abs", "ssim"}


def test_energy_in_the_box_is_the_share_of_the_map_that_is_drawn(scene):
    rows = measured(scene, metrics=("energy-in-box",), max_boxes=1).rows
    (row,) = rows
    picture, _ = scene
    explanation = detcam.explain(detector(), picture, method="layer-cam", layers="backbone", max_boxes=300)
    size = explanation.geometry.input_size
    heatmap = F.interpolate(explanation.merged[None], size=size, mode="bilinear")[0, row.box].double()
    x1, y1, x2, y2 = explanation.geometry.boxes_to_input(explanation.detections.boxes[row.box][None])[
        0
    ].tolist()
    inside = 0.0
    for line in range(size[0]):
        for column in range(size[1]):
            high = max(min(y2, line + 1) - max(y1, line), 0)
            wide = max(min(x2, column + 1) - max(x1, column), 0)
            inside += float(heatmap[line, column]) * high * wide
    assert row.value == pytest.approx(inside / float(heatmap.sum()), rel=1e-4)
    assert row.score == pytest.approx(float(explanation.detections.scores[row.box]))


def test_deletion_is_the_mean_of_what_is_left_step_by_step(scene):
    picture, _ = scene
    found = measured(scene, metrics=("deletion",), max_boxes=1)
    (row,), (curve,) = found.rows, found.curves
    small = detector()
    tensor, geometry = small.prepare(picture.pixels, None)
    explanation = detcam.explain(small, picture, method="layer-cam", layers="backbone", max_boxes=300)
    heatmap = F.interpolate(explanation.merged[None], size=geometry.input_size, mode="bilinear")[0, row.box]
    order = heatmap.flatten().argsort(descending=True, stable=True)
    total = len(order)
    scores, taken = [], [math.ceil(total / 10) * step for step in range(10)] + [total]
    wanted = explanation.detections[[row.box]]
    with borrowed(small.model), torch.no_grad():
        (raw,) = small.forward(tensor[None])
        p = raw.scores()[wanted.candidates[0]].double()
        for count in taken:
            pixels = tensor.clone().flatten(1)
            pixels[:, order[:count]] = 0
            (other,) = small.forward(pixels.view_as(tensor)[None])
            left = small.detect(other, geometry, DetectOptions(conf=0.25, iou=0.45))
            best = (0.0, 0.0)
            for box, candidate in zip(left.boxes, left.candidates, strict=True):
                q = other.scores()[candidate].double()
                if int(q.argmax()) == int(wanted.labels[0]):
                    fit = iou(wanted.boxes[0], box)
                    distance = 1 - float(p @ q / (p.norm() * q.norm()))
                    if fit > best[0]:
                        best = (fit, fit * math.exp(-(distance**2) / (2 * 0.25**2)))
            scores.append(best[1])
    np.testing.assert_allclose(curve.deletion, scores, atol=2e-4)
    area = sum(
        (b - a) / total * (x + y) / 2
        for a, b, x, y in zip(taken, taken[1:], scores, scores[1:], strict=False)
    )
    assert row.value == pytest.approx(area / scores[0], abs=1e-3)
    assert row.f0 == pytest.approx(scores[0], abs=2e-4)
    assert row.preset == "d-close-10-steps-f0"


def iou(one, other):
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    shared = float(max(wide, 0) * max(high, 0))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return shared / (sum(areas) - shared)


def test_only_what_is_matched_to_truth_is_measured(scene):
    picture, truth = scene
    wrong = changed(truth, labels=(truth.labels + 1) % 3)
    found = measured((picture, wrong), metrics=("compactness",))
    assert found.matched < len(truth)
    nothing = measured((picture, changed(truth, is_crowd=torch.ones(len(truth), dtype=torch.bool))))
    assert (nothing.matched, nothing.rows, nothing.curves) == (0, (), ())
    assert nothing.found == len(found_in(picture))


def test_a_presets_own_rule_comes_on_top(scene):
    picture, truth = scene
    moved = changed(
        truth, boxes=truth.boxes + torch.tensor([0.0, 0.0, 6.0, 6.0])
    )  # IoU below .9 for small ones
    loose = measured((picture, moved), metrics=("compactness",), max_boxes=99)
    odam = get_preset("odam").with_steps(2)
    strict = measured((picture, moved), metrics=("compactness",), max_boxes=99, preset=odam)
    assert strict.matched < loose.matched


def test_a_picture_without_truth_or_detections_is_measured_as_nothing():
    from detcam.images import Picture

    grey = Picture(np.full((61, 97, 3), 128, np.uint8))
    empty = Truth(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool(), torch.zeros(0).bool())
    found = measured((grey, empty))
    assert (found.truths, found.matched, found.rows) == (0, 0, ())


def test_which_detections_are_measured_is_drawn_by_the_seed(scene):
    def boxes(seed):
        return {row.box for row in measured(scene, metrics=("compactness",), max_boxes=2, seed=seed).rows}

    assert boxes(0) == boxes(0)
    assert len({frozenset(boxes(seed)) for seed in range(6)}) > 1


def test_ways_are_compared_side_by_side_and_each_is_what_it_is_alone(scene):
    ways = ways_for(["layer-cam", "grad-cam"], ["backbone", "head"], ["direct"], ["class-logit"])
    together = measured(scene, ways, metrics=("overall",), max_boxes=1)
    assert [row.way for row in together.rows] == [way.name for way in ways]
    for way in (ways[0], ways[3]):
        (alone,) = measured(scene, [way], metrics=("overall",), max_boxes=1).rows
        (same,) = (row for row in together.rows if row.way == way.name)
        assert alone.value == pytest.approx(same.value, abs=1e-4)
    assert set(together.seconds) == {way.name for way in ways}


def test_regions_are_variants_and_objects_without_one_are_left_out(scene):
    picture, truth = scene
    masks = torch.zeros(len(truth), *picture.pixels.shape[:2], dtype=torch.bool)
    masks[:, :, :48] = True
    known = torch.ones(len(truth), dtype=torch.bool)
    halves = changed(truth, regions={"left": masks, "right": ~masks}, has_region=known)
    rows = measured((picture, halves), metrics=("energy-in-mask",), max_boxes=1).rows
    left, right = rows
    assert (left.variant, right.variant) == ("left", "right")
    # Only the padding is in neither half.
    assert 0.9 < left.value + right.value <= 1 + 1e-6
    assert not measured((picture, changed(halves, has_region=~known)), metrics=("energy-in-mask",)).rows


def test_what_was_measured_can_be_stored_and_read_back(scene):
    import json

    found = measured(scene, metrics=("overall", "odi"), max_boxes=2)
    assert MeasuredPicture.from_document(json.loads(json.dumps(found.document()))) == found


def test_a_metric_that_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match="insertion"):
        EvaluateOptions(metrics=("insertoin",))
