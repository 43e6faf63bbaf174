"""How an explanation is drawn and stored, on maps made by hand."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from small_yolo import CLASS_NAMES, detector, pictures

import detcam
from detcam.errors import InputError, OutputError, ShapeError, UnknownNameError
from detcam.explanation import (
    EXTRAS,
    MERGED,
    ExplainedLayer,
    Explanation,
    Question,
    SaveOptions,
    Scale,
    Style,
)
from detcam.explanation import saving as saving_module
from detcam.explanation.overlay import draw_levels
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.render import COLORMAPS, draw_boxes, read_map_png
from detcam.structures import Detections

HEIGHT, WIDTH = 61, 97  # primes, so that a swapped H/W cannot hide
# Two boxes on a 2×2 grid of 32-pixel cells and a 1×1 grid of one 64-pixel cell. Merged:
#   box 0: P3 + 3 everywhere = [[4, 3], [3, 5]]      box 1: P3 + 0 = [[0, 0.5], [0, 0]]
FINE = [[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.5], [0.0, 0.0]]]
COARSE = [[[3.0]], [[0.0]]]


def by_hand(
    maps: dict[str, Any] | None = None,
    pixels: np.ndarray | None = None,
    boxes: Any = ((1, 1, 6, 6), (90, 50, 96, 60)),
    geometry: Letterbox | None = None,
    **changes: Any,
) -> Explanation:
    """An explanation of two boxes with the given maps, level name -> (M, h, w)."""
    maps = {"P5": FINE, "P6": COARSE} if maps is None else maps
    pixels = np.full((64, 64, 3), 100, np.uint8) if pixels is None else pixels
    geometry = geometry or Letterbox.fit(pixels.shape[:2], (64, 64), 32)
    levels = {level: torch.tensor(values, dtype=torch.float32) for level, values in maps.items()}
    count = len(next(iter(levels.values())))
    facts: dict[str, Any] = {
        "picture": Picture(pixels),
        "geometry": geometry,
        "detections": Detections(
            torch.tensor(boxes[:count], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([0.9, 0.5][:count]),
            torch.tensor([2, 0][:count]),
            torch.tensor([7, 3][:count]),
            best_score=0.9 if count else 0.2,
        ),
        "found": count,
        "class_names": CLASS_NAMES,
        "question": Question("layer-cam", "class-logit", "logit", "direct"),
        "layers": tuple(
            ExplainedLayer(
                level, f"model.{i}", "backbone", geometry.input_size[0] / one.shape[1], (*one.shape[1:],)
            )
            for i, (level, one) in enumerate(levels.items())
        ),
        "levels": levels,
        "involved": {level: torch.ones(count, dtype=torch.bool) for level in levels},
        "deciding": ("P5", "P6")[:count],
        "target_values": (1.5, -0.5)[:count],
    }
    return Explanation(**{**facts, **changes})


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Explanation:
    file = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(pictures(3)[2]).save(file)
    return detcam.explain(
        detector(), file, max_boxes=3, layers="backbone", method="layer-cam", keep_features=True
    )


def bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate cell centres to (height, width) cell centres, edges held: plain loops."""
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * grid.shape[0] / height - 0.5, 0), grid.shape[0] - 1)
            x = min(max((column + 0.5) * grid.shape[1] / width - 0.5, 0), grid.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, grid.shape[0] - 1), min(x0 + 1, grid.shape[1] - 1)
            top = grid[y0, x0] * (1 - x + x0) + grid[y0, x1] * (x - x0)
            bottom = grid[y1, x0] * (1 - x + x0) + grid[y1, x1] * (x - x0)
            out[row, column] = top * (1 - y + y0) + bottom * (y - y0)
    return out


# What it holds


def test_merged_is_the_sum_of_the_levels_by_pencil():
    assert by_hand().merged.tolist() == [[[4.0, 3.0], [3.0, 5.0]], [[0.0, 0.5], [0.0, 0.0]]]


def test_merged_is_the_sum_of_levels_interpolated_to_the_finest(real):
    for box in range(len(real)):
        expected = sum(bilinear(maps[box].double().numpy(), 8, 12) for maps in real.levels.values())
        np.testing.assert_allclose(real.merged[box].numpy(), expected, atol=1e-5)


def test_shares_weigh_each_level_by_the_area_of_its_cells():
    # Box 0: P5 has (1 + 2) · 32² = 3072, P6 has 3 · 64² = 12288: 1/5 and 4/5. Box 1: all at P5.
    shares = by_hand().shares
    assert shares["P5"] == pytest.approx([0.2, 1.0])
    assert shares["P6"] == pytest.approx([0.8, 0.0])


