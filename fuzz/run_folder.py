"""A run folder that somebody gives us: run.json, index.jsonl, a description and its arrays, to a page."""

from __future__ import annotations

import io
import json
from contextlib import suppress

import numpy as np
from as_file import as_file

from detcam.errors import DetcamError
from detcam.images import Picture
from detcam.report.page import picture_page
from detcam.report.reading import read_explanation, read_run

_PICTURE = Picture(np.zeros((5, 7, 3), np.uint8))
_MANIFEST = {
    "schema": "detcam.run/1",
    "versions": {"python": "3"},
    "command": ["detcam"],
    "model": {"path": "a.pt"},
}
_ROWS = [
    {"source": "a.png", "status": "ok", "files": ["a_cam.json"], "error": None},
    {"source": "b.png", "status": "error", "files": [], "error": "gone"},
]
_BOX = {
    "xyxy": [1, 1, 4, 4],
    "corners": None,
    "class_id": 0,
    "class": "cat",
    "score": 0.5,
    "level": "P3",
    "target_value": 1.5,
    "convergence": None,
    "maps": {name: {"npz": f"b000/{name}", "share": 1.0, "involved": True} for name in ("P3", "merged")},
}
_METHOD = {
    "name": "layer-cam",
    "target": "class-logit",
    "unit": "logit",
    "gradients": "total",
    "merge": "sum",
}
_DESCRIPTION = {
    "schema": "detcam.explanation/1",
    "image": {"path": "a.png", "sha256": "0" * 64, "width": 7, "height": 5},
    "input": {"width": 24, "height": 16, "letterbox": {"ratio": [3, 3], "pad": [1, 0]}},
    "method": {**_METHOD, "scale": "box", "scale_value": None},
    "layers": [{"level": "P3", "module": "a", "set": "backbone", "stride": 8, "grid": [2, 3]}],
    "detections_found": 1,
    "best_score": 0.5,
    "boxes": [_BOX],
    "warnings": ["none"],
    "files": {"arrays": "a_cam.npz"},
}


def _arrays() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{f"b000/{level}": np.ones((2, 3), np.float32) for level in ("P3", "merged")})
    return file.getvalue()


_FILES = {
    b"d": ("a_cam.json", json.dumps(_DESCRIPTION).encode()),
    b"r": ("run.json", json.dumps(_MANIFEST).encode()),
    b"i": ("index.jsonl", "".join(json.dumps(row) + "\n" for row in _ROWS).encode()),
    b"a": ("a_cam.npz", _arrays()),
}


def seeds() -> list[bytes]:
    """Each of the four files; the first byte says which it is."""
    return [kind + content for kind, (_, content) in _FILES.items()]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    for kind, (name, content) in _FILES.items():
        path = as_file(f"run/{name}", data[1:] if kind == data[:1] else content)
    with suppress(DetcamError):
        run = read_run(path.parent)
        for row in run.rows:
            if row.sidecar is not None:
                picture_page(row.source, _PICTURE, [(run.manifest, read_explanation(row.sidecar))])
