"""Which candidates become detections: cases made by hand, and plain loops."""

import math

import pytest
import torch

from detcam.adapters import DetectOptions, suppression
from detcam.adapters.suppression import best_score, prob_iou, take_best
from detcam.scoring import ObjectTimesClass
from detcam.structures import Level, RawPrediction


def suppress(raw, options):
    return suppression.suppress(raw, options, own_iou=0.7)


def logit(score):
    return math.log(score / (1 - score))


def raw_of(scores, boxes, rotated=None):
    """Candidates with these scores (N rows of K) and boxes, as a head with one level gives them."""
    logits = torch.tensor([[logit(score) for score in row] for row in scores])
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    turned = None if rotated is None else torch.tensor(rotated, dtype=torch.float32)
    return RawPrediction(
        logits,
        (Level("P3", 8, (1, len(logits))),),
        lambda i: boxes[i],
        rotated_boxes=None if turned is None else lambda i: turned[i],
    )


def kept(found):
    candidates, _, labels = found
    return list(zip(candidates.tolist(), labels.tolist(), strict=True))


TEN = [0, 0, 10, 10]
UPPER_HALF = [0, 0, 10, 5]  # IoU 50 / 100 with TEN
FAR = [100, 100, 110, 110]


# --- with suppression ---------------------------------------------------------------------------------


def test_the_weaker_of_two_boxes_of_a_class_goes():
    raw = raw_of([[0.6], [0.9], [0.7]], [TEN, TEN, FAR])
    assert kept(suppress(raw, DetectOptions())) == [(1, 0), (2, 0)]


def test_boxes_of_different_classes_do_not_suppress_each_other():
    raw = raw_of([[0.6, 0.1], [0.1, 0.9]], [TEN, TEN])
    assert kept(suppress(raw, DetectOptions())) == [(1, 1), (0, 0)]


@pytest.mark.parametrize(("iou", "survivors"), [(0.5, 2), (0.4999, 1), (0.0, 1), (1.0, 2)])
def test_boxes_that_overlap_just_as_much_as_allowed_both_stay(iou, survivors):
    raw = raw_of([[0.9], [0.6]], [TEN, UPPER_HALF])
    assert len(suppress(raw, DetectOptions(iou=iou))[0]) == survivors


def test_a_suppressed_box_suppresses_nothing():
    # Each overlaps the next by 6 of 14: IoU 3/7; the first and the last by 2 of 18: IoU 1/9.
    chain = [[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]]
    raw = raw_of([[0.9], [0.8], [0.7]], chain)
    assert kept(suppress(raw, DetectOptions(iou=0.4))) == [(0, 0), (2, 0)]


def test_a_score_must_pass_the_threshold_not_just_reach_it():
    raw = raw_of([[0.5], [0.51]], [TEN, FAR])  # σ(0) is 0.5 exactly
    assert kept(suppress(raw, DetectOptions(conf=0.5))) == [(1, 0)]


def test_a_candidate_is_detected_as_its_best_class_only():
    raw = raw_of([[0.7, 0.9, 0.8]], [TEN])
    candidates, scores, labels = suppress(raw, DetectOptions())
    assert (candidates.tolist(), labels.tolist()) == ([0], [1])
    assert scores.tolist() == pytest.approx([0.9])


def test_a_candidate_whose_best_class_is_unwanted_is_no_detection_of_another():
    raw = raw_of([[0.7, 0.9], [0.6, 0.1]], [TEN, FAR])
    assert kept(suppress(raw, DetectOptions(classes=(0,)))) == [(1, 0)]
    assert kept(suppress(raw, DetectOptions(classes=(0, 1)))) == [(0, 1), (1, 0)]
    assert kept(suppress(raw, DetectOptions(classes=()))) == []


def test_an_unwanted_box_suppresses_nothing():
    raw = raw_of([[0.9, 0.1], [0.1, 0.6]], [TEN, TEN])
    assert kept(suppress(raw, DetectOptions(classes=(1,)))) == [(1, 1)]


def test_the_best_are_kept_best_first():
    scores = [[0.5], [0.9], [0.3], [0.7]]
    raw = raw_of(scores, [[20 * i, 0, 20 * i + 10, 10] for i in range(4)])
    assert kept(suppress(raw, DetectOptions())) == [(1, 0), (3, 0), (0, 0), (2, 0)]
    assert kept(suppress(raw, DetectOptions(max_det=2))) == [(1, 0), (3, 0)]