def test_shares_count_negative_evidence_by_its_size():
    shares = by_hand({"P5": [[[-1.0, 1.0], [1.0, -1.0]]], "P6": [[[-3.0]]]}).shares
    assert [one[0] for one in shares.values()] == pytest.approx([0.25, 0.75])


def test_shares_of_every_box_sum_to_one(real):
    assert np.sum(list(real.shares.values()), axis=0) == pytest.approx([1, 1, 1])


def test_levels_that_each_hold_the_whole_evidence_have_no_shares():
    whole = by_hand(question=Question("layer-cam", "class-logit", "logit", "total", "finest"))
    assert all(np.isnan(one).all() for one in whole.shares.values())


def test_energy_in_the_box_is_the_share_of_the_merged_map_inside():
    # One cell of 32 pixels holds everything; the box covers a quarter of it.
    half = by_hand({"P5": [[[4.0, 0.0], [0.0, 4.0]]]}, boxes=((16, 16, 32, 32),))
    assert half.energy_in_box == pytest.approx([0.125])
    assert np.isnan(by_hand({"P5": [[[0.0, 0.0], [0.0, -4.0]]]}).energy_in_box).all()


def test_shares_of_an_empty_map_are_undefined_and_said():
    nothing = by_hand({"P5": np.zeros((2, 2, 2)).tolist()})
    assert np.isnan(nothing.shares["P5"]).all()
    assert nothing.warnings == [
        "box 0 (fire hydrant 0.90): the map is empty, all evidence is negative",
        "box 1 (cat 0.50): the map is empty, all evidence is negative",
    ]


def test_maps_of_another_shape_than_their_layer_are_refused():
    good = by_hand()
    with pytest.raises(ShapeError, match=r"maps of P6 must be \(2, 1, 1\), got \(2, 2, 2\)"):
        by_hand(levels={**good.levels, "P6": good.levels["P5"]})


def test_one_box_is_an_explanation_of_its_own(real):
    for one, index in ((real[1], 1), (real[-2], 1)):
        assert len(one) == one.found == 1
        assert one.label(0) == real.label(index)
        assert one.target_values == (real.target_values[index],)
        assert one.deciding == (real.deciding[index],)
        for level, maps in real.levels.items():
            assert torch.equal(one.levels[level][0], maps[index])
            assert bool(one.involved[level][0]) == bool(real.involved[level][index])


@pytest.mark.parametrize("box", [3, -4, 100])
def test_a_box_that_does_not_exist_is_an_index_error(real, box):
    with pytest.raises(IndexError, match=f"box {box} of 3"):
        real[box]


def test_iterating_gives_each_box_once(real):
    assert [one.label(0) for one in real] == [real.label(box) for box in range(3)]


def test_boxes_of_one_class_are_an_explanation_of_their_own():
    hydrants = by_hand().of_class(2)
    assert hydrants.label(0) == "fire hydrant 0.90"
    assert hydrants.merged.tolist() == [[[4.0, 3.0], [3.0, 5.0]]]
    cats = by_hand().of_class(0)
    assert (cats.deciding, cats.target_values, cats.detections.candidates.tolist()) == (("P6",), (-0.5,), [3])


def test_a_class_without_boxes_is_an_empty_explanation(real):
    nothing = by_hand().of_class(1)
    assert len(nothing) == 0
    assert not nothing.heatmap.any()
    assert nothing.overlay().shape[1] >= 64


def test_heatmap_is_the_strongest_box_at_each_pixel():
    explanation = by_hand()
    alone = [explanation[box].heatmap for box in range(2)]
    assert torch.equal(explanation.heatmap, torch.maximum(*alone))
    swapped = by_hand({"P5": [FINE[1], FINE[0]], "P6": [COARSE[1], COARSE[0]]})
    assert torch.equal(explanation.heatmap, swapped.heatmap)


