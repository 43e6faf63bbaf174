"""Output maps: anchors, levels, scale and place, against loops over the candidates."""

from __future__ import annotations

import json
from importlib import resources
from itertools import product
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from guests_coat import unchanged
from pencil_detector import HEIGHT, INPUT, LEVELS, WIDTH, PencilDetector, photograph, seeded

import detcam
from detcam.anatomy import HeadMap, OutputMaps
from detcam.errors import InputError, UnknownNameError
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.render import COLORMAPS
from detcam.scoring import ObjectAlone, ObjectTimesClass, RootOfProduct, Softmax
from detcam.structures import Location


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def by_loops(detector: PencilDetector, value) -> dict[str, np.ndarray]:
    """Largest `value(objectness logit, class logits)` over the candidates of each cell, one by one."""
    (raw,) = detector.forward(torch.zeros(1, 3, *INPUT))
    found = {level.name: np.full(level.grid, -np.inf) for level in detector.levels}
    for candidate in range(len(raw.class_logits)):
        level, row, column, _ = raw.locate(candidate)
        objectness = 0.0 if raw.objectness_logits is None else float(raw.objectness_logits[candidate])
        here = value(objectness, raw.class_logits[candidate].double().numpy())
        found[level.name][row, column] = max(found[level.name][row, column], here)
    return found


def assert_maps(found: HeadMap, expected: dict[str, np.ndarray]) -> None:
    assert set(found.levels) == set(expected)
    for level, values in expected.items():
        assert found.levels[level].dtype == torch.float32
        np.testing.assert_allclose(found.levels[level].numpy(), values, atol=1e-6)


# Values


@pytest.mark.parametrize("order", ["yxa", "ayx"])
def test_a_cells_value_is_the_largest_of_its_anchors(order):
    detector = seeded(order)
    maps = detcam.output_maps(detector, photograph(), classes=[1])
    assert [one.key for one in maps.maps] == ["objectness", "class_1", "score_1"]
    assert_maps(maps["objectness"], by_loops(detector, lambda o, c: sigmoid(o)))
    assert_maps(maps["class_1"], by_loops(detector, lambda o, c: sigmoid(c[1])))
    assert_maps(maps["score_1"], by_loops(detector, lambda o, c: sigmoid(o) * sigmoid(c[1])))


def test_a_score_is_never_made_of_two_anchors():
    # One cell, two anchors: σ(0) = .5 and σ(ln 3) = .75. Anchor 0 has the objectness, anchor 1 the class.
    ln3 = np.log(3)
    level = (type(LEVELS[0])("P5", 32, (1, 1), 2),)
    detector = PencilDetector(
        torch.tensor([[-ln3], [ln3]]).float(),
        torch.tensor([ln3, -ln3]).float(),
        level,
        scoring=ObjectTimesClass(),
        class_names={0: "cat"},
    )
    maps = detcam.output_maps(detector, np.zeros((32, 32, 3), np.uint8), classes="cat")
    assert float(maps["objectness"].levels["P5"]) == pytest.approx(0.75)
    assert float(maps["class_0"].levels["P5"]) == pytest.approx(0.75)
    assert float(maps["score_0"].levels["P5"]) == pytest.approx(0.75 * 0.25)  # and not .75²


def test_without_classes_it_is_the_best_one_of_each_cell():
    detector = seeded()
    maps = detcam.output_maps(detector, photograph())
    assert [one.key for one in maps.maps] == ["objectness", "class", "score"]
    assert_maps(maps["class"], by_loops(detector, lambda o, c: sigmoid(c).max()))
    assert_maps(maps["score"], by_loops(detector, lambda o, c: (sigmoid(o) * sigmoid(c)).max()))


def test_classes_are_found_by_name_and_id_each_once():
    maps = detcam.output_maps(seeded(objectness=False), photograph(), classes=["dog", 1, "0"])
    assert [one.key for one in maps.maps] == ["score_1", "score_0"]


def test_a_head_without_objectness_has_scores_alone():
    detector = seeded(objectness=False)
    maps = detcam.output_maps(detector, photograph(), classes=2)
    assert_maps(maps["score_2"], by_loops(detector, lambda o, c: sigmoid(c[2])))


