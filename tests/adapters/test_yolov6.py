"""YOLOv6: a small network built like it, with and without distribution focal loss, three levels and four."""

import pytest
import torch
from anchor_free_replicas import (
    assert_untouched,
    boxes_from_distances,
    greedy,
    outputs_of,
    picture,
    rows,
    settle,
    snapshot,
    spread,
)
from torch import nn

import detcam
from detcam.adapters import DetectOptions, yolov6
from detcam.cam.capture import borrowed
from detcam.errors import InputError, UnsupportedModelError

CHANNELS = [8, 10, 12, 14]


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Backbone(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.stem = block(3, 6, 2)
        self.ERBlock_2 = block(6, 6, 2)
        for i in range(levels):
            self.add_module(f"ERBlock_{3 + i}", block(CHANNELS[i - 1] if i else 6, CHANNELS[i], 2))
        self.levels = levels

    def forward(self, x):
        x, outputs = self.ERBlock_2(self.stem(x)), []
        for i in range(self.levels):
            x = getattr(self, f"ERBlock_{3 + i}")(x)
            outputs.append(x)
        return tuple(outputs)


class Neck(nn.Module):
    """Gives a list; its children stand in another order than the one in which they run."""

    def __init__(self, levels):
        super().__init__()
        for i in reversed(range(levels)):
            self.add_module(f"Rep_{i}", block(CHANNELS[i], CHANNELS[i]))
            self.add_module(f"reduce_{i}", block(CHANNELS[i], CHANNELS[i]))
        self.upsample = nn.Upsample(scale_factor=2)
        self.levels = levels

    def forward(self, maps):
        self.upsample(maps[0])
        return [getattr(self, f"Rep_{i}")(getattr(self, f"reduce_{i}")(m)) for i, m in enumerate(maps)]


class Detect(nn.Module):
    """Overwrites the list it is given; gives centre, size, a 1 for objectness and class scores."""

    def __init__(self, classes, levels, reg_max):
        super().__init__()
        self.stride = torch.tensor([8, 16, 32, 64][:levels])
        for name in ("stems", "cls_convs", "reg_convs"):
            self.add_module(name, nn.ModuleList(block(c, c) for c in CHANNELS[:levels]))
        self.cls_preds = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in CHANNELS[:levels])
        self.reg_preds = nn.ModuleList(nn.Conv2d(c, 4 * (reg_max + 1), 1) for c in CHANNELS[:levels])

    def forward(self, x):
        outputs = []
        for i in range(len(x)):
            x[i] = self.stems[i](x[i])
            classes = self.cls_preds[i](self.cls_convs[i](x[i])).sigmoid()
            boxes = self.reg_preds[i](self.reg_convs[i](x[i]))
            outputs.append(torch.cat([boxes, torch.ones_like(classes[:, :1]), classes], 1))
        self.grid = [one.shape for one in x]
        return outputs


class Network(nn.Module):
    def __init__(self, classes=3, levels=3, reg_max=16):
        super().__init__()
        self.backbone, self.neck = Backbone(levels), Neck(levels)
        self.detect = Detect(classes, levels, reg_max)

    def forward(self, x):
        return self.detect(self.neck(self.backbone(x)))


def calibrated(levels, reg_max, classes=3):
    torch.manual_seed(levels)
    model = Network(classes, levels, reg_max)
    batch = torch.stack([torch.from_numpy(picture(seed=s)).permute(2, 0, 1) / 255 for s in range(3)])
    settle(model, nn.functional.pad(batch, (0, 32, 0, 32)))
    spread(model.detect.cls_preds, -2.5, scale=2.0)
    spread(model.detect.reg_preds, 1.5 if reg_max == 0 else 0.0, scale=0.5)
    for convolution in model.detect.reg_preds:
        convolution.bias.data -= 0.3 * torch.arange(reg_max + 1).repeat(4)
    return model


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


@pytest.mark.parametrize("layers", ["backbone", "neck", "head"])
def test_each_box_depends_on_its_level(network, layers):
    explanation = detcam.explain(detcam.wrap(network), picture(), imgsz=160, layers=layers)
    assert len(explanation.detections) >= 3
    for box, level in enumerate(explanation.deciding):
        assert explanation.involved[level][box]


def test_network_is_left_as_it_was(network):
    before = snapshot(network)
    detector = detcam.wrap(network)
    detcam.explain(detector, picture(), imgsz=160)
    with pytest.raises(RuntimeError), borrowed(network):
        detector.forward(torch.zeros(1, 5, 64, 64))
    assert_untouched(network, before)


def test_a_training_network_is_explained_as_it_predicts(network):
    raw, _, _ = predicted(detcam.wrap(network))
    network.train()
    try:
        again, _, _ = predicted(detcam.wrap(network))
        assert all(module.training for module in network.modules())
    finally:
        network.eval()
    assert torch.equal(raw.class_logits, again.class_logits)


def test_batch_equals_single_pictures(network):
    detector = detcam.wrap(network)
    tensors = torch.stack([detector.prepare(picture(seed=s), 160)[0] for s in range(2)])
    with borrowed(network), torch.no_grad():
        for one, raw in zip(tensors, detector.forward(tensors), strict=True):
            alone = detector.forward(one[None])[0].class_logits
            torch.testing.assert_close(raw.class_logits, alone, rtol=1e-4, atol=1e-4)


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
