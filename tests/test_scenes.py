"""The example scenes keep the promises that the bundled detectors' evidence rests on."""

import runpy
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from detcam import scenes

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def many() -> list:
    return [scenes.make_scene(seed) for seed in range(100)]


@pytest.fixture(scope="module")
def astray() -> list:
    return [scenes.make_scene(seed, beside=0.5) for seed in range(15)]


def distance(box: np.ndarray, other: np.ndarray) -> float:
    """Pixels between two xyxy boxes, 0 where they meet: the loop way, not the generator's."""
    squared = 0.0
    for low, high in ((0, 2), (1, 3)):
        squared += max(box[low] - other[high], other[low] - box[high], 0.0) ** 2
    return squared**0.5


@pytest.mark.parametrize("beside", [1.0, 0.5])
def test_same_seed_gives_same_bytes(beside: float) -> None:
    first, again = (scenes.make_scene(7, beside=beside) for _ in range(2))
    for field in fields(first):
        value = getattr(first, field.name)
        assert value.tobytes() == getattr(again, field.name).tobytes(), field.name


def test_the_bundled_scene_is_the_one_its_seed_draws() -> None:
    """The bundled detectors know these pictures: their bytes must stay, but for rounding."""
    bundled = cv2.imread(str(ROOT / "weights" / "scene.png"))[..., ::-1]
    off = np.abs(scenes.make_scene(2000293).image.astype(int) - bundled)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.001


def test_making_a_scene_leaves_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].copy()
    scenes.make_scene(7)
    assert np.array_equal(before, np.random.get_state()[1])


def test_other_seed_gives_other_picture() -> None:
    assert not np.array_equal(scenes.make_scene(7).image, scenes.make_scene(8).image)


def test_picture_is_rgb_bytes_of_the_size_asked_for() -> None:
    image = scenes.make_scene(7, size=256).image
    assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)


