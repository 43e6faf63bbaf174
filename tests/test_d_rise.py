"""Detectors and plain callables explained by what they find under random masks."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from guests_coat import unchanged
from small_yolo import detector, network, pictures
from torch import Tensor, nn

import detcam
from detcam.adapters.base import DetectOptions
from detcam.cam.random_masks import RandomMasks, visibility_maps
from detcam.errors import CaptureError, InputError, ShapeError, UnknownNameError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explainer.sampling import agreement, places, proposals, similarities
from detcam.geometry import Letterbox
from detcam.metrics import Candidates, Wanted, match_d_rise
from detcam.scoring import SIGMOID, ObjectAlone, ObjectTimesClass, RootOfProduct, Softmax
from detcam.structures import Detections, Level, RawPrediction

HEIGHT, WIDTH = 61, 97  # primes, so that a swapped H/W cannot hide
FIRST, SECOND = (10, 20), (50, 80)  # row and column of two pixels far apart
WEIGHTS = Path(detcam.__file__).parents[1] / "weights"


@pytest.fixture(scope="module")
def small() -> Any:
    return detector()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return pictures(3)[2]


def asked(found: Any, image: Any, **options: Any) -> detcam.Explanation:
    return detcam.explain(found, image, **{"method": "d-rise", "masks": 12, "max_boxes": 3} | options)


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


# --- a detector whose score is known ------------------------------------------------------------------


class TwoPixels:
    """Finds one box everywhere, with the mean of two pixels as its objectness: white ones score 1."""

    model = nn.Conv2d(3, 1, 1)
    family, class_names, imgsz, strides, origin = "two pixels", {0: "thing", 1: "other"}, 96, (32,), None
    batches: list[int]

    def __init__(self, padded: bool = False) -> None:
        self.batches = []
        self._geometry = (
            Letterbox((HEIGHT, WIDTH), (HEIGHT, WIDTH), pad=(7, 35), input_size=(128, 128))
            if padded
            else Letterbox.stretch((HEIGHT, WIDTH), (HEIGHT, WIDTH))
        )

    def prepare(self, pixels: np.ndarray, imgsz: Any) -> tuple[Tensor, Letterbox]:
        tensor = torch.from_numpy(self._geometry.apply(pixels)).permute(2, 0, 1).float() / 255
        return (tensor - 0.4) / 0.2, self._geometry  # as networks of torchvision want it

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        self.batches.append(len(batch))
        left, top = self._geometry.pad
        seen = batch[:, :, [FIRST[0] + top, SECOND[0] + top], [FIRST[1] + left, SECOND[1] + left]]
        objectness = (seen * 0.2 + 0.4).mean(dim=(1, 2))
        box = torch.tensor([[5.0, 5, 55, 45]])
        levels = (Level("P5", 32, (1, 1)),)
        logits = torch.tensor([[4.0, -4.0]])
        return [
            RawPrediction(logits, levels, lambda i: box[i], one.logit()[None], scoring=ObjectTimesClass())
            for one in objectness.clamp(1e-6, 1 - 1e-6)
        ]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        rows = torch.zeros(1, dtype=torch.long)
        boxes = geometry.boxes_to_image(raw.boxes(rows))
        return Detections(boxes, raw.scores()[rows, 0].float(), rows.clone(), rows)

    def layers(self) -> list[Any]:
        raise AssertionError("random masks ask for no layers")


def white() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 255, np.uint8)


def expected_scores(masks: RandomMasks) -> Tensor:
    """How much is seen of the two pixels, mask by mask: the box and the class are always the same."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in (HEIGHT, WIDTH))
    seen = torch.cat([masks.at(range(i, i + 1), rows, columns) for i in range(masks.count)])
    scores = (seen[:, FIRST[0], FIRST[1]] + seen[:, SECOND[0], SECOND[1]]) / 2
    return scores * (scores * torch.tensor(4.0).sigmoid() > 0.01)  # below that nothing is proposed


