"""RT-DETR of the ultralytics package, 8.3.0 to the newest: an encoder whose best cells become queries.

Boxes and logits are taken where the decoder gives them, which is the same in every release; what the head
returns changed its form. See Zhao et al. 2023, arXiv:2304.08069.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, LoadOptions, device_of
from detcam.adapters.class_names import class_names_for
from detcam.adapters.preparation import Stretched, bilinear_cv2
from detcam.adapters.queries import (
    boxes_from_shares,
    cell_at,
    check_queries,
    query_class_detections,
    query_detections,
    selected_cells,
)
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.ultralytics_network import (
    head_of,
    input_channels,
    is_kind,
    load_network,
    names_head,
    own_names,
    strides_of,
    top_level_layers,
    trained_size,
)
from detcam.adapters.weights import made_to_run
from detcam.cam.capture import observe
from detcam.checkpoints import ModelFile
from detcam.errors import UnsupportedModelError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Layer, Level, Origin, RawPrediction, level_name

_STRIDE = 32


class RTDETRDetector:
    """An ultralytics network that ends in an `RTDETRDecoder`.

    A candidate is a query; it is located at the encoder cell that it was made from.

    Args:
        model: the network, not the `RTDETR` object around it.
        options: class names, and a class count to check.
        origin: the file the model came from.

    Raises:
        UnsupportedModelError: `model` has no such head.
        InputError: names or class count do not fit the head.
    """

    def __init__(self, model: nn.Module, options: LoadOptions, origin: Origin | None = None) -> None:
        if not self.recognises(model):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no ultralytics RT-DETR: its last layer is no RTDETRDecoder"
            )
        self.model = cast(Any, model)
        self.head: Any = self.model.model[-1]
        self.origin = origin
        self.family = f"ultralytics {type(self.head).__name__}"
        count = int(self.head.dec_score_head[-1].out_features)
        self.class_names = class_names_for(count, own_names(model), options)
        self.imgsz = trained_size(model)
        feeders = [f"model.{i}" for i in self.head.f]
        side = self._probe_side()
        self._layers = top_level_layers(model, feeders, side, lambda: self._run_blank(side))
        self.strides = strides_of(self._layers, feeders)

    @classmethod
    def load(cls, file: ModelFile, options: LoadOptions) -> RTDETRDetector:
        """A detector from a `.pt` file; nothing in the file runs unless it is allowed to.

        Raises:
            CheckpointError: the file cannot be read, or holds no detector.
            UnsafeCheckpointError: the file would have to run code that nobody allowed.
            InputError: names or class count do not fit the head.
        """
        model, origin = load_network(file, options)
        return made_to_run(file.path, lambda: cls(model, options, origin))

    @staticmethod
    def reads(file: ModelFile, options: LoadOptions) -> bool:
        """Whether a file names this head."""
        return names_head(file, "RTDETRDecoder")

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether the model ends in this head."""
        return is_kind(head_of(model), "RTDETRDecoder")

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """Stretched to the whole input, RGB 0..1, on the weights' device and in float32."""
        device = device_of(self.model)
        return Stretched(_STRIDE, bilinear_cv2)(pixels, self.imgsz if imgsz is None else imgsz, device)

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            CaptureError: the decoder gave other things than boxes and logits, or values that are no numbers.
        """
        modules = {f"level {i}": module for i, module in enumerate(self.head.input_proj)}
        modules |= {"decoder": self.head.decoder, "encoder": self.head.enc_score_head}
        with kept_attributes(self.head), observe(modules) as seen:
            # Predict may have left anchors made in inference mode: have the head make them anew.
            self.head.shapes = None
            self.model(batch)
        boxes, logits = (
            stacked[-1] for stacked in seen["decoder"]
        )  # one entry for each decoder layer that scored
        check_queries(logits, boxes, len(self.class_names))
        cells = selected_cells(seen["encoder"], logits.shape[1]).tolist()
        grids = [seen[f"level {i}"].shape[2:] for i in range(len(self.strides))]
        levels = tuple(
            Level(level_name(stride), stride, (grid[0], grid[1]))
            for stride, grid in zip(self.strides, grids, strict=True)
        )
        size = (batch.shape[2], batch.shape[3])
        return [_raw(logits[b], boxes[b], levels, cells[b], size) for b in range(len(batch))]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections that `RTDETR.predict` shows, best first.

        Releases since 8.4.50 may show a query under several classes; older ones take its best.
        """
        if hasattr(self.head, "postprocess"):
            return query_class_detections(raw, geometry, options)
        return query_detections(raw, geometry, options)

    def layers(self) -> Sequence[Layer]:
        """Every top-level layer, with the set it belongs to."""
        return self._layers

    def _probe_side(self) -> int:
        """Side of an input with enough cells of stride 8: older releases fail with fewer than queries."""
        return _STRIDE * math.ceil(math.sqrt(self.head.num_queries) * 8 / _STRIDE)

    def _run_blank(self, side: int) -> None:
        device = device_of(self.model)
        with kept_attributes(self.head):
            self.head.shapes = None
            self.model(torch.zeros(1, input_channels(self.model), side, side, device=device))


def _raw(
    logits: Tensor, shares: Tensor, levels: tuple[Level, ...], cells: list[int], size: tuple[int, int]
) -> RawPrediction:
    """One picture's queries: logits (Q, K), boxes (Q, 4) in shares of the input, and their encoder cells."""
    return RawPrediction(
        logits,
        levels,
        boxes=lambda indices: boxes_from_shares(shares[indices], size),
        located=lambda query: cell_at(levels, cells[query]),
    )
