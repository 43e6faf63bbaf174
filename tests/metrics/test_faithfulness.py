"""Deletion and insertion on networks whose areas are known, against the papers' loops, and shared scoring."""

from __future__ import annotations

import math
from dataclasses import replace

import metric_replicas as replicas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from detcam.errors import CaptureError, InputError, ShapeError
from detcam.metrics import (
    BLUR_51,
    GREY,
    PRESETS,
    ZEROS,
    Baseline,
    Preset,
    Step,
    area_under,
    deletion,
    faithfulness,
    insertion,
    overall,
    pixel_ranks,
)

# One pixel at a time, from and to black: the additive network below is then worked out by hand.
PENCIL = Preset("pencil", "tests", ZEROS, ZEROS, Step("pixels", 1), "iou-probability")
WEIGHTS = tensor([[4.0, 3.0], [2.0, 1.0]])
WHITE = torch.ones(3, 2, 2)


def additive(pictures: Tensor) -> Tensor:
    """A network that is a sum over pixels: what each is worth is known."""
    height, width = pictures.shape[-2:]
    weights = (
        WEIGHTS if (height, width) == (2, 2) else torch.linspace(-1, 2, height * width).view(height, width)
    )
    return (pictures.mean(dim=1) * weights).sum(dim=(1, 2))


def random_case(seed: int, size=(5, 7), count=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, *size, generator=generator), torch.randn(count, *size, generator=generator)


# --- By hand ---


def test_the_areas_of_an_additive_network_are_those_worked_out_by_hand(assert_close):
    # Perfect order 4 3 2 1: deletion 10 6 3 1 0, insertion 0 4 7 9 10. Trapezoids over 4 steps:
    # (10/2 + 6 + 3 + 1 + 0/2) / 4 = 15/4 and (0/2 + 4 + 7 + 9 + 10/2) / 4 = 25/4. Inverted: the reverse.
    found = faithfulness(WHITE, torch.stack([WEIGHTS, -WEIGHTS]), additive, PENCIL)
    assert_close(found.deletion_curves, [[10, 6, 3, 1, 0], [10, 9, 7, 4, 0]])
    assert_close(found.insertion_curves, [[0, 4, 7, 9, 10], [0, 1, 3, 6, 10]])
    assert found.pixels == (0, 1, 2, 3, 4)
    assert_close(found.fractions, [0, 0.25, 0.5, 0.75, 1])
    assert found.f0 == 10
    assert_close(deletion(found), [15 / 4, 25 / 4])
    assert_close(insertion(found), [25 / 4, 15 / 4])
    assert_close(overall(found), [10 / 4, -10 / 4])


def test_divided_areas_are_in_units_of_the_unchanged_pictures_score(assert_close):
    found = faithfulness(WHITE, WEIGHTS[None], additive, PENCIL)
    divided = found.divided()
    assert_close(divided.deletion, [15 / 40])
    assert_close(divided.insertion, [25 / 40])
    assert_close(divided.overall, [10 / 40])
    assert divided.preset.divides_deletion
    assert divided.preset.divides_insertion
    assert divided.preset.name == "pencil-f0"
    only_one = replace(found, preset=replace(PENCIL, divides_deletion=True))
    assert_close(only_one.overall, [25 / 4 - 15 / 40])
    only_other = replace(found, preset=replace(PENCIL, divides_insertion=True))
    assert_close(only_other.overall, [25 / 40 - 15 / 4])


def test_small_scores_are_divided_too(assert_close):
    found = faithfulness(WHITE, WEIGHTS[None], lambda p: additive(p) / 1024, PENCIL)
    assert_close(found.divided().overall, [10 / 40])


@pytest.mark.parametrize("f0", [0.0, -1.0])
def test_without_a_score_to_divide_by_the_area_is_undefined(f0, assert_close):
    # A network that sees more the less there is: f0 at first, f0 + 10 of a black picture.
    found = faithfulness(WHITE, WEIGHTS[None], lambda p: 10 + f0 - additive(p), PENCIL)
    assert found.f0 == f0
    assert_close(found.deletion, [f0 + 10 - 15 / 4])
    assert found.divided().deletion.isnan().all()
    assert found.divided().insertion.isnan().all()
    assert found.divided().overall.isnan().all()


