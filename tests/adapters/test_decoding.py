"""Decoding by pencil, and against plain loops in float64."""

import math

import pytest
import torch

from detcam.adapters.decoding import (
    boxes_around,
    cell_centres,
    corners_of,
    expected_distances,
    rotated_boxes_around,
)
from detcam.structures import Level

CPU = torch.device("cpu")
LOOSE = 1e-5  # float32 against the same sums in float64, values of a few units


def test_cell_centres_run_level_by_level_then_row_by_row():
    levels = (Level("P3", 8, (2, 3)), Level("P4", 16, (1, 2)))
    centres, strides = cell_centres(levels, CPU)
    first = [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]
    assert centres.tolist() == [*first, [0.5, 0.5], [1.5, 0.5]]
    assert strides.tolist() == [[8]] * 6 + [[16]] * 2


def test_equal_logits_expect_the_middle_of_the_bins():
    assert expected_distances(torch.zeros(1, 64), 16).tolist() == [[7.5, 7.5, 7.5, 7.5]]  # (0 + … + 15) / 16


def test_each_edge_has_its_own_distribution():
    # Bins 0, 1, 2 with weights: 1 1 2 -> 5/4; 2 1 1 -> 3/4; 0 0 1 -> 2; 1 2 1 -> 1
    weights = torch.tensor([[1.0, 1, 2], [2, 1, 1], [1e-30, 1e-30, 1], [1, 2, 1]])
    found = expected_distances(weights.log().reshape(1, 12), 3)
    torch.testing.assert_close(found, torch.tensor([[1.25, 0.75, 2.0, 1.0]]))


def test_a_distribution_does_not_care_about_a_constant_added_to_its_logits():
    torch.manual_seed(0)
    logits = torch.randn(5, 4, 16)
    shifted = logits + torch.tensor([100.0, -50, 3, 0])[:, None]
    found, expected = (expected_distances(one.reshape(5, 64), 16) for one in (shifted, logits))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_one_bin_is_the_distance_itself():
    values = torch.tensor([[1.5, -0.25, 3.0, 0.0]])
    assert torch.equal(expected_distances(values, 1), values)


def test_expected_distances_agree_with_plain_sums():
    torch.manual_seed(1)
    logits = 4 * torch.randn(7, 4 * 16)
    expected = []
    for row in logits.double().tolist():
        expected.append([])
        for edge in range(4):
            weights = [math.exp(value) for value in row[16 * edge : 16 * edge + 16]]
            expected[-1].append(sum(i * weight for i, weight in enumerate(weights)) / sum(weights))
    found = expected_distances(logits, 16)
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=LOOSE, atol=LOOSE)


def test_boxes_reach_left_top_right_and_bottom_of_their_centre():
    found = boxes_around(torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert found.tolist() == [[9.0, 18.0, 13.0, 24.0]]


@pytest.mark.parametrize(
    ("angle", "centre"),
    [
        # The middle of the box lies (3 - 1) / 2 = 1 along its first side, (4 - 2) / 2 = 1 along its second.
        (0.0, (11.0, 21.0)),
        (math.pi / 2, (9.0, 21.0)),  # first side points down, second to the left
        (math.pi, (9.0, 19.0)),
        (math.pi / 4, (10.0, 20.0 + math.sqrt(2))),
    ],
)
def test_rotated_boxes_measure_their_distances_along_their_own_sides(angle, centre):
    found = rotated_boxes_around(
        torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([angle])
    )
    assert found[0].tolist() == pytest.approx([*centre, 4.0, 6.0, angle], abs=LOOSE)


def test_an_unturned_rotated_box_is_the_upright_one():
    torch.manual_seed(2)
    centres, distances = torch.rand(6, 2) * 20, torch.rand(6, 4) * 5
    upright = boxes_around(centres, distances)
    corners = corners_of(rotated_boxes_around(centres, distances, torch.zeros(6)))
    around = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    torch.testing.assert_close(around, upright, rtol=LOOSE, atol=LOOSE)


def test_corners_go_around_the_box():
    # 4 long, 2 wide, turned by a right angle: 2 wide and 4 high on the picture, from the front right on.
    found = corners_of(torch.tensor([[10.0, 20.0, 4.0, 2.0, math.pi / 2]]))[0]
    expected = torch.tensor([[9.0, 22.0], [11.0, 22.0], [11.0, 18.0], [9.0, 18.0]])
    torch.testing.assert_close(found, expected, rtol=0, atol=LOOSE)


def test_corners_keep_their_distance_from_the_centre_whatever_the_angle():
    angles = torch.linspace(-2, 4, 13)
    boxes = torch.cat([torch.tensor([[3.0, 5.0, 6.0, 8.0]]).expand(13, 4), angles[:, None]], dim=1)
    corners = corners_of(boxes)
    radius = (corners - torch.tensor([3.0, 5.0])).norm(dim=2)
    torch.testing.assert_close(radius, torch.full((13, 4), 5.0))  # half the diagonal of 6 x 8
    sides = (corners - corners.roll(1, dims=1)).norm(dim=2)
    torch.testing.assert_close(sides, torch.tensor([[6.0, 8.0, 6.0, 8.0]]).expand(13, 4))


@pytest.mark.parametrize("bins", [1, 16])
def test_box_edges_have_gradients(bins):
    torch.manual_seed(3)
    logits = torch.randn(1, 4 * bins, requires_grad=True)
    box = boxes_around(torch.tensor([[1.5, 2.5]]), expected_distances(logits, bins))
    for edge in range(4):
        (gradient,) = torch.autograd.grad(box[0, edge], logits, retain_graph=True)
        own = gradient.reshape(4, bins)
        assert own[edge].any()
        assert not own[[other for other in range(4) if other != edge]].any()
