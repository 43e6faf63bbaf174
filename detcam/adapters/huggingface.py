"""Detectors of HuggingFace transformers, live: DETR, RT-DETR, RT-DETRv2 and YOLOS.

Nothing of that package is imported: a model is known by its configuration and by the parts it has. Boxes and
logits are those of the last decoder layer, as the model returns them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from detcam.adapters.base import DetectOptions, LoadOptions, device_of
from detcam.adapters.class_names import class_names_for
from detcam.adapters.preparation import rounded_up
from detcam.adapters.queries import (
    boxes_from_shares,
    cell_at,
    cell_under,
    check_queries,
    query_class_detections,
    query_detections,
    selected_cells,
)
from detcam.adapters.stages import with_sets
from detcam.cam.capture import borrowed, observe
from detcam.errors import UnsupportedModelError
from detcam.geometry import Letterbox
from detcam.scoring import SIGMOID, Scoring, Softmax
from detcam.structures import (
    Detections,
    Layer,
    LayerSet,
    Level,
    Location,
    Origin,
    RawPrediction,
    level_name,
)

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHORTEST, _LONGEST = 800, 1333

Fit = Callable[[tuple[int, int], int | tuple[int, int]], Letterbox]
"""(H, W) of a picture and the wanted size -> where the picture lies in the input."""


@dataclass(frozen=True)
class _Kind:
    """How one of the families prepares pictures and scores queries, by its image processor's defaults.

    Attributes:
        imgsz: side that the input has by default; the shorter one where proportions are kept.
        fit: geometry of the input.
        is_normalised: whether ImageNet's mean and deviation are taken out of the pixels.
        scoring: of the class logits.
    """

    imgsz: int
    fit: Fit
    is_normalised: bool
    scoring: Scoring


class HuggingFaceDetector:
    """A transformers model for object detection.

    A candidate is a query. RT-DETR's are located at the encoder cell that they were made from; those of DETR
    and YOLOS stand for no cell and are located under the middle of their box.

    Args:
        model: the network.
        options: class names, and a class count to check.

    Raises:
        UnsupportedModelError: `model` is of no family in `_KINDS`.
        InputError: names or class count do not fit the head.
    """

    origin: Origin | None = None

    def __init__(self, model: nn.Module, options: LoadOptions) -> None:
        if not self.recognises(model):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no transformers detector that is known: {', '.join(_KINDS)}"
            )
        self.model = cast(Any, model)
        self._kind = _KINDS[self.model.config.model_type]
        self.family = f"transformers {type(model).__name__}"
        self.imgsz = self._kind.imgsz
        layers, columns = self._probe()
        self._columns = columns
        count = columns if self._kind.scoring == SIGMOID else columns - 1  # the last column is "no object"
        names = {int(index): name for index, name in self.model.config.id2label.items()}
        self.class_names = class_names_for(count, names, options)
        self.strides = tuple(
            sorted({layer.stride for layer in layers if layer.part == "neck" and layer.stride})
        )
        self._feeders = [
            [layer.name for layer in layers if (layer.part, layer.stride) == ("neck", stride)][-1]
            for stride in self.strides
        ]
        self._layers = with_sets(layers, self._feeders, self.strides)

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether the model is for object detection, and of a family that is known."""
        kind = getattr(getattr(model, "config", None), "model_type", None)
        return kind in _KINDS and type(model).__name__.endswith("ForObjectDetection")

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """As the family's image processor does by default, on the weights' device and in float32.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            imgsz: for DETR and YOLOS the shorter side, the longer one at most 1.67 times that; for RT-DETR
                the side of a square; or (H, W) to stretch to. None for 800 or 640.
        """
        geometry = self._kind.fit((pixels.shape[0], pixels.shape[1]), self.imgsz if imgsz is None else imgsz)
        picture = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        if geometry.resized != geometry.image_size:
            picture = resize(picture, list(geometry.resized), antialias=True)
        tensor = picture.to(device_of(self.model)).float()
        if not self._kind.is_normalised:
            return tensor * (1 / 255), geometry
        mean, std = (
            tensor.new_tensor(values)[:, None, None] * 255 for values in (_IMAGENET_MEAN, _IMAGENET_STD)
        )
        return (tensor - mean) / std, geometry

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            CaptureError: the model gave something else than boxes and logits, or values that are no numbers.
        """
        modules = {name: self.model.get_submodule(name) for name in self._feeders}
        selector = getattr(getattr(self.model, "model", None), "enc_score_head", None)
        if selector is not None:
            modules["selector"] = selector
        with observe(modules) as seen:
            output = self.model(pixel_values=batch, return_dict=True)
        logits, shares = output.logits, output.pred_boxes
        check_queries(logits, shares, self._columns)
        levels = tuple(
            Level(level_name(stride), stride, (seen[name].shape[2], seen[name].shape[3]))
            for stride, name in zip(self.strides, self._feeders, strict=True)
        )
        cells = None if selector is None else selected_cells(seen["selector"], logits.shape[1])
        size = (batch.shape[2], batch.shape[3])
        return [
            self._raw(logits[b], shares[b], levels, None if cells is None else cells[b], size)
            for b in range(len(batch))
        ]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections of the image processor's `post_process_object_detection`, best first."""
        if self._kind.scoring == SIGMOID:
            return query_class_detections(raw, geometry, options)
        return query_detections(raw, geometry, options)

    def layers(self) -> Sequence[Layer]:
        """The outermost modules that give a feature map, in the order in which they finish.

        Raises:
            UnsupportedModelError: there is none behind any attention.
        """
        if not any(layer.part == "backbone" for layer in self._layers):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} is a plain vision transformer: only its patch embedding, which "
                "has seen no context yet, gives a feature map (B, C, h, w), and tokens are not supported"
            )
        return self._layers

    def _raw(
        self,
        logits: Tensor,
        shares: Tensor,
        levels: tuple[Level, ...],
        cells: Tensor | None,
        size: tuple[int, int],
    ) -> RawPrediction:
        """One picture's queries: logits (Q, K), boxes (Q, 4) as shares of the input, encoder cells (Q,)."""

        def boxes(indices: Tensor) -> Tensor:
            return boxes_from_shares(shares[indices], size)

        def located(query: int) -> Location:
            if cells is not None:
                return cell_at(levels, int(cells[query]))
            return cell_under(levels[-1], shares[query, :2] * shares.new_tensor([size[1], size[0]]))

        return RawPrediction(logits, levels, boxes, scoring=self._kind.scoring, located=located)

    def _probe(self) -> tuple[list[Layer], int]:
        """The outermost modules that give a feature map of the picture, and the columns of the class logits.

        The blank input is twice as wide as high, so that no matrix of attention weights looks like a map;
        what does not depend on it, such as an embedding of positions, is none.
        """
        modules = {name: module for name, module in self.model.named_modules() if name}
        # RT-DETR needs a cell for each query, of strides 8 and up.
        side = 32 * max(4, math.ceil(math.sqrt(getattr(self.model.config, "num_queries", 0)) / 5))
        device = device_of(self.model)
        with borrowed(self.model), torch.enable_grad(), observe(modules) as seen:
            blank = torch.zeros(1, 3, side, 2 * side, device=device, requires_grad=True)
            output = self.model(pixel_values=blank, return_dict=True)
        maps = {name: one for name, one in seen.items() if _is_map(one, side)}
        outermost = {name: one for name, one in maps.items() if not _has_ancestor(name, maps)}
        layers = [
            Layer(name, type(modules[name]).__name__, side // one.shape[2], one.shape[1], _part(name))
            for name, one in outermost.items()
        ]
        return layers, output.logits.shape[2]


def _is_map(output: object, side: int) -> bool:
    return (
        isinstance(output, Tensor)
        and output.ndim == 4
        and output.requires_grad
        and side % output.shape[2] == 0
        and output.shape[3] == 2 * output.shape[2]
    )


def _has_ancestor(name: str, names: Mapping[str, object]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts)))