def test_a_softmax_head_gives_no_score_to_its_background():
    detector = seeded(objectness=False)
    detector.scoring = Softmax(background=2)
    maps = detcam.output_maps(detector, photograph())
    assert_maps(maps["score"], by_loops(detector, lambda o, c: (np.exp(c) / np.exp(c).sum())[:2].max()))


def test_where_the_score_is_the_objectness_there_is_no_class_map():
    detector = seeded(classes=1)
    detector.scoring, detector.class_names = ObjectAlone(), {0: "cat"}
    maps = detcam.output_maps(detector, photograph(), classes=0)
    assert [one.key for one in maps.maps] == ["objectness", "score_0"]
    assert_maps(maps["score_0"], by_loops(detector, lambda o, c: sigmoid(o)))


def test_fcos_scores_are_roots():
    detector = seeded()
    detector.scoring = RootOfProduct()
    maps = detcam.output_maps(detector, photograph(), classes=0)
    assert_maps(maps["score_0"], by_loops(detector, lambda o, c: np.sqrt(sigmoid(o) * sigmoid(c[0]))))


def test_a_head_that_is_no_grid_is_refused_with_a_sentence():
    detector = seeded()
    detector.located = lambda candidate: Location(LEVELS[0], 0, 0)
    with pytest.raises(InputError, match=r"this pencil model predicts regions, queries.*detcam explain"):
        detcam.output_maps(detector, photograph())


@pytest.mark.parametrize(
    ("classes", "message"),
    [("horse", "no class 'horse'"), (7, "no class 7: this model has 3"), ([], "no class given")],
)
def test_a_class_that_is_not_there_is_refused(classes, message):
    with pytest.raises(InputError, match=message):
        detcam.output_maps(seeded(), photograph(), classes=classes)


def test_a_map_that_was_not_made_is_named():
    with pytest.raises(UnknownNameError, match=r"no map 'score_1'\. Closest: 'score_0'"):
        detcam.output_maps(seeded(), photograph(), classes=0)["score_1"]


def test_the_network_is_left_as_it_was():
    detector = seeded()
    detector.model.train()
    with unchanged(detector.model):
        detcam.output_maps(detector, photograph())


# Merged on the picture


def on_picture(grid: np.ndarray, geometry: Letterbox) -> np.ndarray:
    """Bilinear between cell centres at each of the picture's pixel centres, edges held: plain loops."""
    found = np.zeros(geometry.image_size)
    for row, column in product(*map(range, geometry.image_size)):
        x = (column + 0.5) * geometry.ratio[0] + geometry.pad[0]
        y = (row + 0.5) * geometry.ratio[1] + geometry.pad[1]
        x = min(max(x * grid.shape[1] / geometry.input_size[1] - 0.5, 0), grid.shape[1] - 1)
        y = min(max(y * grid.shape[0] / geometry.input_size[0] - 0.5, 0), grid.shape[0] - 1)
        x0, y0 = int(x), int(y)
        x1, y1 = min(x0 + 1, grid.shape[1] - 1), min(y0 + 1, grid.shape[0] - 1)
        upper = grid[y0, x0] * (1 - x + x0) + grid[y0, x1] * (x - x0)
        lower = grid[y1, x0] * (1 - x + x0) + grid[y1, x1] * (x - x0)
        found[row, column] = upper * (1 - y + y0) + lower * (y - y0)
    return found


def test_merged_is_the_largest_level_at_each_pixel():
    maps = detcam.output_maps(seeded(), photograph(), classes=0)
    merged = maps.merged("score_0")
    assert merged.shape == (HEIGHT, WIDTH)
    levels = [on_picture(one.double().numpy(), maps.geometry) for one in maps["score_0"].levels.values()]
    np.testing.assert_allclose(merged.numpy(), np.maximum(*levels), atol=1e-5)


def hot(level: str, row: int, column: int, value: float = 0.9) -> OutputMaps:
    """One hot cell of one level."""
    levels = {one.name: torch.zeros(one.grid) for one in LEVELS}
    levels[level][row, column] = value
    geometry = Letterbox.fit((HEIGHT, WIDTH), (96, 96), 32)
    picture = Picture(np.full((HEIGHT, WIDTH, 3), 100, np.uint8))
    return OutputMaps(picture, geometry, {0: "cat"}, LEVELS, (HeadMap("score", 0, levels),))


