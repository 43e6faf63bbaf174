"""A small detector of every kind, and what its vendor or an independent replica finds in a picture.

`KINDS` is the table that the contract suite runs over: a family of `ADAPTERS` without an entry here fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anchor_lookalikes
import darknet_replica
import huggingface_networks
import numpy as np
import pond
import pytest
import torch
import torchvision_models
import vendor_classifiers
import vendor_rtdetr
import vendor_zoo
import yolov4_replica
import yolov6_lookalike
import yolov9_lookalikes
import yolox_replica
from anchor_free_replicas import boxes_from_distances, boxes_from_offsets, greedy, outputs_of, rows
from torch import Tensor, nn

import detcam
from detcam.adapters import Detector
from detcam.geometry import Letterbox

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (M, 4) xyxy in picture pixels, scores (M,) and labels (M,)."""


@dataclass(frozen=True, eq=False)
class Small:
    """A small detector, made to find something in `noise()`.

    Attributes:
        detector: around the live model.
        expected: picture (H, W, 3) and score threshold -> what the vendor finds.
        imgsz: input size for `prepare`.
        options: what `detcam.wrap` is told.
        file: the same model saved, where the family reads files.
        load: what `detcam.load` is told.
    """

    detector: Detector
    expected: Callable[[np.ndarray, float], Found]
    imgsz: int | tuple[int, int] | None
    options: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    load: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.detector.model


@dataclass(frozen=True)
class Kind:
    """An entry of the table.

    Attributes:
        family: key of `ADAPTERS`, or GENERIC.
        build: number of classes and an empty folder -> the detector.
        counts: the numbers of classes that can be built; 7 is what most checks take.
        background: columns of the head that are no class.
        clips: whether the vendor cuts boxes to the picture.
        is_compat: whether `make compat` repeats it with other releases of the vendor.
    """

    family: str
    build: Callable[[int, Path], Small]
    counts: tuple[int, ...] = (1, 2, 7, 80)
    background: int = 0
    clips: bool = True
    is_compat: bool = False


GENERIC = "detcam.wrap(model, head=…)"


