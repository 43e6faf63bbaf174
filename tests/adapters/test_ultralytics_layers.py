"""Which layers stand for which level, and which models are turned away, in one line."""

import copy

import pytest
from torch import nn
from vendor_zoo import FAMILIES, picture

from detcam.adapters import UltralyticsDetector, wrap
from detcam.cam.capture import capture
from detcam.errors import UnsupportedModelError

V8 = ([4, 6, 9], [15, 18, 21])
V11 = ([4, 6, 10], [16, 19, 22])

# family -> backbone stages and head feeders, finest first; by hand from the vendor's yaml files
STAGES = {
    "yolov3": ([6, 8, 10], [27, 22, 15]),
    "yolov3-tiny": ([8, 12], [19, 15]),
    "yolov5n": ([4, 6, 9], [17, 20, 23]),
    "yolov5n-p6": ([4, 6, 8, 11], [23, 26, 29, 32]),
    "yolov6n": ([4, 6, 9], [19, 23, 27]),
    "yolov8n": V8,
    "yolov8n-p2": ([2, 4, 6, 9], [18, 21, 24, 27]),
    "yolov8n-p6": ([4, 6, 8, 11], [20, 23, 26, 29]),
    "yolov8n-seg": V8,
    "yolov8n-pose": V8,
    "yolov8n-obb": V8,
    "yolov9t": ([4, 6, 9], [15, 18, 21]),
    "yolov10n": ([4, 6, 10], [16, 19, 22]),
    "yolo11n": V11,
    "yolo11n-seg": V11,
    "yolo11n-pose": V11,
    "yolo11n-obb": V11,
    "yolo12n": ([4, 6, 8], [14, 17, 20]),
    "yolo26n": V11,
    "yolo26n-seg": V11,
    "yolo26n-pose": V11,
    "yolo26n-obb": V11,
}
STRIDES = {"yolov3-tiny": (16, 32), "yolov8n-p2": (4, 8, 16, 32)}
STRIDES |= {"yolov5n-p6": (8, 16, 32, 64), "yolov8n-p6": (8, 16, 32, 64)}


def members(detector, layer_set):
    return [layer for layer in detector.layers() if layer.member_of == layer_set]


@pytest.mark.compat
@pytest.mark.parametrize("family", FAMILIES)
def test_stages_and_feeders_are_those_of_the_vendors_recipe(zoo, family):
    detector = UltralyticsDetector(zoo(family).model)
    strides = STRIDES.get(family, (8, 16, 32))
    backbone, feeders = STAGES[family]
    assert detector.strides == strides
    found = {layer.name: layer.stride for layer in members(detector, "backbone")}
    assert found == {f"model.{i}": stride for i, stride in zip(backbone, strides, strict=True)}
    found = {layer.name: layer.stride for layer in members(detector, "head")}
    assert found == {f"model.{i}": stride for i, stride in zip(feeders, strides, strict=True)}


@pytest.mark.compat
@pytest.mark.parametrize("family", FAMILIES)
def test_the_neck_set_lies_before_the_head_at_the_heads_strides(zoo, family):
    detector = UltralyticsDetector(zoo(family).model)
    layers = {layer.name: layer for layer in detector.layers()}
    neck = members(detector, "neck")
    assert neck
    assert len({layer.stride for layer in neck}) == len(neck)
    for layer in neck:
        assert layer.part == "neck"
        assert layer.stride in detector.strides
        behind = [other for other in layers.values() if int(other.name[6:]) > int(layer.name[6:])]
        alike = [x for x in behind if x.part == "neck" and x.stride == layer.stride and x.member_of != "head"]
        assert not alike


@pytest.mark.compat
@pytest.mark.parametrize("family", ["yolov3-tiny", "yolov8n-p2", "yolov9t", "yolo12n", "yolo26n-obb"])
def test_strides_and_channels_are_what_a_forward_pass_shows(zoo, family):
    example = zoo(family)
    detector = UltralyticsDetector(example.model)
    named = dict(detector.model.named_modules())
    assert [layer.name for layer in detector.layers()] == [
        f"model.{i}" for i in range(len(detector.model.model) - 1)
    ]
    layers = [layer for layer in detector.layers() if layer.stride in detector.strides]
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with capture(detector.model, {layer.name: named[layer.name] for layer in layers}) as caught:
        detector.forward(tensor[None])
    for layer in layers:
        shape = caught.activations[layer.name].shape
        assert shape[1] == layer.channels
        assert tensor.shape[1] == layer.stride * shape[2]
        assert tensor.shape[2] == layer.stride * shape[3]
        assert layer.level == f"P{[2, 4, 8, 16, 32, 64].index(layer.stride) + 1}"


@pytest.mark.compat
def test_a_detector_says_what_it_is(zoo):
    detector = UltralyticsDetector(zoo("yolov10n").model)
    assert detector.family == "ultralytics v10Detect"
    assert detector.class_names == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert detector.imgsz == 160
    assert detector.origin is None


def test_class_names_may_be_a_list_or_too_few(zoo):
    model = copy.deepcopy(zoo("yolov10n").model)
    model.names = ["ant", "bee"]
    assert UltralyticsDetector(model).class_names == {0: "ant", 1: "bee", 2: "2"}
    model.names = None
    assert UltralyticsDetector(model).class_names == {0: "0", 1: "1", 2: "2"}


@pytest.mark.compat
def test_a_network_is_found_inside_what_wraps_it(zoo):
    yolo = zoo("yolov8n").yolo()
    assert wrap(yolo).model is yolo.model
    assert wrap(yolo.model).model is yolo.model
    assert wrap(nn.DataParallel(yolo.model)).model is yolo.model


@pytest.mark.compat
def test_four_channel_networks_are_measured_with_four_channels():
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", ch=4, verbose=False)
    assert [layer.stride for layer in members(UltralyticsDetector(model), "backbone")] == [8, 16, 32]


# --- models that are turned away ----------------------------------------------------------------------


def one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) > 20
    return str(error.value)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(), nn.Sequential(nn.Conv2d(3, 3, 1))])
def test_any_other_network_is_no_detector(model):
    with pytest.raises(UnsupportedModelError) as error:
        wrap(model)
    assert type(model).__name__ in one_line(error)


def test_an_exported_file_in_a_yolo_object_is_no_detector(tmp_path):
    from ultralytics import YOLO

    (tmp_path / "model.onnx").touch()
    with pytest.raises(UnsupportedModelError) as error:
        wrap(YOLO(str(tmp_path / "model.onnx"), task="detect"))
    assert "YOLO" in one_line(error)
