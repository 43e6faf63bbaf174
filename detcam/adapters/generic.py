"""Any other detector: `detcam.wrap(model, head=…)`, with a head that the user describes.

Two ways. A small class of one's own that gives class logits and boxes: see `detcam.adapters.Head`. Or the
names of the modules whose outputs are the head's tensors, and the name of the layout they have: see
`TensorOptions`. All the rest, letterbox, suppression and the table of layers, is here and shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, LoadOptions, device_of
from detcam.adapters.class_names import class_names_for
from detcam.adapters.head_rows import level_at
from detcam.adapters.heads import GenericOptions, Head, HeadOutput, Prepare, is_head
from detcam.adapters.layer_table import LayerRules, layer_table
from detcam.adapters.layouts import MOST_ANCHORS
from detcam.adapters.preparation import LetterboxedRectangle
from detcam.adapters.suppression import suppress, upright_detections
from detcam.adapters.tensor_head import TensorOptions, tensor_head
from detcam.cam.capture import borrowed
from detcam.errors import CaptureError, InputError, ShapeError, UnknownNameError
from detcam.geometry import Letterbox
from detcam.scoring import SIGMOID, ObjectTimesClass
from detcam.structures import Detections, Layer, Level, RawPrediction, with_stages


class GenericDetector:
    """A detector whose head its user describes; see `Detector`.

    Args:
        model: the network.
        head: gives its candidates.
        options: the rest.

    Raises:
        InputError: what was said contradicts what a first, blank forward pass gives.
    """

    def __init__(self, model: nn.Module, head: Head, options: GenericOptions) -> None:
        self.model = model
        self.origin = options.origin
        self._head, self._options = head, options
        self.strides = tuple(sorted(int(stride) for stride in head.strides))
        if not self.strides or self.strides[0] < 1:
            raise InputError(f"strides must be pixels per cell, 8, 16 or 32 say, got {tuple(head.strides)}")
        self.family = f"{type(model).__name__} with a head of its user's"
        self.imgsz = options.imgsz
        count = self._blank().class_logits.shape[-1]
        wanted = LoadOptions(names=options.names, num_classes=options.num_classes)
        self.class_names = class_names_for(count, None, wanted)

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """The head's own `prepare`, or letterboxed to the smallest rectangle, RGB 0..1."""
        imgsz = self.imgsz if imgsz is None else imgsz
        own: Prepare | None = getattr(self._head, "prepare", None)
        if own is None:
            return LetterboxedRectangle(math.lcm(*self.strides))(pixels, imgsz, device_of(self.model))
        tensor, geometry = own(pixels, imgsz)
        if tuple(tensor.shape[1:]) != geometry.input_size:
            raise ShapeError(
                f"prepare gave {tuple(tensor.shape)} for an input of {geometry.input_size} pixels"
            )
        return tensor.to(device_of(self.model)).float(), geometry

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            ShapeError: the head's tensors do not belong together.
            CaptureError: it gave another number of classes than before, or values that are no numbers.
        """
        output = self._checked(batch)
        if output.class_logits.shape[2] != len(self.class_names):
            raise CaptureError(
                f"the head scored {output.class_logits.shape[2]} classes, and {len(self.class_names)} before"
            )
        levels = self._levels(output, batch)
        return [self._raw(output, levels, picture) for picture in range(len(batch))]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """Thresholded and suppressed within each class, best first."""
        return upright_detections(raw, suppress(raw, options, self._options.iou), geometry, options)

    def layers(self) -> Sequence[Layer]:
        """The head's own `layers()`, or those that a blank forward pass shows."""
        return self._layers

    @cached_property
    def _layers(self) -> list[Layer]:
        own: Callable[[], Sequence[Layer]] | None = getattr(self._head, "layers", None)
        if own is not None:
            return with_stages(own())
        rules = LayerRules(self.strides, self._options.backbone, self._options.head_modules)
        return layer_table(self.model, rules, max(self._blank_size), self._run_blank)

    @property
    def _blank_size(self) -> tuple[int, int]:
        coarsest = math.lcm(*self.strides)
        side = max(math.ceil(self.imgsz / coarsest), 1) * coarsest
        return side, side

    def _blank(self) -> HeadOutput:
        """A first pass on grey: what the head gives is known before there is a picture."""
        with borrowed(self.model), torch.no_grad():
            batch = torch.full((1, 3, *self._blank_size), 0.5, device=device_of(self.model))
            output = self._checked(batch)
            self._levels(output, batch)
        return output

    def _run_blank(self) -> None:
        self._head.forward(torch.full((1, 3, *self._blank_size), 0.5, device=device_of(self.model)))

    def _checked(self, batch: Tensor) -> HeadOutput:
        output = self._head.forward(batch)
        if not isinstance(output, HeadOutput):
            raise CaptureError(
                f"{type(self._head).__name__}.forward gave a {type(output).__name__}: return a HeadOutput"
            )
        logits, boxes, objectness = output.class_logits, output.boxes, output.objectness_logits
        if logits.ndim != 3 or logits.shape[0] != len(batch) or not logits.shape[2]:
            raise ShapeError(
                f"class_logits must be (B, N, K) with B = {len(batch)}, got {tuple(logits.shape)}"
            )
        if boxes.shape != (*logits.shape[:2], 4):
            raise ShapeError(f"boxes must be {(*logits.shape[:2], 4)}, got {tuple(boxes.shape)}")
        if objectness is not None and objectness.shape != logits.shape[:2]:
            raise ShapeError(
                f"objectness_logits must be {tuple(logits.shape[:2])}, got {tuple(objectness.shape)}"
            )
        if not all(tensor.isfinite().all() for tensor in (logits, boxes, objectness) if tensor is not None):
            raise CaptureError("the network's output holds NaN or infinity: check its weights")
        return output

    def _levels(self, output: HeadOutput, batch: Tensor) -> tuple[Level, ...]:
        if output.levels is not None:
            return output.levels
        return levels_of(output.class_logits.shape[1], self._head.strides, (batch.shape[2], batch.shape[3]))

    def _raw(self, output: HeadOutput, levels: tuple[Level, ...], picture: int) -> RawPrediction:
        objectness = output.objectness_logits
        default = SIGMOID if objectness is None else ObjectTimesClass()
        boxes = output.boxes[picture]
        return RawPrediction(
            class_logits=output.class_logits[picture],
            levels=levels,
            boxes=lambda indices: boxes[indices],
            objectness_logits=None if objectness is None else objectness[picture],
            scoring=self._options.scoring or default,
            row_order=output.row_order,
        )


