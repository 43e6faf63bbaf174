"""Many pictures, one run folder: errors are rows, results are written as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detcam.adapters.base import device_of
from detcam.errors import DetcamError, InputError
from detcam.explainer import Explainer, check_count
from detcam.explanation import Explanation, SaveOptions, save
from detcam.images import Picture, read_picture
from detcam.outputs import RunFolder, model_facts, unique_stems


@dataclass(frozen=True, eq=False)
class Row:
    """What became of one picture.

    Attributes:
        source: the picture's path.
        status: "ok", "no_detections" or "error".
        files: paths written.
        ms: milliseconds it took.
        explanation: unless it failed.
        error: the one-line reason, if it failed.
    """

    source: Path
    status: str
    files: tuple[Path, ...] = ()
    ms: float = 0.0
    explanation: Explanation | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The row as stored in index.jsonl."""
        boxes = 0 if self.explanation is None else len(self.explanation)
        return {
            "source": str(self.source),
            "status": self.status,
            "boxes": boxes,
            "files": [path.name for path in self.files],
            "ms": round(self.ms, 1),
            "error": self.error,
        }


def run(
    explainer: Explainer,
    paths: Sequence[Path],
    folder: RunFolder,
    save_options: SaveOptions,
    *,
    batch: int = 1,
) -> Iterator[Row]:
    """Explain pictures one batch at a time, write their files and rows, and yield the rows in order.

    A picture that cannot be read or explained becomes a row with its error; the run goes on.

    Raises:
        InputError: `batch` is no count.
        OutputError: the folder cannot be written.
    """
    check_count("batch", batch)
    stems = unique_stems(paths)
    for start in range(0, len(paths), batch):
        part = slice(start, start + batch)
        for row, stem in zip(_explained(explainer, paths[part]), stems[part], strict=True):
            written = _written(row, folder, stem, save_options)
            folder.add_row(written.record())
            yield written


def write_manifest(
    folder: RunFolder, explainer: Explainer, save_options: SaveOptions, command: Sequence[str]
) -> None:
    """Write run.json: what is asked of which model, and how results are drawn.

    Raises:
        OutputError: the folder cannot be written.
    """
    detector, options = explainer.detector, explainer.options
    folder.write_manifest(
        {
            "command": list(command),
            "model": model_facts(detector),
            "device": str(device_of(detector.model)),
            "seed": options.seed if explainer.method.rescores == "sampled" else None,
            "layers": list(explainer.modules),
            "options": asdict(options),
            "scale": asdict(save_options.style.scale),
            "save": list(save_options.extras),
        }
    )


def _explained(explainer: Explainer, paths: Sequence[Path]) -> list[Row]:
    """A row per path, without files yet."""
    began = time.perf_counter()
    rows: dict[Path, Row] = {}
    pictures: dict[Path, Picture] = {}
    for path in paths:
        try:
            pictures[path] = read_picture(path)
        except DetcamError as error:
            rows[path] = Row(path, "error", error=str(error))
    try:
        explanations = list(explainer.explain(pictures.values(), batch=len(paths)))
    except DetcamError as error:
        if len(pictures) > 1:  # find out whose fault it was
            return [row for path in paths for row in _explained(explainer, [path])]
        rows |= {path: Row(path, "error", error=str(error)) for path in pictures}
        explanations = []
    ms = (time.perf_counter() - began) * 1000 / len(paths)
    for path, explanation in zip(pictures, explanations, strict=bool(explanations)):
        rows[path] = Row(path, "ok" if len(explanation) else "no_detections", (), ms, explanation)
    return [rows[path] for path in paths]


def _written(row: Row, folder: RunFolder, stem: str, options: SaveOptions) -> Row:
    if row.explanation is None:
        return row
    began = time.perf_counter()
    try:
        written = save(row.explanation, folder.path, stem, options)
    except InputError as error:  # unlike a full disk, this is about one picture only
        return Row(row.source, "error", error=str(error))
    files = tuple(
        path for paths in written.values() for path in ([paths] if isinstance(paths, Path) else paths)
    )
    folder.add_map_rows(_map_rows(row, written.get("maps", [])))
    return replace(row, files=files, ms=row.ms + (time.perf_counter() - began) * 1000)


def _map_rows(row: Row, maps: Path | list[Path]) -> list[dict[str, Any]]:
    explanation = row.explanation
    if explanation is None or isinstance(maps, Path):
        return []
    return [
        {
            "file_name": path.name,
            "image": str(row.source),
            "class": explanation.class_names[int(explanation.detections.labels[box])],
            "score": float(explanation.detections.scores[box]),
            "xyxy": explanation.detections.boxes[box].tolist(),
        }
        for box, path in enumerate(maps)
    ]
