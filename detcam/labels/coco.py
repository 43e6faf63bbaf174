"""COCO data sets: one JSON file of pictures, classes and annotations."""

from __future__ import annotations

import json
import logging
import os
import reprlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch

from detcam.errors import InputError
from detcam.images import Frame, read_frame
from detcam.labels.masks import Polygon, RunLengths, turned_mask, turned_points
from detcam.labels.pictures import LabelledPicture, LabelledPictures, LabelledSet
from detcam.labels.text import MOST_COCO, read_text

log = logging.getLogger(__name__)

_BEYOND = 0.01  # of a side, and one pixel more: how far a box may reach outside the picture
_LOOKED_AT = 20  # pictures of the file, when looking for their folder


@dataclass(frozen=True)
class _Entry:
    """One picture as the file describes it; `size` (H, W) is None where the file does not say."""

    key: int | str
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class _Shape:
    """One object: its box (2, 2) of two corners in pixels, and what is known beyond the box."""

    label: int
    corners: npt.NDArray[np.float64]
    is_crowd: bool
    polygons: tuple[Polygon, ...] | None
    run_lengths: RunLengths | None


@dataclass(frozen=True, eq=False)
class _Annotations:
    """Everything in the file, annotations by picture; each is checked when its picture is asked for."""

    source: Path
    paths: tuple[Path, ...]
    entries: tuple[_Entry, ...]
    by_picture: Mapping[int | str, Sequence[Mapping[str, Any]]]
    class_names: Mapping[int, str]

    def read(self, index: int) -> LabelledPicture:
        path, entry = self.paths[index], self.entries[index]
        frame = read_frame(path)
        size = self._annotated_size(entry, frame)
        shapes = [self._shape(annotation, entry, size) for annotation in self.by_picture.get(entry.key, ())]
        if size != frame.size:
            shapes = [_turned(shape, size, frame.exif_orientation) for shape in shapes]
        sides = np.array(frame.size[::-1])
        boxes = np.array([shape.corners.clip(0, sides).reshape(4) for shape in shapes], np.float32)
        return LabelledPicture(
            path=path,
            size=frame.size,
            boxes=torch.from_numpy(boxes.reshape(-1, 4)),
            labels=torch.tensor([shape.label for shape in shapes], dtype=torch.int64),
            is_crowd=torch.tensor([shape.is_crowd for shape in shapes], dtype=torch.bool),
            polygons=tuple(shape.polygons for shape in shapes),
            run_lengths=tuple(shape.run_lengths for shape in shapes),
        )

    def _annotated_size(self, entry: _Entry, frame: Frame) -> tuple[int, int]:
        """(H, W) of the pixels that are meant: of the upright picture, or as stored if the file says so.

        Raises:
            InputError: the file describes another picture.
        """
        if entry.size in (None, frame.size):
            return frame.size
        if entry.size == frame.stored_size:
            return frame.stored_size
        said, got = (f"{size[1]}x{size[0]}" for size in (entry.size or (0, 0), frame.size))
        raise InputError(
            f"{self.source}, image {entry.file_name!r}: described as {said}, but the file is {got}; "
            "its boxes would not fit: give the pictures that were annotated"
        )

    def _shape(self, annotation: Mapping[str, Any], entry: _Entry, size: tuple[int, int]) -> _Shape:
        place = f"{self.source}, annotation {annotation.get('id', '?')} of {entry.file_name!r}"
        label = annotation.get("category_id")
        if type(label) is not int or label not in self.class_names:
            raise InputError(f"{place}: category_id {label!r} is not among the file's categories")
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise InputError(f"{place}: iscrowd is 0 or 1, got {crowd!r}")
        corners = _corners(annotation.get("bbox"), size, place)
        said = annotation.get("segmentation")
        if isinstance(said, Mapping):
            return _Shape(label, corners, bool(crowd), None, _run_lengths(said, size, place))
        return _Shape(label, corners, bool(crowd), _polygons(said, size, place), None)


