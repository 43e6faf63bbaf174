"""Detectors of the ultralytics package, 8.3.0 to the newest: YOLOv3 to YOLO26, boxes of every task.

Logits are taken at the outputs of the head's last convolutions, which are named alike in every release;
what the head returns changed its form several times. Boxes are decoded here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from os import PathLike
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions
from detcam.adapters.decoding import (
    boxes_around,
    cell_centres,
    corners_of,
    expected_distances,
    rotated_boxes_around,
)
from detcam.adapters.suppression import best_score, suppress, take_best
from detcam.adapters.ultralytics_checkpoint import load_ultralytics
from detcam.cam.capture import borrowed, observe, reconnected
from detcam.errors import CaptureError, InputError, UnsupportedModelError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Layer, LayerSet, Level, Origin, RawPrediction

Branch = Literal["one2many", "one2one"]


class UltralyticsDetector:
    """An ultralytics `DetectionModel`, also one with segmentation, pose or OBB head; its boxes.

    Args:
        model: the network, not the `YOLO` object around it.
        branch: of a head with two, the one to explain; None follows the head's own `end2end`, as
            predict does.
        origin: the file the model came from.

    Raises:
        UnsupportedModelError: `model` has no such head.
        InputError: the head lacks the wanted branch.
    """

    def __init__(self, model: nn.Module, branch: Branch | None = None, origin: Origin | None = None) -> None:
        if not self.recognises(model):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no ultralytics detection model: its last layer is no Detect head"
            )
        self.model = cast(Any, model)
        self.origin = origin
        self.head: Any = self.model.model[-1]
        self._branch = branch
        if branch is not None and self._tower("cv2", branch) is None:
            raise InputError(
                f"this {type(self.head).__name__} head has no {branch} branch: leave the branch out"
            )
        self.family = f"ultralytics {type(self.head).__name__}"
        names = getattr(self.model, "names", None) or {}
        names = dict(enumerate(names)) if isinstance(names, list | tuple) else names
        self.class_names = {index: str(names.get(index, index)) for index in range(self.head.nc)}
        self.strides = tuple(int(stride) for stride in self.head.stride)
        self.imgsz = _trained_size(model)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        branch: Branch | None = None,
        allow_globals: Sequence[str] = (),
        unsafe: bool = False,
    ) -> UltralyticsDetector:
        """A detector from a `.pt` file; nothing in the file runs unless it is allowed to.

        Raises:
            CheckpointError: the file cannot be read, or holds no detector.
            UnsafeCheckpointError: the file would have to run code that nobody allowed.
        """
        model, checkpoint = load_ultralytics(path, allow_globals=allow_globals, unsafe=unsafe)
        origin = Origin(str(path), checkpoint.sha256, checkpoint.trust, checkpoint.allowed_globals)
        return cls(model, branch, origin)

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether the model ends in a head of this family."""
        layers = getattr(model, "model", None)
        if not isinstance(layers, nn.Sequential) or not len(layers):
            return False
        return all(hasattr(layers[-1], name) for name in ("cv2", "cv3", "nc", "reg_max", "stride", "f"))

    @property
    def branch(self) -> Branch:
        """Which branch is explained. Same weights, another branch: that changed between releases."""
        if self._branch is not None:
            return self._branch
        return "one2one" if getattr(self.head, "end2end", False) else "one2many"

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """Letterbox to the smallest rectangle, RGB 0..1, on the weights' device and in float32."""
        imgsz = self.imgsz if imgsz is None else imgsz
        sides = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        stride = max(*self.strides, 32)
        limit = tuple(max(math.ceil(side / stride), 1) * stride for side in sides)
        geometry = Letterbox.fit(pixels.shape[:2], (limit[0], limit[1]), stride)
        device = next(self.model.parameters()).device
        tensor = torch.from_numpy(geometry.apply(pixels)).to(device)
        return tensor.permute(2, 0, 1).float() / 255, geometry

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            CaptureError: the head gave something else than box and class maps, or values that are no numbers.
        """
        towers = {name: self._tower(name, self.branch) for name in self._tower_names}
        modules = {f"{name}.{i}": module for name, tower in towers.items() for i, module in enumerate(tower)}
        with (
            _kept_attributes(self.head),
            reconnected(self.head, list(modules.values())),
            observe(modules) as seen,
        ):
            # Predict may have left anchors made in inference mode: have the head make them anew.
            self.head.shape = None
            self.model(batch)
            classes = self.head.nc  # rewritten by heads whose classes are prompts
        maps = {name: [seen[f"{name}.{i}"] for i in range(len(tower))] for name, tower in towers.items()}
        self._check(maps, classes)
        grids = [(m.shape[2], m.shape[3]) for m in maps["cv3"]]
        levels = tuple(
            Level(f"P{int(math.log2(stride))}", stride, grid)
            for stride, grid in zip(self.strides, grids, strict=True)
        )
        flat = {
            name: torch.cat([m.flatten(2) for m in ms], dim=2).transpose(1, 2) for name, ms in maps.items()
        }
        return [self._raw({name: rows[b] for name, rows in flat.items()}, levels) for b in range(len(batch))]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections that `YOLO.predict` shows, best first."""
        pick = take_best if self.branch == "one2one" else suppress
        candidates, scores, labels = pick(raw, options)
        corners = None
        with torch.no_grad():
            if raw.rotated_boxes is None:
                boxes = geometry.boxes_to_image(raw.boxes(candidates))
            else:
                # As predict has it: a box stays a rectangle and keeps its angle.
                turned = raw.rotated_boxes(candidates)
                centres = geometry.points_to_image(turned[:, :2])
                sides = turned[:, 2:4] / turned.new_tensor(geometry.ratio)
                corners = corners_of(torch.cat([centres, sides, turned[:, 4:]], dim=1))
                boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
        return Detections(boxes, scores, labels, candidates, corners, best_score(raw, options))

    def layers(self) -> Sequence[Layer]:
        """Every top-level layer; sets are told apart by stride in a small forward pass, made once."""
        return self._layers

    @cached_property
    def _layers(self) -> list[Layer]:
        backbone = len(self.model.yaml["backbone"])
        blocks = list(self.model.model)[:-1]
        side = 2 * max(*self.strides, 32)
        shapes = self._shapes(blocks, side)
        layers = [
            Layer(
                name=f"model.{i}",
                kind=type(block).__name__,
                stride=None if shape is None or side % shape[2] else side // shape[2],
                channels=None if shape is None else shape[1],
                part="backbone" if i < backbone else "neck",
            )
            for i, (block, shape) in enumerate(zip(blocks, shapes, strict=True))
        ]
        return _with_sets(layers, feeders=[f"model.{i}" for i in self.head.f], strides=self.strides)

    def _shapes(self, blocks: Sequence[nn.Module], side: int) -> list[torch.Size | None]:
        modules = {str(i): block for i, block in enumerate(blocks)}
        parameter = next(self.model.parameters())
        with borrowed(self.model), torch.no_grad(), _kept_attributes(self.head), observe(modules) as seen:
            self.head.shape = None
            self.model(torch.zeros(1, _input_channels(self.model), side, side, device=parameter.device))
        outputs = [seen.get(name) for name in modules]
        return [o.shape if isinstance(o, Tensor) and o.ndim == 4 else None for o in outputs]

    @property
    def _tower_names(self) -> tuple[str, ...]:
        return ("cv2", "cv3", "cv4") if self._is_rotated else ("cv2", "cv3")

    @property
    def _is_rotated(self) -> bool:
        return "OBB" in {kind.__name__ for kind in type(self.head).__mro__}

    def _tower(self, name: str, branch: Branch) -> Any:
        return getattr(self.head, f"one2one_{name}" if branch == "one2one" else name, None)

    def _check(self, maps: dict[str, list[Tensor]], classes: int) -> None:
        expected = {"cv2": 4 * self.head.reg_max, "cv3": classes, "cv4": 1}
        for name, outputs in maps.items():
            channels = expected[name]
            for m in outputs:
                if m.ndim != 4 or m.shape[1] != channels:
                    raise CaptureError(
                        f"{type(self.head).__name__}.{name} gave {tuple(m.shape)}, not "
                        f"(B, {channels}, h, w): this kind of head is not supported"
                    )
                if not m.isfinite().all():
                    raise CaptureError("the network's output holds NaN or infinity: check its weights")

    def _raw(self, rows: dict[str, Tensor], levels: tuple[Level, ...]) -> RawPrediction:
        """`rows` are one picture's (N, channels) of each tower."""
        bins = self.head.reg_max
        centres, strides = cell_centres(levels, rows["cv2"].device)

        def boxes(i: Tensor) -> Tensor:
            return boxes_around(centres[i], expected_distances(rows["cv2"][i], bins)) * strides[i]

        if not self._is_rotated:
            return RawPrediction(rows["cv3"], levels, boxes)

        def rotated(i: Tensor) -> Tensor:
            distances = expected_distances(rows["cv2"][i], bins)
            turned = rotated_boxes_around(centres[i], distances, self._angles(rows["cv4"][i, 0]))
            return torch.cat([turned[:, :4] * strides[i], turned[:, 4:]], dim=1)

        def upright(i: Tensor) -> Tensor:
            corners = corners_of(rotated(i))
            return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)

        return RawPrediction(rows["cv3"], levels, upright, rotated_boxes=rotated)

    def _angles(self, values: Tensor) -> Tensor:
        """Angles in radians. OBB26 gives them as they are, OBB as a share of the range -π/4 … 3π/4."""
        if "OBB26" in {kind.__name__ for kind in type(self.head).__mro__}:
            return values
        return (values.sigmoid() - 0.25) * math.pi


@contextmanager
def _kept_attributes(module: nn.Module) -> Iterator[None]:
    """Give a head its caches back: shape, anchors, strides, class count, angle."""
    kept = dict(vars(module))
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(kept)


def _with_sets(layers: list[Layer], feeders: Sequence[str], strides: Sequence[int]) -> list[Layer]:
    """Mark the set members: the last layer at each of the head's strides in each part."""
    chosen: dict[str, LayerSet] = {}
    for stride in strides:
        for part in ("backbone", "neck"):
            fitting = [x for x in layers if x.part == part and x.stride == stride and x.name not in feeders]
            if fitting:
                chosen[fitting[-1].name] = part
    chosen.update(dict.fromkeys(feeders, "head"))
    return [replace(layer, member_of=chosen.get(layer.name)) for layer in layers]


def _trained_size(model: nn.Module) -> int:
    arguments = getattr(model, "args", None)
    arguments = (
        arguments
        if isinstance(arguments, dict)
        else vars(arguments)
        if hasattr(arguments, "__dict__")
        else {}
    )
    size = arguments.get("imgsz", 640)
    return max(size) if isinstance(size, list | tuple) else int(size)


def _input_channels(model: nn.Module) -> int:
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return first.in_channels
