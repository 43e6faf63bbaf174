"""What is left of a detection when the network's input is changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detcam.adapters.base import DetectOptions, Detector, device_of
from detcam.cam.capture import borrowed
from detcam.errors import InputError
from detcam.geometry import Letterbox
from detcam.metrics import Candidates, Preset, Score, Wanted
from detcam.structures import Detections, RawPrediction

_ROUNDING = 1e-2  # of white minus black: a resized constant picture is constant up to this


@dataclass(frozen=True, eq=False)
class PixelUnits:
    """How a detector's preparation writes brightness: input = black + (white - black) * brightness.

    Attributes:
        black: (3, 1, 1) of the input, what a black picture becomes.
        white: likewise.
    """

    black: Tensor
    white: Tensor

    @classmethod
    def of(
        cls, detector: Detector, image_size: tuple[int, int], imgsz: int | tuple[int, int] | None
    ) -> PixelUnits:
        """Found by preparing a black, a white and a grey picture.

        Raises:
            InputError: grey does not become what lies between: such a detector's pixels cannot be taken away.
        """
        black, white, grey = (
            _prepared_constant(detector, image_size, value, imgsz) for value in (0, 255, 51)
        )
        if bool(((grey - (black + 0.2 * (white - black))).abs() > _ROUNDING * (white - black).abs()).any()):
            raise InputError(
                f"{detector.family} does not prepare brightness linearly: no pixel can be taken away"
            )
        return cls(black, white)

    def to_brightness(self, tensor: Tensor) -> Tensor:
        """Input (…, 3, H, W) -> 0..1, in the input's order of colours."""
        black, white = self.black.to(tensor), self.white.to(tensor)
        return (tensor - black) / (white - black)

    def to_input(self, brightness: Tensor) -> Tensor:
        """0..1 (…, 3, H, W) -> what the network takes."""
        black, white = self.black.to(brightness), self.white.to(brightness)
        return black + (white - black) * brightness


@dataclass(frozen=True, eq=False)
class Rescorer:
    """Scores changed inputs of one picture by what the detector finds in them.

    Attributes:
        detector: what is asked.
        geometry: of the input.
        units: of the input's pixels.
        preset: whose candidates and match are taken; its thresholds, or the detector's own.
        conf: lowest score of a candidate where the preset names none.
    """

    detector: Detector
    geometry: Letterbox
    units: PixelUnits
    preset: Preset
    conf: float

    @property
    def options(self) -> DetectOptions:
        """Which candidates there are in a changed picture."""
        conf = self.conf if self.preset.score_threshold is None else self.preset.score_threshold
        return DetectOptions(conf=conf, iou=self.preset.nms_iou)

    def of(self, wanted: Wanted) -> Score:
        """Brightness (k, 3, H, W) -> (k,), how much of a detection is left."""

        def score(pictures: Tensor) -> Tensor:
            model = self.detector.model
            with borrowed(model), torch.no_grad():
                raws = self.detector.forward(self.units.to_input(pictures).to(device_of(model)))
                return torch.stack([self.preset.matching(wanted, self.candidates(raw)) for raw in raws])

        return score

    def candidates(self, raw: RawPrediction) -> Candidates:
        """What is found in a changed picture."""
        found = self.detector.detect(raw, self.geometry, self.options)
        objectness = raw.objectness()
        return Candidates(
            found.boxes,
            raw.class_probabilities()[found.candidates],
            None if objectness is None else objectness[found.candidates],
        )


def wanted_from(found: Detections, raw: RawPrediction, row: int) -> Wanted:
    """Detection `row` of the unchanged picture."""
    return Wanted(found.boxes[row], int(found.labels[row]), raw.class_probabilities()[found.candidates[row]])


def _prepared_constant(
    detector: Detector, image_size: tuple[int, int], value: int, imgsz: int | tuple[int, int] | None
) -> Tensor:
    """What a prepared picture of one grey value holds in the picture's middle, (3, 1, 1)."""
    tensor, geometry = detector.prepare(np.full((*image_size, 3), value, np.uint8), imgsz)
    # The input's own middle may be padding: some detectors pad at one end alone.
    middle = geometry.points_to_input(torch.tensor([[image_size[1] / 2, image_size[0] / 2]]))
    column, row = middle[0].int().tolist()
    return tensor[:, row, column].clone()[:, None, None]
