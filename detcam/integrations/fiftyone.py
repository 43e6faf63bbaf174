"""A run in FiftyOne: its pictures as samples with detections and heatmaps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detcam.errors import InputError
from detcam.packages import optional
from detcam.report import StoredBox, StoredExplanation, read_explanation, read_run
from detcam.report.pictures import original

_STEPS = 65535  # of a 16-bit PNG


def to_samples(run: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None) -> list[Any]:
    """The pictures of a run of `detcam explain --save maps`, a `fiftyone.Sample` each.

    A sample has the field "detections", and for each of these the field that its attribute "heatmap" names,
    "map_b000" …: a `fiftyone.Heatmap` of its merged map, read from the 16-bit PNG in the run. Its colours go
    from the map's own minimum to its maximum. Pictures that failed are left out.

    Args:
        run: a folder.
        images: where the pictures lie now, if they were moved.

    Raises:
        MissingPackageError: fiftyone is not installed.
        InputError: the folder is no such run, the maps were not saved, or a picture is gone or another one.
    """
    fiftyone = optional("fiftyone")
    elsewhere = None if images is None else Path(images)
    sidecars = [row.sidecar for row in read_run(Path(run)).rows if row.sidecar is not None]
    return [_sample(fiftyone, read_explanation(sidecar), elsewhere) for sidecar in sidecars]


def _sample(fiftyone: Any, stored: StoredExplanation, images: Path | None) -> Any:
    if len(stored.maps) != len(stored.boxes):
        raise InputError(
            f"{stored.image} has {len(stored.boxes)} boxes and {len(stored.maps)} maps in the run: "
            "explain with --save maps"
        )
    path = original(stored, images).path
    assert path is not None  # it was just read from there
    fields = [f"map_b{number:03d}" for number in range(len(stored.boxes))]
    sample = fiftyone.Sample(filepath=str(path.resolve()))
    sample["detections"] = fiftyone.Detections(
        detections=[
            _detection(fiftyone, box, field, stored.geometry.image_size)
            for box, field in zip(stored.boxes, fields, strict=True)
        ]
    )
    for field, png in zip(fields, stored.maps, strict=True):
        sample[field] = fiftyone.Heatmap(map_path=str(png.resolve()), range=[0, _STEPS])
    return sample


def _detection(fiftyone: Any, box: StoredBox, heatmap: str, size: tuple[int, int]) -> Any:
    """A box as FiftyOne has it: left, top, width and height as shares of the picture."""
    (height, width), (x1, y1, x2, y2) = size, box.xyxy
    return fiftyone.Detection(
        label=box.class_name,
        confidence=box.score,
        bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
        heatmap=heatmap,
        level=box.level,
    )