def levels_of(rows: int, strides: Sequence[int], input_size: tuple[int, int]) -> tuple[Level, ...]:
    """The levels of a head with `rows` candidates in all, with the anchors per cell that this makes.

    Args:
        rows: N.
        strides: of the levels, in the order of the rows.
        input_size: (H, W) in pixels.

    Raises:
        ShapeError: no number of anchors gives that many candidates.
    """
    cells = sum(level_at(stride, input_size, 1).rows for stride in strides)
    anchors, rest = divmod(rows, cells)
    if rest or not 1 <= anchors <= MOST_ANCHORS:
        raise ShapeError(
            f"{rows} candidates are no whole number of anchors for the {cells} cells of strides "
            f"{list(strides)} on an input of {list(input_size)}: check strides, or give HeadOutput.levels"
        )
    return tuple(level_at(stride, input_size, anchors) for stride in strides)


def wrap_generic(model: nn.Module, head: Any, options: Mapping[str, Any]) -> GenericDetector:
    """A detector around any model, from what its user says about the head.

    Args:
        model: the network; not copied, never changed beyond a call.
        head: a `Head`; or dotted names of the modules whose outputs are the head's tensors, one name or a
            sequence; or a callable from a batch (B, 3, H, W) to those tensors.
        options: fields of `GenericOptions` and, unless `head` is a `Head`, of `TensorOptions`.

    Raises:
        InputError: something cannot be used, or does not fit what the model gives.
        AmbiguousHeadError: the tensors can be read in several ways.
    """
    own = _chosen(GenericOptions, options)
    about_tensors = _chosen(TensorOptions, options)
    known = [*GenericOptions.__dataclass_fields__, *TensorOptions.__dataclass_fields__]
    for name in options:
        if name not in known:
            raise UnknownNameError("option", name, known, "See docs/adapters.md")
    if is_head(head) and about_tensors:
        unwanted = ", ".join(sorted(about_tensors))
        raise InputError(f"wrap(head=…) cannot use {unwanted} with this head: see docs/adapters.md")
    wanted = GenericOptions(**own)
    if not is_head(head):
        head, wanted = tensor_head(model, head, TensorOptions(**about_tensors), wanted)
    return GenericDetector(model, head, wanted)


def _chosen(kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in kind.__dataclass_fields__}