def _part(name: str) -> LayerSet:
    return "backbone" if "backbone" in name.split(".") else "neck"


def proportional(
    image_size: tuple[int, int], imgsz: int | tuple[int, int], *, multiple: int, stride: int
) -> Letterbox:
    """The shorter side as wanted and the longer one in proportion, or less where that is too long.

    The arithmetic is that of DETR's and YOLOS's image processors: sides are cut to whole pixels.

    Args:
        image_size: (H, W) of the picture.
        imgsz: the shorter side, of which the longer one may be 1333/800; or (H, W) to stretch to.
        multiple: sides are cut to multiples of it.
        stride: of the network. Its grid covers the next multiple of it, and so does the geometry's input.
    """
    if isinstance(imgsz, int):
        shorter, longer = min(image_size), max(image_size)
        side = min(float(imgsz), int(imgsz * _LONGEST / _SHORTEST) * shorter / longer)
        sides = [round(side) if length == shorter else int(side * length / shorter) for length in image_size]
    else:
        sides = list(imgsz)
    height, width = (max(length // multiple, 1) * multiple for length in sides)
    return Letterbox(image_size, (height, width), pad=(0, 0), input_size=rounded_up((height, width), stride))


def _square(image_size: tuple[int, int], imgsz: int | tuple[int, int]) -> Letterbox:
    return Letterbox.stretch(image_size, rounded_up(imgsz, 32))


def _detr_fit(image_size: tuple[int, int], imgsz: int | tuple[int, int]) -> Letterbox:
    return proportional(image_size, imgsz, multiple=1, stride=32)


def _yolos_fit(image_size: tuple[int, int], imgsz: int | tuple[int, int]) -> Letterbox:
    return proportional(image_size, imgsz, multiple=16, stride=16)


_RT_DETR = _Kind(640, _square, is_normalised=False, scoring=SIGMOID)
_KINDS = {
    "detr": _Kind(_SHORTEST, _detr_fit, is_normalised=True, scoring=Softmax(background=-1)),
    "yolos": _Kind(_SHORTEST, _yolos_fit, is_normalised=True, scoring=Softmax(background=-1)),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
}
"""`model_type` of a configuration -> its family."""
