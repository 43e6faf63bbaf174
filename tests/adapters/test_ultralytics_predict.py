"""The same boxes as the vendor's own predict, and each of them the very candidate it says it is."""

import copy
import math

import pytest
import torch
from vendor_zoo import BOX_PIXELS, BRANCHES, assert_same, clear_threshold, picture

from detcam.adapters import DetectOptions, LoadOptions, UltralyticsDetector
from detcam.cam.capture import borrowed, observe
from detcam.errors import InputError


def raw_prediction(example, pixels, branch=None, imgsz=None):
    """A detector, what it predicts for a picture before suppression, and how the picture was prepared."""
    detector = UltralyticsDetector(example.model, LoadOptions(branch=branch))
    tensor, geometry = detector.prepare(pixels, imgsz or example.imgsz)
    with borrowed(example.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    return detector, raw, geometry


SAMPLE = [
    ("yolov8n", "one2many"),
    ("yolo11n-obb", "one2many"),
    ("yolov10n", "one2one"),
    ("yolo26n", "one2many"),
    ("yolo26n", "one2one"),
    ("yolo26n-obb", "one2one"),
]


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_detections_equal_predict(zoo, family, branch):
    example, pixels = zoo(family), picture()
    detector, raw, geometry = raw_prediction(example, pixels, branch)
    conf = clear_threshold(raw)
    found = example.shown(detector.detect(raw, geometry, DetectOptions(conf)))
    assert len(found) >= 5
    assert_same(found, example.predict(pixels, branch, conf=conf), example.box_tolerance)


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), SAMPLE)
def test_a_class_filter_gives_what_predict_gives_for_it(zoo, family, branch):
    example, pixels = zoo(family), picture()
    detector, raw, geometry = raw_prediction(example, pixels, branch)
    conf = clear_threshold(raw)
    everything = detector.detect(raw, geometry, DetectOptions(conf))
    wanted = (int(everything.labels[-1]), detector.head.nc - 1)
    found = detector.detect(raw, geometry, DetectOptions(conf, classes=wanted))
    assert 0 < len(found) < len(everything)
    assert set(found.labels.tolist()) <= set(wanted)
    assert_same(found, example.predict(pixels, branch, conf=conf, classes=list(wanted)))


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), SAMPLE)
def test_the_number_of_detections_is_limited_as_in_predict(zoo, family, branch):
    example, pixels = zoo(family), picture()
    detector, raw, geometry = raw_prediction(example, pixels, branch)
    found = detector.detect(raw, geometry, DetectOptions(max_det=3))
    assert len(found) == 3
    assert_same(found, example.predict(pixels, branch, max_det=3))


@pytest.mark.compat
@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n-seg", "yolov8n-obb", "yolo26n-obb"])
def test_a_stricter_overlap_suppresses_what_predict_suppresses(zoo, family):
    example, pixels = zoo(family), picture()
    detector, raw, geometry = raw_prediction(example, pixels, "one2many")
    conf = clear_threshold(raw)
    lenient = detector.detect(raw, geometry, DetectOptions(conf, iou=0.7))
    found = example.shown(detector.detect(raw, geometry, DetectOptions(conf, iou=0.2)))
    assert 0 < len(found) < len(lenient)
    assert_same(found, example.predict(pixels, "one2many", conf=conf, iou=0.2))


# Releases before 8.4.190 map boxes back with one ratio for both sides, rounded or not: not for `make compat`.
@pytest.mark.parametrize("size", [(197, 331), (331, 197), (61, 97), (5, 311)])
@pytest.mark.parametrize(("family", "branch"), [("yolov8n", "one2many"), ("yolo26n-obb", "one2one")])
def test_pictures_of_prime_sizes_give_what_predict_gives(zoo, family, branch, size):
    example, pixels = zoo(family), picture(*size, seed=3)
    detector, raw, geometry = raw_prediction(example, pixels, branch)
    conf = clear_threshold(raw)
    found = detector.detect(raw, geometry, DetectOptions(conf))
    assert len(found) > 0
    assert_same(found, example.predict(pixels, branch, conf=conf))


@pytest.mark.parametrize("imgsz", [100, (96, 200), (224, 64)])
def test_any_input_size_gives_what_predict_gives(zoo, imgsz):
    example, pixels = zoo("yolo11n"), picture(197, 331)
    detector, raw, geometry = raw_prediction(example, pixels, imgsz=imgsz)
    conf = clear_threshold(raw)
    found = detector.detect(raw, geometry, DetectOptions(conf))
    assert len(found) > 0
    assert_same(found, example.predict(pixels, conf=conf, imgsz=imgsz))


def test_the_default_input_size_is_the_one_it_was_trained_at(zoo):
    example = zoo("yolov8n-p6")
    detector = UltralyticsDetector(example.model)
    assert detector.imgsz == 320
    _, geometry = detector.prepare(picture(100, 200), None)
    assert geometry.input_size == (192, 320)


def test_more_than_300_detections_of_an_end_to_end_head_can_be_asked_for(zoo):
    example, pixels = zoo("yolo26n"), picture()
    detector, raw, geometry = raw_prediction(example, pixels, "one2one")
    found = detector.detect(raw, geometry, DetectOptions(conf=0, max_det=310))
    assert len(found) == len(example.predict(pixels, "one2one", conf=0, max_det=310).boxes) == 310


