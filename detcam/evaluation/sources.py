"""Where pictures and their truth come from: labelled photographs, or drawn scenes whose evidence is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from detcam.errors import InputError
from detcam.evaluation.truth import Truth
from detcam.images import Picture, read_picture
from detcam.labels import LabelledSet, classes_for
from detcam.scenes import CLASS_NAMES, make_scene

FIRST_SEED = 2_000_000
"""Scenes from this seed on were never seen in training."""


class Source(Protocol):
    """Pictures whose truth is known, loaded one by one."""

    @property
    def paths(self) -> Sequence[Path]:
        """What each picture is called; they need not exist as files."""
        ...

    def load(self, number: int) -> tuple[Picture, Truth]:
        """A picture and what is true of it.

        Raises:
            DetcamError: it cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class LabelledSource:
    """Labelled photographs.

    Attributes:
        labelled: the data set.
        classes: label id -> class id of the detector.
        paths: of its pictures.
    """

    labelled: LabelledSet
    classes: Mapping[int, int]
    paths: Sequence[Path]

    @classmethod
    def of(
        cls, labelled: LabelledSet, detector_names: Mapping[int, str], limit: int | None = None
    ) -> LabelledSource:
        """The first `limit` pictures of a data set, for a detector.

        Raises:
            InputError: its classes are not the detector's.
        """
        classes = classes_for(labelled.class_names, detector_names)
        return cls(labelled, classes, labelled.pictures.paths[:limit])

    def load(self, number: int) -> tuple[Picture, Truth]:
        """See `Source`."""
        one = self.labelled.pictures[number]
        picture = read_picture(one.path)
        return picture, Truth.of(one, self.classes, picture.pixels.shape[:2])


@dataclass(frozen=True, eq=False)
class PlantedSource:
    """Drawn scenes in which a marker or the shape decides the class, as the detector was taught.

    Attributes:
        count: how many.
        labelling: key of `scenes.CLASS_NAMES`.
    """

    count: int
    labelling: str

    @classmethod
    def of(cls, detector_names: Mapping[int, str], count: int) -> PlantedSource:
        """For one of the two detectors that were taught such scenes.

        Raises:
            InputError: the detector has other classes.
        """
        names = tuple(detector_names[index] for index in sorted(detector_names))
        for labelling, known in CLASS_NAMES.items():
            if names == known:
                return cls(count, labelling)
        raise InputError(
            f"planted scenes are for detectors of {' or '.join(map(', '.join, CLASS_NAMES.values()))}, and "
            f"this one has {len(names)} other classes: take weights/shapes-shortcut.pt, or labelled pictures"
        )

    @property
    def paths(self) -> Sequence[Path]:
        """Names of the scenes, by seed."""
        return [Path(f"scene-{FIRST_SEED + number}") for number in range(self.count)]

    def load(self, number: int) -> tuple[Picture, Truth]:
        """See `Source`."""
        scene = make_scene(FIRST_SEED + number)
        boxes, labels = scene.labelled(self.labelling)
        chosen = scene.is_labelled(self.labelling)
        count = len(boxes)
        truth = Truth(
            boxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(labels),
            is_crowd=torch.zeros(count, dtype=torch.bool),
            has_region=torch.ones(count, dtype=torch.bool),
            regions={
                "object": torch.from_numpy(scene.object_masks[chosen]),
                "marker": torch.from_numpy(scene.marker_masks[chosen]),
            },
        )
        return Picture(scene.image, path=self.paths[number]), truth
