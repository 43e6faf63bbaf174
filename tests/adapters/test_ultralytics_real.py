"""Trained weights on photographs: what they are known to show, and predict's boxes one by one."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from vendor_zoo import assert_same, clear_threshold, release

from detcam.adapters import DetectOptions, UltralyticsDetector
from detcam.cam.capture import borrowed, capture

BUS, PERSON = 5, 0

# model -> scores on the vendor's own bus.jpg, as the weights' notes give them
EXPECTED = {
    "yolov8n.pt": {BUS: [0.90], PERSON: [0.88, 0.87, 0.85]},
    "yolo26n.pt": {BUS: [0.91], PERSON: [0.92, 0.91, 0.88]},
}


# Pixels and score. Predict fuses its weights, which in float32 moves the scores of these two by up to 1e-4;
# with the same, unfused weights the vendor's scores are ours to the last bit.
TOLERANCES = (5e-3, 5e-4)


@functools.cache
def yolo(path):
    from ultralytics import YOLO

    return YOLO(str(path))


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def bus():
    from ultralytics.utils import ASSETS

    return pixels_of(ASSETS / "bus.jpg")


def predicted(detector, pixels, imgsz=640):
    tensor, geometry = detector.prepare(pixels, imgsz)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    return raw, geometry


def predict(path, pixels, imgsz=640, **options):
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    return yolo(path).predict(bgr, imgsz=imgsz, verbose=False, device="cpu", **options)[0]


@functools.cache
def untouched(path):
    """A detector around a network of its own, which predict never sees."""
    from ultralytics import YOLO

    return UltralyticsDetector(YOLO(str(path)).model)


@pytest.fixture(params=list(EXPECTED))
def weights(request, assets):
    if request.param.startswith("yolo26") and release() < (8, 4, 0):
        pytest.skip("ultralytics before 8.4 knows no YOLO26")
    return assets / "weights" / request.param


@pytest.mark.compat
def test_the_bus_and_the_people_are_found(weights):
    raw, geometry = predicted(untouched(weights), bus())
    found = untouched(weights).detect(raw, geometry, DetectOptions())
    for label, expected in EXPECTED[weights.name].items():
        scores = found.scores[found.labels == label].tolist()
        assert scores[: len(expected)] == pytest.approx(expected, abs=0.03)


@pytest.mark.compat
def test_every_box_on_the_bus_photograph_has_gradients_at_every_stage(weights):
    detector = untouched(weights)
    named = dict(detector.model.named_modules())
    layers = {layer.name: named[layer.name] for layer in detector.layers() if layer.member_of == "backbone"}
    tensor, geometry = detector.prepare(bus(), 320)
    with capture(detector.model, layers) as caught:
        (raw,) = detector.forward(tensor[None])
        found = detector.detect(raw, geometry, DetectOptions())
        assert len(found) >= 4
        for candidate, label in zip(found.candidates, found.labels, strict=True):
            gradients = caught.gradients(raw.class_logits[candidate, label])
            assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


@pytest.mark.compat
def test_the_bus_photograph_gives_predicts_boxes(weights):
    # 1080 x 810 shrinks to 640 x 480 exactly, so that every release maps boxes back exactly.
    raw, geometry = predicted(untouched(weights), bus())
    conf = clear_threshold(raw)
    found = untouched(weights).detect(raw, geometry, DetectOptions(conf))
    assert_same(found, predict(weights, bus(), conf=conf), *TOLERANCES)


def boxes_that_equal_predicts(weights, photographs, imgsz, near):
    """How many there are; fails at the first photograph that differs."""
    detector, boxes = untouched(weights), 0
    for path in photographs:
        pixels = pixels_of(path)
        raw, geometry = predicted(detector, pixels, imgsz)
        conf = clear_threshold(raw, near)
        found = detector.detect(raw, geometry, DetectOptions(conf))
        assert_same(found, predict(weights, pixels, imgsz, conf=conf), *TOLERANCES)
        boxes += len(found)
    return boxes


def test_photographs_give_predicts_boxes(weights, assets):
    photographs = sorted((assets / "coco64" / "images").glob("*.jpg"))[:12]
    assert boxes_that_equal_predicts(weights, photographs, 320, 0.25) > 30


@pytest.mark.slow
@pytest.mark.parametrize("conf", [0.25, 0.01])
def test_all_photographs_at_full_size_give_predicts_boxes(weights, assets, conf):
    photographs = sorted((assets / "coco64" / "images").glob("*.jpg"))
    assert boxes_that_equal_predicts(weights, photographs, 640, conf) > 200