def test_boxes_hold_their_masks_exactly(many: list) -> None:
    for scene in many:
        assert len(scene.object_masks) == len(scene.boxes)
        for mask, box in zip(scene.object_masks, scene.boxes, strict=True):
            points = np.argwhere(mask)  # (y, x)
            (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
            assert box.tolist() == [left, top, right + 1, bottom + 1]


def test_mask_fills_its_box_as_its_shape_would(many: list) -> None:
    """Area over box: circle pi/4; square 1 when upright, 0.57 at 25 degrees; triangle 1/2.

    A triangle of unit side tilted by t has a box of cos(t) by sin(60 + |t|) while |t| <= 30: its
    area 0.433 is 1/2 of it at t = 0 and 0.48 at 25 degrees. Small shapes are off by pixels.
    """
    expected = {"circle": (0.70, 0.85), "square": (0.55, 1.0), "triangle": (0.42, 0.58)}
    for scene in many:
        areas = scene.object_masks.sum(axis=(1, 2))
        extents = scene.boxes[:, 2:] - scene.boxes[:, :2]
        for shape, filled in zip(scene.shapes, areas / extents.prod(axis=1), strict=True):
            low, high = expected[scenes.SHAPES[shape]]
            assert low <= filled <= high, (scenes.SHAPES[shape], filled)


def test_objects_and_markers_lie_wholly_inside_the_picture(many: list) -> None:
    for scene in many:
        for box in (*scene.boxes, *scene.marker_boxes):
            assert box.min() >= 0
            assert box.max() <= 320


def test_each_marker_is_outside_every_object_box(many: list, astray: list) -> None:
    for scene in many + astray:
        for marker in scene.marker_boxes:
            assert all(distance(marker, box) > 0 for box in scene.boxes)


def test_each_marker_is_far_nearer_to_its_own_object_than_to_any_other(many: list) -> None:
    for scene in many:
        for own, marker in enumerate(scene.marker_boxes):
            gaps = [distance(marker, box) for box in scene.boxes]
            assert gaps.pop(own) <= 6
            assert min(gaps, default=np.inf) >= 28


def test_astray_markers_belong_to_no_object(astray: list) -> None:
    strays = [
        (marker, scene.boxes)
        for scene in astray
        for marker, is_beside in zip(scene.marker_boxes, scene.is_beside, strict=True)
        if not is_beside
    ]
    assert strays
    assert all(distance(marker, box) >= 28 for marker, boxes in strays for box in boxes)


def test_marker_is_painted_in_its_own_colour_with_a_light_rim(many: list) -> None:
    for scene in many:
        for colour, (x1, y1, x2, y2) in zip(scene.markers, scene.marker_boxes, strict=True):
            x, y = int(x1 + x2) // 2, int(y1 + y2) // 2
            red_green_blue = scene.image[y, x].astype(int)
            others = np.delete(red_green_blue, colour)
            assert red_green_blue[colour] - others.max() > 90
            assert scene.image[y, int(x1)].min() > 200


def test_marker_masks_hold_the_disc_and_its_rim(astray: list) -> None:
    """The disc of radius r has 2r + 1 pixels across and at least the area of a diamond as wide."""
    for scene in astray:
        assert scene.marker_masks.shape == scene.object_masks.shape
        for mask, box in zip(scene.marker_masks, scene.marker_boxes, strict=True):
            y, x = np.nonzero(mask)
            assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == box.tolist()
            across = int(box[2] - box[0])
            assert across**2 / 2 < mask.sum() < across**2
            assert not (mask & scene.object_masks.any(axis=0)).any()


def test_marker_masks_are_where_the_paint_is() -> None:
    """Each pixel of a mask is the rim's light or the marker's colour, and no rim lies beside it."""
    scene = scenes.make_scene(7)
    for mask, colour in zip(scene.marker_masks, scene.markers, strict=True):
        pixels = scene.image[mask].astype(int)
        is_rim = (pixels == scenes.RIM_RGB).all(axis=1)
        assert 0 < is_rim.sum() < len(pixels)
        assert (pixels[~is_rim].argmax(axis=1) == colour).all()
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert not (scene.image[grown & ~mask] == scenes.RIM_RGB).all(axis=1).any()


def test_shape_tells_nothing_about_marker_colour(many: list) -> None:
    shapes = np.concatenate([scene.shapes for scene in many])
    markers = np.concatenate([scene.markers for scene in many])
    counts = np.zeros((3, 3))
    np.add.at(counts, (shapes, markers), 1)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    assert counts.sum() > 200
    assert expected.min() > 20
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 18.47  # 4 degrees of freedom, p = 0.001


def test_sizes_run_from_small_to_large_and_some_scenes_are_empty(many: list) -> None:
    widths = np.concatenate([scene.boxes[:, 2] - scene.boxes[:, 0] for scene in many])
    assert widths.min() < 25
    assert widths.max() > 160
    counts = np.array([len(scene.boxes) for scene in many])
    assert 0 < (counts == 0).sum() < 20
    assert counts.max() == 6


def test_empty_scene_keeps_its_shapes(many: list) -> None:
    scene = next(scene for scene in many if len(scene.boxes) == 0)
    assert scene.boxes.shape == scene.marker_boxes.shape == (0, 4)
    assert scene.object_masks.shape == (0, 320, 320)
    assert scene.labelled("honest")[0].shape == (0, 4)


def test_labellings_read_the_shape_or_the_marker(astray: list) -> None:
    for scene in astray:
        boxes, labels = scene.labelled("honest")
        assert np.array_equal(boxes, scene.boxes)
        assert np.array_equal(labels, scene.shapes)
        boxes, labels = scene.labelled("shortcut")
        assert np.array_equal(boxes, scene.boxes[scene.is_beside])
        assert np.array_equal(labels, scene.markers[scene.is_beside])


def test_masks_can_be_taken_of_the_same_objects_as_the_labels(astray: list) -> None:
    for scene in astray:
        for labelling in scenes.CLASS_NAMES:
            boxes, _ = scene.labelled(labelling)
            masks = scene.object_masks[scene.is_labelled(labelling)]
            assert len(masks) == len(boxes)
            assert [mask.any(axis=0).argmax() for mask in masks] == boxes[:, 0].tolist()


def test_unknown_labelling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="honest, shortcut, got 'colour'"):
        scenes.make_scene(7).labelled("colour")


def test_command_writes_the_scene_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    out = tmp_path / "scene.png"
    monkeypatch.setattr(sys, "argv", ["scenes.py", str(out), "--seed", "5"])
    runpy.run_path(str(ROOT / "examples" / "scenes.py"), run_name="__main__")
    assert np.array_equal(cv2.imread(str(out))[..., ::-1], scenes.make_scene(5).image)