def read_coco(path: Path, images: Path | None) -> LabelledSet:
    """Read an instances file.

    Args:
        path: the JSON.
        images: the folder its `file_name`s start from; by default it is looked for beside the file and where
            COCO has it.

    Raises:
        InputError: it is no such file, or there is no picture.
    """
    path = Path(os.path.abspath(path))
    content = _content(path)
    names, entries = _class_names(content["categories"], path), _entries(content["images"], path)
    by_picture = _grouped(content["annotations"], {entry.key for entry in entries}, path)
    folder = _folder(path, entries, images)
    paths = tuple(Path(os.path.abspath(folder / entry.file_name)) for entry in entries)
    annotations = _Annotations(path, paths, entries, by_picture, names)
    return LabelledSet(names, path, "coco", LabelledPictures(paths, annotations.read))


# The file


def _content(path: Path) -> Mapping[str, list[Any]]:
    try:
        content = json.loads(read_text(path, MOST_COCO))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: no JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise InputError(f"{path}: no COCO file: {error}") from error
    wanted = ("images", "annotations", "categories")
    if isinstance(content, Mapping) and all(isinstance(content.get(key), list) for key in wanted):
        return content
    if isinstance(content, list) and content and isinstance(content[0], Mapping) and "score" in content[0]:
        raise InputError(f"{path}: holds detections; give annotations, such as instances_val2017.json")
    got = f"keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else "no keys"
    raise InputError(f"{path}: no COCO file, which has the lists {', '.join(wanted)}; it has {got}")