@pytest.mark.parametrize(("height", "width"), [(61, 97), (97, 61), (31, 211), (64, 64)])
@pytest.mark.parametrize(("down", "across"), [(0.15, 0.2), (0.5, 0.5), (0.8, 0.35)])
def test_a_hot_cell_lands_on_its_place_in_the_picture(height, width, down, across):
    # Into the input: times the ratio, plus half of what is missing to a multiple of 32. Cells are 4 pixels.
    ratio = 96 / max(height, width)
    resized = (round(height * ratio), round(width * ratio))
    pad = [-side % 32 // 2 for side in resized]
    cell = [
        int((share * side + before) / 4)
        for share, side, before in zip((down, across), resized, pad, strict=True)
    ]
    maps = np.zeros((1, (resized[0] + 31) // 32 * 8, (resized[1] + 31) // 32 * 8))
    maps[0, cell[0], cell[1]] = 1
    geometry = Letterbox.fit((height, width), (96, 96), 32)
    hot = by_hand({"P2": maps.tolist()}, np.zeros((height, width, 3), np.uint8), geometry=geometry).heatmap
    assert hot.shape == (height, width)
    # The centre of the cell, back in the picture.
    expected = [(index * 4 + 2 - before) / ratio for index, before in zip(cell, pad, strict=True)]
    found = divmod(int(hot.argmax()), width)
    assert [side + 0.5 for side in found] == pytest.approx(expected, abs=max(0.6, 0.6 / ratio))


# How it looks


@pytest.mark.parametrize(
    ("scale", "level", "tops"),
    [
        # A box's levels share one scale: 5 is the largest of box 0's maps, 0.5 of box 1's.
        ("box", MERGED, [5.0, 0.5]),
        ("box", "P5", [5.0, 0.5]),
        ("box", "P6", [5.0, 0.5]),
        ("image", MERGED, [5.0, 5.0]),
        ("image", "P6", [5.0, 5.0]),
        ("level", MERGED, [5.0, 0.5]),
        ("level", "P5", [2.0, 0.5]),
        ("level", "P6", [3.0, 0.0]),
        ("energy", MERGED, [5.0, 0.5]),
        ("energy", "P6", [5.0, 0.5]),
        ("fixed:4", MERGED, [4.0, 4.0]),
        ("fixed:4", "P6", [4.0, 4.0]),
    ],
)
def test_each_scale_draws_its_own_value_in_full_colour(scale, level, tops):
    assert Scale.parse(scale).tops(by_hand(), level) == tops


def test_the_energy_scale_is_what_the_strongest_tenth_reaches():
    values = [10.0] + [9.0] * 3 + [1.0] * 60  # 97 in all: the first cell holds more than 9.7
    spiky = by_hand({"P3": [np.reshape(values, (8, 8)).tolist()]})
    assert Scale("energy").tops(spiky, MERGED) == [10.0]
    broad = by_hand({"P3": [np.reshape([10.0] + [9.0] * 11 + [1.0] * 52, (8, 8)).tolist()]})  # 161: two cells
    assert Scale("energy").tops(broad, MERGED) == [9.0]


def test_levels_that_each_hold_the_whole_evidence_have_an_energy_scale_of_their_own():
    whole = by_hand(question=Question("layer-cam", "class-logit", "logit", "total", "finest"))
    assert Scale("energy").tops(whole, "P5") == [2.0, 0.5]
    assert Scale("energy").tops(whole, "P6") == [3.0, 0.0]


def test_a_box_scale_knows_the_levels_that_outweigh_their_sum():
    # Eigen-CAM is signed: 4 at P5 and -3 at P6 leave 1, but the P5 map must not be cut at 1.
    signed = by_hand({"P5": [[[4.0, 0.0], [0.0, 0.0]]], "P6": [[[-3.0]]]})
    assert Scale("box").tops(signed, MERGED) == [4.0]


@pytest.mark.parametrize("kind", ["energy", "box", "image", "level"])
def test_a_map_without_positive_evidence_has_no_scale_and_no_heat(kind):
    negative = by_hand({"P5": [[[-1.0, -2.0], [0.0, -1.0]]]})
    assert Scale(kind).tops(negative, MERGED) == [0.0]
    assert Scale(kind).tops(by_hand().of_class(1), MERGED) == []


def flat(values: list[float], **changes: Any) -> Explanation:
    """One box whose map is 0 left and the given values to the right, a cell a pixel."""
    row = [0.0] * (64 - len(values)) + values
    return by_hand({"P0": [[row] * 64]}, boxes=((0, 40, 8, 60),), **changes)


@pytest.mark.parametrize(("scale", "share"), [("box", 0.5), ("fixed:4", 0.25), ("fixed:0.5", 1.0)])
def test_colour_and_opacity_follow_the_share_of_the_scale(scale, share):
    # Pixels of value 1 of a map with maximum 2: image·(1 - α) + colour·α with α = share^0.75.
    drawn = flat([1.0] * 8 + [2.0]).overlay(scale=scale, opacity=1.0)
    alpha = share**0.75
    expected = 100 * (1 - alpha) + COLORMAPS["inferno"][round(share * 255)] * alpha
    np.testing.assert_allclose(drawn[2, 58], expected, atol=1)


def test_the_colour_map_is_the_one_asked_for():
    drawn = flat([2.0] * 8).overlay(colormap="viridis", opacity=1.0)
    assert drawn[2, 60].tolist() == COLORMAPS["viridis"][255].tolist()


def test_opacity_zero_leaves_the_picture_and_its_boxes():
    drawn = flat([2.0] * 8).overlay(opacity=0.0)
    assert (drawn[2, 56:64] == 100).all()


def test_where_the_map_is_zero_the_picture_keeps_its_bytes(real):
    photograph = pictures(1, 64, 64)[0]
    explanation = by_hand({"P3": (np.arange(128).reshape(2, 8, 8) % 64 == 27).tolist()}, photograph)
    drawn = explanation.overlay()[:64, :64]
    labels = [f"{explanation.label(box)} {explanation.deciding[box]}" for box in range(2)]
    boxes_only = draw_boxes(
        photograph, explanation.detections.boxes.numpy(), labels, [(255, 255, 255), (0, 229, 255)]
    )
    silent = (explanation.heatmap == 0).numpy()
    assert 0.5 < silent.mean() < 1
    assert (drawn[silent] == boxes_only[silent]).all()
    assert (drawn[~silent] != boxes_only[~silent]).any()


def test_the_picture_fills_the_top_left_of_the_overlay(real):
    drawn = real.overlay(opacity=0.0)
    boxes_only = real.overlay(opacity=0.0, level="P5")[:HEIGHT, :WIDTH]
    assert drawn.shape[0] > HEIGHT
    assert np.array_equal(drawn[:HEIGHT, :WIDTH], boxes_only)


def test_where_boxes_meet_the_stronger_on_its_own_scale_is_seen():
    # Box 0 says 1 of 4 on the right, box 1 says 1 of 1: the right is drawn in full.
    row = [[4.0] * 8 + [0.0] * 48 + [1.0] * 8] * 64, [[0.0] * 56 + [1.0] * 8] * 64
    both = by_hand({"P0": list(row)}, boxes=((0, 40, 8, 60), (0, 40, 8, 60)))
    drawn = both.overlay(opacity=1.0)
    assert drawn[2, 60].tolist() == COLORMAPS["inferno"][255].tolist()
    assert both.overlay(opacity=1.0, scale="image")[2, 60].tolist() != drawn[2, 60].tolist()


def test_the_level_asked_for_is_drawn():
    drawn = {level: by_hand().overlay(level=level)[44, 44].tolist() for level in ("P5", "P6", MERGED)}
    assert len({tuple(one) for one in drawn.values()}) == 3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("bx", UnknownNameError, "no scale 'bx'. Closest: 'box'"),
        ("", UnknownNameError, "no scale ''. Known: 'energy', 'box', 'image', 'level', 'fixed'"),
        ("fixed", InputError, "needs a positive number"),
        ("fixed:", InputError, "needs a positive number"),
        ("fixed:x", InputError, "needs a positive number"),
        ("fixed:0", InputError, "needs a positive number"),
        ("fixed:-1", InputError, "needs a positive number"),
        ("fixed:nan", InputError, "needs a positive number"),
        ("fixed:inf", InputError, "needs a positive number"),
        ("box:3", InputError, "takes no value"),
        ("level:", InputError, "takes no value"),
    ],
)
def test_a_scale_that_cannot_be_read_is_refused(text, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Scale.parse(text)
    with pytest.raises(error):
        by_hand().overlay(scale=text)


def test_a_fixed_scale_keeps_its_number():
    assert Scale.parse("fixed:0.25") == Scale("fixed", 0.25)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"level": "P9"}, "no level 'P9'."),
        ({"level": "merge"}, "no level 'merge'. Closest: 'merged'"),
        ({"colormap": "virids"}, "no colour map 'virids'. Closest: 'viridis'"),
        ({"opacity": 1.5}, "opacity must be in 0..1"),
    ],
)
def test_a_style_that_does_not_exist_is_refused(asked, message):
    with pytest.raises(InputError, match=re.escape(message)):
        by_hand().overlay(**asked)


