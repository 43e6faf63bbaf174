"""Whose classes are whose and which boxes are which, by hand, by plain loops and by pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from detcam.errors import InputError, ShapeError
from detcam.labels import IGNORED, UNMATCHED, assign, classes_for

# Classes


def test_classes_meet_by_name_whatever_their_ids():
    assert classes_for({1: "person", 18: "dog"}, {0: "person", 1: "bicycle", 16: "dog"}) == {1: 0, 18: 16}


@pytest.mark.parametrize("said", ["TV monitor", "tv-monitor", "tv_monitor", "TVMonitor", " tv  monitor"])
def test_case_and_separators_make_no_difference(said):
    assert classes_for({3: said}, {7: "tvmonitor"}) == {3: 7}
    assert classes_for({3: "tvmonitor"}, {7: said}) == {3: 7}


def test_a_class_that_the_detector_does_not_know_is_left_out():
    assert classes_for({0: "dog", 1: "unicorn"}, {5: "dog", 1: "cat"}) == {0: 5}


def test_the_very_name_comes_before_one_like_it_and_the_first_of_equals_is_taken():
    assert classes_for({0: "hot dog"}, {1: "hot-dog", 2: "hot dog", 3: "hot dog"}) == {0: 2}
    assert classes_for({0: "HotDog"}, {2: "hot dog", 1: "hot-dog"}) == {0: 1}


@pytest.mark.parametrize(
    ("labels", "detector"),
    [
        ({0: "Katze", 1: "Hund"}, {1: "dog", 0: "cat"}),  # other words for the same ids
        ({0: "0", 5: "5"}, {i: f"thing {i}" for i in range(6)}),  # a folder without names
        ({0: "cat", 1: "dog"}, {0: "class0", 1: "class1", 2: "class_2"}),  # a checkpoint without names
    ],
)
def test_without_a_common_name_ids_decide_where_they_can_be_meant(labels, detector):
    assert classes_for(labels, detector) == {index: index for index in labels}


def test_names_that_say_nothing_do_not_meet_by_being_equal():
    """Class "1" of a set without names is id 1, not whatever a detector happens to call "1"."""
    assert classes_for({1: "1"}, {0: "1", 1: "2"}) == {1: 1}


@pytest.mark.parametrize(
    ("labels", "detector", "said"),
    [
        (
            {0: "cat", 1: "dog"},
            {0: "person"},
            "2 classes (0 'cat', 1 'dog') are not among the detector's 1 (0 'person')",
        ),
        ({7: "7"}, {0: "person"}, "1 classes (7 '7')"),
        ({i: f"a{i}" for i in range(9)}, {}, "9 classes (0 'a0', 1 'a1', 2 'a2', …)"),
        ({}, {0: "person"}, "0 classes (none)"),
        ({1: "cat", 2: "dog"}, {0: "0", 1: "1"}, "or give the detector its names with --names"),
    ],
)
def test_classes_that_do_not_agree_are_refused_with_both_counts(labels, detector, said):
    with pytest.raises(InputError) as refused:
        classes_for(labels, detector)
    assert said in str(refused.value)


# Boxes


def assigned(found, marked, crowds=None, iou=0.5):
    """Detections (x1, y1, x2, y2, score, class) and objects (x1, y1, x2, y2, class)."""
    found = torch.tensor(found, dtype=torch.float32).reshape(-1, 6)
    marked = torch.tensor(marked, dtype=torch.float32).reshape(-1, 5)
    crowds = None if crowds is None else torch.tensor(crowds, dtype=torch.bool)
    rows = assign(
        found[:, :4],
        found[:, 4],
        found[:, 5].long(),
        marked[:, :4],
        marked[:, 4].long(),
        is_crowd=crowds,
        iou=iou,
    )
    assert rows.dtype == torch.int64
    return rows.tolist()


def test_the_better_score_chooses_first_and_takes_its_best_fit():
    """IoU with (0,0,10,10): 90/100 = .9 for the first, 1 for the second, which comes first by its score."""
    marked = [(0, 0, 10, 10, 1), (0, 0, 10, 6, 1)]
    assert assigned([(0, 0, 10, 9, 0.5, 1), (0, 0, 10, 10, 0.9, 1)], marked) == [1, 0]  # 60/90 = .67 is left
    assert assigned([(0, 0, 10, 9, 0.9, 1), (0, 0, 10, 10, 0.5, 1)], marked) == [0, 1]


def test_an_object_is_taken_once_and_of_its_own_class_only():
    marked = [(0, 0, 10, 10, 1)]
    assert assigned([(0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 1)], marked) == [0, UNMATCHED]
    assert assigned([(0, 0, 10, 10, 0.9, 2), (0, 0, 10, 10, 0.8, 1)], marked) == [UNMATCHED, 0]


def test_the_threshold_itself_is_enough():
    """50/100 = .5 exactly, 49/100 not."""
    assert assigned([(0, 0, 10, 5, 0.9, 1)], [(0, 0, 10, 10, 1)]) == [0]
    assert assigned([(0, 0, 10, 4.9, 0.9, 1)], [(0, 0, 10, 10, 1)]) == [UNMATCHED]
    assert assigned([(0, 0, 10, 4.9, 0.9, 1)], [(0, 0, 10, 10, 1)], iou=0.4) == [0]
    assert assigned([(0.1, 0.3, 7.7, 9.1, 0.9, 1)], [(0.1, 0.3, 7.7, 9.1, 1)], iou=1) == [0]


def test_equal_scores_keep_their_order_and_of_equal_fits_the_last_is_taken():
    same = [(0, 0, 10, 10, 1)] * 2
    assert assigned([(0, 0, 10, 10, 0.5, 1)] * 3, same) == [1, 0, UNMATCHED]


def test_a_crowd_takes_any_number_and_counts_for_nothing():
    """All of a detection lies in the crowd, though the IoU is 1/100; of the last 10/21, less than half."""
    crowd, crowds = [(0, 0, 100, 100, 1)], [True]
    found = [(0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.1, 1), (0, 0, 5, 5, 0.5, 2), (90, 0, 111, 9, 0.5, 1)]
    assert assigned(found, crowd, crowds) == [IGNORED, IGNORED, UNMATCHED, UNMATCHED]
    assert assigned(found[:1], [*crowd, (0, 0, 10, 10, 1)], [True, False]) == [1]


def test_nothing_found_and_nothing_marked_are_no_special_cases():
    assert assigned([], [(0, 0, 1, 1, 1)]) == []
    assert assigned([(0, 0, 1, 1, 0.5, 1)], []) == [UNMATCHED]
    assert assigned([], []) == []
    assert assigned([(3, 3, 3, 3, 0.5, 1)], [(3, 3, 3, 3, 1)]) == [UNMATCHED]  # no area, no overlap


def by_loops(found, marked, crowds, iou):
    """COCOeval.evaluateImg of one picture without area ranges, class by class, as loops."""

    def share(one, other, is_crowd):
        width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
        height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
        own, theirs = ((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
        whole = own if is_crowd else own + theirs - width * height
        return width * height / whole if whole > 0 else 0.0

    rows, taken = [-1] * len(found), set()
    for d in sorted(range(len(found)), key=lambda row: -found[row][4]):
        best, at = iou, -1
        for g in sorted(range(len(marked)), key=lambda row: crowds[row]):
            if (g in taken and not crowds[g]) or found[d][5] != marked[g][4]:
                continue
            if at >= 0 and not crowds[at] and crowds[g]:
                break
            if share(found[d], marked[g], crowds[g]) >= best:
                best, at = share(found[d], marked[g], crowds[g]), g
        if at >= 0:
            taken.add(at)
            rows[d] = -2 if crowds[at] else at
    return rows


sides = st.integers(0, 8)
boxes = st.tuples(sides, sides, sides, sides).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)
classes = st.integers(1, 2)
detections = st.lists(
    st.tuples(boxes, st.integers(0, 4), classes).map(lambda d: (*d[0], d[1] / 4, d[2])), max_size=6
)
objects = st.lists(st.tuples(boxes, classes, st.booleans()), max_size=5)


@given(found=detections, objects=objects, iou=st.sampled_from([0.25, 0.5, 0.75]))
@settings(deadline=None, max_examples=200)
def test_any_assignment_is_that_of_the_plain_loops(found, objects, iou):
    marked, crowds = [(*box, label) for box, label, _ in objects], [crowd for *_, crowd in objects]
    assert assigned(found, marked, crowds, iou) == by_loops(found, marked, crowds, iou)


@given(found=detections, objects=objects)
@settings(deadline=None)
def test_any_assignment_is_that_of_pycocotools(found, objects):
    coco_file = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    if not found or not objects:
        return

    def xywh(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    truth = coco_file.COCO()
    annotations = [
        {
            "id": row + 1,
            "image_id": 1,
            "category_id": label,
            "bbox": xywh(box),
            "area": 1,
            "iscrowd": int(crowd),
        }
        for row, (box, label, crowd) in enumerate(objects)
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}],
        "annotations": annotations,
        "categories": [{"id": 1}, {"id": 2}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(
            [{"image_id": 1, "category_id": d[5], "bbox": xywh(d), "score": d[4]} for d in found]
        )
        judge = evaluation.COCOeval(truth, results, "bbox")
        judge.params.iouThrs, judge.params.areaRng = np.array([0.5]), [[0, 1e10]]
        judge.params.areaRngLbl, judge.params.maxDets = ["all"], [100]
        judge.evaluate()
    expected = [-1] * len(found)
    for one in filter(None, judge.evalImgs):
        for detection, match in zip(one["dtIds"], one["dtMatches"][0], strict=True):
            if match:
                expected[detection - 1] = -2 if objects[int(match) - 1][2] else int(match) - 1
    marked, crowds = [(*box, label) for box, label, _ in objects], [crowd for *_, crowd in objects]
    assert assigned(found, marked, crowds) == expected


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"boxes": torch.zeros(2, 4)}, ShapeError, "detections must be boxes"),
        ({"boxes": torch.zeros(1, 5)}, ShapeError, "detections must be boxes"),
        ({"truth_labels": torch.zeros(2)}, ShapeError, "objects must be boxes"),
        ({"is_crowd": torch.zeros(2, dtype=torch.bool)}, ShapeError, "objects must be boxes"),
        ({"boxes": torch.full((1, 4), torch.nan)}, InputError, "boxes of detections must be finite"),
        ({"truth_boxes": torch.full((1, 4), torch.inf)}, InputError, "boxes of objects must be finite"),
        ({"scores": tensor([torch.nan])}, InputError, "scores must be finite"),
        ({"iou": 0}, InputError, "iou must be above 0 and at most 1, got 0"),
        ({"iou": 1.5}, InputError, "iou must be above 0 and at most 1, got 1.5"),
        ({"iou": float("nan")}, InputError, "iou must be above 0 and at most 1, got nan"),
    ],
)
def test_what_cannot_be_assigned_is_refused(changed, error, said):
    given = {
        "boxes": torch.zeros(1, 4),
        "scores": torch.zeros(1),
        "labels": torch.zeros(1, dtype=torch.int64),
        "truth_boxes": torch.zeros(1, 4),
        "truth_labels": torch.zeros(1, dtype=torch.int64),
    }
    with pytest.raises(error, match=said):
        assign(**given | changed)