@pytest.mark.parametrize("padded", [False, True])
def test_the_map_is_that_of_the_two_pixels_visibility_and_has_a_half_at_each(padded):
    explanation = asked(TwoPixels(padded), white(), masks=1500)
    masks = RandomMasks(1500)
    (layer,) = explanation.layers
    assert (layer.level, layer.module, layer.member_of) == ("input", None, None)
    rows, columns = places(explanation.geometry, layer.grid, torch.device("cpu"))
    expected = visibility_maps(masks, expected_scores(masks)[None], rows, columns).maps
    inside = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))
    torch.testing.assert_close(explanation.levels["input"], expected * inside, rtol=0, atol=1e-4)
    heatmap = explanation.heatmap
    for row, column in (FIRST, SECOND):
        # 1/√1500 = .026 is a deviation of chance; the map's grid rounds the top a little.
        assert float(heatmap[row, column]) == pytest.approx(0.5, abs=0.1)
    assert abs(float(heatmap[FIRST[0], SECOND[1]])) < 0.1
    assert explanation.target_values == pytest.approx([1.0], abs=1e-4)
    assert explanation.sampling.convergence[0] > 0.8


def test_padding_is_never_masked_and_holds_nothing():
    maps = asked(TwoPixels(padded=True), white(), masks=30).levels["input"][0]
    # 61 of 128 rows and 97 of 128 columns are picture; five points to each of its 16 cells.
    assert maps.shape == (round(80 * 128 / 61), round(80 * 128 / 97))
    assert not maps[: int(168 * 35 / 128)].any()
    assert not maps[:, -int(106 * 24 / 128) :].any()
    assert maps.any()


def test_what_is_hidden_is_black_whatever_the_network_takes_out_of_its_input():
    # A picture that is black already cannot change: each mask scores the same, and nothing is evidence.
    explanation = asked(TwoPixels(), np.zeros((HEIGHT, WIDTH, 3), np.uint8), masks=20)
    assert not explanation.levels["input"].any()
    assert np.isnan(explanation.sampling.convergence[0])


def test_the_padding_of_the_input_is_seen_in_full_under_every_mask(monkeypatch):
    seen = []
    found = TwoPixels(padded=True)
    forward = found.forward
    monkeypatch.setattr(found, "forward", lambda batch: seen.append(batch) or forward(batch))
    asked(found, white(), masks=4)
    whole, masked = seen[0], torch.cat(seen[1:])
    assert torch.equal(masked[:, :, :35], whole[:, :, :35].expand(4, -1, -1, -1))
    assert not torch.equal(masked[:, :, 40:90], whole[:, :, 40:90].expand(4, -1, -1, -1))


# --- a network ----------------------------------------------------------------------------------------


def test_maps_are_the_slopes_of_the_loops_over_masks_and_proposals(small, photo):
    explanation = asked(small, photo, masks=10)
    tensor, geometry = small.prepare(photo, None)
    black, _ = small.prepare(np.zeros_like(photo), None)
    masks = RandomMasks(10)
    rows, columns = places(geometry, geometry.input_size, torch.device("cpu"))
    wanted = explanation.detections
    with torch.no_grad():
        (raw,) = small.forward(tensor[None])
        boxes, classes = raw.boxes(wanted.candidates), raw.class_logits.sigmoid()[wanted.candidates]
        scores = torch.zeros(len(wanted), 10)
        for number in range(10):
            seen = masks.at(range(number, number + 1), rows, columns)[0]
            (raw,) = small.forward((black + (tensor - black) * seen)[None])
            found = raw.class_logits.sigmoid()
            for proposal in (found.amax(dim=1) > 0.01).nonzero().flatten().tolist():
                own = raw.boxes(torch.tensor([proposal]))[0]
                for box in range(len(wanted)):
                    likeness = iou(own, boxes[box]) * cosine(found[proposal], classes[box])
                    scores[box, number] = max(float(scores[box, number]), likeness)
    maps = visibility_maps(masks, scores, *places(geometry, explanation.layers[0].grid, torch.device("cpu")))
    inside = explanation.levels["input"] != 0
    assert_near(explanation.levels["input"], maps.maps * inside, tolerance=1e-3)
    assert inside.float().mean() > 0.9


def iou(one: Tensor, other: Tensor) -> float:
    a, b = one.tolist(), other.tolist()
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_the_batch_changes_nothing(small, photo, batch_size):
    one, other = asked(small, photo, batch_size=batch_size), asked(small, photo, batch_size=7)
    assert_near(one.levels["input"], other.levels["input"], tolerance=1e-3)
    assert one.detections.candidates.tolist() == other.detections.candidates.tolist()


