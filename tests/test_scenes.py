"""The example scenes keep the promises that the bundled detectors' evidence rests on."""

import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

SCENES_FILE = Path(__file__).parents[1] / "examples" / "scenes.py"


def _load_scenes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_scenes", SCENES_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


scenes = _load_scenes()


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


def test_unknown_labelling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="honest, shortcut, got 'colour'"):
        scenes.make_scene(7).labelled("colour")


def test_command_writes_the_scene_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    out = tmp_path / "scene.png"
    monkeypatch.setattr(sys, "argv", ["scenes.py", str(out), "--seed", "5"])
    scenes.main()
    assert np.array_equal(cv2.imread(str(out))[..., ::-1], scenes.make_scene(5).image)
