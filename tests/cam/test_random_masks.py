"""Random masks against RISE's own construction, and their map against loops and numbers by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detcam.cam.random_masks import RandomMasks, scores_under, visibility_maps, visibility_slopes
from detcam.errors import CaptureError, InputError, ShapeError

TENTHS = (torch.arange(10) + 0.5) / 10
ELEVENTHS = (torch.arange(11) + 0.5) / 11


def drawn(masks: RandomMasks, numbers: range | None = None) -> Tensor:
    """Masks on a grid of 10 × 11 points."""
    return masks.at(range(masks.count) if numbers is None else numbers, TENTHS, ELEVENTHS)


# --- Masks ---


def test_a_mask_is_its_grid_enlarged_by_one_cell_in_numbers(monkeypatch):
    # Two knots, on a picture of two cells enlarged to three: knots lie at 3/4 and 9/4 cells. From the left
    # edge on the first knot holds; the picture's middle, one cell in, is 1/6 of the way to the second.
    grid = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    monkeypatch.setattr(RandomMasks, "_drawn", lambda self, numbers: (grid, torch.zeros(1, 2)))
    places = torch.tensor([0.0, 0.5])
    found = RandomMasks(cells=2).at(range(1), places, places)[0]
    torch.testing.assert_close(found, torch.tensor([[1, 5 / 6], [5 / 6, 26 / 36]]))


def test_a_crop_that_begins_later_moves_the_mask(monkeypatch):
    # Half a cell later along x only: the left edge is what a quarter of the picture was.
    grid = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    places = torch.tensor([0.0, 0.25, 0.5])
    still, moved = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    monkeypatch.setattr(RandomMasks, "_drawn", lambda self, numbers: (grid, still))
    before = RandomMasks(cells=2).at(range(1), places, places)
    monkeypatch.setattr(RandomMasks, "_drawn", lambda self, numbers: (grid, moved))
    after = RandomMasks(cells=2).at(range(1), places, places)
    torch.testing.assert_close(after[..., :2], before[..., 1:])


def test_masks_are_those_of_rise_where_crops_begin_at_whole_pixels(monkeypatch):
    # RISE: enlarge g × g to (g + 1) cells of H/g pixels, bilinearly, and cut H × W out of it.
    cells, down, across = 4, 6, 10
    grid = (torch.rand(3, cells, cells, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    starts = torch.tensor([[0, 0], [5, 3], [2, 9]])
    shares = starts / torch.tensor([down, across])
    monkeypatch.setattr(RandomMasks, "_drawn", lambda self, numbers: (grid, shares))
    height, width = cells * down, cells * across
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    found = RandomMasks(cells=cells).at(range(3), rows, columns)
    size = ((cells + 1) * down, (cells + 1) * across)
    enlarged = F.interpolate(grid[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    for one, whole, (y, x) in zip(found, enlarged, starts.tolist(), strict=True):
        torch.testing.assert_close(one, whole[y : y + height, x : x + width], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cells", [1, 3, 16])
def test_a_mask_is_known_by_its_number_alone(cells):
    masks = RandomMasks(count=9, cells=cells, seed=5)
    together = drawn(masks)
    for number in range(9):
        assert torch.equal(drawn(masks, range(number, number + 1))[0], together[number])
    assert torch.equal(drawn(RandomMasks(count=5000, cells=cells, seed=5), range(9)), together)


def test_the_stream_of_masks_is_the_same_in_every_release():
    # Philox with the seed as its key; a mask's first two numbers say where its crop begins.
    grids, starts = RandomMasks(cells=4, seed=7)._drawn(range(2, 3))
    assert grids[0].long().tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    torch.testing.assert_close(starts[0], torch.tensor([0.950273, 0.878711]), rtol=0, atol=1e-6)


def test_other_seeds_and_numbers_give_other_masks():
    kinds = [drawn(RandomMasks(count=2, seed=seed)) for seed in (0, 1, 2**64)]
    every = torch.cat(kinds).flatten(1)
    assert len(every.unique(dim=0)) == 6


@pytest.mark.parametrize("visible", [0.2, 0.5])
def test_as_much_is_seen_as_was_asked_for_and_pixels_far_apart_are_independent(visible):
    found = drawn(RandomMasks(count=4000, cells=4, visible=visible))
    assert float(found.mean()) == pytest.approx(visible, abs=0.01)
    assert found.amin() == 0 <= found.amax() <= 1.00001
    corners = torch.stack([found[:, 0, 0], found[:, 9, 10]])
    assert abs(float(torch.corrcoef(corners)[0, 1])) < 0.05  # 3 of 1/√4000


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    drawn(RandomMasks(count=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 1}, "masks must be a whole number of at least 2, got 1"),
        ({"count": 2.5}, "masks must be a whole number"),
        ({"cells": 0}, "cells must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": True}, "seed must be"),
        ({"visible": 1.0}, r"visible must lie between 0 and 1, got 1\.0"),
        ({"visible": float("nan")}, "visible must lie"),
    ],
)
def test_masks_that_cannot_be_drawn_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        RandomMasks(**wrong)


# --- The map ---


def test_of_masks_that_hide_or_show_the_map_is_the_mean_score_seen_less_the_mean_hidden():
    # Cell 0 is seen by masks 0 and 1, cell 1 by mask 0, 2 and 3, cell 2 by all: nothing can be said of it.
    masks = torch.tensor([[1.0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]])[None, :, None]
    scores = torch.tensor([[0.9, 0.3, 0.2, 0.0]])
    # (0.9 + 0.3)/2 - (0.2 + 0)/2 = 0.5; (0.9 + 0.2 + 0)/3 - 0.3 = 0.0667.
    found = visibility_slopes(masks, scores)
    torch.testing.assert_close(found, torch.tensor([[[0.5, 1.1 / 3 - 0.3, 0.0]]]))


def test_a_score_that_is_a_pixels_visibility_has_slope_one_there_and_half_of_it_half():
    masks = drawn(RandomMasks(count=60))
    scores = torch.stack([masks[:, 2, 7], 0.5 * masks[:, 2, 7] + 3])
    found = visibility_slopes(masks[None].expand(2, -1, -1, -1), scores)
    torch.testing.assert_close(found[:, 2, 7], torch.tensor([1.0, 0.5]))


def by_loops(masks: Tensor, scores: Tensor) -> Tensor:
    """Σ (w - mean w)·(M - mean M) / Σ (M - mean M)², cell by cell."""
    found = torch.zeros(masks.shape[1:], dtype=torch.float64)
    mean = sum(scores.tolist()) / len(scores)
    for row in range(masks.shape[1]):
        for column in range(masks.shape[2]):
            seen = masks[:, row, column].tolist()
            usual = sum(seen) / len(seen)
            pairs = list(zip(scores.tolist(), seen, strict=True))
            spread = sum((one - usual) ** 2 for one in seen)
            found[row, column] = sum((w - mean) * (one - usual) for w, one in pairs) / spread
    return found


def two_pixels(masks: Tensor) -> Tensor:
    """The mean of what is seen of two pixels far apart."""
    return (masks[:, 1, 2] + masks[:, 8, 9]) / 2


def test_the_map_is_the_loops_whatever_the_scores_level():
    masks = RandomMasks(count=150, cells=5)
    shown = drawn(masks)
    scores = two_pixels(shown).double()
    for level in (0.0, 1e4):
        found = visibility_maps(masks, scores[None] + level, TENTHS, ELEVENTHS)
        torch.testing.assert_close(found.maps[0].double(), by_loops(shown, scores), rtol=1e-4, atol=1e-5)
        first = by_loops(shown[:75], scores[:75])
        torch.testing.assert_close(found.first[0].double(), first, rtol=1e-4, atol=1e-5)
        second = by_loops(shown[75:], scores[75:])
        torch.testing.assert_close(found.second[0].double(), second, rtol=1e-4, atol=1e-5)


def test_the_map_in_pieces_is_the_formula_of_all_masks_at_once():
    masks = RandomMasks(count=200)
    shown = drawn(masks)
    scores = torch.stack([two_pixels(shown), shown.mean(dim=(1, 2)) ** 2])
    found = visibility_maps(masks, scores, TENTHS, ELEVENTHS).maps
    torch.testing.assert_close(found, visibility_slopes(shown[None].expand(2, -1, -1, -1), scores))


@pytest.mark.parametrize("count", [1000, 4000])
def test_two_pixels_that_make_the_score_have_a_half_each_and_the_rest_nothing_whatever_the_count(count):
    masks = RandomMasks(count=count, cells=8)
    found = visibility_maps(masks, two_pixels(drawn(masks))[None], TENTHS, ELEVENTHS).maps[0]
    chance = 4 / count**0.5  # four deviations of a slope whose score varies as much as the mask, or less
    assert float(found[1, 2]) == pytest.approx(0.5, abs=chance)
    assert float(found[8, 9]) == pytest.approx(0.5, abs=chance)
    for far in ((1, 9), (8, 1), (5, 5)):
        assert abs(float(found[far])) < chance


def test_masks_that_all_show_the_same_say_nothing():
    masks = torch.full((1, 3, 2, 2), 0.3)
    assert torch.equal(visibility_slopes(masks, torch.tensor([[1.0, 2.0, 3.0]])), torch.zeros(1, 2, 2))


def test_five_points_to_a_cell_lose_a_fraction_of_what_chance_leaves_open():
    masks = RandomMasks(count=300)
    fine = (torch.arange(640) + 0.5) / 640
    coarse = (torch.arange(masks.grid()[0]) + 0.5) / masks.grid()[0]
    assert len(coarse) == 80
    scores = masks.at(range(300), fine[205:215], fine[300:310]).mean(dim=(1, 2))[None]
    some = slice(160, 260)  # a hundred rows of pixels
    exact, first, second = visibility_maps(masks, scores, fine[some], fine)
    halves_apart = (first - second) / 2
    grown = F.interpolate(
        visibility_maps(masks, scores, coarse, coarse).maps[None], (640, 640), mode="bilinear"
    )[0]
    error, peak = grown[:, some] - exact, float(exact.max())
    assert float(error.square().mean().sqrt()) < 0.005 * peak
    assert float(error.abs().max()) < 0.03 * peak  # where it bends most: on a target the size of a point
    assert float(error.square().mean().sqrt()) < 0.1 * float(halves_apart.square().mean().sqrt())


@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 2)])
def test_scores_that_are_not_one_for_each_mask_are_refused(shape):
    with pytest.raises(ShapeError, match=r"scores must be \(M, 3\)"):
        visibility_maps(RandomMasks(count=3), torch.zeros(shape), TENTHS, ELEVENTHS)


# --- Scores ---


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_masks_are_scored_in_batches_and_in_fewer_where_memory_runs_out(batch_size):
    asked = []

    def score(numbers: range) -> Tensor:
        asked.append(len(numbers))
        if len(numbers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor([[float(n) for n in numbers]])

    found = scores_under(RandomMasks(count=10), score, batch_size)
    assert found.tolist() == [[float(n) for n in range(10)]]
    assert max(asked) == batch_size
    assert sum(size for size in asked if size <= 2) == 10


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(CaptureError, match="not finite"):
        scores_under(RandomMasks(count=4), lambda numbers: torch.full((1, len(numbers)), torch.nan))