def _class_names(categories: Sequence[Any], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, one in enumerate(categories, start=1):
        place = f"{path}, category {number} of {len(categories)}"
        if not isinstance(one, Mapping) or type(one.get("id")) is not int or type(one.get("name")) is not str:
            raise InputError(f"{place}: needs an id, a whole number, and a name, got {_short(one)}")
        if one["id"] in names:
            raise InputError(f"{place}: id {one['id']} is that of {names[one['id']]!r} already")
        names[one["id"]] = one["name"]
    if not names:
        raise InputError(f"{path}: lists no categories")
    return names


def _entries(images: Sequence[Any], path: Path) -> tuple[_Entry, ...]:
    entries: dict[int | str, _Entry] = {}
    for number, one in enumerate(images, start=1):
        place = f"{path}, image {number} of {len(images)}"
        described = one if isinstance(one, Mapping) else {}
        key, name = described.get("id"), described.get("file_name")
        if not _is_key(key) or not isinstance(name, str) or not name:
            raise InputError(f"{place}: needs an id and a file_name, got {_short(one)}")
        if key in entries:
            raise InputError(f"{place}: id {key!r} is that of {entries[key].file_name!r} already")
        height, width = described.get("height"), described.get("width")
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        entries[key] = _Entry(key, name, size)
    if not entries:
        raise InputError(f"{path}: lists no images")
    return tuple(entries.values())


def _grouped(
    annotations: Sequence[Any], keys: set[int | str], path: Path
) -> dict[int | str, list[Mapping[str, Any]]]:
    grouped: dict[int | str, list[Mapping[str, Any]]] = defaultdict(list)
    astray = 0
    for number, one in enumerate(annotations, start=1):
        key = one.get("image_id") if isinstance(one, Mapping) else None
        if not _is_key(key):
            place = f"{path}, annotation {number} of {len(annotations)}"
            raise InputError(f"{place}: needs an image_id, got {_short(one)}")
        if key in keys:
            grouped[key].append(one)
        else:
            astray += 1
    if astray and not grouped:
        raise InputError(f"{path}: none of its {astray} annotations names one of its {len(keys)} images")
    if astray:
        log.warning("%s: %d annotations name images that it does not list: left out", path, astray)
    return dict(grouped)


def _folder(path: Path, entries: Sequence[_Entry], images: Path | None) -> Path:
    """The folder that holds the first of the pictures there are."""
    beside, above, split = path.parent, path.parent.parent, path.stem.rpartition("_")[2]
    places = [beside, beside / "images", above / split, above / "images" / split, beside / split]
    if images:
        places = [images]
    for place in places:
        if any(os.path.isfile(place / entry.file_name) for entry in entries[:_LOOKED_AT]):
            return place
    looked = ", ".join(os.path.normpath(place) for place in places)
    first = entries[0].file_name
    raise InputError(f"{path}: {first} is not in {looked}; say where the pictures are with `images`")


# An annotation


def _corners(bbox: Any, size: tuple[int, int], place: str) -> npt.NDArray[np.float64]:
    values = _values(bbox)
    if values is None or len(values) != 4:
        raise InputError(f"{place}: bbox is [x, y, width, height] in pixels, got {_short(bbox)}")
    corner, extent = values[:2], values[2:]
    if (extent < 0).any():
        raise InputError(f"{place}: bbox has width and height {extent[0]:g} {extent[1]:g}, below 0")
    corners = np.stack([corner, corner + extent])
    if _reaches_outside(corners, size):
        raise InputError(f"{place}: bbox {_short(bbox)} reaches outside the picture of {size[1]}x{size[0]}")
    return corners


def _polygons(said: Any, size: tuple[int, int], place: str) -> tuple[Polygon, ...] | None:
    """Outlines of an object's parts; what has fewer than three points covers nothing and is left out."""
    if said is not None and not isinstance(said, list):
        raise InputError(f"{place}: segmentation is a list of polygons or run lengths, got {_short(said)}")
    polygons = []
    for number, one in enumerate(said or (), start=1):
        values = _values(one)
        if values is None or len(values) % 2:
            raise InputError(f"{place}: polygon {number} is [x1, y1, x2, y2, …] in pixels, got {_short(one)}")
        if _reaches_outside(values.reshape(-1, 2), size):
            raise InputError(f"{place}: polygon {number} reaches outside the picture of {size[1]}x{size[0]}")
        if len(values) >= 6:
            polygons.append(values.reshape(-1, 2).astype(np.float32))
    return tuple(polygons) or None


def _run_lengths(said: Mapping[str, Any], size: tuple[int, int], place: str) -> RunLengths:
    if said.get("size") != list(size):
        got = _short(said.get("size"))
        raise InputError(f"{place}: run lengths of size {got} in a picture of {list(size)} (H, W)")
    counts = said.get("counts")
    try:
        if isinstance(counts, str):
            return RunLengths.from_text(size, counts)
        if isinstance(counts, list) and all(type(count) is int for count in counts):
            return RunLengths(size, np.array(counts, np.int64))
    except (InputError, OverflowError) as error:
        raise InputError(f"{place}: {error}") from error
    raise InputError(f"{place}: counts of run lengths are whole numbers or their text, got {_short(counts)}")


def _turned(shape: _Shape, size: tuple[int, int], orientation: int) -> _Shape:
    """A shape in a stored picture of `size` -> in the picture after its EXIF orientation."""
    corners = turned_points(shape.corners, size, orientation)
    polygons, runs = shape.polygons, shape.run_lengths
    return _Shape(
        label=shape.label,
        corners=np.sort(corners, axis=0),
        is_crowd=shape.is_crowd,
        polygons=polygons and tuple(turned_points(one, size, orientation) for one in polygons),
        run_lengths=runs and RunLengths.of(turned_mask(runs.mask(), orientation)),
    )


def _reaches_outside(points: npt.NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether a point (x, y) is further outside than rounding puts it."""
    sides = np.array(size[::-1], np.float64)
    slack = _BEYOND * sides + 1
    return bool(((points < -slack) | (points > sides + slack)).any())


def _values(said: Any) -> npt.NDArray[np.float64] | None:
    """A list of finite numbers, or None if it is none."""
    if not isinstance(said, list) or not all(type(value) in (int, float) for value in said):
        return None
    try:
        values = np.array(said, np.float64)
    except OverflowError:
        return None
    return values if np.isfinite(values).all() else None


def _is_key(said: Any) -> TypeGuard[int | str]:
    return isinstance(said, int | str) and not isinstance(said, bool)


def _short(said: Any) -> str:
    text = reprlib.repr(said)  # not all of it: it may be nested as deep as Python can count
    return text if len(text) <= 60 else f"{text[:60]}…"