def test_a_box_explained_with_others_is_explained_as_alone_and_all_share_the_forwards(
    small, photo, monkeypatch
):
    calls = []
    forward = small.model.forward
    monkeypatch.setattr(
        small.model, "forward", lambda x, *a, **k: calls.append(len(x)) or forward(x, *a, **k)
    )
    together = asked(small, photo, batch_size=4)
    assert calls == [1, 4, 4, 4]
    alone = asked(small, photo, max_boxes=1)
    assert len(together) == 3
    assert_near(together.levels["input"][:1], alone.levels["input"], tolerance=1e-3)
    assert together[0].sampling.convergence == pytest.approx(alone.sampling.convergence, abs=1e-3)
    assert together[2].sampling.convergence == together.sampling.convergence[2:]


def test_the_same_seed_gives_the_same_maps_and_another_one_others(small, photo):
    one, again, other = (asked(small, photo, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.levels["input"], again.levels["input"])
    assert not torch.allclose(one.levels["input"], other.levels["input"], atol=1e-3)
    assert (one.sampling.seed, other.sampling.seed) == (3, 4)


def test_where_memory_runs_out_the_batch_is_halved(small, photo, monkeypatch):
    sizes, forward = [], small.forward

    def cramped(batch: Tensor) -> list[RawPrediction]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    expected = asked(small, photo)
    monkeypatch.setattr(small, "forward", cramped)
    assert_near(asked(small, photo, batch_size=12).levels["input"], expected.levels["input"], 1e-3)
    assert sizes == [1, 12, 6, 3, 3, 3, 3]


def test_progress_goes_from_batch_to_batch(small, photo):
    told = []
    asked(small, photo, batch_size=5, progress=lambda steps: told.append(list(steps)) or told[-1])
    assert told == [[0, 5, 10]]


def test_the_network_is_left_as_it_was(photo):
    live = network().train()
    wrapped = detcam.wrap(live)
    with unchanged(live):
        asked(wrapped, photo)
    with unchanged(live), pytest.raises(ZeroDivisionError):
        asked(wrapped, photo, progress=lambda steps: [1 / 0])


def test_a_list_of_pictures_and_a_picture_without_boxes(small, photo):
    blank = asked(small, photo, conf=0.999999)
    assert (len(blank), blank.levels["input"].shape[0], blank.sampling.convergence) == (0, 0, ())
    assert blank.overlay().any()
    several = asked(small, pictures(2))
    for one, picture in zip(several, pictures(2), strict=True):
        assert_near(one.levels["input"], asked(small, picture).levels["input"], 1e-3)


def test_a_rehearsal_looks_at_few_pictures(small, monkeypatch):
    calls, forward = [], small.forward
    monkeypatch.setattr(small, "forward", lambda batch: calls.append(1) or forward(batch))
    Explainer.of(small, ExplainOptions(method="d-rise")).rehearse()
    assert len(calls) <= 2


@pytest.mark.parametrize(
    "idle",
    [
        {"layers": "neck"},
        {"path": "total"},
        {"target": "probability"},
        {"merge": "finest"},
        {"keep_features": True},
    ],
)
def test_what_random_masks_have_no_use_for_is_told(small, photo, idle):
    (name,) = idle
    with pytest.raises(
        InputError, match=f"'d-rise' looks at no layer and has its own target: leave {name} out"
    ):
        asked(small, photo, **idle)


@pytest.mark.parametrize("idle", [{"masks": 10}, {"seed": 1}])
def test_masks_are_told_to_be_of_no_use_to_other_methods(small, photo, idle):
    with pytest.raises(
        InputError, match=r"'grad-cam-elementwise' draws no random masks: leave (masks|seed) out"
    ):
        detcam.explain(small, photo, **idle)


def test_files_say_what_the_masks_were(small, photo, tmp_path):
    explanation = asked(small, photo, seed=2)
    *_, path = explanation.save(tmp_path, "one", extras=["levels", "maps", "figure"])
    document = json.loads(path.read_text())
    schema = json.loads((Path(detcam.__file__).parent / "schemas" / "explanation-1.json").read_text())
    jsonschema.validate(document, schema)
    assert document["sampling"] == {"masks": 12, "cells": 16, "visible": 0.5, "seed": 2}
    assert document["method"]["gradients"] is None
    assert document["layers"][0]["level"] == "input"
    expected = [None if np.isnan(x) else x for x in explanation.sampling.convergence]
    assert [box["convergence"] for box in document["boxes"]] == expected
    with np.load(tmp_path / "one_cam.npz") as arrays:
        assert np.array_equal(arrays["b001/input"], explanation.levels["input"][1].numpy())


# --- what is left of a detection ----------------------------------------------------------------------


def test_pictures_with_other_numbers_of_proposals_are_matched_each_by_itself():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(9, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + 10 * torch.rand(9, 2, generator=generator)], dim=1)
    classes, objectness = torch.rand(9, 4, generator=generator), torch.rand(9, generator=generator)
    parts = [slice(0, 2), slice(2, 2), slice(2, 9)]
    wanted = [Wanted(boxes[i], i, classes[i]) for i in range(3)]
    for factor in (objectness, None):
        found = [Candidates(boxes[p], classes[p], None if factor is None else factor[p]) for p in parts]
        scores = similarities(wanted, found)
        assert scores[:, 1].tolist() == [0, 0, 0]
        for row, one in enumerate(wanted):
            for column, each in enumerate(found):
                assert float(scores[row, column]) == pytest.approx(float(match_d_rise(one, each)))