def test_of_equal_scores_the_first_candidate_wins():
    raw = raw_of([[0.8], [0.8], [0.8]], [FAR, TEN, TEN])
    assert kept(suppress(raw, DetectOptions())) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("rotated", [None, [[5, 5, 10, 10, 0.0]]])
def test_nothing_above_the_threshold_is_an_empty_answer(rotated):
    candidates, scores, labels = suppress(raw_of([[0.1]], [TEN], rotated), DetectOptions())
    assert (len(candidates), len(scores), len(labels)) == (0, 0, 0)
    assert candidates.dtype == labels.dtype == torch.int64


def test_objectness_counts():
    raw = raw_of([[0.8], [0.8]], [TEN, FAR])
    objectness = torch.tensor([logit(0.9), logit(0.25)])
    raw = RawPrediction(raw.class_logits, raw.levels, raw.boxes, objectness, scoring=ObjectTimesClass())
    candidates, scores, _ = suppress(raw, DetectOptions())
    assert candidates.tolist() == [0]  # 0.8 · 0.9 = 0.72 passes, 0.8 · 0.25 = 0.2 does not
    assert scores.tolist() == pytest.approx([0.72])


def test_boxes_of_high_classes_are_compared_as_predict_rounds_them():
    # Predict keeps classes apart by 7680 pixels each. At class 61, 468480 pixels out, float32 knows 32nds
    # of a pixel: 9.98 becomes 9.96875 and 1.0 stays, so that the overlap of 0.10020 turns 0.10031.
    boxes, exact = [[0, 0, 9.98, 1], [0, 0, 1.0, 1]], 1.0 / 9.98
    scores = [[0.9 if k == 61 else 0.01 for k in range(62)], [0.8 if k == 61 else 0.01 for k in range(62)]]
    between = (exact + 1.0 / 9.96875) / 2
    assert len(suppress(raw_of(scores, boxes), DetectOptions(iou=between))[0]) == 1
    low = [[row[0], row[61]] for row in scores]  # as class 1 of two
    assert len(suppress(raw_of(low, boxes), DetectOptions(iou=between))[0]) == 2


def test_suppression_agrees_with_plain_loops():
    generator = torch.Generator().manual_seed(4)
    corners = torch.rand(60, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + 15 * torch.rand(60, 2, generator=generator)], dim=1).tolist()
    scores = (0.02 + 0.9 * torch.rand(60, 3, generator=generator)).tolist()
    expected = plain_suppression(scores, boxes, conf=0.4, iou=0.45)
    assert 20 < len(expected) < sum(max(row) > 0.4 for row in scores)
    assert kept(suppress(raw_of(scores, boxes), DetectOptions(conf=0.4, iou=0.45))) == expected


def plain_suppression(scores, boxes, conf, iou):
    """The textbook's loop, in float64."""
    candidates = []
    for index, row in enumerate(scores):
        label = max(range(len(row)), key=row.__getitem__)
        if row[label] > conf:
            candidates.append((row[label], index, label))
    chosen = []
    for _, index, label in sorted(candidates, reverse=True):
        if all(plain_iou(boxes[index], boxes[i]) <= iou for i, other in chosen if other == label):
            chosen.append((index, label))
    return chosen


