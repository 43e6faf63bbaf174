"""Gradient formulas against numbers worked out by hand and against the papers' sums as plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detcam.cam import (
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    ss_grad_cam,
    ss_grad_cam_plus_plus,
    x_grad_cam,
)

# --- Pencil: one channel, one cell with gradient ---

# A = [[1,2],[3,4]], ΣA = 10; g = [[0,0],[0,4]], mean 1, max 4, Σ gA = 16
ONE_CELL = [
    (grad_cam, [[1, 2], [3, 4]]),  # 1·A
    (hires_cam, [[0, 0], [0, 16]]),
    (layer_cam, [[0, 0], [0, 16]]),
    (grad_cam_elementwise, [[0, 0], [0, 16]]),
    (x_grad_cam, [[1.6, 3.2], [4.8, 6.4]]),  # w = 16/10
    (grad_cam_plus_plus, [[2 / 21, 4 / 21], [6 / 21, 8 / 21]]),  # α = 16/(2·16 + 10·64) = 1/42, w = 4/42
    (ss_grad_cam, [[0, 0], [0, 4]]),  # 1·A gated by S = g/4
    (ss_grad_cam_plus_plus, [[0, 0], [0, 8 / 21]]),  # 2/21·A gated by S
]


@pytest.mark.parametrize(("method", "expected"), ONE_CELL)
def test_one_cell_with_gradient_gives_the_map_worked_out_by_hand(method, expected, assert_close):
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    gradients = torch.tensor([[[[0.0, 0.0], [0.0, 4.0]]]])
    assert_close(method(activations, gradients), [expected])


# --- Pencil: two channels, gradients of both signs in each ---

# A1 = [[1,2],[3,-1]]  ΣA1 = 5   g1 = [[2,-1],[4,-1]]   mean  1   max|g1| 4   g1A1 = [[2,-2],[12,1]]  Σ 13
# A2 = [[2,1],[1, 4]]  ΣA2 = 8   g2 = [[-4,3],[-5,2]]   mean -1   max|g2| 5   g2A2 = [[-8,3],[-5,8]]  Σ -2
# Grad-CAM++, 1/(2 + ΣA·g) for the positive g:  w1 = 2/(2+10) + 4/(2+20) = 23/66
#                                               w2 = 3/(2+24) + 2/(2+16) = 53/234
# SSGrad-CAM, S1 = [[.5,.25],[1,.25]], A1·S1 = [[.5,.5],[3,-.25]]
#             S2 = [[.8,.6],[1,.4]],   A2·S2 = [[1.6,.6],[1,1.6]]
W1, W2 = 23 / 66, 53 / 234
TWO_CHANNELS = [
    (grad_cam, [[0, 1], [2, 0]]),  # A1 - A2 = [[-1,1],[2,-5]]
    (hires_cam, [[0, 1], [7, 9]]),  # [[2-8,-2+3],[12-5,1+8]]
    (layer_cam, [[2, 3], [12, 8]]),  # relu(g1)A1 = [[2,0],[12,0]], relu(g2)A2 = [[0,3],[0,8]]
    (grad_cam_elementwise, [[2, 3], [12, 9]]),  # relu(g1A1) = [[2,0],[12,1]], relu(g2A2) = [[0,3],[0,8]]
    (x_grad_cam, [[2.1, 4.95], [7.55, 0]]),  # w = 13/5, -2/8; the last: -2.6 - 1 = -3.6
    (grad_cam_plus_plus, [[W1 + 2 * W2, 2 * W1 + W2], [3 * W1 + W2, -W1 + 4 * W2]]),
    (ss_grad_cam, [[0, 0], [2, 0]]),  # A1S1 - A2S2 = [[-1.1,-.1],[2,-1.85]]
    (
        ss_grad_cam_plus_plus,
        [[0.5 * W1 + 1.6 * W2, 0.5 * W1 + 0.6 * W2], [3 * W1 + W2, -0.25 * W1 + 1.6 * W2]],
    ),
]


@pytest.mark.parametrize(("method", "expected"), TWO_CHANNELS)
def test_two_channels_with_mixed_signs_give_the_map_worked_out_by_hand(method, expected, assert_close):
    activations = torch.tensor([[[[1.0, 2.0], [3.0, -1.0]], [[2.0, 1.0], [1.0, 4.0]]]])
    gradients = torch.tensor([[[[2.0, -1.0], [4.0, -1.0]], [[-4.0, 3.0], [-5.0, 2.0]]]])
    assert_close(method(activations, gradients), [expected])


@pytest.mark.parametrize("method", [method for method, _ in ONE_CELL])
def test_a_cell_that_speaks_against_the_score_is_zero_not_negative(method):
    # A = -1, g = 1: every formula's sum is -1 before its last relu (Grad-CAM++: w = 1/(2-1), XGrad: -1/-1).
    assert method(-torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).item() == 0


# --- Traps of single formulas ---


def test_grad_cam_plus_plus_sums_the_activations_before_it_multiplies(assert_close):
    # A = ones(2,2), g = e₁: α = 1/(2·1 + 4·1) = 1/6. Σ(A·g³) in the denominator would give 1/3.
    gradients = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert_close(grad_cam_plus_plus(torch.ones(1, 1, 2, 2), gradients), torch.full((1, 2, 2), 1 / 6))


def test_grad_cam_plus_plus_drops_a_cell_whose_denominator_is_zero(assert_close):
    # ΣA = -1; g = 2: 2·4 - 1·8 = 0, α = 0. g = 1: 1/(2-1) = 1. w = 1; map relu(w·A) = [0, 1].
    activations, gradients = torch.tensor([[[[-2.0, 1.0]]]]), torch.tensor([[[[2.0, 1.0]]]])
    assert_close(grad_cam_plus_plus(activations, gradients), [[[0, 1]]])


def test_grad_cam_plus_plus_does_not_lose_gradients_whose_cube_underflows():
    # w = 4·g/(2 + 4g) = 2g for a tiny g; 1e-20³ is 0 in float32.
    heatmap = grad_cam_plus_plus(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 1e-20))
    torch.testing.assert_close(heatmap, torch.full((1, 2, 2), 2e-20), rtol=1e-5, atol=0)


def test_x_grad_cam_gives_cancelling_activations_no_weight():
    # ΣA = 0 but for rounding: 0.1 + 0.2 - 0.3 is about 1e-8 in float32, an arbitrary divisor.
    activations = torch.tensor([[[[0.1, 0.2, -0.3]]]])
    gradients = torch.tensor([[[[1.0, -2.0, 3.0]]]])
    assert torch.equal(x_grad_cam(activations, gradients), torch.zeros(1, 1, 3))


def test_x_grad_cam_divides_small_activations_by_their_own_sum(assert_close):
    # A = 1e-9·[1, 3], g = [4, 8]: w = (4 + 24)/4 = 7 whatever the scale of A. An absolute eps would give 0.
    activations = 1e-9 * torch.tensor([[[[1.0, 3.0]]]])
    heatmap = x_grad_cam(activations, torch.tensor([[[[4.0, 8.0]]]]))
    assert_close(heatmap * 1e9, [[[7, 21]]])


def test_ss_grad_cam_scales_each_channel_by_its_own_largest_gradient(assert_close):
    # g1 = [2, 0], g2 = [0, 100], A = 1: means 1 and 50, S1 = [1, 0], S2 = [0, 1]. One maximum for
    # both channels would give S1 = [.02, 0].
    gradients = torch.tensor([[[[2.0, 0.0]], [[0.0, 100.0]]]])
    assert_close(ss_grad_cam(torch.ones(1, 2, 1, 2), gradients), [[[1, 50]]])


def test_products_beyond_float16_stay_finite():
    activations = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    assert torch.equal(hires_cam(activations, activations), torch.full((1, 2, 2), 90000.0))


# --- Replicas: the papers' sums as loops over numbers, float64 ---


def _relu(x: float) -> float:
    return max(x, 0.0)


def _mean_weight(_a: list[float], g: list[float]) -> float:
    return sum(g) / len(g)


def _x_grad_weight(a: list[float], g: list[float]) -> float:
    return sum(gi * ai for gi, ai in zip(g, a, strict=True)) / sum(a)


def _plus_plus_weight(a: list[float], g: list[float]) -> float:
    weight = 0.0
    for gi in g:
        alpha = gi**2 / (2 * gi**2 + sum(a) * gi**3) if gi != 0 else 0.0
        weight += alpha * _relu(gi)
    return weight


def _gate(g: list[float], cell: int) -> float:
    return abs(g[cell]) / max(abs(gi) for gi in g)


# One channel's contribution to one cell. The sum over channels is rectified, which changes nothing where
# each contribution already is.
REPLICAS = {
    grad_cam: lambda a, g, cell: _mean_weight(a, g) * a[cell],
    grad_cam_plus_plus: lambda a, g, cell: _plus_plus_weight(a, g) * a[cell],
    x_grad_cam: lambda a, g, cell: _x_grad_weight(a, g) * a[cell],
    hires_cam: lambda a, g, cell: g[cell] * a[cell],
    layer_cam: lambda a, g, cell: _relu(g[cell]) * a[cell],
    grad_cam_elementwise: lambda a, g, cell: _relu(g[cell] * a[cell]),
    ss_grad_cam: lambda a, g, cell: _mean_weight(a, g) * a[cell] * _gate(g, cell),
    ss_grad_cam_plus_plus: lambda a, g, cell: _plus_plus_weight(a, g) * a[cell] * _gate(g, cell),
}


def _replica(contribution, activations: Tensor, gradients: Tensor) -> Tensor:
    batch, channels, height, width = activations.shape
    heatmap = torch.zeros(batch, height, width, dtype=torch.float64)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                total = 0.0
                for c in range(channels):
                    a = activations[b, c].double().flatten().tolist()
                    g = gradients[b, c].double().flatten().tolist()
                    total += contribution(a, g, row * width + column)
                heatmap[b, row, column] = _relu(total)
    return heatmap


@pytest.mark.parametrize("method", REPLICAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_tensors_give_the_papers_sums_written_as_loops(method, seed, assert_close):
    generator = torch.Generator().manual_seed(seed)
    # As after SiLU: mostly positive, some negative cells, sums well away from 0.
    activations = torch.nn.functional.silu(2 * torch.randn(2, 6, 3, 5, generator=generator) + 1)
    gradients = 0.3 * torch.randn(2, 6, 3, 5, generator=generator)
    expected = _replica(REPLICAS[method], activations, gradients)
    assert (expected > 0).any()
    assert_close(method(activations, gradients), expected)
