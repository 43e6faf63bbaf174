"""Principal components against numbers worked out by hand and numpy's SVD; the rule of sign."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from detcam.cam import eigen_cam, eigen_grad_cam, eigen_methods
from detcam.errors import InputError

FEW_CHANNELS, MANY_CHANNELS = (2, 5, 4, 6), (2, 40, 3, 5)  # C < h·w, C > h·w


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- Pencil ---


def test_one_channel_is_its_own_component(assert_close):
    # Mean of [[1,2],[3,6]] is 3.
    assert_close(eigen_cam(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])), [[[-2, -1], [0, 3]]])


def test_channels_that_move_together_add_up_and_their_offsets_do_not_count(assert_close):
    # A = (3x + 10, 4x - 7): centred (3x, 4x), v = (3, 4)/5, X·v = 5x.
    x = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    assert_close(eigen_cam(torch.stack([3 * x + 10, 4 * x - 7])[None]), 5 * x[None])


def test_more_channels_than_cells_give_the_same_component(assert_close):
    # Three channels on two cells: A = (x, 2x, 2x) + offsets, v = (1, 2, 2)/3, X·v = 3x.
    x = torch.tensor([[1.0, -1.0]])
    assert_close(eigen_cam(torch.stack([x + 5, 2 * x, 2 * x - 9])[None]), 3 * x[None])


def test_eigen_grad_cam_takes_the_component_of_gradient_times_activation(assert_close):
    # g⊙A = [[2,-2],[3,0]], mean .75.
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    gradients = torch.tensor([[[[2.0, -1.0], [1.0, 0.0]]]])
    assert_close(eigen_grad_cam(activations, gradients), [[[1.25, -2.75], [2.25, -0.75]]])


def test_nothing_that_varies_gives_zero_not_noise():
    flat = torch.full((1, 3, 4, 4), 0.1)
    assert torch.equal(eigen_cam(flat), torch.zeros(1, 4, 4))


# --- Replica: numpy's SVD, up to the sign ---


def _svd_replica(features: Tensor) -> np.ndarray:
    cells = features.double().flatten(start_dim=1).numpy().T
    cells = cells - cells.mean(axis=0)
    u, s, _ = np.linalg.svd(cells, full_matrices=False)
    return (u[:, 0] * s[0]).reshape(features.shape[1:])


@pytest.mark.parametrize("shape", [FEW_CHANNELS, MANY_CHANNELS])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_tensors_give_numpys_first_component(shape, seed, assert_close):
    activations, gradients = _random(shape, seed) + 3, _random(shape, seed + 100)
    for maps, features in [
        (eigen_cam(activations), activations),
        (eigen_grad_cam(activations, gradients), gradients * activations),
    ]:
        for heatmap, row in zip(maps, features, strict=True):
            expected = torch.from_numpy(_svd_replica(row))
            sign = math.copysign(1, float((heatmap.double() * expected).sum()))
            assert_close(heatmap, sign * expected)


@pytest.mark.parametrize("shape", [FEW_CHANNELS, MANY_CHANNELS])
def test_the_eigenproblem_is_never_larger_than_the_smaller_side(shape, monkeypatch):
    sides = []
    eigh = torch.linalg.eigh

    def spy(matrix: Tensor):
        sides.append(tuple(matrix.shape))
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", spy)
    eigen_cam(_random(shape, 0))
    batch, channels, height, width = shape
    smaller = min(channels, height * width)
    assert sides == [(smaller, smaller)] * batch


def test_float64_is_asked_of_the_cpu_alone_where_the_device_has_none():
    class OnApplesGpu:
        device = torch.device("mps")

        def to(self, device, dtype):
            return device, dtype

    assert eigen_methods._wide(OnApplesGpu()) == (torch.device("cpu"), torch.float64)
    OnApplesGpu.device = torch.device("cuda", 1)
    assert eigen_methods._wide(OnApplesGpu()) == (torch.device("cuda", 1), torch.float64)


def test_values_whose_squares_overflow_float32_are_fine(assert_close):
    activations = _random(FEW_CHANNELS, 0)
    assert_close(eigen_cam(activations * 2.0**100) / 2.0**100, eigen_cam(activations))


# --- The rule of sign ---


@pytest.mark.parametrize("seed", range(8))
def test_the_map_correlates_positively_with_the_mean_activation(seed):
    activations = _random(FEW_CHANNELS, seed)
    centred = activations.mean(dim=1) - activations.mean(dim=(1, 2, 3))[:, None, None]
    assert ((eigen_cam(activations) * centred).sum(dim=(1, 2)) > 0).all()


def test_the_stronger_of_two_opposed_channels_decides_the_sign(assert_close):
    # A = (x, -3x): mean over channels -x, |(1, 3)| = √10.
    x = torch.tensor([[1.0, -2.0], [3.0, -2.0]])
    assert_close(eigen_cam(torch.stack([x, -3 * x])[None]), -math.sqrt(10) * x[None])


def test_without_a_mean_to_follow_the_largest_cell_is_positive(assert_close):
    # A = (x, -x) has mean 0 everywhere; x - mean(x) = [.5, 1.5, 2.5, -4.5], the last is the largest.
    x = torch.tensor([[0.0, 1.0], [2.0, -5.0]])
    expected = math.sqrt(2) * torch.tensor([[[-0.5, -1.5], [-2.5, 4.5]]])
    assert_close(eigen_cam(torch.stack([x, -x])[None]), expected)
    assert_close(eigen_cam(torch.stack([-x, x])[None]), expected)


def test_of_equally_large_cells_the_first_is_positive(assert_close):
    x = torch.tensor([[-1.0, 1.0]])
    expected = math.sqrt(2) * torch.tensor([[[1.0, -1.0]]])
    assert_close(eigen_cam(torch.stack([x, -x])[None]), expected)
    assert_close(eigen_cam(torch.stack([-x, x])[None]), expected)


def test_values_that_are_not_finite_are_refused_with_a_sentence():
    activations = torch.zeros(1, 2, 2, 2)
    activations[0, 1, 0, 1] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        eigen_cam(activations)