def plain_iou(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


# --- rotated ------------------------------------------------------------------------------------------

SAME_PLACE = [[5, 5, 10, 4, 0.3], [5, 5, 10, 4, 0.3], [50, 50, 10, 4, 0.3]]


def test_the_weaker_of_two_rotated_boxes_of_a_class_goes():
    raw = raw_of([[0.6], [0.9], [0.7]], [TEN, TEN, FAR], SAME_PLACE)
    assert kept(suppress(raw, DetectOptions())) == [(1, 0), (2, 0)]


def test_rotated_boxes_of_different_classes_do_not_suppress_each_other():
    raw = raw_of([[0.6, 0.1], [0.1, 0.9], [0.1, 0.7]], [TEN, TEN, FAR], SAME_PLACE)
    assert kept(suppress(raw, DetectOptions())) == [(1, 1), (2, 1), (0, 0)]


@pytest.mark.parametrize(("excess", "survivors"), [(0.0, 2), (1e-6, 1)])
def test_rotated_boxes_that_overlap_just_as_much_as_allowed_both_stay(excess, survivors):
    boxes = [[5, 5, 10, 4, 0.3], [6, 5, 10, 4, 0.3]]
    just = float(prob_iou(torch.tensor(boxes[:1]), torch.tensor(boxes[1:])))
    raw = raw_of([[0.9], [0.8]], [TEN, TEN], boxes)
    assert len(suppress(raw, DetectOptions(iou=just - excess))[0]) == survivors


def test_rotated_boxes_across_each_other_both_stay():
    across = [[5, 5, 20, 2, 0.0], [5, 5, 20, 2, math.pi / 2]]
    assert len(suppress(raw_of([[0.9], [0.8]], [TEN, TEN], across), DetectOptions())[0]) == 2


def test_among_rotated_boxes_even_a_suppressed_one_suppresses():
    # As predict does it (Fast NMS). Neighbours: exp(-2² / (8 · 100/12)) -> 0.76; first and last: 0.53.
    chain = [[0, 0, 10, 10, 0.0], [2, 0, 10, 10, 0.0], [4, 0, 10, 10, 0.0]]
    raw = raw_of([[0.9], [0.8], [0.7]], [TEN, TEN, TEN], chain)
    overlaps = prob_iou(torch.tensor(chain), torch.tensor(chain))
    assert overlaps[0, 1] > 0.7 > overlaps[0, 2]
    assert kept(suppress(raw, DetectOptions(iou=0.7))) == [(0, 0)]


def overlap(one, other):
    return float(
        prob_iou(torch.tensor([one], dtype=torch.float64), torch.tensor([other], dtype=torch.float64))
    )


def from_coefficient(coefficient):
    """1 - Hellinger distance of two Gaussians with this Bhattacharyya coefficient."""
    return 1 - math.sqrt(1 - coefficient)


EPS = 1e-3  # the formula's own epsilon of 1e-7 stands under a square root: 3e-4 at full overlap


def test_a_rotated_box_overlaps_itself_fully():
    assert overlap([3, 4, 10, 6, 0.7], [3, 4, 10, 6, 0.7]) == pytest.approx(1, abs=EPS)


def test_far_rotated_boxes_do_not_overlap():
    assert overlap([0, 0, 10, 6, 0.7], [500, 0, 10, 6, 0.7]) == pytest.approx(0, abs=EPS)


@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
def test_shifted_boxes_overlap_as_shifted_gaussians(shift):
    # Variance w² / 12 along the shift: the coefficient is exp(-d² / (8 · w² / 12)).
    expected = from_coefficient(math.exp(-(shift**2) / (8 * 10**2 / 12)))
    assert overlap([0, 0, 10, 4, 0.0], [shift, 0, 10, 4, 0.0]) == pytest.approx(expected, abs=EPS)
    assert overlap([0, 0, 4, 10, 0.0], [0, shift, 4, 10, 0.0]) == pytest.approx(expected, abs=EPS)


@pytest.mark.parametrize("factor", [1.5, 2.0, 5.0])
def test_concentric_boxes_overlap_by_their_sizes(factor):
    # Σ₂ = k²·Σ₁ in two dimensions: the coefficient is 2k / (1 + k²).
    expected = from_coefficient(2 * factor / (1 + factor**2))
    assert overlap([0, 0, 10, 4, 0.4], [0, 0, 10 * factor, 4 * factor, 0.4]) == pytest.approx(
        expected, abs=EPS
    )


def test_a_quarter_turn_is_an_exchange_of_sides():
    other = [2, 1, 7, 3, 0.3]
    turned = overlap([0, 0, 10, 4, math.pi / 2], other)
    assert turned == pytest.approx(overlap([0, 0, 4, 10, 0.0], other), abs=1e-9)
    assert abs(turned - overlap([0, 0, 10, 4, 0.0], other)) > 0.01


def test_a_turned_square_is_the_same_gaussian():
    assert overlap([0, 0, 8, 8, 0.0], [1, 2, 5, 3, 0.4]) == pytest.approx(
        overlap([0, 0, 8, 8, 1.1], [1, 2, 5, 3, 0.4]), abs=1e-9
    )


def test_turning_both_boxes_and_the_line_between_them_changes_nothing():
    angle = 0.9
    cos, sin = math.cos(angle), math.sin(angle)
    upright = overlap([0, 0, 10, 4, 0.2], [3, 1, 6, 5, 0.7])
    turned = overlap([0, 0, 10, 4, 0.2 + angle], [3 * cos - 1 * sin, 3 * sin + 1 * cos, 6, 5, 0.7 + angle])
    assert turned == pytest.approx(upright, abs=1e-9)


def test_overlaps_agree_with_the_gaussians_own_formula():
    generator = torch.Generator().manual_seed(5)
    boxes = torch.rand(8, 5, generator=generator, dtype=torch.float64) * torch.tensor([20, 20, 15, 15, 3.0])
    boxes[:, 2:4] += 2
    found = prob_iou(boxes[:5], boxes)
    assert found.shape == (5, 8)
    for i in range(5):
        for j in range(8):
            (mean_i, cov_i), (mean_j, cov_j) = gaussian(boxes[i]), gaussian(boxes[j])
            middle, apart = (cov_i + cov_j) / 2, mean_i - mean_j
            distance = float(apart @ torch.linalg.inv(middle) @ apart) / 8
            distance += math.log(middle.det() / math.sqrt(cov_i.det() * cov_j.det())) / 2
            assert float(found[i, j]) == pytest.approx(from_coefficient(math.exp(-distance)), abs=EPS)


def gaussian(box):
    cos, sin = math.cos(box[4]), math.sin(box[4])
    turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    return box[:2], turn @ torch.diag(box[2:4] ** 2 / 12) @ turn.T


# --- end to end ---------------------------------------------------------------------------------------


def test_the_best_pairs_of_candidate_and_class_are_taken():
    raw = raw_of([[0.6, 0.9], [0.8, 0.1], [0.3, 0.2]], [TEN, TEN, TEN])
    assert kept(take_best(raw, DetectOptions())) == [(0, 1), (1, 0), (0, 0)]  # as many pairs as candidates


def test_without_suppression_equal_boxes_all_stay():
    raw = raw_of([[0.9], [0.8], [0.7]], [TEN, TEN, TEN])
    assert kept(take_best(raw, DetectOptions(iou=0.1))) == [(0, 0), (1, 0), (2, 0)]


def test_candidates_compete_by_their_best_class_first():
    # Two candidates go on, by their best class: 1 and 2. Of their four pairs the best two are 0.9 and 0.8.
    raw = raw_of([[0.7, 0.65], [0.9, 0.1], [0.2, 0.8]], [TEN, TEN, TEN])
    assert kept(take_best(raw, DetectOptions(max_det=1), most=2)) == [(1, 0)]
    assert kept(take_best(raw, DetectOptions(max_det=2), most=2)) == [(1, 0), (2, 1)]


def test_unwanted_pairs_are_dropped_after_the_competition_and_before_the_limit():
    raw = raw_of([[0.9, 0.5], [0.8, 0.6], [0.7, 0.1], [0.01, 0.02], [0.01, 0.02]], [TEN] * 5)
    # Three places go to 0.9, 0.8 and 0.7, all of class 0; five go to 0.6 and 0.5 of class 1 as well.
    assert kept(take_best(raw, DetectOptions(classes=(1,), max_det=1), most=3)) == []
    assert kept(take_best(raw, DetectOptions(classes=(1,), max_det=1), most=5)) == [(1, 1)]


def test_more_detections_than_usual_can_be_asked_for():
    raw = raw_of([[0.9], [0.8], [0.7]], [TEN, TEN, TEN])
    assert len(take_best(raw, DetectOptions(max_det=1), most=1)[0]) == 1
    assert len(take_best(raw, DetectOptions(max_det=3), most=1)[0]) == 3


def test_a_pair_must_pass_the_threshold():
    raw = raw_of([[0.5, 0.51]], [TEN])
    assert kept(take_best(raw, DetectOptions(conf=0.5))) == [(0, 1)]


# --- the best score of all ----------------------------------------------------------------------------


def test_the_best_score_counts_what_was_not_detected():
    raw = raw_of([[0.1, 0.2], [0.15, 0.05]], [TEN, TEN])
    assert best_score(raw, DetectOptions()) == pytest.approx(0.2)


def test_the_best_score_of_a_class_is_that_of_its_own_candidates():
    raw = raw_of([[0.1, 0.2], [0.15, 0.05]], [TEN, TEN])
    assert best_score(raw, DetectOptions(classes=(0,))) == pytest.approx(0.15)  # 0.1 belongs to a class-1 one


def test_the_best_score_of_a_class_nobody_prefers_is_zero():
    raw = raw_of([[0.1, 0.2]], [TEN])
    assert best_score(raw, DetectOptions(classes=(0,))) == 0


@pytest.mark.parametrize("options", [{"conf": -0.1}, {"conf": 1.1}, {"iou": 2}])
def test_shares_outside_0_to_1_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must lie in 0..1"):
        DetectOptions(**options)
