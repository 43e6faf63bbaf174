"""A small RT-DETR of ultralytics, and the vendor's own predictions."""

import copy
import functools

import numpy as np
import torch
from detector_checks import noise

IMGSZ = 96


def architecture(classes):
    """RT-DETR in small: two levels, 30 queries, two decoder layers."""
    return {
        "nc": classes,
        "backbone": [
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [12, 3, 2]],
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "C2f", [16, True]],  # 3: /8
            [-1, 1, "Conv", [24, 3, 2]],
            [-1, 1, "C2f", [24, True]],  # 5: /16
        ],
        "head": [
            [-1, 1, "Conv", [24, 1, 1, None, 1, 1, False]],
            [-1, 1, "AIFI", [32, 4]],  # 7
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 3], 1, "Concat", [1]],
            [-1, 1, "RepC3", [16]],  # 10: P3
            [-1, 1, "Conv", [24, 3, 2]],
            [[-1, 7], 1, "Concat", [1]],
            [-1, 1, "RepC3", [24]],  # 13: P4
            [[10, 13], 1, "RTDETRDecoder", ["nc", 32, 30, 4, 4, 2, 64]],
        ],
    }


def network(classes=7):
    return _network(classes)


@functools.cache
def _network(classes):
    from ultralytics.nn.tasks import RTDETRDetectionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RTDETRDetectionModel(architecture(classes), verbose=False)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(0.1)
        model.eval()
        head = model.model[-1]
        for scores in (head.enc_score_head, *head.dec_score_head):
            torch.nn.init.normal_(scores.weight, std=0.3)
            torch.nn.init.zeros_(scores.bias)
        for boxes in (head.enc_bbox_head, *head.dec_bbox_head):
            torch.nn.init.normal_(boxes.layers[-1].weight, std=0.2)
            torch.nn.init.constant_(boxes.layers[-1].bias[2:], 1.0)  # large enough to reach over the edge
        picture = torch.from_numpy(noise(IMGSZ, IMGSZ)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            logits = model(picture)[1][1][-1, 0]
            # No class wins everywhere.
            last = head.dec_score_head[-1]
            last.weight.mul_(1 / logits.std(dim=0)[:, None])
            last.bias.copy_(-logits.mean(dim=0) / logits.std(dim=0))
    model.names = {index: f"class {index}" for index in range(classes)}
    model.args = {"imgsz": IMGSZ, "task": "detect"}
    model.task = "detect"
    return model


@functools.cache
def shell():
    """The vendor's object, for its way of predicting."""
    from ultralytics import RTDETR

    return RTDETR("rtdetr-l.yaml")


def vendor(nc):
    """The vendor's object around a copy of the network: in old releases, predict damages it."""
    yolo = shell()
    yolo.model, yolo.predictor = copy.deepcopy(network(nc)), None
    return yolo


def predict(pixels, nc=7, **options):
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    options = {"imgsz": IMGSZ, "conf": 0.25, "classes": None, "max_det": 300, **options}
    found = vendor(nc).predict(bgr, device="cpu", verbose=False, **options)[0].boxes
    return found.xyxy, found.conf, found.cls
