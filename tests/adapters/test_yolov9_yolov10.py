"""YOLOv9 with one, two or three branches, and THU-MIG's YOLOv10: small networks built like theirs."""

import pytest
import torch
from anchor_free_replicas import (
    assert_untouched,
    boxes_from_distances,
    greedy,
    outputs_of,
    picture,
    rows,
    snapshot,
)
from yolov9_lookalikes import BINS, STRIDES, Network, Predicting, calibrated

import detcam
from detcam.adapters import DetectOptions, UltralyticsDetector, yolov9
from detcam.cam.capture import borrowed
from detcam.errors import InputError


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["DDetect", "DualDDetect", "TripleDDetect"])
def network(request):
    torch.manual_seed(request.param)
    return calibrated(Network(3, request.param))


@pytest.fixture(scope="module")
def forked():
    torch.manual_seed(0)
    return calibrated(Predicting(), ("", "one2one_"))


def predicted(detector, seed=0):
    tensor, geometry = detector.prepare(picture(seed=seed), 160)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    return raw, geometry, tensor


def maps_of(model, boxes, classes, tensor):
    head = model.model[-1]
    towers = [*getattr(head, boxes), *getattr(head, classes)]
    maps = [m[0] for m in outputs_of(model, towers, tensor[None])]
    return maps[:3], maps[3:]


def test_last_branch_is_explained_and_its_boxes_decoded(network):
    detector = detcam.wrap(network)
    assert detector.family.startswith("YOLOv9")
    raw, _, tensor = predicted(detector)
    main = network.model[-1].branches
    boxes, classes = maps_of(network, f"cv{2 * main}", f"cv{2 * main + 1}", tensor)
    assert torch.equal(raw.class_logits, rows(classes))
    expected = boxes_from_distances(boxes, STRIDES, BINS)
    torch.testing.assert_close(
        raw.boxes(torch.arange(len(expected))).double(), expected, rtol=1e-5, atol=1e-4
    )


def test_detections_equal_greedy_suppression_within_classes(network):
    detector = detcam.wrap(network)
    raw, geometry, _ = predicted(detector)
    boxes = raw.boxes(torch.arange(len(raw.class_logits)))
    kept = greedy(boxes, raw.class_logits.sigmoid(), 0.25, 0.45, by_class=True)
    found = detector.detect(raw, geometry, DetectOptions())
    assert found.candidates.tolist() == kept
    assert 3 <= len(kept) < len(greedy(boxes, raw.class_logits.sigmoid(), 0.25, 0.7, by_class=True)) < 300
    limit = torch.tensor([160.0, 96.0, 160.0, 96.0])  # the picture is the input: nothing scaled or padded
    torch.testing.assert_close(found.boxes, boxes[kept].clamp(min=0).minimum(limit))


def test_input_is_rgb_from_0_to_1_padded_to_the_stride(network):
    pixels = picture(61, 97)  # 160/97 -> 101 rows, 27 rows of grey to the next multiple of 32, 13 above
    tensor, geometry = detcam.wrap(network).prepare(pixels, 160)
    assert tensor.shape == (3, 128, 160)
    assert (geometry.resized, geometry.pad) == ((101, 160), (0, 13))
    torch.testing.assert_close(tensor[:, :13], torch.full((3, 13, 160), 114 / 255))
    torch.testing.assert_close(tensor[:, 13, 0], torch.from_numpy(pixels[0, 0]) / 255)


def test_layers_leave_out_what_only_auxiliary_branches_read(network):
    layers = detcam.wrap(network).layers()
    assert [layer.name for layer in layers] == [f"model.{i}" for i in range(9)]
    sets = {name: [x.name for x in layers if x.member_of == name] for name in ("backbone", "head")}
    assert sets == {
        "backbone": ["model.3", "model.4", "model.5"],
        "head": ["model.6", "model.7", "model.8"],
    }
    assert [layer.stride for layer in layers if layer.part == "backbone"] == [1, 2, 4, 8, 16, 32]


def test_network_and_its_cached_grid_are_left_as_they_were(network):
    with torch.inference_mode():
        network(torch.zeros(1, 3, 96, 160))  # leaves a grid that no gradient can pass
    detector = detcam.wrap(network)
    before = snapshot(network)
    detcam.explain(detector, picture(), imgsz=160)
    with pytest.raises(RuntimeError):
        predicted_with_wrong_channels(detector)
    assert_untouched(network, before)


def predicted_with_wrong_channels(detector):
    with borrowed(detector.model):
        detector.forward(torch.zeros(1, 5, 64, 64))


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_classes_are_counted_in_the_main_branch(classes):
    network = Network(classes, 2)
    network.model[-1].nc = 99  # what the head says of itself is not asked
    detector = detcam.wrap(network)
    assert list(detector.class_names.values()) == [f"thing {i}" for i in range(classes)]
    with pytest.raises(InputError, match=f"the weights of the head score {classes}"):
        detcam.wrap(network, num_classes=classes + 1)


def test_names_of_the_user_go_over_those_of_the_model():
    assert detcam.wrap(Network(2), names=("cat", "dog")).class_names == {0: "cat", 1: "dog"}


def test_models_of_ultralytics_stay_with_ultralytics(forked):
    from ultralytics.nn.tasks import DetectionModel

    architecture = {
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [8, 3, 8]], [-1, 1, "Conv", [8, 3, 2]]],
        "head": [[[0, 1], 1, "Detect", [2]]],
    }
    for model in (DetectionModel(architecture, verbose=False), forked):
        assert not yolov9.recognises(model)
        assert isinstance(detcam.wrap(model), UltralyticsDetector)


def test_one2one_of_yolov10_is_what_predict_takes(forked):
    detector = detcam.wrap(forked)
    assert (detector.branch, detcam.wrap(forked, branch="one2many").branch) == ("one2one", "one2many")
    raw, _, tensor = predicted(detector)
    boxes, classes = maps_of(forked, "one2one_cv2", "one2one_cv3", tensor)
    assert torch.equal(raw.class_logits, rows(classes))
    expected = boxes_from_distances(boxes, STRIDES, BINS)
    torch.testing.assert_close(
        raw.boxes(torch.arange(len(expected))).double(), expected, rtol=1e-5, atol=1e-4
    )


def test_yolov10_selects_the_best_pairs_of_the_best_candidates(forked):
    detector = detcam.wrap(forked)
    raw, geometry, _ = predicted(detector)
    scores = raw.class_logits.sigmoid()
    best = sorted(range(len(scores)), key=lambda i: -float(scores[i].max()))[:300]
    pairs = sorted(((float(scores[i, k]), i, k) for i in best for k in range(3)), reverse=True)[:300]
    expected = [(i, k) for score, i, k in pairs if score > 0.25]
    found = detector.detect(raw, geometry, DetectOptions())
    assert list(zip(found.candidates.tolist(), found.labels.tolist(), strict=True)) == expected
    assert len({i for i, _ in expected}) < len(expected) < 300  # some candidates appear under two classes


def test_detached_one2one_is_reconnected(forked):
    explanation = detcam.explain(detcam.wrap(forked), picture(), imgsz=160)
    assert len(explanation.detections) >= 3
    for box, level in enumerate(explanation.deciding):
        assert explanation.involved[level][box]
