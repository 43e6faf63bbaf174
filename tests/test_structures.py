"""The arithmetic of candidates and levels, and shapes that do not fit."""

import pytest
import torch

from detcam.errors import ShapeError
from detcam.scoring import ObjectTimesClass
from detcam.structures import Detections, Layer, Level, Location, RawPrediction

LEVELS = (Level("P3", 8, (2, 3)), Level("P4", 16, (1, 2)))


def raw(logits=None, **options):
    return RawPrediction(torch.zeros(8, 2) if logits is None else logits, LEVELS, lambda i: i, **options)


def detections(count=3, **changes):
    parts = {
        "boxes": torch.arange(count * 4.0).reshape(count, 4),
        "scores": torch.linspace(0.9, 0.1, count),
        "labels": torch.arange(count),
        "candidates": 10 * torch.arange(count),
    }
    return Detections(**{**parts, **changes})


@pytest.mark.parametrize(
    ("candidate", "level", "row", "column"),
    [(0, 0, 0, 0), (2, 0, 0, 2), (3, 0, 1, 0), (5, 0, 1, 2), (6, 1, 0, 0), (7, 1, 0, 1)],
)
def test_candidates_are_counted_level_by_level_and_row_by_row(candidate, level, row, column):
    assert raw().locate(candidate) == (LEVELS[level], row, column, 0)


@pytest.mark.parametrize("candidate", [-1, 8, 100])
def test_a_candidate_that_does_not_exist_has_no_place(candidate):
    with pytest.raises(IndexError, match=f"candidate {candidate} of 8"):
        raw().locate(candidate)


def test_central_candidates_are_those_of_the_middle_cells():
    assert raw().central_candidates() == {"P3": 4, "P4": 7}


def test_central_candidates_of_a_head_without_a_grid_are_the_nearest_ones():
    cells = [(0, 0), (1, 0), (1, 2)]  # of a grid whose middle is row 1, column 1
    located = RawPrediction(
        torch.zeros(3, 2), LEVELS, lambda i: i, located=lambda i: Location(LEVELS[0], *cells[i])
    )
    assert located.central_candidates() == {"P3": 1}


def test_scores_are_probabilities_of_the_class():
    logits = torch.tensor([[0.0, 2.0]]).repeat(8, 1)
    expected = [0.5, 0.8807970]  # 1 / (1 + e⁰), 1 / (1 + e⁻²)
    assert raw(logits).scores()[4].tolist() == pytest.approx(expected)


def test_scores_are_multiplied_by_the_objectness():
    logits = torch.tensor([[0.0, 2.0]]).repeat(8, 1)
    objectness = torch.tensor([0.0] * 7 + [2.0])
    found = raw(logits, objectness_logits=objectness, scoring=ObjectTimesClass()).scores()
    assert found[0].tolist() == pytest.approx([0.25, 0.4403985])
    assert found[7].tolist() == pytest.approx([0.4403985, 0.7758034])


@pytest.mark.parametrize(
    "logits", [torch.zeros(7, 2), torch.zeros(9, 2), torch.zeros(8), torch.zeros(1, 8, 2)]
)
def test_as_many_logits_as_cells_are_wanted(logits):
    with pytest.raises(ShapeError, match=r"class_logits must be \(N, K\) with N = 8"):
        raw(logits)


@pytest.mark.parametrize("objectness", [torch.zeros(7), torch.zeros(8, 1)])
def test_one_objectness_a_cell_is_wanted(objectness):
    with pytest.raises(ShapeError, match=r"objectness_logits must be \(8,\)"):
        raw(objectness_logits=objectness)


@pytest.mark.parametrize(
    ("stride", "level"), [(1, "P0"), (8, "P3"), (64, "P6"), (100, "stride-100"), (None, None)]
)
def test_a_layers_level_is_named_after_its_stride(stride, level):
    assert Layer("model.4", "C2f", stride, 64, "backbone").level == level


def test_detections_are_as_many_as_their_boxes():
    assert len(detections(3)) == 3
    assert len(detections(0)) == 0


@pytest.mark.parametrize(
    "rows", [[2, 0], (2, 0), torch.tensor([2, 0]), torch.tensor([False, True, False]), slice(0, 2), []]
)
def test_taking_rows_takes_them_of_every_part(rows):
    corners = torch.arange(24.0).reshape(3, 4, 2)
    full = detections(3, corners=corners, best_score=0.95)
    found = full[rows]
    index = torch.arange(3)[
        rows if isinstance(rows, slice | torch.Tensor) else torch.tensor(rows, dtype=torch.long)
    ]
    assert torch.equal(found.boxes, full.boxes[index])
    assert torch.equal(found.scores, full.scores[index])
    assert torch.equal(found.labels, index)
    assert torch.equal(found.candidates, 10 * index)
    assert torch.equal(found.corners, corners[index])
    assert found.best_score == 0.95


@pytest.mark.parametrize("name", ["scores", "labels", "candidates"])
def test_parts_of_different_lengths_do_not_fit(name):
    with pytest.raises(ShapeError, match=rf"{name} must be \(3,\), got \(2,\)"):
        detections(**{name: torch.zeros(2)})


def test_a_box_has_four_edges():
    with pytest.raises(ShapeError, match=r"boxes must be \(3, 4\), got \(3, 5\)"):
        detections(boxes=torch.zeros(3, 5))


def test_a_rotated_box_has_four_corners():
    with pytest.raises(ShapeError, match=r"corners must be \(3, 4, 2\), got \(3, 4\)"):
        detections(corners=torch.zeros(3, 4))
