"""Many pictures, one run folder: errors are rows, results are written as they come.

Reading, explaining and writing overlap: while the network works on a batch, a thread decodes the next one and
another writes the last. No more than a batch ahead and a few pictures behind are in memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
        stem: how the names of its files begin.
    """

    source: Path
    status: str
    files: tuple[Path, ...] = ()
    ms: float = 0.0
    explanation: Explanation | None = None
    error: str | None = None
    stem: str = ""

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

    def finish(row: Row, stem: str) -> Row:
        written = replace(_written(row, folder, stem, save_options), stem=stem)
        folder.add_row(written.record())
        return written

    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    stems, unfinished = iter(unique_stems(paths)), deque[Future[Row]]()
    try:
        for part in _ahead(reader, [paths[i : i + batch] for i in range(0, len(paths), batch)]):
            for row in _explained(explainer, part):
                unfinished.append(writer.submit(finish, row, next(stems)))
            while len(unfinished) > batch:
                yield unfinished.popleft().result()
        while unfinished:
            yield unfinished.popleft().result()
    finally:  # what nobody waits for is not begun
        for pool in (reader, writer):
            pool.shutdown(wait=True, cancel_futures=True)


def _ahead(reader: ThreadPoolExecutor, parts: Sequence[Sequence[Path]]) -> Iterator[list[_Read]]:
    """Pictures of each part, read while the part before it is worked on."""
    unread = deque[Future[list[_Read]]]()
    for part in parts:
        unread.append(reader.submit(_read_all, part))
        if len(unread) > 1:
            yield unread.popleft().result()
    while unread:
        yield unread.popleft().result()


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
            "seed": options.seed if explainer.method.is_sampled else None,
            "layers": list(explainer.modules),
            "labels": explainer.labels,
            "options": asdict(options),
            "scale": asdict(save_options.style.scale),
            "save": list(save_options.extras),
        }
    )


@dataclass(frozen=True, eq=False)
class _Read:
    """A path, and its picture or what is wrong with it."""

    path: Path
    picture: Picture | None = None
    error: str | None = None


def _read_all(paths: Sequence[Path]) -> list[_Read]:
    return [_read(path) for path in paths]


def _read(path: Path) -> _Read:
    try:
        return _Read(path, read_picture(path))
    except DetcamError as error:
        return _Read(path, error=str(error))


def _explained(explainer: Explainer, part: Sequence[_Read]) -> list[Row]:
    """A row for each, without files yet."""
    began = time.perf_counter()
    pictures = [one.picture for one in part if one.picture is not None]
    try:
        explanations = iter(list(explainer.explain(pictures, batch=len(part))))
    except DetcamError as error:
        if len(pictures) > 1:  # find out whose fault it was
            return [row for one in part for row in _explained(explainer, [one])]
        return [Row(one.path, "error", error=one.error or str(error)) for one in part]
    ms = (time.perf_counter() - began) * 1000 / len(part)
    return [
        Row(one.path, "error", error=one.error)
        if one.picture is None
        else _row(one.path, next(explanations), ms)
        for one in part
    ]


def _row(path: Path, explanation: Explanation, ms: float) -> Row:
    return Row(path, "ok" if len(explanation) else "no_detections", (), ms, explanation)


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
