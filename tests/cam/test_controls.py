"""The controls against areas and Gaussians worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detcam.cam import box_control, cell_blob_control, gaussian_in_box_control, random_control
from detcam.errors import InputError, ShapeError


def _grid(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.zeros(batch, 2, height, width)


# --- Box ---


def test_box_control_is_the_share_of_each_cell_that_the_box_covers(assert_close):
    # x from .5 to 2.25 covers columns by .5, 1, .25, 0; y from 1 to 2.5 covers rows by 0, 1, .5.
    heatmap = box_control(_grid(3, 4), torch.tensor([[0.5, 1.0, 2.25, 2.5]]))
    assert_close(heatmap, [[[0, 0, 0, 0], [0.5, 1, 0.25, 0], [0.25, 0.5, 0.125, 0]]])


def test_box_control_inside_one_cell_is_the_boxs_area(assert_close):
    heatmap = box_control(_grid(2, 2), torch.tensor([[1.25, 0.5, 1.75, 0.75]]))
    assert_close(heatmap, [[[0, 0.125], [0, 0]]])


def test_box_control_counts_only_what_lies_inside_the_grid(assert_close):
    # Inside a 2x3 grid: x 0..1.5, y 0..2.
    heatmap = box_control(_grid(2, 3), torch.tensor([[-4.0, -1.0, 1.5, 9.0]]))
    assert_close(heatmap, [[[1, 0.5, 0], [1, 0.5, 0]]])


def test_box_control_of_a_box_outside_or_without_area_is_zero():
    boxes = torch.tensor([[5.0, 5.0, 8.0, 8.0], [1.0, 0.0, 1.0, 2.0]])
    assert torch.equal(box_control(_grid(2, 3, batch=2), boxes), torch.zeros(2, 2, 3))


# --- Gaussian in the box ---


def test_gaussian_in_box_control_is_a_quarter_of_the_box_wide(assert_close):
    # Centre (3, 1), width 4, height 2: σ = (1, .5). Cell (r 0, c 2) has its centre at (2.5, .5):
    # exp(-(.5² / 1² + .5² / .5²) / 2) = exp(-.625)
    heatmap = gaussian_in_box_control(_grid(5, 7), torch.tensor([[1.0, 0.0, 5.0, 2.0]]))
    assert_close(heatmap[0, 0, 2], math.exp(-0.625))
    # (r 0, c 4): (4.5, .5): exp(-(1.5² + 1) / 2)
    assert_close(heatmap[0, 0, 4], math.exp(-1.625))
    # (r 2, c 3), outside the box, not cut off: (3.5, 2.5): exp(-(.5² + 3²) / 2)
    assert_close(heatmap[0, 2, 3], math.exp(-4.625))


def test_a_box_smaller_than_a_cell_still_leaves_a_mark(assert_close):
    # σ is .25 though the box is .01 wide. Its centre (1, 1) is a corner of four cells:
    # exp(-2·(.5 / .25)² / 2) = exp(-4) in each; a σ of .0025 would leave 0 everywhere.
    heatmap = gaussian_in_box_control(_grid(2, 2), torch.tensor([[0.995, 0.995, 1.005, 1.005]]))
    assert_close(heatmap, torch.full((1, 2, 2), math.exp(-4)))


# --- Cell blob ---


def test_cell_blob_control_is_as_wide_as_the_cell_that_decided(assert_close):
    # Cell (r 1, c 2) of this very level, σ = 1.
    heatmap = cell_blob_control(_grid(3, 5), torch.tensor([[2.0, 1.0, 3.0, 2.0]]))
    near, corner = math.exp(-1 / 2), math.exp(-1)
    assert_close(heatmap[0, :, 1:4], [[corner, near, corner], [near, 1, near], [corner, near, corner]])
    assert_close(heatmap[0, 1, 0], math.exp(-2))


def test_cell_blob_control_of_a_coarser_level_is_wider(assert_close):
    # The cell [2,4] × [0,2], σ = 2, centre (3, 1). Cell (r 0, c 0): (.5, .5): exp(-(2.5² + .5²) / 8).
    heatmap = cell_blob_control(_grid(3, 5), torch.tensor([[2.0, 0.0, 4.0, 2.0]]))
    assert_close(heatmap[0, 0, 0], math.exp(-6.5 / 8))


# --- Random ---


def test_random_control_depends_on_the_seed_and_the_grid_alone():
    seeds = torch.tensor([7, 8, 7])
    maps = random_control(_grid(5, 7, batch=3), seeds)
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])
    other_channels = torch.ones(1, 9, 5, 7, dtype=torch.float16)
    assert torch.equal(random_control(other_channels, seeds[1:2]), maps[1:2])


def test_random_control_is_uniform_between_zero_and_one():
    heatmap = random_control(_grid(200, 200), torch.tensor([0]))
    assert heatmap.min() >= 0
    assert heatmap.max() < 1
    # 40 000 numbers: a quarter in each quarter, to 5 standard deviations (√(.25·.75/40000) = .0022).
    shares = torch.histc(heatmap, bins=4, min=0, max=1) / heatmap.numel()
    assert ((shares - 0.25).abs() < 0.011).all()


def test_random_control_takes_every_int64_seed():
    extremes = torch.tensor([torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max])
    maps = random_control(_grid(3, 3, batch=2), extremes)
    assert not torch.equal(maps[0], maps[1])


# --- Failures ---


def test_a_box_that_ends_before_it_begins_is_refused_with_its_numbers():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 1.0, 2.0]])
    with pytest.raises(InputError, match=r"boxes must be xyxy .* got \[3\.0, 0\.0, 1\.0, 2\.0\]"):
        box_control(_grid(4, 4, batch=2), boxes)


def test_a_box_that_is_not_a_number_is_refused():
    with pytest.raises(InputError, match="cells must be xyxy"):
        cell_blob_control(_grid(4, 4), torch.tensor([[0.0, float("nan"), 1.0, 1.0]]))


@pytest.mark.parametrize("control", [box_control, gaussian_in_box_control, cell_blob_control])
def test_boxes_that_do_not_fit_the_maps_are_refused_with_both_shapes(control):
    with pytest.raises(ShapeError, match=r"\(2, 4\).*\(2, 2, 5, 7\).*\(3, 4\)"):
        control(_grid(5, 7, batch=2), torch.zeros(3, 4))


def test_seeds_that_do_not_fit_the_maps_are_refused_with_both_shapes():
    with pytest.raises(ShapeError, match=r"\(2,\).*\(2, 2, 5, 7\).*\(1,\)"):
        random_control(_grid(5, 7, batch=2), torch.zeros(1, dtype=torch.int64))