def test_a_map_that_is_the_same_everywhere_has_no_order_and_is_undefined(assert_close):
    found = faithfulness(WHITE, torch.stack([torch.full((2, 2), 7.0), WEIGHTS]), additive, PENCIL)
    assert found.deletion_curves[0].isnan().all()
    assert found.insertion_curves[0].isnan().all()
    assert_close(found.overall, [math.nan, 10 / 4])
    alone = faithfulness(WHITE, torch.zeros(1, 2, 2), additive, PENCIL)
    assert alone.forwards == 1
    assert alone.f0 == 10


def test_a_last_step_of_fewer_pixels_counts_for_as_many_as_it_has(assert_close):
    # 3 pixels, then 1: 10, 1, 0 at 0, 3/4, 1: 3/4 · 11/2 + 1/4 · 1/2.
    found = faithfulness(WHITE, WEIGHTS[None], additive, replace(PENCIL, step=Step("pixels", 3)))
    assert found.pixels == (0, 3, 4)
    assert_close(found.deletion, [33 / 8 + 1 / 8])


def test_a_curve_over_part_of_the_picture_is_its_mean(assert_close):
    # ODAM's way: only as many pixels as the box has. Box 1 x 2 pixels, in two parts: 10, 6, 3.
    preset = replace(PENCIL, step=Step("box", 2, count=2))
    found = faithfulness(WHITE, WEIGHTS[None], additive, preset, box=[0, 0, 1, 2])
    assert found.pixels == (0, 1, 2)
    assert_close(found.deletion, [(5 + 6 + 1.5) / 2])
    assert_close(found.insertion, [(0 + 4 + 3.5) / 2])


def test_deleted_pixels_become_the_one_baseline_and_inserted_ones_come_from_the_other(assert_close):
    # Deletion to grey: each pixel leaves half its worth: 10, 8. Insertion from .25: 2.5, then 4 comes for 1.
    preset = replace(PENCIL, deletion_to=GREY, insertion_from=Baseline("constant", 0.25))
    found = faithfulness(WHITE, WEIGHTS[None], additive, preset)
    assert_close(found.deletion_curves, [[10, 8, 6.5, 5.5, 5]])
    assert_close(found.insertion_curves, [[2.5, 5.5, 7.75, 9.25, 10]])


def test_area_under_by_hand(assert_close):
    # 0..1: (2 + 4)/2 · 1; 1..3: (4 + 0)/2 · 2: 7 over 3.
    assert_close(area_under(tensor([[2.0, 4.0, 0.0]]), [0, 1, 3]), [7 / 3])
    assert_close(area_under(tensor([5.0, 5.0]), [2, 9]), 5)


# --- The papers' loops ---


@pytest.mark.parametrize("step", [1, 4, 5, 7])
def test_curves_agree_with_rises_and_d_closes_loops(step, assert_close):
    picture, maps = random_case(0)
    baseline = Baseline("blur", kernel=3, sigma=1.0)
    preset = replace(PENCIL, step=Step("pixels", step), deletion_to=baseline, insertion_from=baseline)
    picture, maps = picture.double(), maps.double().mul(3).round()  # with ties
    found = faithfulness(picture, maps, curved, preset)
    blurred = [replicas.blur(channel, 3, 1.0) for channel in picture.tolist()]

    def score(changed) -> float:
        return curved(tensor(changed, dtype=torch.float64)[None]).item()

    for row, heatmap in enumerate(maps.tolist()):
        gone = replicas.causal_curve(picture.tolist(), blurred, heatmap, step, score)
        come = replicas.causal_curve(blurred, picture.tolist(), heatmap, step, score)
        assert_close(found.deletion_curves[row], gone)
        assert_close(found.insertion_curves[row], come)
        if 35 % step == 0:
            assert_close(found.deletion[row], replicas.mean_of_curve(gone))
            assert_close(found.insertion[row], replicas.mean_of_curve(come))


def curved(pictures: Tensor) -> Tensor:
    """A score in which pixels act together."""
    return (additive(pictures) + pictures[:, 0].prod(dim=1).sum(dim=1)).sigmoid()


# --- Order ---


def test_the_most_salient_pixel_goes_first_and_of_equal_ones_the_first(assert_close):
    maps = tensor([[[1.0, 5.0, 5.0], [-3.0, 5.0, 0.0]]])
    assert_close(pixel_ranks(maps), [[[3, 0, 1], [5, 2, 4]]])


