"""What torchvision's detectors share: their input, their feature maps, their class names, their detections.

They resize and normalise pictures inside the model (`GeneralizedRCNNTransform`). Here that is done by
`prepare`, with the same arithmetic, so that the geometry is known; only the padding is left to `forward`,
which thereby sees how large the pictures in a batch are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from detcam.adapters.base import DetectOptions, LoadOptions, device_of
from detcam.adapters.stages import with_sets
from detcam.adapters.suppression import Pairs, pairs_above
from detcam.adapters.torchvision_stages import FeatureMap, probe_backbone
from detcam.errors import CaptureError, InputError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Layer, Origin, RawPrediction

_PROBE_SIDE = 256  # two cells of the coarsest level, stride 128


class TorchvisionDetector(ABC):
    """A torchvision detector; its families differ in their heads and in how they choose candidates.

    Args:
        model: the network.
        options: class names, and a class count to check; both as torchvision counts (see `names_by_label`).
        origin: the file the model came from.

    Raises:
        InputError: names or class count do not fit the head.
    """

    least_side: float = 0.0
    """Shortest side, in network-input pixels, of a box that may be detected."""
    may_zero_be_a_class: bool = False
    """Whether column 0 is scored like any other: with sigmoids, the background needs no column."""

    def __init__(self, model: nn.Module, options: LoadOptions, origin: Origin | None = None) -> None:
        self.model = cast(Any, model)
        self.origin = origin
        self.family = f"torchvision {type(model).__name__}"
        self.class_names = names_by_label(self.columns, options, is_zero_a_class=self.may_zero_be_a_class)
        transform = self.model.transform
        self.imgsz = min(transform.min_size[-1], transform.max_size)
        layers, self.maps = probe_backbone(self.model, self._probe_size())
        read = self._maps_read(self.maps)
        self.strides = tuple(dict.fromkeys(one.stride for one in read))
        self._layers = with_sets(layers, [one.feeder for one in read if one.feeder], self.strides)

    @staticmethod
    @abstractmethod
    def recognises(model: nn.Module) -> bool:
        """Whether the model is of this family."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Class columns of the head, background included; read from its last layer."""

    @abstractmethod
    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W)."""

    def _maps_read(self, maps: Sequence[FeatureMap]) -> Sequence[FeatureMap]:
        """The maps that the classes are scored on."""
        return maps

    def _shortlist(self, raw: RawPrediction, pairs: Pairs) -> Tensor:
        """Which pairs go into the non-maximum suppression, as indices."""
        return torch.arange(len(pairs.scores), device=pairs.scores.device)

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """Normalised and resized as the model's own transform does, not yet padded.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            imgsz: the largest side or (H, W) to fit into; None for the sides the model was made with.

        Raises:
            InputError: a size this model cannot take.
        """
        transform = self.model.transform
        geometry = fit_transform(pixels.shape[:2], transform, imgsz)
        picture = torch.from_numpy(np.ascontiguousarray(pixels)).to(device_of(self.model))
        picture = transform.normalize(picture.permute(2, 0, 1).float() / 255)
        resized = F.interpolate(picture[None], size=geometry.resized, mode="bilinear", align_corners=False)
        return resized[0], geometry

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections the model itself returns, best first.

        `options.conf` takes the place of the model's `score_thresh`, also below it. Never more than the
        model's own `detections_per_img` are kept.
        """
        own = self._postprocessing
        wanted = [label for label in self.class_names if options.classes is None or label in options.classes]
        with torch.no_grad():
            scores = raw.scores()
            pairs = pairs_above(scores, options.conf, wanted)
            pairs = pairs.at(self._shortlist(raw, pairs))
            boxes = clipped(raw.boxes(pairs.candidates), geometry.resized)
            large = ((boxes[:, 2:] - boxes[:, :2]) >= self.least_side).all(dim=1).nonzero().flatten()
            iou = own.nms_thresh if options.iou is None else options.iou
            kept = large[batched_nms(boxes[large], pairs.scores[large], pairs.labels[large], iou)]
            kept = kept[: min(options.max_det, own.detections_per_img)]
            pairs, boxes = pairs.at(kept), geometry.boxes_to_image(boxes[kept])
            best = float(scores[:, wanted].max()) if len(scores) and wanted else 0.0
        return Detections(boxes, pairs.scores, pairs.labels, pairs.candidates, best_score=best)

    def layers(self) -> Sequence[Layer]:
        """Stages of the backbone and their parts, the feature pyramid or the extra layers, as they run."""
        return self._layers

    @property
    def _postprocessing(self) -> Any:
        """The module that holds `nms_thresh` and `detections_per_img`."""
        return self.model

    def _padded(self, batch: Tensor) -> Any:
        """The batch as the model's parts take it: padded with zeros, and how large the pictures are."""
        size = (batch.shape[2], batch.shape[3])
        height, width = padded_size(size, self.model.transform)
        padded = F.pad(batch, (0, width - size[1], 0, height - size[0]))
        return ImageList(padded, [size] * len(batch))

    def _probe_size(self) -> tuple[int, int]:
        fixed = self.model.transform.fixed_size
        return (_PROBE_SIDE, _PROBE_SIDE) if fixed is None else (fixed[1], fixed[0])