def clear_conf(scores: Tensor) -> float:
    """A threshold that some ten to fifty candidates pass, where rounding moves none of them.

    Args:
        scores: (N, K).
    """
    best = scores.amax(dim=1) if len(scores) > 1 else scores[0]
    ordered = best.sort(descending=True).values
    few, many = min(len(ordered) // 3, 20), min(2 * len(ordered) // 3 + 1, 50)
    nearby = ordered[few:many]
    gap = nearby.diff().abs().argmax()
    return float(nearby[gap] + nearby[gap + 1]) / 2


# --- detectors that are checked against a replica ---------------------------------------------------


def _replicated(
    model: nn.Module,
    candidates: Callable[[Tensor], tuple[Any, Any]],
    imgsz: int | tuple[int, int] | None,
    iou: float,
    *,
    by_class: bool = True,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Small:
    """A model whose candidates, boxes (N, 4) in input pixels and scores (N, K), are computed apart."""
    options = options or {}
    detector = detcam.wrap(model, **options)

    def expected(pixels: np.ndarray, conf: float) -> Found:
        tensor, geometry = detector.prepare(pixels, imgsz)
        boxes, scores = (torch.as_tensor(values).double() for values in candidates(tensor))
        kept = greedy(boxes, scores, conf, iou, by_class=by_class)
        best, labels = scores[kept].max(dim=1)
        return _in_picture(boxes[kept], geometry), best, labels

    return Small(detector, expected, imgsz, options, **more)


def _in_picture(boxes: Tensor, geometry: Letterbox) -> Tensor:
    """Boxes in input pixels -> picture pixels, cut to the picture."""
    (height, width), (left, top) = geometry.image_size, geometry.pad
    scale = torch.tensor([geometry.resized[1] / width, geometry.resized[0] / height] * 2).double()
    limit = torch.tensor([width, height] * 2).double()
    return ((boxes - torch.tensor([left, top] * 2)) / scale).clamp(min=0).minimum(limit)


def _yolov9(branches: int) -> Callable[[int, Path], Small]:
    def build(classes: int, _folder: Path) -> Small:
        torch.manual_seed(branches)
        model = yolov9_lookalikes.calibrated(yolov9_lookalikes.Network(classes, branches))
        head = model.model[-1]
        towers = [*getattr(head, f"cv{2 * branches}"), *getattr(head, f"cv{2 * branches + 1}")]

        def candidates(tensor: Tensor) -> tuple[Tensor, Tensor]:
            maps = [one[0] for one in outputs_of(model, towers, tensor[None])]
            strides, bins = yolov9_lookalikes.STRIDES, yolov9_lookalikes.BINS
            return boxes_from_distances(maps[:3], strides, bins), rows(maps[3:]).sigmoid()

        return _replicated(model, candidates, 96, 0.45)

    return build


def _yolov6(levels: int, reg_max: int) -> Callable[[int, Path], Small]:
    def build(classes: int, _folder: Path) -> Small:
        model = yolov6_lookalike.calibrated(levels, reg_max, classes)
        head = model.detect

        def candidates(tensor: Tensor) -> tuple[Tensor, Tensor]:
            maps = [one[0] for one in outputs_of(model, [*head.cls_preds, *head.reg_preds], tensor[None])]
            boxes = boxes_from_distances(maps[levels:], head.stride.tolist(), reg_max + 1)
            return boxes, rows(maps[:levels]).sigmoid()

        return _replicated(model, candidates, 128, 0.45)

    return build


def _yolox(classes: int, folder: Path) -> Small:
    model = yolox_replica.calibrated(classes)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def candidates(tensor: Tensor) -> tuple[Tensor, Tensor]:
        regs, objs, classes = (
            [one[0] for one in maps] for maps in yolox_replica.replica(weights, tensor[None])
        )
        return boxes_from_offsets(regs, yolox_replica.STRIDES), rows(objs).sigmoid() * rows(classes).sigmoid()

    torch.save({"model": weights}, folder / "yolox.pth")
    return _replicated(model, candidates, 96, 0.45, by_class=False, file=folder / "yolox.pth")


def _yolov5(head: type[nn.Module]) -> Callable[[int, Path], Small]:
    def build(classes: int, folder: Path) -> Small:
        torch.manual_seed(0)
        model = anchor_lookalikes.trained(anchor_lookalikes.Model(classes, head))

        def candidates(tensor: Tensor) -> tuple[Tensor, Tensor]:
            boxes, objectness, scores = anchor_lookalikes.vendor_candidates(model, tensor[None])
            if classes == 1 and head is anchor_lookalikes.IDetect:
                scores = torch.ones_like(scores)  # YOLOv7 leaves the class out where there is only one
            return boxes, objectness[:, None] * scores

        with anchor_lookalikes.planted():
            torch.save({"model": model}, folder / "best.pt")
        return _replicated(model, candidates, 96, 0.45, file=folder / "best.pt")

    return build


def _darknet(description: Callable[..., str]) -> Callable[[int, Path], Small]:
    def build(classes: int, folder: Path) -> Small:
        cfg = description(classes, height=64, width=96)
        replica = darknet_replica.Replica(cfg, seed=5)
        (folder / "net.cfg").write_text(cfg)
        file, load = folder / "net.weights", {"cfg": folder / "net.cfg"}
        file.write_bytes(replica.file())

        def candidates(tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
            boxes, _, scores = replica.candidates(tensor)
            return boxes, scores

        model = detcam.load(file, device="cpu", **load).model
        return _replicated(model, candidates, None, 0.45, file=file, load=load)

    return build


def _yolov4(weights: Callable[..., dict[str, Tensor]]) -> Callable[[int, Path], Small]:
    def build(classes: int, folder: Path) -> Small:
        state, file = weights(classes, seed=4), folder / "yolo4.pth"
        torch.save(state, file)
        model = detcam.load(file, device="cpu").model
        return _replicated(model, yolov4_replica.Replica(state).candidates, (64, 96), 0.3, file=file)

    return build


def _generic_head(classes: int, _folder: Path) -> Small:
    model = pond.seeded(pond.Pond(classes))

    def candidates(tensor: Tensor) -> tuple[Tensor, Tensor]:
        boxes, logits = pond.pond_candidates(model, tensor)
        return boxes, logits.sigmoid()

    options = {"head": pond.PondHead(model), "head_modules": ("out",), "imgsz": 64, "iou": 0.5}
    return _replicated(model, candidates, 96, 0.5, options=options)


def _generic_tensors(classes: int, _folder: Path) -> Small:
    model = pond.seeded(pond.Maps(3 * (5 + classes)))

    def candidates(tensor: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            boxes, objectness, logits = pond.replica_v5(model(tensor[None]), model.anchors, (16, 8))
        return boxes, objectness.sigmoid()[:, None] * logits.sigmoid()

    about = {"layout": "anchor-maps", "decode": "v5", "anchors": model.anchors, "imgsz": 64, "iou": 0.5}
    options = {"head": ("coarse", "fine"), **about}
    return _replicated(model, candidates, 96, 0.5, options=options)


def _lookalike(kind: type[nn.Module], replica: Callable[..., Found]) -> Callable[[int, Path], Small]:
    def build(classes: int, _folder: Path) -> Small:
        model = huggingface_networks.lookalike(kind, classes=classes)
        detector = detcam.wrap(model)

        def expected(pixels: np.ndarray, conf: float) -> Found:
            with torch.no_grad():
                output = model(detector.prepare(pixels, 96)[0][None])
            return replica(output.logits[0], output.pred_boxes[0], conf, pixels.shape[:2])

        return Small(detector, expected, 96)

    return build


# --- detectors that predict for themselves ----------------------------------------------------------


def _ultralytics(name: str, branch: str = "one2many") -> Callable[[int, Path], Small]:
    def build(classes: int, folder: Path) -> Small:
        example = vendor_zoo.Zoo(folder)(name, classes)

        def expected(pixels: np.ndarray, conf: float) -> Found:
            if vendor_zoo.release() < (8, 4, 190):
                pytest.skip("this ultralytics maps boxes back with one ratio for both sides")
            found = example.predict(pixels, branch, conf=conf).boxes
            return found.xyxy, found.conf, found.cls

        options = {"branch": branch}
        detector = detcam.wrap(example.model, **options)
        return Small(detector, expected, example.imgsz, options, example.path, options)

    return build


def _rtdetr(classes: int, folder: Path) -> Small:
    model, file = vendor_rtdetr.network(classes), folder / "rtdetr.pt"
    torch.save({"ema": None, "model": model}, file)

    def expected(pixels: np.ndarray, conf: float) -> Found:
        return vendor_rtdetr.predict(pixels, classes, conf=conf)

    return Small(detcam.wrap(model), expected, vendor_rtdetr.IMGSZ, file=file)


def _classify(classes: int, folder: Path) -> Small:
    model, file = vendor_classifiers.network(classes=classes), folder / "classifier.pt"
    torch.save({"ema": None, "model": model}, file)
    side = vendor_classifiers.IMGSZ

    def expected(pixels: np.ndarray, conf: float) -> Found:
        scores = vendor_classifiers.predict(model, pixels, side).data
        labels = (scores > conf).nonzero().flatten()
        height, width = pixels.shape[:2]
        # The shorter side becomes the input's; of the longer one, its middle is seen.
        long = int(side * max(height, width) / min(height, width))
        first, scale = round((long - side) / 2), long / max(height, width)
        start, end = first / scale, (first + side) / scale
        box = [0, start, width, end] if height > width else [start, 0, end, height]
        return torch.tensor([box] * len(labels)), scores[labels], labels

    return Small(detcam.wrap(model), expected, side, file=file)


def _torchvision(kind: str) -> Callable[[int, Path], Small]:
    def build(classes: int, _folder: Path) -> Small:
        model = torchvision_models.small(kind, classes + 1)
        sides = torchvision_models.LEAST_SIZES
        model.transform.min_size, model.transform.max_size = (sides["min_size"],), sides["max_size"]
        own = getattr(model, "roi_heads", model)

        def expected(pixels: np.ndarray, conf: float) -> Found:
            usual, own.score_thresh = own.score_thresh, conf
            try:
                found = torchvision_models.predicted(model, pixels)[0]
            finally:
                own.score_thresh = usual
            return found["boxes"], found["scores"], found["labels"]

        return Small(detcam.wrap(model), expected, None)

    return build


def _transformers(kind: str) -> Callable[[int, Path], Small]:
    def build(classes: int, _folder: Path) -> Small:
        model = huggingface_networks.real(kind, classes)
        processor = huggingface_networks.real_processor(kind)

        def expected(pixels: np.ndarray, conf: float) -> Found:
            inputs = processor(images=pixels, return_tensors="pt")
            with torch.no_grad():
                output = model(pixel_values=inputs["pixel_values"])
            found = processor.post_process_object_detection(output, conf, [pixels.shape[:2]])[0]
            return found["boxes"], found["scores"], found["labels"]

        return Small(detcam.wrap(model), expected, 96)

    return build


_QUERIES: dict[str, Any] = {"family": "transformers", "clips": False}

KINDS: dict[str, Kind] = {
    "yolov9": Kind("yolov9", _yolov9(branches=1)),
    "yolov9-dual": Kind("yolov9", _yolov9(branches=2)),
    "rt-detr": Kind("rt-detr", _rtdetr, clips=False, is_compat=True),
    # A classifier of one class gives 1 to every picture, and is refused.
    "classify": Kind("classify", _classify, counts=(2, 7, 80), is_compat=True),
    "yolov8n": Kind("ultralytics", _ultralytics("yolov8n"), is_compat=True),
    "yolo26n": Kind("ultralytics", _ultralytics("yolo26n", "one2one"), counts=(1, 7), is_compat=True),
    "yolov6": Kind("yolov6", _yolov6(levels=3, reg_max=0)),
    "yolov6-dfl": Kind("yolov6", _yolov6(levels=4, reg_max=16)),
    "yolox": Kind("yolox", _yolox),
    "yolov5": Kind("yolov5", _yolov5(anchor_lookalikes.Detect)),
    "yolov7": Kind("yolov5", _yolov5(anchor_lookalikes.IDetect)),
    "darknet": Kind("darknet", _darknet(darknet_replica.yolov4)),
    "darknet-tiny": Kind("darknet", _darknet(darknet_replica.yolov4_tiny)),
    "yolov4": Kind("yolov4", _yolov4(yolov4_replica.full_weights)),
    "yolov4-tiny": Kind("yolov4", _yolov4(yolov4_replica.tiny_weights)),
    "regions": Kind("torchvision", _torchvision("regions"), background=1),
    "one-map": Kind("torchvision", _torchvision("one-map"), background=1),
    "retinanet": Kind("torchvision", _torchvision("retinanet"), background=1),
    "fcos": Kind("torchvision", _torchvision("fcos"), background=1),
    "ssd": Kind("torchvision", _torchvision("ssd"), background=1),
    "detr-lookalike": Kind(
        build=_lookalike(huggingface_networks.DetrForObjectDetection, huggingface_networks.softmax_replica),
        background=1,
        **_QUERIES,
    ),
    "rt-detr-lookalike": Kind(
        build=_lookalike(huggingface_networks.RTDetrForObjectDetection, huggingface_networks.sigmoid_replica),
        **_QUERIES,
    ),
    "transformers-detr": Kind(build=_transformers("detr"), background=1, **_QUERIES),
    "transformers-rt-detr": Kind(build=_transformers("rt_detr"), **_QUERIES),
    "transformers-rt-detr-v2": Kind(build=_transformers("rt_detr_v2"), **_QUERIES),
    "generic-head": Kind(GENERIC, _generic_head),
    "generic-tensors": Kind(GENERIC, _generic_tensors),
}
