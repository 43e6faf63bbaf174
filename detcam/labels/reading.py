"""Which kind of data set something is."""

from __future__ import annotations

import os
from pathlib import Path

from detcam.errors import InputError
from detcam.labels.coco import read_coco
from detcam.labels.pictures import LabelledSet
from detcam.labels.yolo import read_yolo_folder, read_yolo_yaml

_YAMLS = (".yaml", ".yml")


def read_labelled(
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    images: str | os.PathLike[str] | None = None,
) -> LabelledSet:
    """Read a data set with labels, from local files only: YOLO's or COCO's.

    Args:
        data: a YOLO data.yaml; a folder that holds one, or images/ and labels/; or a COCO JSON of instances.
        split: of a YOLO set, such as "test"; by default "val", else "train".
        images: of a COCO set, the folder with the pictures; by default looked for beside the JSON, and in
            ../val2017 for an instances_val2017.json.

    Raises:
        InputError: it is none of these, or something that concerns all pictures is wrong. What is wrong with
            one picture is raised when that picture is asked for.
    """
    path = Path(data)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or folder; data sets are not looked up or downloaded by name")
    is_coco = path.suffix.lower() == ".json" and os.path.isfile(path)
    if is_coco and split:
        raise InputError(f"{path}: is one split already; leave out the split {split!r}, or give another file")
    if images is not None and not (is_coco and os.path.isdir(images)):
        what = f"{images} is no folder" if is_coco else "is for a COCO JSON; a YOLO set says where they are"
        raise InputError(f"images: {what}")
    if is_coco:
        return read_coco(path, None if images is None else Path(images))
    if os.path.isdir(path):
        yaml = _yaml_in(path)
        return read_yolo_yaml(yaml, split) if yaml else read_yolo_folder(path, split)
    if path.suffix.lower() in _YAMLS:
        return read_yolo_yaml(path, split)
    raise InputError(f"{path}: give a data.yaml, a folder with images/ and labels/, or a COCO .json")


def _yaml_in(folder: Path) -> Path | None:
    """The folder's data.yaml, or its only yaml; None where it has neither but images/ and labels/.

    Raises:
        InputError: the folder is no data set.
    """
    yamls = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _YAMLS and os.path.isfile(path)
    )
    named = [path for path in yamls if path.stem == "data"]
    if named or len(yamls) == 1:
        return (named or yamls)[0]
    if os.path.isdir(folder / "images"):
        return None
    jsons = sorted((*folder.glob("*.json"), *folder.glob("annotations/*.json")))
    hint = f"; a COCO set is given by its file, such as {jsons[0]}" if jsons else ""
    raise InputError(f"{folder}: holds neither a data.yaml nor images/ with labels/{hint}")
