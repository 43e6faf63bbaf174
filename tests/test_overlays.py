"""Whatever form a picture and a map are in, the same pixels come out."""

import numpy as np
import pytest
import torch
from PIL import Image

import detcam
from detcam.errors import ImageError, InputError, ShapeError, UnknownNameError
from detcam.overlays import OverlayStyle
from detcam.render import COLORMAPS, blend

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (13, 7, 3), dtype=np.uint8)


@pytest.fixture
def heatmap():
    return np.array([[0, 1], [2, 4]], np.float32)


def normalised(pixels):
    values = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


FORMS = {
    "floats": lambda p: p.astype(np.float32) / 255,
    "channels first": lambda p: p.transpose(2, 0, 1),
    "PIL": Image.fromarray,
    "tensor": lambda p: torch.from_numpy(p).permute(2, 0, 1),
    "float64 tensor": lambda p: torch.from_numpy(p / 255.0),
    "batch of one": lambda p: torch.from_numpy(p).permute(2, 0, 1)[None],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_gives_the_same_pixels(form, pixels, heatmap):
    expected = detcam.overlay(pixels, heatmap)
    found = detcam.overlay(FORMS[form](pixels), heatmap[None] if form == "batch of one" else heatmap)
    assert np.array_equal(found[0] if form == "batch of one" else found, expected)


def test_a_file_is_read(tmp_path, pixels, heatmap):
    Image.fromarray(pixels).save(tmp_path / "one.png")
    assert np.array_equal(detcam.overlay(tmp_path / "one.png", heatmap), detcam.overlay(pixels, heatmap))


def test_a_normalised_picture_is_shown_as_it_was(pixels, heatmap):
    expected = detcam.overlay(pixels, heatmap)
    for form in (normalised(pixels), normalised(pixels).permute(1, 2, 0).numpy()):
        found = detcam.overlay(form, heatmap, mean=MEAN, std=STD)
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_another_normalisation_than_the_pictures_is_told(pixels, heatmap):
    with pytest.raises(InputError, match="are they the ones it was normalised with"):
        detcam.overlay(normalised(pixels) * 3, heatmap, mean=MEAN, std=STD)
    with pytest.raises(ImageError, match=r"0\.\.1"):
        detcam.overlay(normalised(pixels), heatmap)
    with pytest.raises(InputError, match="both mean and std"):
        detcam.overlay(normalised(pixels), heatmap, mean=MEAN)
    with pytest.raises(ShapeError, match="as many channels"):
        detcam.overlay(normalised(pixels), heatmap, mean=MEAN[:2], std=STD[:2])


def test_a_batch_gives_a_batch(pixels, heatmap):
    others = [pixels, pixels[::-1].copy()]
    maps = np.stack([heatmap, heatmap.T])
    found = detcam.overlay(np.stack(others), torch.from_numpy(maps))
    assert len(found) == 2
    for one, picture, own in zip(found, others, maps, strict=True):
        assert np.array_equal(one, detcam.overlay(picture, own))
    several_sizes = detcam.overlay([pixels, pixels[:5]], [heatmap, heatmap])
    assert [one.shape for one in several_sizes] == [(13, 7, 3), (5, 7, 3)]


def test_as_many_maps_as_pictures_are_wanted(pixels, heatmap):
    with pytest.raises(ShapeError, match="got 1 for 2 pictures"):
        detcam.overlay([pixels, pixels], [heatmap])


def test_a_pixel_shows_its_value(pixels):
    """2x2 cells on 2x2 pixels, opacity 1·v^1: value 4 of 4 is the last colour, 0 leaves the pixel."""
    found = detcam.overlay(
        pixels[:2, :2], np.array([[0, 4], [2, 1]]), OverlayStyle(opacity=1.0, power=1.0, colormap="viridis")
    )
    assert np.array_equal(found[0, 0], pixels[0, 0])
    assert np.array_equal(found[0, 1], COLORMAPS["viridis"][255])
    middle = pixels[1, 0] * 0.5 + COLORMAPS["viridis"][128] * 0.5
    assert np.abs(found[1, 0] - middle).max() <= 0.5


def test_opacity_follows_the_value_to_the_power_of_seven_tenths(pixels):
    values = np.array([[0.25, 1.0]], np.float32)
    found = detcam.overlay(pixels[:1, :2], values)
    alpha = 0.85 * 0.25**0.7
    expected = pixels[0, 0] * (1 - alpha) + COLORMAPS["inferno"][64] * alpha
    assert np.abs(found[0, 0] - expected).max() <= 0.5


def test_maps_grow_as_asked():
    black = np.zeros((1, 8, 3), np.uint8)
    step = np.array([[0, 1]], np.float32)

    def values(**style):
        shown = detcam.overlay(black, step, OverlayStyle(opacity=1, power=1, colormap="jet", **style))
        ramp = np.linspace(0, 1, 1001, dtype=np.float32)[None]
        colours = blend(np.zeros((1, 1001, 3), np.uint8), ramp, "jet", 1, 1)[0].astype(int)
        return [float(ramp[0, np.abs(colours - pixel).sum(axis=1).argmin()]) for pixel in shown[0]]

    assert values(upsampling="nearest") == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1], abs=0.005)
    # The cells' centres lie at 2 and 6 of 8 pixels; a pixel's own at i + 0.5.
    assert values() == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1], abs=1 / 255)
    cubic = values(upsampling="bicubic")
    assert cubic[2] < 0.125 + 1 / 255
    assert cubic[5] > 0.875
    blurred = values(upsampling="nearest", blur=1.0)
    assert blurred == sorted(blurred)
    assert 0 < blurred[3] < 0.5 < blurred[4] < 1


