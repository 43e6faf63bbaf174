"""What is left of a detection, by hand and against plain loops."""

from __future__ import annotations

import math

import metric_replicas as replicas
import pytest
import torch
from torch import Tensor, tensor

from detcam.errors import ShapeError
from detcam.metrics import (
    MATCHES,
    Candidates,
    Wanted,
    match_d_close,
    match_d_rise,
    match_iou_probability,
    match_odam,
)

WANTED = Wanted(tensor([0.0, 0.0, 4.0, 2.0]), 0, tensor([0.8, 0.6]))  # |p| = 1
EXACT, HALF, THIRD, AWAY = [0, 0, 4, 2], [0, 0, 2, 2], [2, 0, 6, 2], [9, 9, 11, 11]  # IoU 1, 1/2, 1/3, 0
every_match = pytest.mark.parametrize("match", MATCHES.values(), ids=MATCHES.keys())


def found(boxes, probabilities, objectness=None) -> Candidates:
    objectness = None if objectness is None else tensor(objectness)
    return Candidates(tensor(boxes, dtype=torch.float32), tensor(probabilities), objectness)


def random_found(seed: int, pictures: int, count: int) -> tuple[Wanted, Candidates]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(pictures, count, 2, 2, generator=generator).double().sort(dim=-2).values
    box = torch.rand(2, 2, generator=generator).double().sort(dim=0).values.flatten()
    probabilities = torch.rand(pictures, count, 3, generator=generator).double()
    objectness = torch.rand(pictures, count, generator=generator).double()
    classes = torch.rand(3, generator=generator).double()
    return Wanted(box, 1, classes), Candidates(corners.flatten(-2), probabilities, objectness)


# --- By hand ---


def test_iou_times_probability_takes_the_best_product(assert_close):
    # 1/2 · .9 = .45, 1/3 · .9 = .3, 1 · .4 = .4; the other class's .99 plays no part.
    candidates = found([HALF, THIRD, EXACT], [[0.9, 0.99], [0.9, 0.0], [0.4, 0.99]])
    assert_close(match_iou_probability(WANTED, candidates), 0.45)
    # Objectness .5, 1, 1: .225, .3, .4.
    candidates = found([HALF, THIRD, EXACT], [[0.9, 0.99], [0.9, 0.0], [0.4, 0.99]], [0.5, 1.0, 1.0])
    assert_close(match_iou_probability(WANTED, candidates), 0.4)


def test_odam_takes_the_best_confidence_above_an_iou_of_a_half(assert_close):
    # IoU 1/2 is not above it; [0, 0, 3, 2] has 3/4.
    candidates = found([HALF, [0, 0, 3, 2], EXACT], [[0.9, 0.1], [0.7, 0.1], [0.6, 0.1]])
    assert_close(match_odam(WANTED, candidates), 0.7)
    candidates = found([HALF, [0, 0, 3, 2], EXACT], [[0.9, 0.1], [0.7, 0.1], [0.6, 0.1]], [1.0, 0.5, 1.0])
    assert_close(match_odam(WANTED, candidates), 0.6)
    assert_close(match_odam(WANTED, found([HALF], [[0.9, 0.1]])), 0)


def test_d_close_takes_the_best_fit_of_the_class_and_looks_at_its_classes(assert_close):
    # (1, 0): cos .8, d .2, weight exp(-.04 / .125) = exp(-.32). (.8, .6): cos 1. (.6, .8) is of class 1.
    candidates = found([EXACT, HALF, THIRD], [[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]])
    assert_close(match_d_close(WANTED, candidates), 0.5 * math.exp(-0.32))
    # The best fit decides even where a worse one would score more.
    candidates = found([[0, 0, 1.9, 2], HALF], [[0.8, 0.6], [1.0, 0.0]])  # .475 · 1 is more than .363
    assert_close(match_d_close(WANTED, candidates), 0.5 * math.exp(-0.32))


def test_d_close_of_the_unchanged_picture_is_1_whatever_the_confidence(assert_close):
    assert_close(match_d_close(WANTED, found([EXACT, AWAY], [[0.08, 0.06], [0.9, 0.1]], [0.1, 0.9])), 1)


def test_d_close_of_another_class_alone_is_0(assert_close):
    assert_close(match_d_close(WANTED, found([EXACT], [[0.4, 0.6]])), 0)


def test_d_rise_multiplies_fit_likeness_and_objectness(assert_close):
    # (1, 0): cos .8; (0, 1): .6. 1/2 · .8 · .9 = .36; 1 · .6 · .5 = .3; without objectness .4 and .6.
    boxes, classes = [HALF, EXACT], [[1.0, 0.0], [0.0, 0.5]]
    assert_close(match_d_rise(WANTED, found(boxes, classes, [0.9, 0.5])), 0.36)
    assert_close(match_d_rise(WANTED, found(boxes, classes)), 0.6)