def fit_transform(
    image_size: tuple[int, int], transform: Any, imgsz: int | tuple[int, int] | None
) -> Letterbox:
    """Where a picture lies in the network's input: at its top left corner.

    Resized so that the shorter side becomes `min_size`, or less where the longer one would pass `max_size`;
    sides are cut to whole pixels, then padded to multiples of `size_divisible`. With a `fixed_size` it is
    stretched to that.

    Args:
        image_size: (H, W) of the picture.
        transform: a `GeneralizedRCNNTransform`.
        imgsz: largest side or (H, W) to fit into instead; None for the transform's own.

    Raises:
        InputError: no positive size, or another one than the fixed one.
    """
    sides = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if sides is not None and min(sides) < 1:
        raise InputError(f"imgsz must be positive, got {imgsz}")
    resized = _resized(image_size, transform, sides)
    if transform.fixed_size is not None and sides not in (None, resized):
        raise InputError(
            f"this detector takes {resized[0]}×{resized[1]} pixels only, got imgsz {imgsz}: leave it out"
        )
    return Letterbox(image_size, resized, pad=(0, 0), input_size=padded_size(resized, transform))


def _resized(image_size: tuple[int, int], transform: Any, sides: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of the picture in the input."""
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return height, width
    if sides is None:
        ratio = min(transform.min_size[-1] / min(image_size), transform.max_size / max(image_size))
    else:
        ratio = min(sides[0] / image_size[0], sides[1] / image_size[1])
    height, width = (max(math.floor(side * ratio), 1) for side in image_size)
    return height, width


def padded_size(size: tuple[int, int], transform: Any) -> tuple[int, int]:
    """(H, W) rounded up to multiples of the transform's `size_divisible`."""
    height, width = (math.ceil(side / transform.size_divisible) * transform.size_divisible for side in size)
    return height, width


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) xyxy cut to a picture of (H, W) pixels."""
    corners = boxes.reshape(-1, 2, 2).clamp(min=0)
    return corners.minimum(corners.new_tensor([size[1], size[0]])).reshape(-1, 4)


def boxes_from_deltas(deltas: Tensor, anchors: Tensor, coder: Any) -> Tensor:
    """Boxes from what an R-CNN's regression gives, relative to anchors or proposals.

    Girshick et al. 2014, arXiv:1311.2524, appendix C, eqs. 1-4: the centre moves by dx, dy of the anchor's
    size, the size grows by the factors exp(dw), exp(dh).
    Differs from the paper: each delta is divided by a weight, and dw, dh are capped.

    Args:
        deltas: (n, 4) dx, dy, dw, dh.
        anchors: (n, 4) xyxy.
        coder: has `weights`, of the four deltas, and `bbox_xform_clip`, the cap.

    Returns:
        (n, 4) xyxy, in the anchors' pixels.
    """
    deltas = deltas / deltas.new_tensor(coder.weights)
    shifts, growths = deltas[:, :2], deltas[:, 2:]
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sizes / 2 + shifts * sizes
    halves = growths.clamp(max=coder.bbox_xform_clip).exp() * sizes / 2
    return torch.cat([centres - halves, centres + halves], dim=1)


def names_by_label(columns: int, options: LoadOptions, *, is_zero_a_class: bool) -> dict[int, str]:
    """Label -> name of every class that can be explained: the background is none.

    torchvision counts the background as class 0 and a model's `num_classes` includes it. Heads of
    sigmoids score column 0 like any other: who gives a name for it has classes that start there.

    Args:
        columns: of the head's class scores.
        options: `names`, with or without the background's; `num_classes` to check.
        is_zero_a_class: whether column 0 can be one.

    Raises:
        InputError: a count that does not fit.
    """
    if options.num_classes is not None and options.num_classes != columns:
        raise InputError(
            f"num_classes {options.num_classes} does not fit: the weights score {columns} classes, "
            f"background included, as torchvision counts them"
        )
    names = list(options.names) if options.names is not None else [str(i) for i in range(1, columns)]
    if len(names) == columns and names[0].strip("_").lower() == "background":
        del names[0]
    first = 0 if is_zero_a_class and len(names) == columns else 1
    if first + len(names) != columns:
        raise InputError(
            f"{len(names)} class names for {columns - 1} classes: "
            f"the weights score {columns}, background included"
        )
    return dict(enumerate(names, start=first))


def feature_maps(output: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's feature maps by name, finest first; a backbone with one may give it alone.

    Raises:
        CaptureError: a map holds values that are no numbers.
    """
    maps = {"0": output} if isinstance(output, Tensor) else dict(output)
    for one in maps.values():
        check_finite(one)
    return maps


def check_finite(values: Tensor) -> None:
    """Refuse what bad weights make of a picture.

    Raises:
        CaptureError: NaN or infinity among the values.
    """
    if not values.isfinite().all():
        raise CaptureError("the network's output holds NaN or infinity: check its weights")