def test_shuffled_ties_keep_the_order_of_what_differs_and_depend_on_the_seed_alone():
    heatmap = torch.arange(200.0).div(50, rounding_mode="floor").view(1, 10, 20)
    first, again, other = (pixel_ranks(heatmap, ties="shuffled", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, pixel_ranks(heatmap))
    assert torch.equal(first.flatten().sort().values, torch.arange(200, dtype=torch.int32))
    assert torch.equal(3 - first.div(50, rounding_mode="floor"), heatmap.int())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 40), ties=st.sampled_from(["first", "shuffled"]))
def test_order_survives_every_increasing_transform(seed, levels, ties):
    maps = torch.randint(
        -levels, levels + 1, (2, 6, 5), generator=torch.Generator().manual_seed(seed)
    ).double()
    order = pixel_ranks(maps, ties=ties, seed=3)
    for transformed in (maps * 7 - 100, maps**3, maps.div(10).exp(), maps.float(), maps.half()):
        assert torch.equal(pixel_ranks(transformed, ties=ties, seed=3), order)


def test_the_order_of_one_map_does_not_depend_on_the_others():
    _, maps = random_case(5)
    assert torch.equal(pixel_ranks(maps)[1:2], pixel_ranks(maps[1:2]))


def test_ties_follow_the_preset():
    picture, _ = random_case(6)
    maps = torch.zeros(1, 5, 7)
    maps[0, 2, 2] = 1
    in_rows, shuffled, other = (
        faithfulness(picture, maps, additive, preset).deletion_curves
        for preset in (
            PENCIL,
            replace(PENCIL, ties="shuffled", seed=1),
            replace(PENCIL, ties="shuffled", seed=2),
        )
    )
    assert torch.equal(in_rows[:, :2], shuffled[:, :2])
    assert not torch.equal(in_rows, shuffled)
    assert not torch.equal(shuffled, other)


# --- Scoring ---


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_any_batch_size_gives_the_same_curves(batch_size):
    picture, maps = random_case(1)
    sizes: list[int] = []

    def score(pictures: Tensor) -> Tensor:
        sizes.append(len(pictures))
        assert not torch.is_grad_enabled()
        return torch.stack([curved(one[None])[0] for one in pictures])

    found = faithfulness(picture, maps, score, PRESETS["d-close"].with_steps(5), batch_size=batch_size)
    expected = faithfulness(picture, maps, curved, PRESETS["d-close"].with_steps(5))
    torch.testing.assert_close(found.deletion_curves, expected.deletion_curves)
    torch.testing.assert_close(found.insertion_curves, expected.insertion_curves)
    assert max(sizes) <= batch_size
    assert sum(sizes) == found.forwards


def test_what_maps_share_is_scored_once():
    # 3 maps, 2 directions, 5 points: the unchanged picture (first of deletion, last of insertion), the
    # deleted one and the empty one are shared: 3 + 3 · (3 + 3).
    picture, maps = random_case(2)
    seen: list[Tensor] = []
    found = faithfulness(
        picture,
        maps,
        lambda pictures: seen.append(pictures) or additive(pictures),
        replace(PENCIL, step=Step("picture", 4), insertion_from=GREY),
    )
    assert found.forwards == 3 + 3 * 6
    pictures = torch.cat(seen)
    assert len(pictures) == found.forwards
    assert len(pictures.flatten(1).unique(dim=0)) == found.forwards
    assert torch.equal(pictures[0], picture)


def test_several_maps_at_once_are_each_alone():
    picture, maps = random_case(3)
    together = faithfulness(picture, maps, curved, PENCIL)
    for row in range(3):
        alone = faithfulness(picture, maps[row : row + 1], curved, PENCIL)
        torch.testing.assert_close(alone.deletion_curves[0], together.deletion_curves[row])
        torch.testing.assert_close(alone.insertion_curves[0], together.insertion_curves[row])


def test_no_map_gives_no_curve_but_the_pictures_score():
    found = faithfulness(WHITE, torch.zeros(0, 2, 2), additive, PENCIL)
    assert found.overall.shape == (0,)
    assert found.f0 == 10


