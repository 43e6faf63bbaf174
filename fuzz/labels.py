"""Labels: a data.yaml, YOLO's lines, COCO's JSON. The first byte says which."""

from __future__ import annotations

import json
from contextlib import suppress

from as_file import as_file
from PIL import Image

from detcam.adapters.options import read_names
from detcam.errors import DetcamError
from detcam.labels import read_labelled

_YAML = b"""path: .
train: images
val: &v images
test: *v
nc: 2
names:
  0: cat
  1: dog
kpt_shape: [2, 3]
"""
_LINES = b"0 .5 .5 .2 .2\n1 .1 .1 .2 .1 .2 .2\n"
_COCO = {
    "images": [{"id": 1, "file_name": "images/a.png", "width": 5, "height": 3}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2],
         "segmentation": [[0, 0, 2, 0, 2, 2]]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": 1,
         "segmentation": {"counts": "04b04", "size": [3, 5]}},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2],
         "segmentation": {"counts": [5, 5, 5], "size": [3, 5]}},
    ],
}  # fmt: skip


def seeds() -> list[bytes]:
    """One of each kind."""
    return [b"y" + _YAML, b"l" + _LINES, b"c" + json.dumps(_COCO).encode(), b"n0: cat\n", b"s" + _LINES]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    kind, text = data[:1], data[1:]
    picture = as_file("images/a.png", b"")
    Image.new("RGB", (5, 3)).save(picture)
    root = picture.parent.parent
    as_file("labels/a.txt", text if kind == b"l" else _LINES)
    as_file("segments/a.txt", text if kind == b"s" else b"")
    for name in ("data.yaml", "coco.json"):
        (root / name).unlink(missing_ok=True)
    with suppress(DetcamError):
        if kind == b"n":
            read_names(str(as_file("names.yaml", text)))
            return
        path = (
            as_file("coco.json", text)
            if kind == b"c"
            else as_file("data.yaml", text if kind == b"y" else _YAML)
        )
        labelled = read_labelled(path)
        for index in range(min(len(labelled.pictures), 3)):
            with suppress(DetcamError):
                labelled.pictures[index].masks()