@pytest.mark.parametrize(("level", "row", "column"), [("P4", 0, 4), ("P4", 3, 1), ("P5", 0, 2), ("P5", 1, 0)])
def test_a_hot_cell_lies_where_it_is_in_the_picture_and_is_not_transposed(level, row, column):
    maps = hot(level, row, column)
    y, x = divmod(int(maps.merged("score_0").argmax()), WIDTH)
    at = maps.geometry.points_to_input(torch.tensor([x + 0.5, y + 0.5])).tolist()
    stride = {one.name: one.stride for one in LEVELS}[level]
    assert (int(at[1] // stride), int(at[0] // stride)) == (row, column)


def test_all_levels_are_drawn_on_one_scale_of_0_to_1():
    # A flat .2 is painted as .2 although nothing in the picture is larger: α = .85·.2^.75.
    maps = hot("P4", 0, 0, 0.0)
    for one in maps["score_0"].levels.values():
        one.fill_(0.2)
    maps["score_0"].levels["P4"][0, 0] = 0.21  # a constant map would point nowhere
    sheet = maps.sheet("score_0")
    alpha = 0.85 * 0.2**0.75
    painted = np.rint(100 * (1 - alpha) + COLORMAPS["inferno"][51] * alpha)
    seen = (np.abs(sheet.astype(int) - painted) <= 1).all(axis=-1)
    assert seen.mean() > 0.4


def test_a_level_without_evidence_leaves_the_picture_as_it_is():
    sheet = hot("P4", 1, 1).sheet("score_0")
    assert (sheet == 100).all(axis=-1).mean() > 0.4


# Files


def test_files_are_a_sheet_per_map_raw_arrays_and_a_description(tmp_path):
    detector = seeded()
    maps = detcam.output_maps(detector, photograph(), classes=["../fire hydrant", 0])
    written = maps.save(tmp_path, "x")
    assert [path.name for path in written] == [
        *("x_map_objectness.jpg", "x_map_class_2.jpg", "x_map_score_2.jpg"),
        *("x_map_class_0.jpg", "x_map_score_0.jpg", "x_maps.npz", "x_maps.json"),
    ]
    assert {path.parent for path in written} == {tmp_path}
    with np.load(tmp_path / "x_maps.npz") as stored:
        assert len(stored.files) == 5 * 2
        for one in maps.maps:
            for level in LEVELS:
                assert stored[f"{one.key}/{level.name}"].shape == level.grid
                assert (stored[f"{one.key}/{level.name}"] == one.levels[level.name].numpy()).all()
    document = json.loads(Path(tmp_path / "x_maps.json").read_text())
    text = resources.files("detcam").joinpath("schemas/maps-1.json").read_text("utf-8")
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    second = document["maps"][1]
    assert (second["kind"], second["class_id"], second["class"]) == ("class", 2, "../fire hydrant")
    assert second["levels"][0]["max"] == float(maps["class_2"].levels["P4"].max())


def test_half_stores_float16(tmp_path):
    detcam.output_maps(seeded(), photograph()).save(tmp_path, half=True)
    with np.load(tmp_path / "image_maps.npz") as stored:
        assert {stored[name].dtype for name in stored.files} == {np.dtype(np.float16)}


# A real detector


def test_real_scores_are_high_on_the_bus(assets):
    import ultralytics

    weights = assets / "weights" / "yolo-fastest-1.1-xl"
    cfg = f"{weights}.cfg"
    detector = detcam.load(f"{weights}.weights", cfg=cfg, device="cpu")
    bus = Path(ultralytics.__file__).parent / "assets" / "bus.jpg"
    maps = detcam.output_maps(detector, bus, classes=5)
    found = detcam.explain(detector, bus, classes=5)
    assert [one.key for one in maps.maps] == ["objectness", "class_5", "score_5"]
    merged = maps.merged("score_5")
    row, column = divmod(int(merged.argmax()), merged.shape[1])
    x1, y1, x2, y2 = found.detections.boxes[0].tolist()
    assert x1 < column < x2
    assert y1 < row < y2
    # The best candidate's cell holds its very score.
    best = max(float(one.max()) for one in maps["score_5"].levels.values())
    assert best == pytest.approx(float(found.detections.scores[0]), abs=1e-5)
    inside = merged[int(y1) : int(y2), int(x1) : int(x2)]
    assert inside.sum() > 0.9 * merged.sum()