def test_the_picture_and_the_maps_are_left_as_they_were():
    picture, maps = random_case(4)
    kept = picture.clone(), maps.clone()
    state = torch.random.get_rng_state()
    faithfulness(picture, maps, lambda p: additive(p.mul_(0.5)), PRESETS["odam"], box=(0, 0, 5, 5))
    assert torch.equal(picture, kept[0])
    assert torch.equal(maps, kept[1])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_where_memory_runs_out_fewer_pictures_are_scored_at_a_time():
    picture, maps = random_case(7)

    def score(pictures: Tensor) -> Tensor:
        if len(pictures) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return additive(pictures)

    found = faithfulness(picture, maps, score, PENCIL)
    torch.testing.assert_close(found.overall, faithfulness(picture, maps, additive, PENCIL).overall)

    def never(pictures: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(CaptureError, match="not enough memory"):
        faithfulness(picture, maps, never, PENCIL)


def test_progress_wraps_the_batches():
    seen: list[int] = []
    picture, maps = random_case(8)
    found = faithfulness(
        picture,
        maps,
        additive,
        PENCIL,
        batch_size=10,
        progress=lambda batches: (seen.append(n) or n for n in batches),
    )
    assert len(seen) == math.ceil(found.forwards / 10)


# --- The result says how it was made ---


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_every_parameter_is_in_the_result(preset):
    picture, maps = random_case(9, size=(60, 50))
    found = faithfulness(picture, maps, additive, preset, box=(5, 5, 30, 45))
    assert found.preset is preset
    assert found.picture_size == (60, 50)
    again = faithfulness(picture, maps, additive, found.preset, box=(5, 5, 30, 45))
    assert torch.equal(again.deletion_curves, found.deletion_curves)
    assert torch.equal(again.insertion_curves, found.insertion_curves)
    assert found.deletion_curves.shape == (3, len(found.pixels))
    torch.testing.assert_close(found.deletion_curves[:, 0], torch.full((3,), found.f0, dtype=torch.float64))
    if preset.name != "odam":  # which changes no more pixels than the box has
        assert found.pixels[-1] == 3000
        torch.testing.assert_close(found.insertion_curves[:, -1], found.deletion_curves[:, 0])


def test_odam_scores_11_points_over_as_many_pixels_as_the_box_has():
    picture, maps = random_case(10, size=(60, 50))
    found = faithfulness(picture, maps, additive, PRESETS["odam"], box=tensor([5.0, 5.0, 30.0, 45.0]))
    assert found.pixels == tuple(range(0, 1001, 100))  # 25 · 40 = 1000: 10 a step, each tenth step
    # From black there is nothing to score, and noise is not black.
    assert found.insertion_curves[:, 0].tolist() == [0.0] * 3
    assert not torch.equal(found.deletion_curves[:, 0], found.deletion_curves[:, -1])


# --- Refused ---


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"picture": WHITE[None]}, ShapeError, r"picture must be \(C, H, W\)"),
        ({"picture": WHITE.byte()}, ShapeError, "floating point, got .* torch.uint8"),
        ({"maps": WEIGHTS}, ShapeError, r"maps must be \(M, 2, 2\)"),
        ({"maps": torch.ones(1, 3, 2)}, ShapeError, r"maps_to_image"),
        ({"maps": WEIGHTS[None] * math.nan}, InputError, "finite"),
        ({"score": lambda p: additive(p)[:, None]}, ShapeError, r"scores of \d+ pictures must be"),
        ({"score": lambda p: additive(p) * math.inf}, InputError, "is not finite"),
        ({"score": lambda p: additive(p).where(additive(p) != 6, math.nan)}, InputError, "is not finite"),
        ({"preset": PRESETS["odam"]}, InputError, "give the box"),
        ({"box": (1, 1, 0, 2)}, InputError, "box must be finite xyxy"),
        ({"box": (1, 1, 2)}, ShapeError, r"box must be \(4,\)"),
        ({"batch_size": 0}, InputError, "batch_size"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(arguments, error, said):
    usual = {"picture": WHITE, "maps": WEIGHTS[None], "score": additive, "preset": PENCIL}
    with pytest.raises(error, match=said):
        faithfulness(**(usual | arguments))


def test_blur_51_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    picture, _ = random_case(11, size=(97, 61))
    theirs = cv2.GaussianBlur(picture.permute(1, 2, 0).numpy(), (51, 51), 0)
    torch.testing.assert_close(
        BLUR_51.of(picture), torch.from_numpy(theirs).permute(2, 0, 1), rtol=0, atol=1e-5
    )