def test_an_unknown_colour_map_is_refused_before_anything_is_drawn():
    with pytest.raises(UnknownNameError, match="no colour map"):
        Style(Scale("box"), "rainbow")


def bar_texts(monkeypatch, explanation: Explanation, scale: str) -> Any:
    """What the colour bar of a sheet of levels says."""
    said = []
    monkeypatch.setattr(
        "detcam.explanation.overlay.with_colour_bar", lambda image, _map, *texts: said.append(texts) or image
    )
    draw_levels(explanation, Style(Scale.parse(scale)))
    return said[0]


@pytest.mark.parametrize(
    ("scale", "boxes", "text"),
    [
        ("box", 1, "5"),
        ("box", 2, "box max"),
        ("energy", 2, "top tenth"),
        ("image", 2, "5"),
        ("level", 1, "level max"),
        ("fixed:4", 2, "4"),
    ],
)
def test_the_bar_of_a_sheet_names_a_number_only_if_it_holds_in_every_panel(monkeypatch, scale, boxes, text):
    explanation = by_hand() if boxes == 2 else by_hand()[0]
    low, high, title = bar_texts(monkeypatch, explanation, scale)
    assert (low, high) == ("0", text)
    assert title == f"layer-cam · class-logit · scale: {scale.partition(':')[0]}"


