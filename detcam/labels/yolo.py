"""YOLO data sets: a data.yaml, or a folder with images/ and labels/."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcam.errors import InputError
from detcam.images import EXTENSIONS, read_frame
from detcam.labels.pictures import LabelledPicture, LabelledPictures, LabelledSet
from detcam.labels.text import read_text, read_yaml
from detcam.labels.yolo_lines import class_ids, read_objects, with_outlines

_SPLITS = ("val", "train")  # looked for in this order where none is asked for
_MOST_CLASSES = 1_000_000
_IMAGES, _LABELS, _OUTLINES = "images", "labels", "segments"


@dataclass(frozen=True, eq=False)
class _LabelFiles:
    """Where labels of pictures are, and how to read them."""

    pictures: tuple[Path, ...]
    class_names: Mapping[int, str]
    keypoint_columns: int = 0

    def read(self, index: int) -> LabelledPicture:
        path = self.pictures[index]
        size = read_frame(path).size
        marked = []
        if os.path.exists(labels := beside(path, _LABELS)):
            marked = read_objects(labels, size, self.class_names, self.keypoint_columns)
        if os.path.exists(outlines := beside(path, _OUTLINES)):
            marked = with_outlines(marked, read_objects(outlines, size, self.class_names))
        boxes = np.array([one.box for one in marked], np.float32).reshape(-1, 4)
        return LabelledPicture(
            path=path,
            size=size,
            boxes=torch.from_numpy(boxes),
            labels=torch.tensor([one.label for one in marked], dtype=torch.int64),
            is_crowd=torch.zeros(len(marked), dtype=torch.bool),
            polygons=tuple(None if one.outline is None else (one.outline,) for one in marked),
            run_lengths=(None,) * len(marked),
        )


def beside(picture: Path, room: str) -> Path:
    """Where a picture's labels are: the last `images` of its folders replaced, or else beside it."""
    folders = list(picture.parent.parts)
    for position in reversed(range(len(folders))):
        if folders[position] == _IMAGES:
            folders[position] = room
            return Path(*folders, f"{picture.stem}.txt")
    # Without images/ there is one place beside the picture, and it is for the labels.
    return picture.parent / (f"{picture.stem}.txt" if room == _LABELS else f"{room}/{picture.stem}.txt")


def read_yolo_yaml(path: Path, split: str | None) -> LabelledSet:
    """Read a data.yaml, as ultralytics writes and reads it, but for `download:`, which is never followed.

    Raises:
        InputError: it lacks something, or names what does not exist.
    """
    path = Path(os.path.abspath(path))
    content = read_yaml(path)
    root = _root(path, content)
    entries = _entries(path, content, split)
    pictures = [picture for entry in entries for picture in _pictures_of(entry, root, path)]
    return _labelled_set(path, pictures, _names(path, content), _keypoint_columns(path, content))


def read_yolo_folder(folder: Path, split: str | None) -> LabelledSet:
    """Read a folder with images/ and labels/ and no data.yaml.

    Class names are those of a classes.txt; without one, the ids themselves.

    Raises:
        InputError: there is no picture, or no label.
    """
    folder = Path(os.path.abspath(folder))
    pictures = _in_folder(_split_folder(folder, split))
    names = _names_in_folder(folder) or _ids_as_names(pictures)
    return _labelled_set(folder, pictures, names, 0)


def _labelled_set(
    source: Path, pictures: Iterable[Path], names: dict[int, str], keypoint_columns: int
) -> LabelledSet:
    paths = tuple(dict.fromkeys(pictures))
    if not any(os.path.exists(beside(path, _LABELS)) for path in paths):
        raise InputError(
            f"{source}: none of its {len(paths)} pictures has labels; "
            f"those of {paths[0].name} would be in {beside(paths[0], _LABELS)}"
        )
    files = _LabelFiles(paths, names, keypoint_columns)
    return LabelledSet(names, source, "yolo", LabelledPictures(paths, files.read))


# What a data.yaml says


def _root(path: Path, content: Mapping[Any, Any]) -> Path:
    """The data set's folder: `path:`, seen from the yaml or else from where we are; or the yaml's own."""
    said = content.get("path")
    if said is None:
        return path.parent
    if not isinstance(said, str):
        raise InputError(f"{path}: `path:` must be a folder, got {said!r}")
    for root in (path.parent / said, Path(said)):
        if os.path.isdir(root):
            return Path(os.path.abspath(root))
    raise InputError(
        f"{path}: `path: {said}` is no folder, neither from {path.parent} nor from {Path.cwd()}; nothing is "
        "downloaded: correct it, or leave it out where the pictures lie beside the file"
    )


