"""The 64 photographs: everything in their files is read, as a plain loop reads it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detcam.errors import ShapeError
from detcam.labels import LabelledPicture, assign, classes_for, read_labelled
from detcam.labels.masks import fill


@pytest.fixture(scope="module")
def folder(assets):
    return assets / "coco64"


@pytest.fixture(scope="module")
def labelled(folder):
    return read_labelled(folder)


@pytest.fixture(scope="module")
def pictures(labelled):
    return list(labelled.pictures)


def rows_of(path: Path) -> list[list[float]]:
    return [[float(number) for number in line.split()] for line in path.read_text().splitlines()]


def test_all_photographs_and_boxes_are_read(labelled, pictures):
    assert len(pictures) == 64
    assert sum(len(picture.labels) for picture in pictures) == 461
    assert (len(labelled.class_names), labelled.class_names[0], labelled.class_names[79]) == (
        80,
        "person",
        "toothbrush",
    )


def test_boxes_and_classes_are_those_of_the_files(folder, pictures):
    for picture in pictures:
        height, width = cv2.imread(str(picture.path)).shape[:2]
        rows = rows_of(folder / "labels" / f"{picture.path.stem}.txt")
        assert picture.size == (height, width)
        assert picture.labels.tolist() == [int(row[0]) for row in rows]
        for box, (_, x, y, w, h) in zip(picture.boxes.tolist(), rows, strict=True):
            expected = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            assert box == pytest.approx(expected, abs=2e-3)


def test_nearly_every_outline_finds_its_object_and_each_once(folder, pictures):
    """363 outlines: three are of crowds, which have no box, and one of 361 boxes has no outline."""
    written = [rows_of(path) for path in sorted((folder / "segments").iterdir())]
    assert sum(map(len, written)) == 363
    read = [polygon for picture in pictures for (polygon,) in filter(None, picture.polygons)]
    assert len(read) == len({polygon.tobytes() for polygon in read}) == 360


def test_outlines_are_those_of_the_files_and_fit_their_boxes(folder, pictures):
    for picture in pictures:
        path = folder / "segments" / f"{picture.path.stem}.txt"
        sides = np.array(picture.size[::-1])
        written = {}
        for label, *points in rows_of(path) if path.exists() else ():
            key = (np.reshape(points, (-1, 2)) * sides).astype(np.float32).tobytes()
            written[key] = int(label)
        for label, box, polygons in zip(picture.labels, picture.boxes, picture.polygons, strict=True):
            if polygons:
                assert written[polygons[0].tobytes()] == label
                x1, y1, x2, y2 = box.tolist()
                middle = (polygons[0].min(axis=0) + polygons[0].max(axis=0)) / 2
                assert x1 - 1 <= middle[0] <= x2 + 1
                assert y1 - 1 <= middle[1] <= y2 + 1


def test_masks_lie_in_their_boxes_and_have_the_outlines_area(pictures):
    """The shoelace formula; outlines that cross themselves are counted otherwise, and are few."""
    off = []
    for picture in pictures[::4]:
        masks = picture.masks()
        assert torch.equal(
            masks.flatten(1).any(dim=1) | ~picture.has_mask, torch.ones(len(masks), dtype=bool)
        )
        for mask, polygons in zip(masks, picture.polygons, strict=True):
            if not polygons:
                assert not mask.any()
                continue
            x, y = polygons[0].astype(np.float64).T
            area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
            outline = np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
            off.append(abs(int(mask.sum()) - area) / (outline + 1))
    assert len(off) > 50
    assert np.median(off) < 0.1
    assert np.mean(np.array(off) < 0.5) > 0.9


def test_classes_are_those_of_the_list_of_licences(folder, labelled, pictures):
    """An independent record of which classes each photograph holds."""
    by_name = {picture.path.name: picture for picture in pictures}
    with (folder / "licences.csv").open() as file:
        records = [row for row in csv.DictReader(file) if row["file"] in by_name]
    assert len(records) > 30
    for record in records:
        names = {labelled.class_names[int(label)] for label in by_name[record["file"]].labels}
        assert names <= set(record["classes"].split(";"))


def test_the_truth_is_assigned_to_itself(labelled, pictures):
    assert classes_for(labelled.class_names, labelled.class_names) == {i: i for i in range(80)}
    for picture in pictures:
        scores = torch.linspace(1, 0, len(picture.labels))
        rows = assign(picture.boxes, scores, picture.labels, picture.boxes, picture.labels, iou=0.999)
        assert rows.tolist() == list(range(len(rows)))


def test_a_picture_checks_its_columns(pictures):
    known = {name: getattr(pictures[0], name) for name in LabelledPicture.__dataclass_fields__}
    for name, short in (("boxes", known["boxes"][1:]), ("is_crowd", known["is_crowd"][1:])):
        with pytest.raises(ShapeError, match="boxes, labels and is_crowd must be"):
            LabelledPicture(**known | {name: short})
    with pytest.raises(ShapeError, match="polygons and"):
        LabelledPicture(**known | {"polygons": ()})


def test_no_outline_at_all_covers_nothing():
    assert not fill([], (5, 7)).any()