def test_a_notebook_shows_the_overlay_as_png(real):
    shown = np.array(Image.open(io.BytesIO(real._repr_png_())))
    assert np.array_equal(shown, real.overlay())


# How it is stored


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def document(folder: Path, stem: str = "noise") -> Any:
    return json.loads((folder / f"{stem}_cam.json").read_text())


def test_three_files_are_written_and_given_back_the_sidecar_last(real, tmp_path):
    written = real.save(tmp_path / "deep" / "folder")
    assert [path.name for path in written] == ["noise_cam.jpg", "noise_cam.npz", "noise_cam.json"]
    assert names(tmp_path / "deep" / "folder") == sorted(path.name for path in written)


def test_the_stem_may_be_chosen(real, tmp_path):
    real.save(tmp_path, "other")
    assert names(tmp_path) == ["other_cam.jpg", "other_cam.json", "other_cam.npz"]


def test_a_picture_in_memory_is_stored_as_image(tmp_path):
    by_hand().save(tmp_path)
    assert document(tmp_path, "image")["image"]["path"] is None


def test_arrays_hold_the_very_maps(real, tmp_path):
    real.save(tmp_path)
    with np.load(tmp_path / "noise_cam.npz") as arrays:
        per_box = {f"b{box:03d}/{level}" for box in range(3) for level in ("P3", "P4", "P5", MERGED)}
        labels = set(real.detections.labels.tolist())
        per_class = {f"class_{label}/{level}" for label in labels for level in ("P3", "P4", "P5", MERGED)}
        assert set(arrays.files) == per_box | per_class
        for box in range(3):
            for level, maps in real.levels.items():
                stored = arrays[f"b{box:03d}/{level}"]
                assert stored.dtype == np.float32
                assert stored.tobytes() == maps[box].numpy().tobytes()
            assert arrays[f"b{box:03d}/merged"].tobytes() == real.merged[box].numpy().tobytes()


def test_a_classes_array_is_the_strongest_of_its_boxes_cell_by_cell(tmp_path):
    both = by_hand(
        {"P5": [FINE[0], [[0.4, 0.5], [0.0, 1.0]]]},
        detections=Detections(
            torch.tensor([[1.0, 1, 6, 6], [50, 50, 60, 60]]),
            torch.tensor([0.9, 0.5]),
            torch.tensor([1, 1]),
            torch.tensor([7, 3]),
        ),
    )
    both.save(tmp_path)
    with np.load(tmp_path / "image_cam.npz") as arrays:
        assert arrays["class_1/P5"].tolist() == [[1.0, 0.5], [0.0, 2.0]]


def test_half_stores_float16(real, tmp_path):
    real.save(tmp_path, half=True, extras=["features"])
    for file in ("noise_cam.npz", "noise_features.npz"):
        with np.load(tmp_path / file) as arrays:
            assert {arrays[name].dtype for name in arrays.files} == {np.dtype(np.float16)}
    with np.load(tmp_path / "noise_cam.npz") as arrays:
        assert np.array_equal(arrays["b001/P4"], real.levels["P4"][1].numpy().astype(np.float16))


def test_extra_levels_are_a_picture_for_each_and_a_sheet(real, tmp_path):
    written = real.save(tmp_path, extras=["levels"])
    assert [path.name for path in written[2:-1]] == [
        "noise_cam_P3.jpg",
        "noise_cam_P4.jpg",
        "noise_cam_P5.jpg",
        "noise_cam_levels.jpg",
    ]
    for path in written[2:-1]:
        Image.open(path).load()


def test_a_levels_file_name_has_no_colon(tmp_path):
    level = "P5:model.3"
    layer = ExplainedLayer(level, "model.3", None, 32.0, (2, 2))
    explanation = by_hand(
        {"P5": FINE}, layers=(layer,), levels={level: torch.tensor(FINE)}, involved={level: torch.ones(2) > 0}
    )
    explanation.save(tmp_path, extras=["levels"])
    assert "image_cam_P5_model.3.jpg" in names(tmp_path)


