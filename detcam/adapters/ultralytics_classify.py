"""Classifiers of the ultralytics package: no boxes, so what is explained is the picture under a class.

The one candidate is all that the network sees of the picture: its middle square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, LoadOptions, device_of
from detcam.adapters.class_names import class_names_for
from detcam.adapters.preparation import rounded_up
from detcam.adapters.stages import measured_layers, with_sets
from detcam.adapters.suppression import best_pair_score, take_pairs
from detcam.adapters.ultralytics_network import (
    blocks_and_parts,
    head_of,
    input_channels,
    is_kind,
    load_network,
    names_head,
    own_names,
    strides_of,
    trained_size,
)
from detcam.adapters.weights import made_to_run
from detcam.cam.capture import observe
from detcam.checkpoints import ModelFile
from detcam.errors import CaptureError, UnsupportedModelError
from detcam.geometry import Letterbox
from detcam.scoring import Softmax
from detcam.structures import Detections, Layer, LayerSet, Level, Location, Origin, RawPrediction

_STRIDE = 32
_PIXELWISE = ("SemanticSegment", "Depth")


class ClassifyDetector:
    """An ultralytics `ClassificationModel`. A detection is a class of the whole picture.

    All detections have candidate 0, whose box is the part of the picture that the network sees.

    Args:
        model: the network, not the `YOLO` object around it.
        options: class names, and a class count to check.
        origin: the file the model came from.

    Raises:
        UnsupportedModelError: `model` is no classifier, or one whose answer never changes.
        InputError: names or class count do not fit the head.
    """

    def __init__(self, model: nn.Module, options: LoadOptions, origin: Origin | None = None) -> None:
        head: Any = head_of(model)
        if is_kind(head, *_PIXELWISE):
            raise _without_detections(type(head).__name__)
        if not is_kind(head, "Classify"):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no ultralytics classifier: its last layer is no Classify head"
            )
        self.model = cast(Any, model)
        self.head: Any = head
        self.origin = origin
        self.family = "ultralytics Classify"
        count = int(self.head.linear.out_features)
        if count < 2:
            raise UnsupportedModelError(
                "a classifier of one class answers 1 to every picture: nothing to explain"
            )
        self.class_names = class_names_for(count, own_names(model), options)
        self.imgsz = trained_size(model)
        self._layers = self._measured_layers()
        self.strides = strides_of(self._layers, [self._last_map])

    @classmethod
    def load(cls, file: ModelFile, options: LoadOptions) -> ClassifyDetector:
        """A detector from a `.pt` file; nothing in the file runs unless it is allowed to.

        Raises:
            CheckpointError: the file cannot be read, or holds no network.
            UnsafeCheckpointError: the file would have to run code that nobody allowed.
            UnsupportedModelError: its head gives a value for every pixel.
            InputError: names or class count do not fit the head.
        """
        for kind in _PIXELWISE:
            if names_head(file, kind):
                raise _without_detections(kind)
        model, origin = load_network(file, options)
        return made_to_run(file.path, lambda: cls(model, options, origin))

    @staticmethod
    def reads(file: ModelFile, options: LoadOptions) -> bool:
        """Whether a file names this head, or one for which there is only an explanation why not."""
        return names_head(file, "Classify", *_PIXELWISE)

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether the model ends in this head, or one for which there is only an explanation why not."""
        return is_kind(head_of(model), "Classify", *_PIXELWISE)

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """The middle square; for an oblong input, the picture stretched to it. RGB 0..1."""
        image_size = (pixels.shape[0], pixels.shape[1])
        height, width = rounded_up(self.imgsz if imgsz is None else imgsz, _STRIDE)
        if height == width:
            geometry = Letterbox.centre_crop(image_size, height)
        else:
            geometry = Letterbox.stretch(image_size, (height, width))
        size = (geometry.resized[1], geometry.resized[0])
        resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        device = device_of(self.model)
        tensor = torch.from_numpy(geometry.place(resized)).to(device)
        return tensor.permute(2, 0, 1).float() / 255, geometry

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W), each with one candidate.

        Raises:
            CaptureError: the head gave values that are no numbers.
        """
        with observe({"logits": self.head.linear}) as seen:
            self.model(batch)
        logits = seen["logits"]
        if not logits.isfinite().all():
            raise CaptureError("the network's output holds NaN or infinity: check its weights")
        height, width = batch.shape[2], batch.shape[3]
        # One cell, and as the head averages over all of it: the whole input.
        level = Level("picture", max(height, width), (1, 1))
        box = logits.new_tensor([[0, 0, width, height]])
        return [
            RawPrediction(
                row[None],
                (level,),
                boxes=lambda indices: box[indices],
                scoring=Softmax(background=None),
                located=lambda _: Location(level, 0, 0),
            )
            for row in logits
        ]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The classes whose probability, as `YOLO.predict` gives it, passes the threshold; best first."""
        candidates, scores, labels = take_pairs(raw, options, most=raw.class_logits.shape[1])
        boxes = geometry.boxes_to_image(raw.boxes(candidates))
        return Detections(boxes, scores, labels, candidates, best_score=best_pair_score(raw, options))

    def layers(self) -> Sequence[Layer]:
        """Every top-level layer and the head's last map.

        Stages feed nothing but the next one: only the last is in a set.
        """
        return self._layers

    @property
    def _last_map(self) -> str:
        """What the head averages: where the first class activation maps looked (arXiv:1512.04150)."""
        return f"model.{len(self.model.model) - 1}.conv"

    def _measured_layers(self) -> list[Layer]:
        blocks, parts = blocks_and_parts(self.model)
        own: LayerSet = "head"
        blocks[self._last_map], parts[self._last_map] = self.head.conv, own
        side = 2 * _STRIDE
        layers = measured_layers(self.model, blocks, parts, side, lambda: self._run_blank(side))
        return with_sets(layers, [self._last_map], strides_of(layers, [self._last_map]))

    def _run_blank(self, side: int) -> None:
        device = device_of(self.model)
        self.model(torch.zeros(1, input_channels(self.model), side, side, device=device))


def _without_detections(kind: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"a {kind} head gives a value for every pixel: there are no boxes or classes of a picture to explain"
    )
