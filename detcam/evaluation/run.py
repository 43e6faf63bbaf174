"""An evaluation's folder: a file for each finished picture; the tables are made of these, and runs resume."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from detcam.errors import DetcamError, InputError, OutputError
from detcam.evaluation.evaluator import Evaluator
from detcam.evaluation.measured import MeasuredPicture
from detcam.evaluation.sources import Source
from detcam.evaluation.summary import SummaryLine, mean_curves, summarise
from detcam.files import append_line, json_bytes, make_folder, whole_file, write_json
from detcam.outputs import RunFolder, task_facts, unique_stems
from detcam.render.curves import plot_curves

TableFormat = Literal["csv", "parquet"]
PICTURES, PROGRESS = "pictures", "progress.jsonl"


@dataclass(frozen=True)
class Progress:
    """What became of one picture, and how far the run is.

    Attributes:
        record: the line in progress.jsonl.
        done: pictures finished, those of an earlier run included.
        total: pictures in all.
        seconds_left: at the pace so far; None for pictures that were finished before.
    """

    record: dict[str, Any]
    done: int
    total: int
    seconds_left: float | None


def evaluate(evaluator: Evaluator, source: Source, folder: RunFolder) -> Iterator[Progress]:
    """Measure what is not finished yet, one picture after the other, each written as soon as it is done.

    A picture that cannot be read or measured becomes a row with its error; the run goes on.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(folder.path / PICTURES)
    files = _files(folder, source)
    finished = sum(file.exists() for file in files)
    began, worked = time.perf_counter(), 0
    for number, (path, file) in enumerate(zip(source.paths, files, strict=True)):
        if file.exists():
            continue
        record = _measured(evaluator, source, number, path, file)
        append_line(folder.path / PROGRESS, json_bytes(record))
        worked += 1
        left = (time.perf_counter() - began) / worked * (len(files) - finished - worked)
        yield Progress(record, finished + worked, len(files), left)


def write_question(folder: RunFolder, evaluator: Evaluator, data: str, command: Sequence[str]) -> None:
    """Write run.json, by which `open_unfinished` knows that it is asked the same.

    Raises:
        OutputError: the folder cannot be written.
    """
    facts = task_facts("evaluate", evaluator.detector, command, [], question(evaluator, data))
    folder.write_manifest(facts | {"seed": evaluator.options.seed})


def question(evaluator: Evaluator, data: str) -> dict[str, Any]:
    """Everything that a number depends on, beside the model and the versions."""
    options = asdict(evaluator.options)
    return {"data": data, "ways": [asdict(way) for way in evaluator.ways], **json.loads(json_bytes(options))}


def open_unfinished(path: Path, evaluator: Evaluator, data: str) -> RunFolder:
    """The folder of a run that asked the same.

    Raises:
        InputError: there is none, or it asked something else; the text says what.
    """
    manifest = path / "run.json"
    try:
        earlier = json.loads(manifest.read_bytes())
    except OSError:
        raise InputError(f"nothing to resume: no {manifest}") from None
    asked = {**question(evaluator, data), "model": _sha256(evaluator)}
    before = {**earlier["options"], "model": (earlier["model"] or {}).get("sha256")}
    for name in asked:
        if json.loads(json_bytes(asked[name])) != before.get(name):
            raise InputError(f"{path} was made with other {name}: give the same options, or another --name")
    return RunFolder(path)


