"""Detectors of the ultralytics package, 8.3.0 to the newest: YOLOv3 to YOLO26, boxes of every task.

Logits are taken at the outputs of the head's last convolutions, or of the contrastive heads behind them,
which are named alike in every release; what the head returns changed its form several times. Boxes are
decoded here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import Branch, DetectOptions, LoadOptions, device_of
from detcam.adapters.class_names import class_names_for
from detcam.adapters.decoding import (
    boxes_around,
    cell_centres,
    corners_of,
    expected_distances,
    rotated_boxes_around,
)
from detcam.adapters.preparation import LetterboxedRectangle
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.suppression import best_score, suppress, take_best
from detcam.adapters.ultralytics_network import (
    classes_of_tower,
    head_of,
    input_channels,
    is_kind,
    load_network,
    own_names,
    top_level_layers,
    trained_size,
)
from detcam.adapters.ultralytics_prompts import is_prompted, ordinary_prompts, prompt_count
from detcam.adapters.weights import made_to_run
from detcam.cam.capture import observe, reconnected
from detcam.checkpoints import ModelFile
from detcam.errors import CaptureError, InputError, UnsupportedModelError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Layer, Level, Origin, RawPrediction, level_name

_NOTHING_SAID = LoadOptions()


class UltralyticsDetector:
    """An ultralytics `DetectionModel`, also one with segmentation, pose, OBB, World or YOLOE head; its boxes.

    Args:
        model: the network, not the `YOLO` object around it.
        options: `branch`, of a head with two, the one to explain (None follows the head's own `end2end`, as
            predict does); class names, and a class count to check.
        origin: the file the model came from.

    Raises:
        UnsupportedModelError: `model` has no such head.
        InputError: the head lacks the wanted branch, or the prompts that are its classes; names or class
            count do not fit its last convolutions.
    """

    def __init__(
        self, model: nn.Module, options: LoadOptions = _NOTHING_SAID, origin: Origin | None = None
    ) -> None:
        if not self.recognises(model):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no ultralytics detection model: its last layer is no Detect head"
            )
        self.model = cast(Any, model)
        self.origin = origin
        self.head: Any = self.model.model[-1]
        self._branch = options.branch
        if options.branch is not None and self._tower("cv2", options.branch) is None:
            raise InputError(
                f"this {type(self.head).__name__} head has no {options.branch} branch: leave the branch out"
            )
        self.family = f"ultralytics {type(self.head).__name__}"
        self.class_names = self._class_names(options)
        self.strides = tuple(int(stride) for stride in self.head.stride)
        if min(self.strides, default=0) < 1:
            raise UnsupportedModelError(f"the head's strides, {self.strides}, are no pixels per cell")
        self.imgsz = trained_size(model)

    @classmethod
    def load(cls, file: ModelFile, options: LoadOptions) -> UltralyticsDetector:
        """A detector from a `.pt` file; nothing in the file runs unless it is allowed to.

        Raises:
            CheckpointError: the file cannot be read, or holds no detector.
            UnsafeCheckpointError: the file would have to run code that nobody allowed.
            InputError: see the class.
        """
        model, origin = load_network(file, options)
        return made_to_run(file.path, lambda: cls(model, options, origin))

    @staticmethod
    def reads(file: ModelFile, options: LoadOptions) -> bool:
        """Whether a file names this vendor's classes."""
        return any(name.startswith("ultralytics.") for name in file.globals)

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether the model ends in a head of this family."""
        head = head_of(model)
        return all(hasattr(head, name) for name in ("cv2", "cv3", "nc", "reg_max", "stride", "f"))

    @property
    def branch(self) -> Branch:
        """Which branch is explained. Same weights, another branch: that changed between releases."""
        if self._branch is not None:
            return self._branch
        # THU-MIG's YOLOv10 does not say: its predict always takes one2one.
        is_end_to_end = getattr(self.head, "end2end", hasattr(self.head, "one2one_cv2"))
        return "one2one" if is_end_to_end else "one2many"

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """Letterbox to the smallest rectangle, RGB 0..1, on the weights' device and in float32."""
        prepared = LetterboxedRectangle(max(*self.strides, 32))
        device = device_of(self.model)
        return prepared(pixels, self.imgsz if imgsz is None else imgsz, device)

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            CaptureError: the head gave something else than box and class maps, or values that are no numbers.
        """
        towers = {role: self._tower(name, self.branch) for role, name in self._roles.items()}
        modules = {f"{role}.{i}": module for role, tower in towers.items() for i, module in enumerate(tower)}
        with (
            kept_attributes(self.head),
            ordinary_prompts(self.model),
            reconnected(self.head, self._branch_modules()),
            observe(modules) as seen,
        ):
            # Predict may have left anchors made in inference mode: have the head make them anew.
            self.head.shape = None
            self.model(batch)
        maps = {role: [seen[f"{role}.{i}"] for i in range(len(tower))] for role, tower in towers.items()}
        self._check(maps)
        grids = [(m.shape[2], m.shape[3]) for m in maps["classes"]]
        levels = tuple(
            Level(level_name(stride), stride, grid) for stride, grid in zip(self.strides, grids, strict=True)
        )
        flat = {
            name: torch.cat([m.flatten(2) for m in ms], dim=2).transpose(1, 2) for name, ms in maps.items()
        }
        return [self._raw({name: rows[b] for name, rows in flat.items()}, levels) for b in range(len(batch))]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections that `YOLO.predict` shows, best first."""
        if self.branch == "one2one":
            candidates, scores, labels = take_best(raw, options)
        else:
            candidates, scores, labels = suppress(raw, options, own_iou=0.7)
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
        side = 2 * max(*self.strides, 32)
        feeders = [f"model.{i}" for i in self.head.f]
        return top_level_layers(self.model, feeders, side, lambda: self._run_blank(side))

    def _run_blank(self, side: int) -> None:
        device = device_of(self.model)
        with kept_attributes(self.head), ordinary_prompts(self.model):
            self.head.shape = None
            self.model(torch.zeros(1, input_channels(self.model), side, side, device=device))

    def _class_names(self, options: LoadOptions) -> dict[int, str]:
        names = own_names(self.model)
        if is_prompted(self.head):
            count = prompt_count(self.model, self.head)
            # Names that are not as many as the prompts are those of other classes.
            return class_names_for(count, names if len(names) == count else None, options)
        count = classes_of_tower(self._tower("cv3", self.branch))
        if self.head.nc != count:
            raise InputError(
                f"the {type(self.head).__name__} head says it has {self.head.nc} classes, but its last "
                f"convolutions score {count}: the model is damaged, or was changed by halves"
            )
        return class_names_for(count, names, options)

    @property
    def _roles(self) -> dict[str, str]:
        """What each of the head's towers gives, and the attribute it is kept under."""
        if is_prompted(self.head):
            return {"boxes": "cv2", "classes": "cv4"}
        if self._is_rotated:
            return {"boxes": "cv2", "classes": "cv3", "angles": "cv4"}
        return {"boxes": "cv2", "classes": "cv3"}

    @property
    def _is_rotated(self) -> bool:
        return is_kind(self.head, "OBB")

    def _branch_modules(self) -> list[nn.Module]:
        """All that the branch feeds with the head's inputs."""
        towers = [self._tower(name, self.branch) for name in ("cv2", "cv3", "cv4")]
        return [module for tower in towers for module in tower or ()]

    def _tower(self, name: str, branch: Branch) -> Any:
        return getattr(self.head, f"one2one_{name}" if branch == "one2one" else name, None)

    def _check(self, maps: dict[str, list[Tensor]]) -> None:
        classes, prompted = len(self.class_names), is_prompted(self.head)
        expected = {"boxes": 4 * self.head.reg_max, "classes": classes, "angles": 1}
        for role, outputs in maps.items():
            channels = expected[role]
            for m in outputs:
                if prompted and role == "classes" and m.ndim == 4 and m.shape[1] != classes:
                    raise InputError(
                        f"the model now has {m.shape[1]} prompts, it had {classes} when it was wrapped: "
                        "wrap it again after setting classes"
                    )
                if m.ndim != 4 or m.shape[1] != channels:
                    raise CaptureError(
                        f"{type(self.head).__name__}.{self._roles[role]} gave {tuple(m.shape)}, "
                        f"not (B, {channels}, h, w): this kind of head is not supported"
                    )
                if not m.isfinite().all():
                    raise CaptureError("the network's output holds NaN or infinity: check its weights")

    def _raw(self, rows: dict[str, Tensor], levels: tuple[Level, ...]) -> RawPrediction:
        """`rows` are one picture's (N, channels) of each tower."""
        bins = self.head.reg_max
        centres, strides = cell_centres(levels, rows["boxes"].device)

        def boxes(i: Tensor) -> Tensor:
            return boxes_around(centres[i], expected_distances(rows["boxes"][i], bins)) * strides[i]

        if not self._is_rotated:
            return RawPrediction(rows["classes"], levels, boxes)

        def rotated(i: Tensor) -> Tensor:
            distances = expected_distances(rows["boxes"][i], bins)
            turned = rotated_boxes_around(centres[i], distances, self._angles(rows["angles"][i, 0]))
            return torch.cat([turned[:, :4] * strides[i], turned[:, 4:]], dim=1)

        def upright(i: Tensor) -> Tensor:
            corners = corners_of(rotated(i))
            return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)

        return RawPrediction(rows["classes"], levels, upright, rotated_boxes=rotated)

    def _angles(self, values: Tensor) -> Tensor:
        """Angles in radians. OBB26 gives them as they are, OBB as a share of the range -π/4 … 3π/4."""
        if is_kind(self.head, "OBB26"):
            return values
        return (values.sigmoid() - 0.25) * math.pi