def test_extra_boxes_are_a_picture_for_each(real, tmp_path):
    written = real.save(tmp_path, extras=["boxes"])
    assert [path.name for path in written[2:-1]] == [f"noise_cam_b{box:03d}.jpg" for box in range(3)]


def test_extra_maps_are_read_back_within_half_a_step(real, tmp_path):
    written = real.save(tmp_path, extras=["maps"])
    for box, path in enumerate(written[2:-1]):
        assert path.name == f"noise_map_b{box:03d}.png"
        heatmap = real[box].heatmap.numpy()
        half_a_step = float(np.ptp(heatmap)) / 131070
        np.testing.assert_allclose(read_map_png(path), heatmap, atol=half_a_step * 1.01 + 1e-7)


def test_extra_features_are_the_activations_and_a_sheet_a_level(real, tmp_path):
    written = real.save(tmp_path, extras=["features"])
    assert [path.name for path in written[2:-1]] == [
        "noise_features.npz",
        "noise_features_P3.jpg",
        "noise_features_P4.jpg",
        "noise_features_P5.jpg",
    ]
    with np.load(tmp_path / "noise_features.npz") as arrays:
        for level, activations in real.features.items():
            assert np.array_equal(arrays[level], activations.numpy())


def test_an_extra_figure_is_a_pdf(real, tmp_path):
    (path,) = real.save(tmp_path, extras=["figure"])[2:-1]
    assert path.read_bytes().startswith(b"%PDF")


def test_nothing_detected_is_stored_with_every_extra(tmp_path):
    features = {"P5": torch.ones(3, 2, 2), "P6": torch.ones(1, 1, 1)}
    empty = replace(by_hand().of_class(1), features=features)
    empty.save(tmp_path, extras=list(EXTRAS))
    written = document(tmp_path, "image")
    assert written["boxes"] == []
    assert written["files"]["maps"] == written["files"]["boxes"] == []
    with np.load(tmp_path / "image_cam.npz") as arrays:
        assert arrays.files == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"extras": ["level"]}, "no output 'level'. Closest: 'levels'"),
        ({"scale": "boxes"}, "no scale 'boxes'. Closest: 'box'"),
        ({"colormap": "infero"}, "no colour map 'infero'. Closest: 'inferno'"),
        ({"extras": ["features"]}, "no features were kept: explain with keep_features=True"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(tmp_path, asked, message):
    with pytest.raises(InputError, match=re.escape(message)):
        by_hand().save(tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_picture_too_long_for_a_jpeg_is_refused(tmp_path):
    long = by_hand({"P5": FINE}, np.zeros((2, 65_501, 3), np.uint8), boxes=((0, 0, 9, 2), (20, 0, 29, 2)))
    with pytest.raises(InputError, match=r"65501x\d+ pixels do not fit a JPEG"):
        long.save(tmp_path)
    assert names(tmp_path) == []


def test_the_same_files_are_written_a_year_later(real, tmp_path, monkeypatch):
    real.save(tmp_path / "now", extras=list(EXTRAS))
    now = time.time()
    later = time.localtime(now + 365 * 86400)
    monkeypatch.setattr(time, "time", lambda: now + 365 * 86400)
    monkeypatch.setattr(time, "localtime", lambda *_: later)
    real.save(tmp_path / "later", extras=list(EXTRAS))
    assert names(tmp_path / "now") == names(tmp_path / "later")
    for name in names(tmp_path / "now"):
        assert (tmp_path / "now" / name).read_bytes() == (tmp_path / "later" / name).read_bytes(), name


def test_saving_again_replaces_the_files(real, tmp_path):
    real.save(tmp_path)
    by_hand().save(tmp_path, "noise")
    assert len(names(tmp_path)) == 3
    assert len(document(tmp_path)["boxes"]) == 2


# Failures in the middle


def assert_whole(folder: Path) -> None:
    """No temporary file, and every file can be read to its end."""
    for path in folder.iterdir():
        assert not path.name.startswith("."), path.name
        if path.suffix == ".jpg":
            Image.open(path).load()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name] is not None for name in arrays.files)
        elif path.suffix == ".json":
            json.loads(path.read_text())


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("PIL.Image.Image.save", 0),
        ("numpy.savez_compressed", 1),
        ("detcam.explanation.saving.write_map_png", 2),
        ("os.replace", 0),
    ],
)
@pytest.mark.parametrize(("failure", "error"), [(full_disk, OutputError), (interrupted, KeyboardInterrupt)])
def test_a_failure_in_the_middle_leaves_whole_files_only(
    real, tmp_path, monkeypatch, place, left, failure, error
):
    with monkeypatch.context() as broken:
        broken.setattr(place, failure)
        with pytest.raises(error) as raised:
            real.save(tmp_path, extras=["maps"])
    assert_whole(tmp_path)
    assert len(names(tmp_path)) == left
    if error is OutputError:
        assert "cannot write" in str(raised.value)
        assert "No space left on device" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_half_an_array_is_never_seen(real, tmp_path, monkeypatch):
    def half_written(file: Any, **_: Any) -> None:
        file.write(b"PK\x03\x04 and no more")
        full_disk()

    monkeypatch.setattr(np, "savez_compressed", half_written)
    with pytest.raises(OutputError, match="No space left"):
        real.save(tmp_path)
    assert names(tmp_path) == ["noise_cam.jpg"]