def write_tables(
    folder: RunFolder, source: Source, evaluator: Evaluator, table_format: TableFormat
) -> tuple[list[SummaryLine], list[Path]]:
    """Gather what is finished into rows, a summary and a plot of the curves.

    Returns:
        The summary, and the paths written.

    Raises:
        OutputError: the folder cannot be written.
    """
    pictures = [
        MeasuredPicture.from_document(json.loads(file.read_bytes()))
        for file in _files(folder, source)
        if file.exists()
    ]
    rows = [row for picture in pictures for row in picture.rows]
    lines = summarise(rows)
    written = [
        write_table(folder.path / f"rows.{table_format}", [asdict(row) for row in rows], table_format),
        write_table(folder.path / "summary.csv", [line.record() for line in lines], "csv"),
        write_json(folder.path / "summary.json", _summary(evaluator, pictures, lines)),
    ]
    curves = mean_curves(pictures)
    if curves:
        controls = {way.name for way in evaluator.ways if way.is_control}
        title = f"{evaluator.detector.family}, {evaluator.options.preset.name}"
        written.append(plot_curves(folder.path / "curves.png", curves, controls, title))
    return lines, written


def write_table(path: Path, records: Sequence[dict[str, Any]], table_format: TableFormat) -> Path:
    """Write records with the same keys.

    Raises:
        InputError: Parquet is asked for and pyarrow is not installed.
        OutputError: it cannot be written.
    """
    writer = {"csv": _csv, "parquet": _parquet}[table_format]
    with whole_file(path) as file:
        file.write(writer(records))
    return path


def check_writable(table_format: TableFormat) -> None:
    """Fail before anything is measured.

    Raises:
        InputError: Parquet is asked for and pyarrow is not installed.
    """
    if table_format == "parquet":
        _parquet([])


def _measured(evaluator: Evaluator, source: Source, number: int, path: Path, file: Path) -> dict[str, Any]:
    began = time.perf_counter()
    record: dict[str, Any] = {"source": str(path), "status": "ok", "files": [], "error": None}
    try:
        measured = evaluator.measure(*source.load(number))
    except OutputError:  # a full disk is no picture's fault
        raise
    except DetcamError as error:
        record |= {"status": "error", "error": str(error)}
    else:
        write_json(file, measured.document())
        boxes = len({row.box for row in measured.rows})
        record |= {"files": [f"{PICTURES}/{file.name}"], "boxes": boxes, "matched": measured.matched}
    return record | {"ms": round((time.perf_counter() - began) * 1000, 1)}


def _summary(
    evaluator: Evaluator, pictures: Sequence[MeasuredPicture], lines: Sequence[SummaryLine]
) -> dict[str, Any]:
    options = evaluator.options
    return {
        "schema": "detcam.evaluation/1",
        "pictures": len(pictures),
        "detections": sum(picture.found for picture in pictures),
        "matched": sum(picture.matched for picture in pictures),
        "measured": len({(row.picture, row.box) for picture in pictures for row in picture.rows}),
        "inclusion": f"score > {options.conf:g}, matched to an object of its class by COCO's rule at IoU >= "
        f"{options.truth_iou:g}, at most {options.max_boxes} a picture, drawn with seed {options.seed}",
        "preset": json.loads(json_bytes(asdict(options.preset))),
        "seconds_a_box": _seconds_a_box(pictures),
        "lines": [asdict(line) for line in lines],
    }


def _seconds_a_box(pictures: Sequence[MeasuredPicture]) -> dict[str, float]:
    """Way -> processor seconds of its maps, one forward pass a picture included, over the boxes measured."""
    boxes = sum(len({row.box for row in picture.rows}) for picture in pictures)
    names = {name for picture in pictures for name in picture.seconds}
    totals = {
        name: sum(picture.seconds.get(name, 0.0) for picture in pictures if picture.rows) for name in names
    }
    return {name: round(total / boxes, 4) for name, total in sorted(totals.items())} if boxes else {}


def _files(folder: RunFolder, source: Source) -> list[Path]:
    return [folder.path / PICTURES / f"{stem}.json" for stem in unique_stems(source.paths)]


def _sha256(evaluator: Evaluator) -> str | None:
    origin = evaluator.detector.origin
    return None if origin is None else origin.sha256


def _csv(records: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _parquet(records: Sequence[dict[str, Any]]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet needs pyarrow: pip install 'detcam[parquet]', or --format csv") from None
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), buffer)
    return buffer.getvalue()
