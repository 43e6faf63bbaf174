"""Measuring the maps of one labelled picture, every way of making them side by side."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detcam.adapters.base import DetectOptions, Detector
from detcam.cam.capture import borrowed
from detcam.evaluation.measured import Curve, MeasuredPicture, Row, numbers
from detcam.evaluation.sanity import SanityChecks, another, maps_of, runner_up
from detcam.evaluation.scorer import PixelUnits, Rescorer, wanted_from
from detcam.evaluation.truth import Truth
from detcam.evaluation.ways import Way
from detcam.explainer import Explainer
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.metrics import METRICS, Faithfulness, Metric, Preset, faithfulness, get_metric, get_preset
from detcam.structures import Detections, RawPrediction

SANITY_METRICS = tuple(name for name, metric in METRICS.items() if "others" in metric.needs)
DEFAULT_METRICS = tuple(name for name in METRICS if name not in SANITY_METRICS)


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured and of which detections.

    Attributes:
        metrics: keys of `METRICS`.
        preset: the protocol of deletion and insertion.
        conf: lowest score of a detection.
        truth_iou: least overlap with an annotated object of its class; the preset's own rule comes on top.
        max_boxes: detections measured in each picture, drawn by `seed`.
        imgsz: the input's largest side; None for the model's own.
        batch_size: changed pictures per forward pass.
        seed: of that draw and of randomised weights.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    preset: Preset = field(default_factory=lambda: get_preset("d-close").with_steps(10).divided())
    conf: float = 0.25
    truth_iou: float = 0.5
    max_boxes: int = 3
    imgsz: int | None = None
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.metrics:
            get_metric(name)

    @property
    def asks_the_network(self) -> bool:
        """Whether a metric scores changed pictures."""
        return any(METRICS[name].asks_the_network for name in self.metrics)


@dataclass(frozen=True, eq=False)
class _Scene:
    """A picture after the one forward pass that finds what is to be measured."""

    picture: Picture
    tensor: Tensor
    geometry: Letterbox
    raw: RawPrediction
    found: Detections
    truth: Truth

    @property
    def size(self) -> tuple[int, int]:
        return self.geometry.input_size

    @cached_property
    def boxes(self) -> Tensor:
        """(M, 4) of the detections, on the network's input."""
        return self.geometry.boxes_to_input(self.found.boxes.cpu())

    @cached_property
    def object_boxes(self) -> Tensor:
        """(N, 4) of the annotated objects, likewise."""
        return self.truth.boxes_on(self.geometry)

    @cached_property
    def regions(self) -> dict[str, Tensor]:
        """Name -> (N, H, W) of the annotated objects, likewise."""
        return self.truth.regions_on(self.geometry)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """A detector, the ways that are compared and what is measured, looked up once.

    Attributes:
        detector: whose maps they are.
        ways: compared side by side.
        options: what is measured.
    """

    detector: Detector
    ways: Sequence[Way]
    options: EvaluateOptions

    @cached_property
    def sanity(self) -> SanityChecks | None:
        """What makes the second maps, if a metric needs them."""
        if not set(SANITY_METRICS) & set(self.options.metrics):
            return None
        return SanityChecks(self.detector, self.ways, self.options.imgsz, self.options.seed)

    @cached_property
    def explainers(self) -> Mapping[Way, Explainer]:
        """Each way, ready to be asked.

        Raises:
            InputError: the detector has no such layers, or something asked for does not exist.
        """
        return {way: way.explainer(self.detector, self.options.imgsz) for way in self.ways}

    def rehearse(self) -> None:
        """Fail here with what would fail for every picture.

        Raises:
            DetcamError: whatever a way raises for a small black picture.
        """
        for explainer in self.explainers.values():
            explainer.rehearse()

    def measure(self, picture: Picture, truth: Truth) -> MeasuredPicture:
        """Numbers of the detections that are matched to truth.

        Raises:
            InputError: the detector's preparation does not allow to take pixels away.
            CaptureError: the network did not give what was to be captured.
        """
        scene = self._detected(picture, truth)
        matches = truth.matches(scene.found, self.options.truth_iou)
        included = [row for row, match in enumerate(matches) if self._is_included(scene, row, match)]
        drawn = random.Random(f"{self.options.seed} {picture.stem}").sample(included, len(included))
        chosen = sorted(drawn[: self.options.max_boxes])
        boxes = scene.found[chosen]
        maps, seconds = self._maps(scene, boxes)
        changed = self._changed(scene, boxes)
        rows: list[Row] = []
        curves: list[Curve] = []
        units = self._units(scene) if chosen else None
        for place, row in enumerate(chosen):
            given = {"maps": maps[place], **self._places(scene, row, matches[row])}
            found = None if units is None else self._faithfulness(scene, units, maps[place], row)
            if found is not None:
                curves += _curves(row, self.ways, found)
            variants = {name: one[place] for name, one in changed.items()}
            rows += self._rows(scene, row, given, found, variants)
        return MeasuredPicture(
            source=str(picture.path or picture.stem),
            found=len(scene.found),
            matched=len(included),
            truths=len(truth),
            rows=tuple(rows),
            curves=tuple(curves),
            seconds=seconds,
        )

    def _detected(self, picture: Picture, truth: Truth) -> _Scene:
        tensor, geometry = self.detector.prepare(picture.pixels, self.options.imgsz)
        with borrowed(self.detector.model), torch.no_grad():
            (raw,) = self.detector.forward(tensor[None])
            found = self.detector.detect(raw, geometry, DetectOptions(conf=self.options.conf))
        return _Scene(picture, tensor, geometry, raw, found, truth)

    def _is_included(self, scene: _Scene, row: int, match: int) -> bool:
        """Whether a detection stands for an object, as well as the preset asks."""
        if match < 0:
            return False
        least = self.options.preset.inclusion_iou
        pair = scene.found.boxes[row].cpu()[None], scene.truth.boxes[match][None]
        return least is None or float(box_iou(*pair)) > least

    def _maps(self, scene: _Scene, boxes: Detections) -> tuple[Tensor, dict[str, float]]:
        """(M, W, H, W) maps of every way on the network's input, and the processor seconds of each way."""
        made, seconds = [torch.zeros(len(boxes), 0, *scene.size)], {}
        for way, explainer in self.explainers.items():
            began = time.process_time()
            made.append(maps_of(explainer, scene.picture, boxes)[:, None])
            seconds[way.name] = round(time.process_time() - began, 4)
        return torch.cat(made, dim=1), seconds

    def _changed(self, scene: _Scene, boxes: Detections) -> dict[str, Tensor]:
        """Sanity check -> (M, W, H, W) maps after it; empty where none is asked for."""
        if self.sanity is None or not len(boxes):
            return {}
        probabilities = scene.raw.scores()[boxes.candidates]
        others = {
            "another class": runner_up(boxes, probabilities),
            "another box": another(boxes, scene.found),
        }
        return self.sanity.maps(scene.picture, boxes, others)

    def _units(self, scene: _Scene) -> PixelUnits | None:
        """Of the picture's input, if pixels are to be taken away."""
        if not self.options.asks_the_network:
            return None
        return PixelUnits.of(self.detector, scene.geometry.image_size, self.options.imgsz)

    def _faithfulness(self, scene: _Scene, units: PixelUnits, maps: Tensor, row: int) -> Faithfulness:
        """Curves of all ways' maps of one detection, in the same batches."""
        rescorer = Rescorer(self.detector, scene.geometry, units, self.options.preset, self.options.conf)
        return faithfulness(
            units.to_brightness(scene.tensor),
            maps,
            rescorer.of(wanted_from(scene.found, scene.raw, row)),
            self.options.preset,
            box=scene.boxes[row],
            batch_size=self.options.batch_size,
        )

    def _places(self, scene: _Scene, row: int, match: int) -> dict[str, Any]:
        """What metrics may know of where things are, each once for every way; `INPUTS` by name."""
        ways = len(self.ways)
        return {
            "boxes": scene.boxes[row].expand(ways, 4),
            "object_boxes": scene.object_boxes,
            "explained": torch.full((ways,), match),
        }

    def _rows(
        self,
        scene: _Scene,
        row: int,
        given: dict[str, Any],
        found: Faithfulness | None,
        changed: Mapping[str, Tensor],
    ) -> list[Row]:
        """A row for each metric, variant and way of one detection."""
        match = int(given["explained"][0]) if len(self.ways) else 0
        regions = {
            name: {"masks": masks[match].expand(len(self.ways), *scene.size), "object_masks": masks}
            for name, masks in scene.regions.items()
            if bool(scene.truth.has_region[match])
        }
        rows: list[Row] = []
        for name in self.options.metrics:
            metric = METRICS[name]
            if metric.asks_the_network:
                rows += self._metric_rows(scene, row, metric, "", {"faithfulness": found}, found)
            elif "others" in metric.needs:
                for variant, others in changed.items():
                    rows += self._metric_rows(scene, row, metric, variant, given | {"others": others})
            elif {"masks", "object_masks"} & set(metric.needs):
                for variant, masks in regions.items():
                    rows += self._metric_rows(scene, row, metric, variant, given | masks)
            else:
                rows += self._metric_rows(scene, row, metric, "", given)
        return rows

    def _metric_rows(
        self,
        scene: _Scene,
        row: int,
        metric: Metric,
        variant: str,
        given: Mapping[str, Any],
        found: Faithfulness | None = None,
    ) -> list[Row]:
        values = metric.compute(**{name: given[name] for name in metric.needs})
        x1, y1, x2, y2 = scene.boxes[row].tolist()
        return [
            Row(
                picture=str(scene.picture.path or scene.picture.stem),
                box=row,
                class_name=self.detector.class_names[int(scene.found.labels[row])],
                score=float(scene.found.scores[row]),
                area=(x2 - x1) * (y2 - y1) / (scene.size[0] * scene.size[1]),
                way=way.name,
                metric=metric.name,
                variant=variant,
                value=value,
                f0=None if found is None else found.f0,
                preset="" if found is None else found.preset.name,
            )
            for way, value in zip(self.ways, numbers(values.tolist()), strict=True)
        ]


def _curves(row: int, ways: Sequence[Way], found: Faithfulness) -> list[Curve]:
    return [
        Curve(
            box=row,
            way=way.name,
            fractions=tuple(found.fractions.tolist()),
            deletion=numbers(deletion),
            insertion=numbers(insertion),
            f0=found.f0,
        )
        for way, deletion, insertion in zip(
            ways, found.deletion_curves.tolist(), found.insertion_curves.tolist(), strict=True
        )
    ]
