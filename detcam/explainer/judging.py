"""Which boxes of a picture are explained, and what each is: right, wrong, or not found at all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torchvision.ops import nms

from detcam.errors import InputError
from detcam.explainer.candidates import RawCandidates
from detcam.explanation import RIGHT, Kind, Verdict
from detcam.images import Picture
from detcam.labels import Finding, LabelledPicture, LabelledSet, classes_for, sort_findings
from detcam.structures import Detections

_UNKNOWN = -1  # a labelled class that the detector does not know
_SAME_PLACE = 0.5  # IoU from which a candidate thinks about what was found already
_LEAST_SCORE = 0.01  # of a near miss


class Judge(Protocol):
    """Says what the boxes of a picture are."""

    def __call__(self, picture: Picture, candidates: RawCandidates) -> list[Verdict]:
        """Verdicts on all that was found and some that was not, what should be explained first in front.

        Raises:
            InputError: nothing is known of this picture.
        """
        ...


@dataclass(frozen=True, eq=False)
class NearMissJudge:
    """The strongest candidates below the threshold at places where nothing was found.

    Attributes:
        count: how many at most.
    """

    count: int

    def __call__(self, picture: Picture, candidates: RawCandidates) -> list[Verdict]:
        """See `Judge`."""
        found, conf, names = candidates.found, candidates.options.conf, candidates.detector.class_names
        weak = candidates.detected(conf=min(_LEAST_SCORE, conf))
        weak = weak[(weak.scores <= conf).nonzero().flatten()]
        boxes, scores = torch.cat([found.boxes, weak.boxes]), torch.cat([found.scores, weak.scores])
        apart = nms(boxes, scores, _SAME_PLACE) - len(found)
        missed = weak[apart[apart >= 0][: self.count]]
        return [
            *(
                _verdict(
                    missed,
                    row,
                    "near miss",
                    f"{float(missed.scores[row]):.3g} is below the threshold {conf:g}",
                    names,
                )
                for row in range(len(missed))
            ),
            *(_verdict(found, row, "detection", "", names) for row in range(len(found))),
        ]


@dataclass(frozen=True, eq=False)
class LabelJudge:
    """What labels say of the detections, and which objects were missed.

    Attributes:
        labelled: the data set.
        classes: label id -> class id of the detector.
        places: path of a picture, and its name where only one has it -> its number in the set.
        iou: from which a detection is about an object.
        background: below which it is about none.
    """

    labelled: LabelledSet
    classes: Mapping[int, int]
    places: Mapping[str, int]
    iou: float = 0.5
    background: float = 0.1

    @classmethod
    def of(cls, labelled: LabelledSet, class_names: Mapping[int, str]) -> LabelJudge:
        """For a detector's classes.

        Raises:
            InputError: the data set's classes are not the detector's, or it names a picture twice.
        """
        paths = labelled.pictures.paths
        for path, times in Counter(map(os.path.abspath, paths)).items():
            if times > 1:
                raise InputError(
                    f"{labelled.source}: names {path} {times} times: give all its objects to one of them"
                )
        names = Counter(path.name for path in paths)
        places = {path.name: i for i, path in enumerate(paths) if names[path.name] == 1}
        places |= {os.path.abspath(path): i for i, path in enumerate(paths)}
        return cls(labelled, classes_for(labelled.class_names, class_names), places)

    def __call__(self, picture: Picture, candidates: RawCandidates) -> list[Verdict]:
        """See `Judge`."""
        place = None if picture.path is None else self._place(picture.path)
        if place is None:
            raise InputError(f"{picture.path}: {self.labelled.source} has no labels for this picture")
        truth = self.labelled.pictures[place]
        if truth.size != picture.pixels.shape[:2]:
            raise InputError(
                f"{picture.path}: {picture.pixels.shape[:2]} pixels, its labels are for {truth.size}"
            )
        found = candidates.found
        labels = torch.tensor([self.classes.get(label, _UNKNOWN) for label in truth.labels.tolist()]).long()
        findings = sort_findings(
            *(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu()),
            *(truth.boxes, labels),
            is_crowd=truth.is_crowd,
            iou=self.iou,
            background=self.background,
        )
        classes = candidates.options.classes
        wanted = set(self.classes.values() if classes is None else classes)
        verdicts = []
        for one in findings:
            if one.detection is not None:
                verdicts.append(self._found(candidates, one, truth, labels.tolist()))
            elif one.truth is not None and int(labels[one.truth]) in wanted:
                verdicts.append(self._missed(candidates, one.truth, int(labels[one.truth]), truth))
        return sorted(verdicts, key=_least_right)

    def _place(self, path: Path) -> int | None:
        return self.places.get(os.path.abspath(path), self.places.get(path.name))

    def _found(
        self, candidates: RawCandidates, one: Finding, truth: LabelledPicture, labels: Sequence[int]
    ) -> Verdict:
        """A detection beside the object that decides."""
        assert one.detection is not None
        plain = _verdict(
            candidates.found,
            one.detection,
            one.kind,
            "nothing labelled is there",
            candidates.detector.class_names,
        )
        if one.kind == "in a crowd":
            return replace(plain, words="in a crowd of its class, which does not count")
        if one.truth is None:
            return plain
        name = self.labelled.class_names[int(truth.labels[one.truth])]
        told = f"a labelled {name}, IoU {one.overlap:.2f}"
        if one.kind == "duplicate":
            told += ", that a stronger detection has found"
        elif one.kind.startswith("wrong class") and labels[one.truth] != _UNKNOWN:
            told += (
                f"; {name} scores {float(candidates.scores[plain.candidate, labels[one.truth]]):.2g} there"
            )
        return replace(
            plain, words=told, truth=_corners(truth, one.truth), truth_class=name, overlap=one.overlap
        )

    def _missed(
        self, candidates: RawCandidates, place: int, class_id: int, truth: LabelledPicture
    ) -> Verdict:
        """An object that was not found, beside the best of what was thought there."""
        box = _corners(truth, place)
        best, names = candidates.unkept(box, class_id, self.iou), candidates.detector.class_names
        name = self.labelled.class_names[int(truth.labels[place])]
        alone = Verdict(
            kind="missed",
            box=box,
            class_id=class_id,
            class_name=names[class_id],
            score=0.0,
            words="no candidate lies over it",
            candidate=None,
            truth=box,
            truth_class=name,
        )
        if best is None:
            return alone
        words = f"best candidate {best.in_words(names, candidates.kept)}"
        return replace(
            alone, box=best.box, score=best.score, words=words, candidate=best.row, overlap=best.iou
        )


def explained_of(
    verdicts: Sequence[Verdict], found: Detections, most: int
) -> tuple[Detections, tuple[Verdict, ...]]:
    """The first `most` of the boxes that can be explained, best first, and all verdicts with their rows.

    Args:
        verdicts: what should be explained first in front.
        found: what the detector keeps; its corners and best score are taken over.
        most: boxes at most.
    """
    can = [one for one in verdicts if one.candidate is not None][:most]
    chosen = sorted(can, key=lambda one: -one.score)
    rows = {id(one): row for row, one in enumerate(chosen)}
    boxes = found.boxes.new_tensor([one.box for one in chosen]).reshape(-1, 4)
    detections = Detections(
        boxes=boxes,
        scores=found.scores.new_tensor([one.score for one in chosen]),
        labels=found.labels.new_tensor([one.class_id for one in chosen]),
        candidates=found.candidates.new_tensor([one.candidate for one in chosen]),
        corners=None if found.corners is None else _turned(boxes, chosen, found),
        best_score=found.best_score,
    )
    return detections, tuple(replace(one, row=rows.get(id(one))) for one in verdicts)


def _turned(boxes: torch.Tensor, chosen: Sequence[Verdict], found: Detections) -> torch.Tensor:
    """(M, 4, 2) corners: a detection's own, the upright box's of what is none."""
    assert found.corners is not None
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    rows = {
        (candidate, label): row
        for row, (candidate, label) in enumerate(
            zip(found.candidates.tolist(), found.labels.tolist(), strict=True)
        )
    }
    for place, one in enumerate(chosen):
        row = rows.get((one.candidate, one.class_id))
        if row is not None:
            corners[place] = found.corners[row]
    return corners


def _verdict(detections: Detections, row: int, kind: Kind, words: str, names: Mapping[int, str]) -> Verdict:
    x1, y1, x2, y2 = detections.boxes[row].tolist()
    class_id = int(detections.labels[row])
    return Verdict(
        kind=kind,
        box=(x1, y1, x2, y2),
        class_id=class_id,
        class_name=names[class_id],
        score=float(detections.scores[row]),
        words=words,
        candidate=int(detections.candidates[row]),
    )


def _least_right(one: Verdict) -> tuple[bool, float]:
    """Errors first, the surest ones in front; then what is right, best first."""
    is_right = one.kind in RIGHT
    return is_right, -(1 - one.score if one.kind == "missed" else one.score)


def _corners(truth: LabelledPicture, place: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = truth.boxes[place].tolist()
    return x1, y1, x2, y2