def _entries(path: Path, content: Mapping[Any, Any], split: str | None) -> list[str]:
    """Folders, lists and pictures of a split, as they are written."""
    said = {("val" if name == "validation" else name): value for name, value in content.items()}
    wanted = (split,) if split else _SPLITS
    found = next((name for name in wanted if said.get(name)), None)
    if found is None:
        there = ", ".join(f"`{name}:`" for name in ("train", "val", "test") if said.get(name)) or "none"
        raise InputError(f"{path}: has no `{' or '.join(wanted)}:`; the splits it has: {there}")
    entries = said[found] if isinstance(said[found], list) else [said[found]]
    if not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{path}: `{found}:` must be a folder, a .txt file or a list of them, got {entries}")
    return entries


def _names(path: Path, content: Mapping[Any, Any]) -> dict[int, str]:
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int) and count > 0:
        if count > _MOST_CLASSES:
            raise InputError(
                f"{path}: `nc: {count}` is over the {_MOST_CLASSES} classes we count to; correct it"
            )
        return {index: str(index) for index in range(count)}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        raise InputError(f"{path}: has no `names:`; list the classes, one a line: `  0: person`")
    for index, name in names.items():
        if type(index) is not int or index < 0:
            raise InputError(f"{path}: `names:` has {index!r} where a class id belongs: 0, 1, 2 …")
        if type(name) not in (str, int, float):
            raise InputError(f"{path}: the name of class {index} reads as {name!r}; put it in quotes")
    if isinstance(count, int) and count != len(names):
        raise InputError(f"{path}: `nc: {count}`, but {len(names)} `names:`; correct one of them")
    return {index: str(name) for index, name in sorted(names.items())}


def _keypoint_columns(path: Path, content: Mapping[Any, Any]) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise InputError(f"{path}: `kpt_shape:` must be [keypoints, numbers of each], got {shape!r}")
    return int(shape[0] * shape[1])


# Pictures


def _pictures_of(entry: str, root: Path, source: Path) -> list[Path]:
    place = root / entry
    if not os.path.exists(place) and entry.startswith("../"):  # exported as seen from the yaml's own folder
        place = root / entry.removeprefix("../")
    place = Path(os.path.abspath(place))
    if os.path.isdir(place):
        return _in_folder(place)
    if not os.path.exists(place):
        raise InputError(
            f"{source}: names {entry!r}, which would be {place} and does not exist; nothing is downloaded: "
            "fetch the data set, or correct the entry or `path:`"
        )
    if place.suffix.lower() == ".txt":
        return _in_list(place, root)
    return [_picture(place, f"{source}: {entry!r}")]


def _in_folder(folder: Path) -> list[Path]:
    inside = glob.glob(os.path.join(glob.escape(str(folder)), "**", "*"), recursive=True)
    pictures = [Path(name) for name in sorted(inside) if os.path.splitext(name)[1].lower() in EXTENSIONS]
    if not pictures:
        raise InputError(f"{folder}: holds no picture; what counts is {', '.join(EXTENSIONS)}")
    return pictures


def _in_list(path: Path, root: Path) -> list[Path]:
    """Pictures that a file lists, one a line: seen from the file, or else from the data set's folder."""
    pictures = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line := line.strip():
            places = [Path(os.path.abspath(start / line)) for start in (path.parent, root, Path.cwd())]
            found = next((place for place in places if os.path.exists(place)), places[0])
            pictures.append(_picture(found, f"{path}, line {number}: {line!r}"))
    if not pictures:
        raise InputError(f"{path}: lists no picture; write one path a line")
    return pictures


def _picture(path: Path, said: str) -> Path:
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(f"{said} is no picture; what counts is {', '.join(EXTENSIONS)}")
    return path


# A folder without a data.yaml


def _split_folder(folder: Path, split: str | None) -> Path:
    """images/val or val/images, for the split asked for; without one, val or train, or all of images/."""
    for name in (split,) if split else _SPLITS:
        for place in (folder / _IMAGES / name, folder / name / _IMAGES):
            if os.path.isdir(place):
                return place
    if split:
        places = f"neither {_IMAGES}/{split} nor {split}/{_IMAGES}"
        raise InputError(f"{folder}: has {places}; leave the split out, or correct it")
    return folder / _IMAGES


def _names_in_folder(folder: Path) -> dict[int, str]:
    for path in (folder / "classes.txt", folder / _LABELS / "classes.txt"):
        if os.path.isfile(path):
            lines = read_text(path).rstrip().splitlines()
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    raise InputError(f"{path}, line {number}: empty; a name's line is its class's id")
            return {index: line.strip() for index, line in enumerate(lines)}
    return {}


def _ids_as_names(pictures: Iterable[Path]) -> dict[int, str]:
    files = {beside(picture, _LABELS) for picture in pictures}
    ids = {index for path in sorted(files) if os.path.isfile(path) for index in class_ids(path)}
    return {index: str(index) for index in sorted(ids)}
