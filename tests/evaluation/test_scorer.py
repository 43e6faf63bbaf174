"""What is left of a detection in a changed input, against the detector asked by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_truth import found_in, overlap
from pencil_detector import PencilDetector
from small_yolo import detector, pictures

from detcam.adapters.base import DetectOptions
from detcam.cam.capture import borrowed
from detcam.errors import InputError
from detcam.evaluation.scorer import PixelUnits, Rescorer, wanted_from
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.metrics import get_preset


def prepared(scale, offset):
    """A detector that writes brightness b as offset + scale·b, colour by colour."""

    class Shifted(PencilDetector):
        def prepare(self, pixels, imgsz):
            tensor, geometry = super().prepare(pixels, imgsz)
            return tensor * torch.tensor(scale)[:, None, None] + torch.tensor(offset)[:, None, None], geometry

    return Shifted(torch.zeros(60, 3))


def test_brightness_is_found_whatever_scale_and_offset_a_family_prepares_with():
    found = prepared([255.0, 4.0, 2.0], [0.0, -2.0, 7.0])
    units = PixelUnits.of(found, (61, 97), None)
    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    tensor, _ = found.prepare(pixels, None)
    plain, _ = PencilDetector(torch.zeros(60, 3)).prepare(pixels, None)
    torch.testing.assert_close(units.to_brightness(tensor), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(units.to_input(units.to_brightness(tensor)), tensor, rtol=1e-5, atol=1e-4)


def test_brightness_is_read_off_the_picture_where_the_middle_of_the_input_is_padding():
    class PaddedBelow(PencilDetector):
        def prepare(self, pixels, imgsz):
            geometry = Letterbox(pixels.shape[:2], pixels.shape[:2], (0, 0), (96, 96))
            return torch.from_numpy(geometry.apply(pixels)).permute(2, 0, 1).float(), geometry

    units = PixelUnits.of(PaddedBelow(torch.zeros(60, 3)), (30, 96), None)
    assert units.black.flatten().tolist() == [0, 0, 0]
    assert units.white.flatten().tolist() == [255, 255, 255]


def test_a_preparation_that_is_not_linear_is_refused():
    class Squared(PencilDetector):
        def prepare(self, pixels, imgsz):
            tensor, geometry = super().prepare(pixels, imgsz)
            return tensor**2, geometry

    with pytest.raises(InputError, match="linearly"):
        PixelUnits.of(Squared(torch.zeros(60, 3)), (61, 97), None)


@pytest.fixture(scope="module")
def asked():
    """A picture's input, its geometry, prediction and detections at the preset's thresholds."""
    small, picture = detector(), Picture(pictures(3)[2])
    tensor, geometry = small.prepare(picture.pixels, None)
    with borrowed(small.model), torch.no_grad():
        (raw,) = small.forward(tensor[None])
        found = small.detect(raw, geometry, DetectOptions(conf=0.25, iou=0.45))
    return small, tensor, geometry, raw, found


def test_the_unchanged_picture_scores_one_and_nothing_is_left_of_a_box_that_nobody_finds(asked):
    small, tensor, geometry, raw, found = asked
    rescorer = Rescorer(small, geometry, PixelUnits.of(small, (61, 97), None), get_preset("d-close"), 0.25)
    wanted = wanted_from(found, raw, 0)
    (whole,) = rescorer.of(wanted)(tensor[None])
    assert float(whole) == pytest.approx(1, abs=1e-5)
    outside = replace(wanted, box=torch.tensor([-9.0, -9.0, -1.0, -1.0]))
    (nothing,) = rescorer.of(outside)(tensor[None])
    assert float(nothing) == 0


def test_a_changed_picture_scores_its_best_fit_as_worked_out_by_hand(asked):
    small, tensor, geometry, raw, found = asked
    changed = tensor * 0.8
    rescorer = Rescorer(small, geometry, PixelUnits.of(small, (61, 97), None), get_preset("d-close"), 0.25)
    wanted = wanted_from(found, raw, 0)
    (score,) = rescorer.of(wanted)(changed[None])
    with borrowed(small.model), torch.no_grad():
        (other,) = small.forward(changed[None])
        left = small.detect(other, geometry, DetectOptions(conf=0.25, iou=0.45))
    best = 0.0, 0.0
    for box, candidate in zip(left.boxes, left.candidates, strict=True):
        p, q = raw.scores()[found.candidates[0]].double(), other.scores()[candidate].double()
        if int(q.argmax()) == int(found.labels[0]):
            distance = 1 - float(p @ q / (p.norm() * q.norm()))
            fit = overlap(found.boxes[0], box)
            best = max(best, (fit, fit * np.exp(-(distance**2) / (2 * 0.25**2))))
    assert float(score) == pytest.approx(best[1], abs=1e-4)


def test_thresholds_are_the_presets_where_it_names_them(asked):
    small, _, geometry, *_ = asked
    units = PixelUnits.of(small, (61, 97), None)
    named = Rescorer(small, geometry, units, get_preset("d-close"), 0.4).options
    assert (named.conf, named.iou) == (0.25, 0.45)
    own = Rescorer(small, geometry, units, get_preset("d-rise"), 0.4).options
    assert (own.conf, own.iou) == (0.4, None)


def test_found_in_finds_something():
    assert len(found_in(Picture(pictures(3)[2]))) >= 3
