"""What a run folder holds, read back. Its files may be anybody's: everything is checked, nothing is run."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detcam.errors import InputError
from detcam.explanation import KINDS, MERGED, SCHEMA, ExplainedLayer, Scale, Verdict
from detcam.geometry import Letterbox
from detcam.outputs import RUN_SCHEMA

FloatArray = npt.NDArray[np.float32]

_SIDECAR = "_cam.json"
# What numpy and zipfile raise when an .npz is truncated, no archive, or full of pickles.
_NPZ_FAILURES = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
_LONGEST_SIDE = 1 << 28  # pixels; no picture that is read is longer
_MOST_JSON, _MOST_INDEX, _MOST_ARRAYS = 64 << 20, 1 << 30, 1 << 30  # bytes, of arrays when unpacked


@dataclass(frozen=True, eq=False)
class StoredBox:
    """One explained box.

    Attributes:
        xyxy: in picture pixels.
        corners: (4, 2) points (x, y) of a rotated box, or None.
        class_id: of the detection.
        class_name: of the detection; a stranger's words.
        score: of the detection, 0..1.
        level: that predicted the box, where it is known.
        candidate: the row of the raw prediction that it came from.
        target_value: in the target's unit.
        convergence: how far random masks settle the map, where it is made of such.
        maps: level name or "merged" -> (h, w) raw, on a grid over the network's input.
        shares: level name -> share of the evidence that lies there, None where undefined.
        idle: levels that take no part in the target.
    """

    xyxy: tuple[float, ...]
    corners: tuple[tuple[float, float], ...] | None
    class_id: int
    class_name: str
    score: float
    level: str | None
    candidate: int
    target_value: float
    convergence: float | None
    maps: Mapping[str, FloatArray]
    shares: Mapping[str, float | None]
    idle: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StoredExplanation:
    """One picture explained, as stored.

    Attributes:
        image: the picture's path, as it was given; None for a picture that was in memory.
        sha256: of that file.
        geometry: picture <-> network input.
        method: what was asked: name, target, unit, gradients, merge.
        scale: what the overlay shows in full colour.
        layers: finest first.
        boxes: best first.
        found: detections before the weakest were cut.
        best_score: the highest score in the picture.
        warnings: sentences.
        overlay: the picture with its maps, if there is one.
        maps: a 16-bit PNG for each box, if they were saved.
        sheets: contact sheets of features, if they were made.
        verdicts: what the boxes are, if that was asked.
    """

    image: Path | None
    sha256: str | None
    geometry: Letterbox
    method: Mapping[str, str | None]
    scale: Scale
    layers: tuple[ExplainedLayer, ...]
    boxes: tuple[StoredBox, ...]
    found: int
    best_score: float
    warnings: tuple[str, ...]
    overlay: Path | None
    maps: tuple[Path, ...]
    sheets: tuple[Path, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def verdict_of(self) -> Mapping[int, Verdict]:
        """Number of a box -> what it is."""
        return {one.row: one for one in self.verdicts if one.row is not None}


@dataclass(frozen=True, eq=False)
class StoredRow:
    """One picture of a run.

    Attributes:
        source: its path, as it was given.
        status: "ok", "no_detections" or "error".
        sidecar: the description beside its overlay; None if it failed.
        error: why it failed.
    """

    source: str
    status: str
    sidecar: Path | None
    error: str | None = None

    @property
    def stem(self) -> str:
        """How the picture's files begin."""
        return "" if self.sidecar is None else self.sidecar.name.removesuffix(_SIDECAR)


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A run of `detcam explain`.

    Attributes:
        path: its folder.
        manifest: what run.json says.
        rows: a picture each, in the order of the run.
    """

    path: Path
    manifest: Mapping[str, Any]
    rows: tuple[StoredRow, ...]


def read_run(folder: Path) -> StoredRun:
    """Read run.json and index.jsonl. A damaged line of the index becomes a row with its error.

    Raises:
        InputError: the folder is none of `detcam explain`.
    """
    manifest_path, index_path = folder / "run.json", folder / "index.jsonl"
    if not manifest_path.is_file():
        what = "holds no run.json" if folder.is_dir() else "is no folder"
        raise InputError(
            f"{folder} {what}: give a folder that detcam explain wrote, such as runs/explain/run"
        )
    with _damage(manifest_path):
        manifest = json.loads(_content(manifest_path, _MOST_JSON))
        schema, task = manifest["schema"], manifest.get("task", "explain")
    if (schema, task) != (RUN_SCHEMA, "explain"):
        raise InputError(
            f"{folder} holds {schema} of detcam {task}: a report is made of detcam explain's runs"
        )
    if not index_path.is_file():
        raise InputError(f"{folder} holds no index.jsonl, no picture was finished: explain again")
    with _damage(index_path):
        lines = _content(index_path, _MOST_INDEX).splitlines()
    rows = [_row(folder, number, line) for number, line in enumerate(lines, start=1)]
    latest = {row.source: row for row in rows}  # a run into the same folder adds rows; the last one is true
    return StoredRun(folder, manifest, tuple(latest.values()))


def read_checksum(sidecar: Path) -> str | None:
    """The sha256 of the picture that a description is about; its maps are not read.

    Raises:
        InputError: the description is missing or damaged.
    """
    with _damage(sidecar):
        return _words(json.loads(_content(sidecar, _MOST_JSON))["image"]["sha256"])


def read_verdicts(sidecar: Path) -> tuple[Verdict, ...]:
    """What a description says the boxes are; its maps are not read.

    Raises:
        InputError: the description is missing or damaged.
    """
    with _damage(sidecar):
        return tuple(map(_verdict, json.loads(_content(sidecar, _MOST_JSON)).get("verdicts", ())))


def read_explanation(sidecar: Path) -> StoredExplanation:
    """Read a description and the maps it names.

    Raises:
        InputError: one of the two is missing, damaged, or they do not fit each other.
    """
    with _damage(sidecar):
        document = json.loads(_content(sidecar, _MOST_JSON))
        if document["schema"] != SCHEMA:
            raise InputError(f"its schema is {document['schema']!r}, not {SCHEMA!r}")
        layers = tuple(map(_layer, document["layers"]))
        image, files = document["image"], document["files"]
        question, fixed = document["method"], document["method"]["scale_value"]
        arrays = _read_arrays(_beside(sidecar, files["arrays"]))
        return StoredExplanation(
            image=None if image["path"] is None else Path(_text(image["path"])),
            sha256=image["sha256"],
            geometry=_geometry(image, document["input"]),
            method={
                name: _words(question[name]) for name in ("name", "target", "unit", "gradients", "merge")
            },
            scale=Scale.parse(question["scale"] if fixed is None else f"fixed:{_number(fixed)}"),
            layers=layers,
            boxes=tuple(_box(one, layers, arrays) for one in document["boxes"]),
            found=int(document["detections_found"]),
            best_score=_number(document["best_score"]),
            warnings=tuple(map(_text, document["warnings"])),
            overlay=_beside(sidecar, files["overlay"]) if "overlay" in files else None,
            maps=tuple(_beside(sidecar, name) for name in files.get("maps", ())),
            sheets=tuple(
                _beside(sidecar, name) for name in files.get("features", ()) if name.endswith(".jpg")
            ),
            verdicts=tuple(map(_verdict, document.get("verdicts", ()))),
        )


def _row(folder: Path, number: int, line: bytes) -> StoredRow:
    try:
        with _damage(folder / "index.jsonl"):
            row = json.loads(line)
            if row["status"] == "error":
                return StoredRow(_text(row["source"]), "error", None, _text(row["error"]))
            (name,) = [name for name in row["files"] if name.endswith(_SIDECAR)]
            return StoredRow(_text(row["source"]), _text(row["status"]), _beside(folder / "any", name))
    except InputError as error:
        return StoredRow(f"line {number} of index.jsonl", "error", None, str(error))


def _geometry(image: dict[str, Any], network: dict[str, Any]) -> Letterbox:
    size = int(image["height"]), int(image["width"])
    (across, down), (left, top) = network["letterbox"]["ratio"], network["letterbox"]["pad"]
    resized = round(size[0] * down), round(size[1] * across)
    sides = (*size, *resized, int(network["height"]), int(network["width"]))
    if min(sides) < 1 or max(*sides, abs(int(left)), abs(int(top))) > _LONGEST_SIDE:
        raise InputError(f"a side is not 1 to {_LONGEST_SIDE} pixels long")
    return Letterbox(size, resized, (int(left), int(top)), (int(network["height"]), int(network["width"])))


def _layer(layer: dict[str, Any]) -> ExplainedLayer:
    height, width = map(int, layer["grid"])
    module, member_of = _words(layer["module"]), _words(layer["set"])
    return ExplainedLayer(_text(layer["level"]), module, member_of, _number(layer["stride"]), (height, width))


def _box(
    box: dict[str, Any], layers: tuple[ExplainedLayer, ...], arrays: Mapping[str, FloatArray]
) -> StoredBox:
    grids = {layer.level: layer.grid for layer in layers}
    grids[MERGED] = max(grids.values(), key=lambda grid: grid[0] * grid[1])
    maps = {}
    for level, grid in grids.items():
        key = box["maps"][level]["npz"]
        if key not in arrays:
            raise InputError(f"the arrays lack {key!r}")
        maps[level] = arrays[key]
        if maps[level].shape != grid or not np.isfinite(maps[level]).all():
            raise InputError(f"{key!r} must be finite and {grid}, got {maps[level].shape}")
    corners = box["corners"]
    return StoredBox(
        xyxy=_corners(box["xyxy"]),
        corners=None if corners is None else tuple((_number(x), _number(y)) for x, y in corners),
        class_id=int(box["class_id"]),
        class_name=_text(box["class"]),
        score=_number(box["score"]),
        level=_words(box["level"]),
        candidate=int(box["candidate"]),
        target_value=_number(box["target_value"]),
        convergence=_optional(box["convergence"]),
        maps=maps,
        shares={level: _optional(box["maps"][level]["share"]) for level in grids if level != MERGED},
        idle=tuple(level for level in grids if not box["maps"][level]["involved"]),
    )


def _verdict(one: dict[str, Any]) -> Verdict:
    if one["kind"] not in KINDS:
        raise InputError(f"there is no kind {one['kind']!r}")
    return Verdict(
        kind=one["kind"],
        box=_corners(one["box"]),
        class_id=int(one["class_id"]),
        class_name=_text(one["class"]),
        score=_number(one["score"]),
        words=_text(one["words"]),
        candidate=None if one["candidate"] is None else int(one["candidate"]),
        truth=None if one["truth"] is None else _corners(one["truth"]),
        truth_class=_words(one["truth_class"]),
        overlap=_optional(one["overlap"]),
        row=None if one["row"] is None else int(one["row"]),
    )


def _corners(box: Any) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = map(_number, box)
    return x1, y1, x2, y2


def _read_arrays(path: Path) -> Mapping[str, FloatArray]:
    if not path.is_file():
        raise InputError(f"{path.name} is missing")
    try:
        # Opened here: of a damaged file numpy would leave its own handle open.
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
            if claimed > _MOST_ARRAYS:
                raise InputError(f"{path.name} unpacks to {claimed} bytes, over the {_MOST_ARRAYS} we read")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name].astype(np.float32) for name in stored.files}
    except InputError:
        raise
    except _NPZ_FAILURES as failure:
        raise InputError(f"{path.name} cannot be read: {failure}") from failure


def _content(path: Path, most_bytes: int) -> bytes:
    if path.stat().st_size > most_bytes:
        raise InputError(f"it is larger than the {most_bytes} bytes we read of such a file")
    return path.read_bytes()


def _beside(file: Path, name: Any) -> Path:
    """A file in the same folder; what leads elsewhere would let a stranger's run show or change any file."""
    plain = _text(name)
    if Path(plain).name != plain or plain in ("", "..") or "\0" in plain:
        raise InputError(f"{plain!r} is no plain file name")
    path = file.parent / plain
    if path.is_symlink():
        raise InputError(f"{plain!r} is a link to somewhere else")
    return path


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever is wrong with a document's content becomes one line about its file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}. Explain the picture again") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged ({what}): explain the picture again") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"words expected, got {value!r}")
    return value


def _words(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a finite number expected, got {value!r}")
    return float(value)


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)