def test_without_its_sidecar_a_picture_counts_as_unfinished(real, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(saving_module, "sidecar", broken)
    with pytest.raises(RuntimeError):
        real.save(tmp_path)
    assert_whole(tmp_path)
    assert names(tmp_path) == ["noise_cam.jpg", "noise_cam.npz"]


def test_an_old_result_survives_a_failed_new_one(real, tmp_path, monkeypatch):
    real.save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OutputError):
        by_hand().save(tmp_path, "noise")
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_file_where_the_folder_should_be_is_one_line(real, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"^cannot write .*taken: .*$"):
        real.save(tmp_path / "taken")


# The sidecar and its schema


@pytest.fixture(scope="module")
def schema() -> Any:
    text = resources.files("detcam").joinpath("schemas/explanation-1.json").read_text()
    loaded = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


def test_the_sidecar_says_what_was_found(real, tmp_path, schema):
    real.save(tmp_path, extras=list(EXTRAS), scale="fixed:0.5")
    written = document(tmp_path)
    schema.validate(written)
    assert written["image"]["path"] == str(real.picture.path)
    assert written["image"]["sha256"] == real.picture.sha256
    assert (written["image"]["width"], written["image"]["height"]) == (WIDTH, HEIGHT)
    assert (written["input"]["width"], written["input"]["height"]) == (96, 64)
    # 97x61 times 96/97 is 96x60: 2 rows of padding above, 2 below.
    assert written["input"]["letterbox"] == {"ratio": [96 / 97, 60 / 61], "pad": [0, 2]}
    assert written["method"] == {
        "name": "layer-cam",
        "target": "class-logit",
        "unit": "logit",
        "gradients": "direct",
        "merge": "sum",
        "scale": "fixed",
        "scale_value": 0.5,
    }
    assert written["layers"][1] == {
        "level": "P4",
        "module": "model.6",
        "set": "backbone",
        "stride": 16.0,
        "grid": [4, 6],
    }
    assert written["detections_found"] == real.found
    assert written["warnings"] == real.warnings


def test_the_sidecar_describes_each_box_and_its_maps(real, tmp_path, schema):
    real.save(tmp_path)
    for box, one in enumerate(document(tmp_path)["boxes"]):
        found = real.detections
        assert one["id"] == box
        assert one["xyxy"] == pytest.approx(found.boxes[box].tolist())
        assert one["score"] == pytest.approx(float(found.scores[box]))
        assert one["class"] == CLASS_NAMES[one["class_id"]] == CLASS_NAMES[int(found.labels[box])]
        assert one["candidate"] == int(found.candidates[box])
        assert one["level"] == real.deciding[box]
        assert one["target_value"] == real.target_values[box]
        assert one["corners"] is None
        assert one["energy_in_box"] == pytest.approx(real.energy_in_box[box])
        with np.load(tmp_path / "noise_cam.npz") as arrays:
            for level, facts in one["maps"].items():
                stored = arrays[facts["npz"]]
                assert (facts["min"], facts["max"]) == (stored.min(), stored.max())
                assert facts["share"] == (1.0 if level == MERGED else real.shares[level][box])
                assert facts["involved"] is True


def test_every_file_the_sidecar_names_is_there_and_no_other(real, tmp_path):
    real.save(tmp_path, extras=list(EXTRAS))
    listed = document(tmp_path)["files"]
    assert set(listed) == {"overlay", "arrays", *EXTRAS}
    flattened = [name for one in listed.values() for name in ([one] if isinstance(one, str) else one)]
    assert sorted([*flattened, "noise_cam.json"]) == names(tmp_path)