def test_only_proposals_above_the_threshold_count_and_the_best_of_too_many():
    classes = torch.tensor([[0.009, 0.001], [0.5, 0.9], [0.3, 0.0], [0.02, 0.015]])
    kept = proposals(lambda rows: rows[:, None].expand(-1, 4).float(), classes, None)
    assert kept.boxes[:, 0].tolist() == [1, 2, 3]
    kept = proposals(lambda rows: rows[:, None].expand(-1, 4).float(), classes, torch.full((4,), 0.1))
    assert kept.boxes[:, 0].tolist() == [1, 2]
    many = torch.linspace(0.1, 0.9, 1500)[:, None]
    kept = proposals(lambda rows: rows[:, None].expand(-1, 4).float(), many, None)
    assert sorted(kept.boxes[:, 0].tolist()) == list(range(500, 1500))


def test_probabilities_are_without_the_other_factor_of_a_score():
    logits, objectness = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([1.0])
    for scoring in (SIGMOID, ObjectTimesClass(), ObjectAlone(), RootOfProduct()):
        assert torch.equal(scoring.class_probabilities(logits), logits.sigmoid())
    expected = logits.softmax(dim=1)
    assert torch.equal(Softmax(None).class_probabilities(logits), expected)
    expected[0, 0] = 0
    assert torch.equal(Softmax(0).class_probabilities(logits), expected)
    raw = RawPrediction(logits, (Level("P5", 32, (1, 1)),), lambda i: i, objectness)
    torch.testing.assert_close(raw.objectness(), objectness.sigmoid())


def test_agreement_is_the_correlation_of_the_halves_stepped_up():
    one = torch.tensor([[1.0, 2, 3, 4]])
    # Deviations -1.5 -.5 .5 1.5 and -1.5 -.5 1.5 .5: 4/5 of 5, and 2·.8/1.8.
    assert float(agreement(one, torch.tensor([[1.0, 2, 4, 3]]))) == pytest.approx(1.6 / 1.8)
    assert float(agreement(one, 3 * one - 7)) == pytest.approx(1)
    assert float(agreement(one, -one)) == 0
    assert np.isnan(float(agreement(one, torch.ones(1, 4))))


# --- where the truth is known -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shortcut() -> Any:
    return detcam.load(WEIGHTS / "shapes-shortcut.pt", device="cpu")