@pytest.mark.compat
def test_the_branch_is_the_models_own_unless_one_is_named(zoo):
    example = zoo("yolov10n")
    own = "one2one" if example.model.model[-1].end2end else "one2many"
    assert UltralyticsDetector(example.model).branch == own
    assert UltralyticsDetector(example.model, LoadOptions(branch="one2one")).branch == "one2one"
    assert UltralyticsDetector(example.model, LoadOptions(branch="one2many")).branch == "one2many"


def test_the_branch_changes_with_the_head(zoo):
    model = copy.deepcopy(zoo("yolov10n").model)
    detector = UltralyticsDetector(model)
    for end2end, branch in ((True, "one2one"), (False, "one2many")):
        model.model[-1].end2end = end2end
        assert detector.branch == branch


@pytest.mark.compat
def test_the_branches_of_one_head_see_different_things(zoo):
    example, pixels = zoo("yolov10n"), picture()
    logits = [raw_prediction(example, pixels, branch)[1].class_logits for branch in ("one2many", "one2one")]
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_a_branch_the_head_lacks_is_refused(zoo):
    with pytest.raises(InputError, match="Detect head has no one2one branch"):
        UltralyticsDetector(zoo("yolov8n").model, LoadOptions(branch="one2one"))


# --- a detection is the candidate it says it is --------------------------------------------------------


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_a_detections_candidate_is_its_box_score_and_class(zoo, family, branch):
    example = zoo(family)
    detector, raw, geometry = raw_prediction(example, picture(), branch)
    found = detector.detect(raw, geometry, DetectOptions())
    assert torch.equal(raw.scores()[found.candidates, found.labels], found.scores)
    # The letterbox by hand: the picture is shrunk by a whole number and padded on the left and on top.
    shrink = 320 / example.imgsz
    left, top = (0, 8 / shrink)
    if raw.rotated_boxes is None:
        boxes = (raw.boxes(found.candidates).double() - torch.tensor([left, top, left, top])) * shrink
        boxes[:, 0::2].clamp_(0, 320)
        boxes[:, 1::2].clamp_(0, 176)
    else:
        corners = rotated_corners(raw.rotated_boxes(found.candidates).double())
        corners = (corners - torch.tensor([left, top])) * shrink
        torch.testing.assert_close(found.corners.double(), corners, rtol=0, atol=BOX_PIXELS)
        boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    torch.testing.assert_close(found.boxes.double(), boxes, rtol=0, atol=BOX_PIXELS)


def rotated_corners(boxes):
    """Front right, front left, back left, back right of boxes that drive along their first side."""
    corners = []
    for cx, cy, w, h, angle in boxes.tolist():
        cos, sin = math.cos(angle), math.sin(angle)
        corners.append(
            [
                (cx + a * w / 2 * cos - b * h / 2 * sin, cy + a * w / 2 * sin + b * h / 2 * cos)
                for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
            ]
        )
    return torch.tensor(corners, dtype=torch.float64)


@pytest.mark.compat
@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_a_candidates_cell_is_where_its_numbers_come_from(zoo, family, branch):
    example = zoo(family)
    detector = UltralyticsDetector(example.model, LoadOptions(branch=branch))
    prefix = "one2one_" if branch == "one2one" else ""
    head = example.model.model[-1]
    towers = {
        f"{name}{i}": tower for name in ("cv2", "cv3") for i, tower in enumerate(getattr(head, prefix + name))
    }
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with borrowed(example.model), torch.no_grad(), observe(towers) as maps:
        (raw,) = detector.forward(tensor[None])
    first = 0
    for index, level in enumerate(raw.levels):
        assert level.stride * level.grid[0] == tensor.shape[1]
        assert level.stride * level.grid[1] == tensor.shape[2]
        for row, column in ((0, 0), (0, level.grid[1] - 1), (level.grid[0] - 1, 1), (1, 2)):
            candidate = first + row * level.grid[1] + column
            assert raw.locate(candidate) == (level, row, column, 0)
            logits = maps[f"cv3{index}"][0, :, row, column]
            assert torch.equal(raw.class_logits[candidate], logits)
            if raw.rotated_boxes is None:
                left, top, right, bottom = distances(maps[f"cv2{index}"][0, :, row, column], head.reg_max)
                x, y, stride = column + 0.5, row + 0.5, level.stride
                expected = [
                    (x - left) * stride,
                    (y - top) * stride,
                    (x + right) * stride,
                    (y + bottom) * stride,
                ]
                box = raw.boxes(torch.tensor([candidate]))[0]
                assert box.tolist() == pytest.approx(expected, abs=BOX_PIXELS)
        first += level.grid[0] * level.grid[1]
    assert first == len(raw.class_logits)


def distances(values, bins):
    """Expected distance to each edge, in cells, as plain sums."""
    values = values.double().tolist()
    if bins == 1:
        return values
    found = []
    for edge in range(4):
        weights = [math.exp(value) for value in values[edge * bins : (edge + 1) * bins]]
        found.append(sum(i * weight for i, weight in enumerate(weights)) / sum(weights))
    return found


def test_an_end_to_end_head_may_show_one_candidate_under_two_classes(zoo):
    example, pixels = zoo("yolo26n"), picture()
    detector, raw, geometry = raw_prediction(example, pixels, "one2one")
    found = detector.detect(raw, geometry, DetectOptions(conf=0.02))
    assert len(set(found.candidates.tolist())) < len(found)
    pairs = list(zip(found.candidates.tolist(), found.labels.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
