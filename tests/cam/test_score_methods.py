"""Formulas with weights that are no gradients: numbers worked out by hand, and the papers' sums as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from detcam.cam import ablation_cam, class_activation_map, score_cam


def maps(*channels) -> Tensor:
    return torch.tensor([channels], dtype=torch.float32)


# --- Score-CAM ---

A = maps([[1, 2], [3, 0]], [[-4, 0], [0, -1]])
SCORES = torch.tensor([[math.log(3), 0.0]])  # softmax: 3/4, 1/4


def test_score_cam_weighs_channels_with_the_softmax_of_their_scores(assert_close):
    # 3/4·A1 + 1/4·A2 = [[.75 - 1, 1.5], [2.25, -.25]]
    assert_close(score_cam(A, SCORES), [[[0, 1.5], [2.25, 0]]])


def test_score_cam_does_not_ask_where_the_scores_begin(assert_close):
    # The paper subtracts the baseline picture's score from every one: a constant drops out of a softmax.
    assert_close(score_cam(A, SCORES - 7), score_cam(A, SCORES))


def test_a_channel_that_is_the_same_everywhere_has_no_weight_in_score_cam(assert_close):
    # With weight it would take nearly all: its score is 100.
    flat = torch.cat([A, torch.full((1, 1, 2, 2), 5.0)], dim=1)
    assert_close(score_cam(flat, torch.tensor([[math.log(3), 0.0, 100.0]])), [[[0, 1.5], [2.25, 0]]])


def test_score_cam_of_channels_that_are_all_the_same_everywhere_is_zero():
    assert torch.equal(score_cam(torch.ones(1, 3, 2, 2), torch.ones(1, 3)), torch.zeros(1, 2, 2))


def test_scores_beyond_the_range_of_exp_are_fine(assert_close):
    assert_close(score_cam(A, SCORES + 1e4)[0, 1, 0], 2.25 + 0 * SCORES[0, 0])


# --- Ablation-CAM ---

B = maps([[4, 0], [8, 4]], [[2, 2], [0, 8]])


def test_ablation_cam_weighs_channels_with_the_share_of_the_score_they_bring(assert_close):
    # y = 4; y1 = 1: w1 = 3/4; y2 = 6: w2 = -1/2. 3/4·B1 - 1/2·B2 = [[3 - 1, -1], [6, 3 - 4]]
    heatmap = ablation_cam(B, torch.tensor([4.0]), torch.tensor([[1.0, 6.0]]))
    assert_close(heatmap, [[[2, 0], [6, 0]]])


def test_ablation_cam_of_a_negative_score_still_counts_for_what_raises_it(assert_close):
    # y = -4; y1 = -7: without channel 1 it is worse, w1 = 3/|-4|; w2 = -2/4. Divided by y: [[0, 1], [0, 1]].
    heatmap = ablation_cam(B, torch.tensor([-4.0]), torch.tensor([[-7.0, -2.0]]))
    assert_close(heatmap, [[[2, 0], [6, 0]]])


def test_ablation_cam_of_a_score_of_zero_divides_by_nothing(assert_close):
    # w = (3, -2): 3·B1 - 2·B2 = [[12 - 4, -4], [24, 12 - 16]]
    heatmap = ablation_cam(B, torch.tensor([0.0]), torch.tensor([[-3.0, 2.0]]))
    assert_close(heatmap, [[[8, 0], [24, 0]]])


def test_each_picture_is_measured_by_its_own_score(assert_close):
    scores, ablated = torch.tensor([4.0, -8.0]), torch.tensor([[1.0, 6.0], [-14.0, -4.0]])
    # Second row: w = (6/8, -4/8), the same as the first.
    assert_close(ablation_cam(B.expand(2, -1, -1, -1), scores, ablated), [[[2, 0], [6, 0]]] * 2)


# --- CAM ---


def test_the_class_activation_map_is_signed(assert_close):
    # 2·B1 - B2 = [[8 - 2, -2], [16, 8 - 8]]
    assert_close(class_activation_map(B, torch.tensor([[2.0, -1.0]])), [[[6, -2], [16, 0]]])


def test_the_maps_mean_and_the_bias_add_up_to_the_classs_score(assert_close):
    torch.manual_seed(0)
    head = nn.Linear(6, 4)
    activations = torch.randn(3, 6, 5, 7)
    scores = head(activations.mean(dim=(2, 3))).detach()
    for class_id in range(4):
        weights = head.weight.detach()[class_id].expand(3, -1)
        heatmap = class_activation_map(activations, weights)
        assert_close(heatmap.mean(dim=(1, 2)) + head.bias.detach()[class_id], scores[:, class_id])


# --- Replicas: the papers' sums as loops over numbers, float64 ---


def score_weights(_score: float, changed: list[float]) -> list[float]:
    total = sum(math.exp(one) for one in changed)
    return [math.exp(one) / total for one in changed]


def ablation_weights(score: float, changed: list[float]) -> list[float]:
    return [(score - one) / score for one in changed]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", [score_cam, ablation_cam])
def test_random_tensors_give_the_papers_sums_written_as_loops(method, seed, assert_close):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(2, 6, 3, 5, generator=generator)
    changed = torch.randn(2, 6, generator=generator)
    scores = 1 + torch.rand(2, generator=generator)  # the paper's formula asks for positive ones
    expected = torch.zeros(2, 3, 5, dtype=torch.float64)
    for b in range(2):
        weigh = score_weights if method is score_cam else ablation_weights
        weights = weigh(scores[b].item(), changed[b].double().tolist())
        for row in range(3):
            for column in range(5):
                cell = activations[b, :, row, column].double().tolist()
                expected[b, row, column] = max(sum(w * a for w, a in zip(weights, cell, strict=True)), 0)
    assert (expected > 0).any()
    inputs = (activations, changed) if method is score_cam else (activations, scores, changed)
    assert_close(method(*inputs), expected)