# --- Edges ---


@every_match
def test_nothing_found_is_0_not_undefined(match, assert_close):
    assert_close(match(WANTED, Candidates(torch.zeros(0, 4), torch.zeros(0, 2))), 0)
    several = Candidates(torch.zeros(3, 0, 4), torch.zeros(3, 0, 2), torch.zeros(3, 0))
    assert_close(match(WANTED, several), [0, 0, 0])


@every_match
def test_a_box_elsewhere_and_a_box_without_area_are_0(match, assert_close):
    assert_close(match(WANTED, found([AWAY, [1, 1, 1, 1]], [[0.8, 0.6], [0.8, 0.6]])), 0)
    nothing = Wanted(torch.ones(4), 0, tensor([0.8, 0.6]))
    assert_close(match(nothing, found([[1, 1, 1, 1]], [[0.8, 0.6]])), 0)


def test_classes_of_zeros_are_like_nothing(assert_close):
    assert_close(match_d_rise(WANTED, found([EXACT], [[0.0, 0.0]])), 0)


@every_match
def test_several_pictures_at_once_are_each_alone(match):
    wanted, candidates = random_found(0, pictures=4, count=6)
    together = match(wanted, candidates)
    assert together.shape == (4,)
    for row in range(4):
        alone = Candidates(candidates.boxes[row], candidates.probabilities[row], candidates.objectness[row])
        assert torch.equal(match(wanted, alone), together[row])


@every_match
def test_scores_are_0_to_1_and_the_order_of_candidates_does_not_matter(match):
    wanted, candidates = random_found(1, pictures=20, count=9)
    scores = match(wanted, candidates)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.max() > 0
    flipped = Candidates(
        candidates.boxes.flip(1), candidates.probabilities.flip(1), candidates.objectness.flip(1)
    )
    assert torch.equal(match(wanted, flipped), scores)


# --- Plain loops ---


@pytest.mark.parametrize("seed", range(4))
def test_matches_agree_with_plain_loops(seed, assert_close):
    wanted, many = random_found(seed, pictures=5, count=8)
    for row in range(5):
        boxes, classes, objects = (x[row].tolist() for x in (many.boxes, many.probabilities, many.objectness))
        fits = [replicas.iou(wanted.box.tolist(), box) for box in boxes]
        likeness = [replicas.cosine(p, wanted.probabilities.tolist()) for p in classes]
        loops = {
            match_iou_probability: max(f * p[1] * o for f, p, o in zip(fits, classes, objects, strict=True)),
            match_odam: max(
                p[1] * o if f > 0.5 else 0 for f, p, o in zip(fits, classes, objects, strict=True)
            ),
            match_d_rise: max(f * c * o for f, c, o in zip(fits, likeness, objects, strict=True)),
            match_d_close: replicas.d_close(
                wanted.box.tolist(), 1, wanted.probabilities.tolist(), boxes, classes
            ),
        }
        for match, expected in loops.items():
            assert_close(match(wanted, many)[row], expected)


# --- Refused ---

BOX, CLASSES = torch.zeros(4), torch.zeros(2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Wanted(BOX[:3], 0, CLASSES), r"a box \(4,\) .* got \(3,\)"),
        (lambda: Wanted(BOX, 0, CLASSES[None]), r"probabilities \(K,\)"),
        (lambda: Wanted(BOX, 2, CLASSES), "class 2 of 2"),
        (lambda: Wanted(BOX, -1, CLASSES), "class -1 of 2"),
        (lambda: Candidates(BOX, CLASSES), r"\(…, N, 4\)"),
        (lambda: Candidates(torch.zeros(3, 5), torch.zeros(3, 2)), r"got \(3, 5\)"),
        (lambda: Candidates(torch.zeros(3, 4), torch.zeros(2, 2)), r"\(2, 2\)"),
        (lambda: Candidates(torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(2)), r"and \(2,\)"),
        (lambda: match_d_rise(WANTED, Candidates(torch.zeros(3, 4), torch.zeros(3, 5))), "2 classes and"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, said):
    with pytest.raises(ShapeError, match=said):
        make()


def test_a_detection_in_another_precision_is_compared_in_the_candidates(assert_close):
    wanted = Wanted(WANTED.box.double(), 0, WANTED.probabilities.double())
    scores: Tensor = match_d_rise(wanted, found([EXACT], [[0.8, 0.6]]))
    assert scores.dtype == torch.float32
    assert_close(scores, 1)