def scene() -> Any:
    """The bundled scene with its markers' boxes, as `examples/scenes.py` draws it."""
    path = Path(detcam.__file__).parents[1] / "examples" / "scenes.py"
    spec = importlib.util.spec_from_file_location("scenes_of_d_rise", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_scene(2000293)


def test_the_marker_that_decides_gets_many_times_its_areas_share_and_more_masks_agree_better(shortcut):
    drawn = scene()
    few, many = (
        detcam.explain(shortcut, drawn.image, method="d-rise", masks=masks, batch_size=16, max_boxes=6)
        for masks in (60, 400)
    )
    assert np.nanmean(many.sampling.convergence) > np.nanmean(few.sampling.convergence)
    ratios = []
    for box, found in enumerate(many.detections.boxes.numpy()):
        own = int(np.abs(drawn.boxes - found).sum(axis=1).argmin())
        x1, y1, x2, y2 = drawn.marker_boxes[own].round().astype(int)
        heatmap = many[box].heatmap.clamp(min=0)
        share = float(heatmap[y1:y2, x1:x2].sum() / heatmap.sum())
        ratios.append(share / ((y2 - y1) * (x2 - x1) / heatmap.numel()))
    assert len(ratios) == 6
    assert np.mean(ratios) > 5
    assert min(ratios) > 1.5


# --- a plain callable ---------------------------------------------------------------------------------


def brightness(pictures: list[np.ndarray], form: str = "objectness") -> list[tuple[Any, ...]]:
    """One box, whose objectness or score is the mean of two pixels; and another thing elsewhere."""
    found = []
    for one in pictures:
        assert one.shape == (HEIGHT, WIDTH, 3)
        assert one.dtype == np.uint8
        value = (one[FIRST].mean() + one[SECOND].mean()) / 510
        boxes = np.array([[5, 5, 55, 45], [60, 30, 90, 60]])
        if form == "objectness":
            found.append((boxes, np.eye(2), np.array([value, 0.5])))
        elif form == "probabilities":
            found.append((torch.from_numpy(boxes), torch.tensor([[value, 0.0], [0.0, 0.5]])))
        else:
            found.append((boxes.tolist(), [value, 0.5], [0, 1]))
    return found


@pytest.mark.parametrize("form", ["objectness", "labels"])
def test_a_callable_is_explained_as_the_detector_that_it_is(form):
    found = detcam.d_rise(
        lambda several: brightness(several, form), white(), masks=300, class_names=["thing", "other"]
    )
    expected = asked(TwoPixels(), white(), masks=300)
    assert [found.label(i) for i in range(2)] == ["thing 1.00", "other 0.50"]
    # Pixels of a callable's pictures are whole numbers.
    torch.testing.assert_close(found.levels["input"][:1], expected.levels["input"], rtol=0, atol=0.02)
    assert not found.levels["input"][1].any()  # nothing of it is ever lost
    assert found.deciding == (None, None)
    assert found.target_values == pytest.approx([1.0, 0.5])
    assert found.detections.candidates.tolist() == [0, 1]


def test_without_objectness_a_box_is_lost_where_its_probability_falls_below_the_threshold():
    # Black pixels leave a probability of 0, which is like nothing; anything else is as like as the whole.
    found = detcam.d_rise(lambda several: brightness(several, "probabilities"), white(), masks=40)
    assert found.target_values == pytest.approx([1.0, 1.0])
    assert found.class_names == {0: "0", 1: "1"}


def test_a_callables_explanation_is_drawn_and_stored(tmp_path):
    found = detcam.d_rise(brightness, white(), masks=10)
    *_, path = found.save(tmp_path, "box", extras=["levels", "boxes", "figure"])
    schema = json.loads((Path(detcam.__file__).parent / "schemas" / "explanation-1.json").read_text())
    document = json.loads(path.read_text())
    jsonschema.validate(document, schema)
    assert document["boxes"][0]["level"] is None
    assert found[0].overlay()[:HEIGHT, :WIDTH].any()


def test_pictures_come_in_batches_and_fewer_where_memory_runs_out():
    sizes = []

    def cramped(several: list[np.ndarray]) -> list[Any]:
        sizes.append(len(several))
        if len(several) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return brightness(several)

    found = detcam.d_rise(cramped, white(), masks=9, batch_size=5)
    assert sizes == [1, 5, 2, 2, 1, 2, 2]
    expected = detcam.d_rise(brightness, white(), masks=9, batch_size=1)
    assert torch.equal(found.levels["input"], expected.levels["input"])


def test_boxes_are_chosen_as_a_detectors_are():
    boxes = np.array([[0, 0, 20, 20], [1, 0, 20, 20], [1, 0, 20, 20], [40, 40, 60, 60], [0, 40, 9, 50]])

    def crowd(several: list[np.ndarray]) -> list[Any]:
        return [(boxes, [0.9, 0.8, 0.7, 0.6, 0.2], [4, 4, 2, 4, 2])] * len(several)

    found = detcam.d_rise(crowd, white(), masks=2)
    assert found.detections.candidates.tolist() == [0, 2, 3]  # 1 is 0 again; another class is not
    assert (found.found, found.class_names[4]) == (3, "4")
    assert detcam.d_rise(crowd, white(), masks=2, iou=1.0).detections.candidates.tolist() == [0, 1, 2, 3]
    named = detcam.d_rise(crowd, white(), masks=2, class_names={2: "cat", 4: "dog"}, classes="cat")
    assert named.detections.candidates.tolist() == [2]
    assert [named.label(0), named.detections.best_score] == ["cat 0.70", pytest.approx(0.7)]
    cut = detcam.d_rise(crowd, white(), masks=2, max_boxes=1, conf=0.1)
    assert (len(cut), cut.found) == (1, 4)
    with pytest.raises(UnknownNameError, match="no class 'cow'"):
        detcam.d_rise(crowd, white(), masks=2, class_names={2: "cat", 4: "dog"}, classes="cow")


def test_a_callable_that_finds_nothing_is_asked_once():
    calls = []

    def blind(several: list[np.ndarray]) -> list[Any]:
        calls.append(len(several))
        return [([], [], [])] * len(several)

    found = detcam.d_rise(blind, white(), masks=10)
    assert (len(found), calls, found.detections.best_score) == (0, [1], 0.0)
    assert found.overlay().any()


def test_classes_that_show_up_later_are_like_none_that_was_explained():
    def changing(several: list[np.ndarray]) -> list[Any]:
        whole = [int(one.min()) == 255 for one in several]
        return [([[0, 0, 20, 20]], [0.9], [1 if one else 7]) for one in whole]

    found = detcam.d_rise(changing, white(), masks=6)
    assert found.target_values == pytest.approx([0.9])
    assert not found.levels["input"].any()


BOX, TWO = [[0, 0, 9, 9]], np.zeros((2, 4))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda several: [], ShapeError, r"one answer for each of 1 pictures, got 0"),
        (lambda several: {"boxes": BOX}, ShapeError, "one answer for each of 1 pictures, got a dict"),
        (lambda several: [None], ShapeError, "detect must give for each picture .*, got a NoneType"),
        (lambda several: [(BOX,)], ShapeError, "got 1 things"),
        (lambda several: [(BOX, [0.5])], ShapeError, r"got \(1, 4\), \(1,\)"),
        (lambda several: [(TWO, [0.5], [1])], ShapeError, r"got \(2, 4\), \(1,\), \(1,\)"),
        (lambda several: [(BOX[0], [0.5], [1])], ShapeError, r"got \(4,\), \(1,\), \(1,\)"),
        (lambda several: [(BOX, [[0.5]], [[1]])], ShapeError, r"got \(1, 4\), \(1, 1\), \(1, 1\)"),
        (lambda several: [(BOX, ["cat"], [1])], ShapeError, "got a list that is no array"),
        (lambda several: [(BOX, [0.5], [1.5])], ShapeError, "labels that are no class ids"),
        (lambda several: [(BOX, [0.5], [-1])], ShapeError, "labels that are no class ids"),
        (lambda several: [(BOX, [np.nan], [1])], CaptureError, "no numbers"),
        (lambda several: [(BOX, [7.5], [1])], InputError, r"a score outside 0\.\.1, 7\.5: logits are none"),
        (lambda several: [(BOX, [[7.5, 0]])], InputError, r"a probability outside 0\.\.1, 7\.5"),
    ],
)
def test_a_callable_that_gives_something_else_is_told_so_in_one_line(given, error, message):
    with pytest.raises(error, match=message) as info:
        detcam.d_rise(given, white(), masks=2)
    assert "\n" not in str(info.value)


def test_another_number_of_classes_later_is_told():
    def growing(several: list[np.ndarray]) -> list[Any]:
        columns = 2 if int(several[0].min()) == 255 else 3
        return [(BOX, np.full((1, columns), 0.9))] * len(several)

    with pytest.raises(ShapeError, match=r"2 classes and .* 3"):
        detcam.d_rise(growing, white(), masks=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masks": 1}, "masks must be"),
        ({"seed": -1}, "seed must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"max_boxes": 0}, "max_boxes must be"),
        ({"conf": 2}, r"conf must lie in 0\.\.1"),
        ({"class_names": ["thing"]}, "detect knows class 1, and class_names has 1 without it"),
    ],
)
def test_what_cannot_be_asked_of_a_callable_is_told(wrong, message):
    with pytest.raises(InputError, match=message):
        detcam.d_rise(brightness, white(), **{"masks": 4} | wrong)
