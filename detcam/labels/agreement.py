"""What a detector found and what somebody marked: whose classes are whose, which boxes are which."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from detcam.errors import InputError, ShapeError

UNMATCHED, IGNORED = -1, -2
"""What `assign` gives a detection that fits no object, and one that fits a crowd only."""


def classes_for(label_names: Mapping[int, str], detector_names: Mapping[int, str]) -> dict[int, int]:
    """The detector's class of each of a data set's classes.

    By name, where upper case, spaces, "-" and "_" make no difference; a class that the detector does not
    know is left out. If it knows none, by id, where that can be meant: both have the same ids, or the
    names on one side say nothing ("3", "class3") and the set has no id that the detector lacks.

    Raises:
        InputError: neither names nor ids agree.
    """
    # The first of several classes of one name; the very name before one that is only like it.
    by_name: dict[str, int] = {}
    for spelling in (str, _plain):
        for index, name in sorted(detector_names.items()):
            by_name.setdefault(spelling(name), index)
    spelled = {index: name if name in by_name else _plain(name) for index, name in label_names.items()}
    known = {index: by_name[name] for index, name in spelled.items() if name in by_name}
    if known and not _say_nothing(label_names):
        return known
    ids, detector_ids = set(label_names), set(detector_names)
    may_lack_some = _say_nothing(label_names) or _say_nothing(detector_names)
    if ids and (ids == detector_ids or (may_lack_some and ids <= detector_ids)):
        return {index: index for index in label_names}
    raise InputError(
        f"the data set's {len(ids)} classes ({_first(label_names)}) are not among the detector's "
        f"{len(detector_ids)} ({_first(detector_names)}), by name or id; correct the names in the data set, "
        "or give the detector its names with --names"
    )


def assign(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    truth_boxes: Tensor,
    truth_labels: Tensor,
    *,
    is_crowd: Tensor | None = None,
    iou: float = 0.5,
) -> Tensor:
    """Which of the marked objects each detection is, by COCO's rule.

    Detections choose in order of their scores, equal ones in the order given. Each takes the object of its
    class with the highest IoU among those still free, if that is at least `iou`. One that gets none but
    lies in a crowd of its class (shared area / its own area >= `iou`) counts neither as right nor as wrong.
    As in pycocotools, of objects with equal IoU the last is taken.

    Args:
        boxes: (M, 4) xyxy.
        scores: (M,).
        labels: (M,) int64.
        truth_boxes: (N, 4) xyxy in the same pixels.
        truth_labels: (N,) int64, the same classes as `labels`: see `classes_for`.
        is_crowd: (N,) bool, by default no crowds.
        iou: 0 < iou <= 1.

    Returns:
        (M,) int64: the object's row, -1 where there is none, -2 for a crowd.

    Raises:
        ShapeError: shapes do not fit.
        InputError: boxes or scores that are not finite, or `iou` out of range.
    """
    if is_crowd is None:
        is_crowd = torch.zeros(len(truth_boxes), dtype=torch.bool, device=truth_boxes.device)
    _check(boxes, (scores, labels), "detections")
    _check(truth_boxes, (truth_labels, is_crowd), "objects")
    if not 0 < iou <= 1:
        raise InputError(f"iou must be above 0 and at most 1, got {iou}")
    if not bool(scores.isfinite().all()):
        raise InputError("scores must be finite, got nan or inf")
    iou = min(iou, 1 - 1e-10)  # as pycocotools, for the rounding of equal boxes
    shared, own, joint = _areas(boxes.cpu().double(), truth_boxes.cpu().double())
    is_same = labels.cpu()[:, None] == truth_labels.cpu()
    crowd = is_crowd.cpu()
    fits = torch.where(is_same & ~crowd, _ratio(shared, joint), -1.0)
    in_crowd = (is_same & crowd & (_ratio(shared, own) >= iou)).any(dim=1)
    taken = torch.where(in_crowd, IGNORED, UNMATCHED)
    for row in scores.cpu().argsort(descending=True, stable=True).tolist() if len(truth_boxes) else ():
        # The last of equal ones: the first from behind.
        best = fits.shape[1] - 1 - int(fits[row].flip(0).argmax())
        if fits[row, best] >= iou:
            taken[row] = best
            fits[:, best] = -1.0
    return taken.to(boxes.device)


def _check(boxes: Tensor, columns: tuple[Tensor, Tensor], what: str) -> None:
    count = len(boxes)
    shapes = [tuple(one.shape) for one in (boxes, *columns)]
    if shapes != [(count, 4), (count,), (count,)]:
        raise ShapeError(f"{what} must be boxes (M, 4) and two columns (M,), got {shapes}")
    if not bool(boxes.isfinite().all()):
        raise InputError(f"boxes of {what} must be finite, got nan or inf")


def _areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each box shares with each other (M, N), its own area (M, 1), what the two cover (M, N)."""
    corner = torch.maximum(boxes[:, None, :2], others[:, :2])
    shared = (torch.minimum(boxes[:, None, 2:], others[:, 2:]) - corner).clamp(min=0).prod(dim=-1)
    own, theirs = ((one[:, 2:] - one[:, :2]).clamp(min=0).prod(dim=-1) for one in (boxes, others))
    return shared, own[:, None], own[:, None] + theirs - shared


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def _say_nothing(names: Mapping[int, str]) -> bool:
    return all(_plain(name) in (str(index), f"class{index}") for index, name in names.items())


def _first(names: Mapping[int, str]) -> str:
    shown = ", ".join(f"{index} {name!r}" for index, name in list(names.items())[:3])
    return f"{shown}, …" if len(names) > 3 else shown or "none"
