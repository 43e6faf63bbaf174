"""TIDE's kinds by hand, and as the authors' own tidecv sorts random pictures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from detcam.errors import InputError
from detcam.labels import sort_findings

OBJECT = [0.0, 0.0, 100.0, 100.0]


def strip(overlap: float, left: float = 0.0) -> list[float]:
    """A box inside the 100 by 100 object at `left`, of that IoU."""
    return [left, 0.0, left + 100.0 * overlap, 100.0]


def kinds(
    found: list[tuple[list[float], float, int]],
    objects: list[tuple[list[float], int]],
    crowds: tuple[int, ...] = (),
) -> Any:
    """Sort detections (box, score, class) beside objects (box, class)."""
    return sort_findings(
        torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
        torch.tensor([score for _, score, _ in found]),
        torch.tensor([label for _, _, label in found]).long(),
        torch.tensor([box for box, _ in objects]).reshape(-1, 4),
        torch.tensor([label for _, label in objects]).long(),
        is_crowd=torch.tensor([place in crowds for place in range(len(objects))]).bool(),
    )


@pytest.mark.parametrize(
    ("overlap", "label", "kind"),
    [
        (0.5, 7, "true positive"),
        (0.49, 7, "badly placed"),
        (0.1, 7, "badly placed"),
        (0.09, 7, "background"),
        (0.5, 8, "wrong class"),
        (0.49, 8, "wrong class, badly placed"),
        (0.1, 8, "wrong class, badly placed"),
        (0.09, 8, "background"),
    ],
)
def test_overlap_and_class_decide(overlap, label, kind):
    first, *_ = kinds([(strip(overlap), 0.9, label)], [(OBJECT, 7)])
    assert first.kind == kind
    if kind == "background":
        assert (first.truth, first.overlap) == (None, None)
    else:
        assert first.truth == 0
        assert first.overlap == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("overlap", "label", "is_missed"),
    [
        (0.5, 7, False),
        (0.3, 7, False),
        (0.6, 8, False),
        (0.3, 8, True),  # wrong in both: not about this object
        (0.05, 7, True),
    ],
)
def test_an_object_is_missed_if_nothing_is_about_it(overlap, label, is_missed):
    found = kinds([(strip(overlap), 0.9, label)], [(OBJECT, 7)])
    assert [one.truth for one in found if one.kind == "missed"] == ([0] if is_missed else [])


def test_the_weaker_of_two_on_one_object_is_a_duplicate():
    found = kinds([(strip(0.6), 0.3, 7), (strip(0.9), 0.8, 7)], [(OBJECT, 7)])
    assert [one.kind for one in found] == ["duplicate", "true positive"]


def test_badly_placed_comes_before_wrong_class_and_that_before_duplicate():
    # Two objects one upon the other; the detection has class 7.
    other = (strip(0.6), 8)
    assert kinds([(strip(0.4), 0.9, 7)], [(OBJECT, 7), other])[0].kind == "badly placed"
    found = kinds([(OBJECT, 0.9, 7), (strip(0.7), 0.5, 7)], [(OBJECT, 7), other])
    assert [one.kind for one in found] == ["true positive", "wrong class"]


def test_a_crowd_is_neither_right_nor_wrong_nor_missed():
    found = kinds([(strip(0.2), 0.9, 7)], [(OBJECT, 7)], crowds=(0,))
    assert [one.kind for one in found] == ["in a crowd"]
    found = kinds([(strip(0.6), 0.9, 8)], [(OBJECT, 7)], crowds=(0,))
    assert [one.kind for one in found] == ["background"]


def test_without_objects_all_is_background_and_without_detections_all_missed():
    assert [one.kind for one in kinds([(OBJECT, 0.9, 7)], [])] == ["background"]
    assert [(one.kind, one.truth) for one in kinds([], [(OBJECT, 7), (OBJECT, 8)])] == [
        ("missed", 0),
        ("missed", 1),
    ]
    assert kinds([], []) == []


def test_a_background_threshold_above_the_other_is_refused():
    boxes, labels = torch.zeros(0, 4), torch.zeros(0).long()
    with pytest.raises(InputError, match=r"background must be at least 0 and below iou 0\.5, got 0\.5"):
        sort_findings(boxes, torch.zeros(0), labels, boxes, labels, background=0.5)


THEIRS = {
    "BoxError": "badly placed",
    "ClassError": "wrong class",
    "DuplicateError": "duplicate",
    "BackgroundError": "background",
    "OtherError": "wrong class, badly placed",
}


def test_the_authors_sort_random_pictures_alike():
    tidecv = pytest.importorskip("tidecv", reason="no tidecv: pip install tidecv")
    generator = torch.Generator().manual_seed(0)
    seen: Counter[str] = Counter()
    for _ in range(100):
        boxes, scores, labels, truth, truth_labels = _random_picture(generator)
        known, given = tidecv.Data("truth"), tidecv.Data("found")
        for box, label in zip(truth, truth_labels, strict=True):
            known.add_ground_truth(0, int(label), box=_xywh(box))
        for box, label, score in zip(boxes, labels, scores, strict=True):
            given.add_detection(0, int(label), float(score), box=_xywh(box))
        run = tidecv.TIDE(pos_threshold=0.5, background_threshold=0.1).evaluate(
            known, given, mode=tidecv.TIDE.BOX
        )
        theirs = {one.pred["_id"]: THEIRS[type(one).__name__] for one in run.errors if hasattr(one, "pred")}
        ours = [
            one for one in sort_findings(boxes, scores, labels, truth, truth_labels) if one.kind != "missed"
        ]
        assert [one.kind for one in ours] == [theirs.get(row, "true positive") for row in range(len(ours))]
        seen.update(one.kind for one in ours)
    assert set(seen) == {*THEIRS.values(), "true positive"}


def _random_picture(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Objects of three classes, and detections most of which lie near one; the best first."""
    count, found = (int(torch.randint(1, most, (1,), generator=generator)) for most in (5, 8))

    def boxes(number: int) -> torch.Tensor:
        corner = torch.rand(number, 2, generator=generator) * 60
        return torch.cat([corner, corner + torch.rand(number, 2, generator=generator) * 50 + 8], dim=1)

    truth, detections = boxes(count), boxes(found)
    near = torch.rand(found, generator=generator) < 0.7
    moved = truth[torch.randint(0, count, (found,), generator=generator)]
    moved = moved + torch.randn(found, 4, generator=generator) * 4
    moved[:, 2:] = moved[:, 2:].maximum(moved[:, :2] + 2)
    detections = torch.where(near[:, None], moved, detections)
    scores = torch.rand(found, generator=generator).sort(descending=True).values
    labels, truth_labels = (torch.randint(0, 3, (size,), generator=generator) for size in (found, count))
    return detections, scores, labels, truth, truth_labels


def _xywh(box: torch.Tensor) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
