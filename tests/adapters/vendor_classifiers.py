"""Small classifiers of ultralytics, and the vendor's own answers."""

import copy
import functools

import numpy as np
import torch
from detector_checks import calibrate

IMGSZ = 64


@functools.cache
def shell():
    """The vendor's object, for its way of predicting."""
    from ultralytics import YOLO

    return YOLO("yolov8n-cls.yaml")


def predict(model, pixels, imgsz):
    from ultralytics.data.augment import classify_transforms

    yolo = shell()
    yolo.model, yolo.predictor = copy.deepcopy(model), None
    if imgsz == IMGSZ:
        yolo.model.transforms = classify_transforms(IMGSZ)  # old releases rely on the trainer's
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    return yolo.predict(bgr, imgsz=imgsz, device="cpu", verbose=False)[0].probs


def network(family="yolov8n-cls", classes=7):
    return _network(family, classes)


@functools.cache
def _network(family, classes):
    from ultralytics.nn.tasks import ClassificationModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ClassificationModel(f"{family}.yaml", nc=classes, verbose=False)
        calibrate(model)
        torch.nn.init.normal_(model.model[-1].linear.weight, std=0.3)
    model.names = {index: f"class {index}" for index in range(classes)}
    model.args = {"imgsz": IMGSZ, "task": "classify"}
    model.task = "classify"
    return model