def test_a_fixed_top_makes_maps_comparable(pixels, heatmap):
    full, half = (detcam.overlay(pixels, m, OverlayStyle(high=4.0)) for m in (heatmap, heatmap / 2))
    assert np.array_equal(detcam.overlay(pixels, heatmap), full)
    assert not np.array_equal(full, half)
    assert np.array_equal(detcam.overlay(pixels, heatmap / 2), full)


@pytest.mark.parametrize("empty", [np.zeros((2, 2)), np.full((2, 2), -3.0), np.full((2, 2), 5.0)])
def test_a_map_that_points_nowhere_leaves_the_picture(pixels, empty):
    assert np.array_equal(detcam.overlay(pixels, empty), pixels)


@pytest.mark.parametrize(
    ("heatmap", "style", "error", "message"),
    [
        (np.full((2, 2), np.nan), {}, InputError, "finite"),
        (np.zeros((2, 2, 3)), {}, ShapeError, r"\(h, w\)"),
        (np.zeros((0, 2)), {}, ShapeError, r"\(h, w\)"),
        (np.ones((2, 2)), {"upsampling": "cubic"}, UnknownNameError, "bicubic"),
        (np.ones((2, 2)), {"blur": -1}, InputError, "blur"),
        (np.ones((2, 2)), {"colormap": "jett"}, UnknownNameError, "jet"),
        (np.ones((2, 2)), {"opacity": 2}, InputError, "opacity"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(pixels, heatmap, style, error, message):
    with pytest.raises(error, match=message):
        detcam.overlay(pixels, heatmap, OverlayStyle(**style))


def test_half_precision_and_signed_maps_can_be_drawn(pixels, heatmap):
    expected = detcam.overlay(pixels, heatmap)
    assert np.array_equal(detcam.overlay(pixels, torch.from_numpy(heatmap).bfloat16()), expected)
    assert np.array_equal(detcam.overlay(pixels, torch.from_numpy(heatmap).requires_grad_()), expected)
    assert np.array_equal(detcam.overlay(pixels, heatmap.astype(np.float64)), expected)
