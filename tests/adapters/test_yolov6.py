"""YOLOv6: a small network built like it, with and without distribution focal loss, three levels and four."""

import pytest
import torch
from anchor_free_replicas import (
    boxes_from_distances,
    greedy,
    outputs_of,
    picture,
    rows,
)
from torch import nn
from yolov6_lookalike import Network, calibrated

import detcam
from detcam.adapters import DetectOptions, yolov6
from detcam.cam.capture import borrowed
from detcam.errors import InputError, UnsupportedModelError


@pytest.fixture(scope="module", params=[(3, 0), (3, 16), (4, 16)], ids=["plain", "dfl", "p6"])
def network(request):
    return calibrated(*request.param)


def predicted(detector):
    tensor, geometry = detector.prepare(picture(), 160)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    return raw, geometry, tensor


def test_class_logits_and_boxes_come_from_the_last_convolutions(network):
    detector, head = detcam.wrap(network), network.detect
    assert detector.family == "YOLOv6"
    raw, _, tensor = predicted(detector)
    maps = [m[0] for m in outputs_of(network, [*head.cls_preds, *head.reg_preds], tensor[None])]
    levels = len(head.stride)
    assert torch.equal(raw.class_logits, rows(maps[:levels]))
    assert raw.objectness_logits is None
    bins = head.reg_preds[0].out_channels // 4
    expected = boxes_from_distances(maps[levels:], head.stride.tolist(), bins)
    torch.testing.assert_close(
        raw.boxes(torch.arange(len(expected))).double(), expected, rtol=1e-5, atol=1e-4
    )


def test_score_is_the_class_alone(network):
    raw, _, _ = predicted(detcam.wrap(network))
    torch.testing.assert_close(raw.scores(), 1 / (1 + (-raw.class_logits).exp()))


def test_detections_equal_greedy_suppression_within_classes(network):
    detector = detcam.wrap(network)
    raw, geometry, _ = predicted(detector)
    boxes = raw.boxes(torch.arange(len(raw.class_logits)))
    kept = greedy(boxes, raw.scores(), 0.25, 0.45, by_class=True)
    found = detector.detect(raw, geometry, DetectOptions())
    assert found.candidates.tolist() == kept
    assert 3 <= len(kept) < len(greedy(boxes, raw.scores(), 0.25, 0.7, by_class=True)) < 300
    # With a level at /64 the sides, 160 and 96, grow to the next multiples of 64.
    assert geometry.input_size == ((128, 192) if len(network.detect.stride) == 4 else (96, 160))
    (height, width), (left, top) = geometry.resized, geometry.pad
    back = (boxes[kept] - torch.tensor([left, top] * 2)) / torch.tensor([width / 160, height / 96] * 2)
    torch.testing.assert_close(found.boxes, back.clamp(min=0).minimum(torch.tensor([160.0, 96.0] * 2)))


def test_layers_are_seen_in_the_order_in_which_they_run(network):
    detector = detcam.wrap(network)
    layers, levels = detector.layers(), len(network.detect.stride)
    neck = [f"neck.{name}_{i}" for i in range(levels) for name in ("reduce", "Rep")]
    assert [layer.name for layer in layers if layer.part == "neck"] == neck
    sets = {name: [x.name for x in layers if x.member_of == name] for name in ("backbone", "neck", "head")}
    assert sets == {
        "backbone": [f"backbone.ERBlock_{3 + i}" for i in range(levels)],
        "neck": neck[0::2],
        "head": neck[1::2],
    }
    assert [x.stride for x in layers if x.member_of == "head"] == network.detect.stride.tolist()


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_classes_are_counted_in_the_head_and_named_by_the_user(classes):
    network = Network(classes)
    assert detcam.wrap(network).class_names == {i: str(i) for i in range(classes)}
    names = tuple(f"thing {i}" for i in range(classes))
    assert detcam.wrap(network, names=names).class_names == dict(enumerate(names))
    with pytest.raises(InputError, match=f"{classes + 1} names were given for the {classes} classes"):
        detcam.wrap(network, names=(*names, "one more"))


def test_a_head_with_objectness_is_another_release_and_refused():
    network = Network()
    network.detect.obj_preds = nn.ModuleList()
    assert not yolov6.recognises(network)


def test_a_neck_without_maps_is_told():
    network = Network()
    network.neck.forward = lambda maps: maps[0]
    with pytest.raises(UnsupportedModelError, match="gives no list of maps"):
        detcam.wrap(network)