@pytest.mark.parametrize(
    "asked", [{"max_boxes": 1}, {"conf": 0.9999}, {"max_boxes": 300}, {"layers": "head"}]
)
def test_real_sidecars_of_pictures_in_memory_fit_the_schema(tmp_path, schema, asked):
    explanation = detcam.explain(detector(), pictures(3)[2], **asked)
    explanation.save(tmp_path)
    schema.validate(document(tmp_path, "image"))


def test_sidecars_of_layers_of_one_stride_and_without_a_level_fit_the_schema(tmp_path, schema):
    detcam.explain(detector(), pictures(1)[0], layers="model.3,model.4", max_boxes=2).save(tmp_path)
    schema.validate(document(tmp_path, "image"))


def test_sidecars_of_rotated_boxes_have_corners_and_fit_the_schema(tmp_path, schema):
    explanation = detcam.explain(detector("OBB"), pictures(1)[0], max_boxes=2)
    explanation.save(tmp_path, extras=["boxes", "maps"])
    written = document(tmp_path, "image")
    schema.validate(written)
    for one, corners in zip(written["boxes"], explanation.detections.corners.tolist(), strict=True):
        assert one["corners"] == corners
        xs, ys = zip(*corners, strict=True)
        assert one["xyxy"] == pytest.approx([min(xs), min(ys), max(xs), max(ys)], abs=1e-3)


def test_an_empty_map_has_no_share_in_the_sidecar(tmp_path, schema):
    by_hand({"P5": np.zeros((2, 2, 2)).tolist()}).save(tmp_path)
    written = document(tmp_path, "image")
    schema.validate(written)
    assert written["boxes"][0]["maps"]["P5"]["share"] is None


def test_a_name_that_is_no_text_is_stored_so_that_it_can_be_found_again(tmp_path, schema):
    path = Path(os.fsdecode(b"caf\xe9.png"))
    by_hand(picture=Picture(np.zeros((64, 64, 3), np.uint8), path)).save(tmp_path, "image")
    written = document(tmp_path, "image")
    schema.validate(written)
    assert os.fsencode(written["image"]["path"]) == b"caf\xe9.png"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("schema",), "detcam.explanation/2"),
        (("surprise",), 1),
        (("image", "width"), 0),
        (("image", "sha256"), "abc"),
        (("image", "exif_orientation_applied"), 9),
        (("input", "letterbox", "ratio"), [1.0]),
        (("input", "letterbox", "pad"), [-1, 0]),
        (("input", "channels"), "BGR"),
        (("method", "gradients"), "both"),
        (("method", "scale"), "fixed"),
        (("method", "scale_value"), 3.0),
        (("layers",), []),
        (("layers", 0, "level"), "fine"),
        (("layers", 0, "set"), "tail"),
        (("layers", 0, "grid"), [2]),
        (("layers", 0, "stride"), 0),
        (("best_score",), 1.5),
        (("boxes", 0, "score"), -0.1),
        (("boxes", 0, "score"), None),
        (("boxes", 0, "xyxy"), [1, 2, 3]),
        (("boxes", 0, "corners"), [[1, 2], [3, 4], [5, 6]]),
        (("boxes", 0, "level"), "merged"),
        (("boxes", 0, "candidate"), -1),
        (("boxes", 0, "surprise"), 1),
        (("boxes", 0, "maps"), {}),
        (("boxes", 0, "maps", "P5", "share"), 1.1),
        (("boxes", 0, "maps", "P5", "npz"), "P5"),
        (("boxes", 0, "maps", "P5", "involved"), None),
        (("boxes", 0, "maps", "fine"), {"npz": "b000/P5", "min": 0, "max": 0, "share": 0, "involved": True}),
        (("classes", "cat"), "class_0"),
        (("files", "overlay"), "folder/overlay.jpg"),
        (("files", "surprise"), "x.jpg"),
        (("warnings",), "none"),
    ],
)
def test_a_broken_document_does_not_fit_the_schema(tmp_path, schema, where, value):
    by_hand().save(tmp_path)
    broken = document(tmp_path, "image")
    schema.validate(broken)
    place = broken
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(broken)


@pytest.mark.parametrize("missing", ["schema", "image", "method", "boxes", "files", "warnings", "best_score"])
def test_an_incomplete_document_does_not_fit_the_schema(tmp_path, schema, missing):
    by_hand().save(tmp_path)
    broken = document(tmp_path, "image")
    del broken[missing]
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(broken)


def test_save_options_know_their_extras():
    assert set(EXTRAS) == {"levels", "boxes", "maps", "features", "figure"}
    with pytest.raises(UnknownNameError, match="no output 'map'"):
        SaveOptions(extras=("map",))
