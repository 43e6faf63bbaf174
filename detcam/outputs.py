"""The run folder: run.json once, a line of index.jsonl per picture, the pictures' own files."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from detcam.adapters.base import Detector, device_of
from detcam.errors import DetcamError, InputError, OutputError
from detcam.files import append_line, cannot_write, json_bytes, make_folder, plain_names, write_json
from detcam.images import Picture, read_picture

RUN_SCHEMA = "detcam.run/1"
INDEX, PARTS = "index.jsonl", "parts"
_PACKAGES = ("detcam", "torch", "torchvision", "ultralytics", "numpy", "opencv-python", "pillow")
_LONGEST_STEM = 160  # bytes; file systems allow 255, and every file adds an ending


@dataclass(frozen=True)
class RunFolder:
    """An output folder that belongs to one run.

    Attributes:
        path: the folder.
        part: what the list of rows of this process is called, where several share the run; None for the one
            list, index.jsonl.
    """

    path: Path
    part: str | None = None

    @classmethod
    def create(cls, project: Path, name: str, *, exist_ok: bool) -> RunFolder:
        """`project`/`name`, or with -2, -3 … behind it if that is taken and `exist_ok` is false.

        Raises:
            OutputError: the folder cannot be created.
        """
        if not name or Path(name).name != name or name in (".", ".."):
            raise OutputError(
                f"a run's name must be a plain folder name, got {name!r}: put the folder into --project"
            )
        if exist_ok:
            make_folder(project / name)
            return cls(project / name)
        make_folder(project)
        number = 1
        while True:
            path = project / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:  # also when another run has just taken it
                number += 1
            except OSError as error:
                raise cannot_write(path, error) from error
            else:
                return cls(path)

    @property
    def index(self) -> Path:
        """The list that rows are added to."""
        return self.path / (INDEX if self.part is None else f"{PARTS}/index-{self.part}.jsonl")

    def indexes(self) -> list[Path]:
        """All lists of rows that there are, index.jsonl first."""
        index = self.path / INDEX
        return [*([index] if index.exists() else []), *sorted((self.path / PARTS).glob("index-*.jsonl"))]

    def manifest(self) -> dict[str, Any] | None:
        """What run.json says; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        path = self.path / "run.json"
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} is damaged ({error}): give another --name") from error
        if not isinstance(document, dict):
            raise InputError(f"{path} is damaged (no object): give another --name")
        return document

    def write_manifest(self, facts: Mapping[str, Any]) -> Path:
        """Write run.json: the schema, the versions of everything that counts, and `facts`."""
        return write_json(self.path / "run.json", {"schema": RUN_SCHEMA, "versions": versions(), **facts})

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one picture's row to the list."""
        make_folder(self.index.parent)
        append_line(self.index, json_bytes(row))


def each_picture(
    folder: RunFolder, paths: Sequence[Path], save: Callable[[Picture, str], Sequence[Path]]
) -> Iterator[dict[str, Any]]:
    """Read pictures one by one, have their files written, append their rows and yield them, in order.

    A picture that cannot be read or worked on becomes a row with its error; the run goes on.

    Args:
        folder: of the run.
        paths: the pictures.
        save: writes a picture's files, whose names begin with the stem it is given, and gives their paths.

    Raises:
        OutputError: the folder cannot be written.
    """
    for path, stem in zip(paths, unique_stems(paths), strict=True):
        began = time.perf_counter()
        row: dict[str, Any] = {"source": str(path), "status": "ok", "files": [], "ms": 0.0, "error": None}
        try:
            row["files"] = [written.name for written in save(read_picture(path), stem)]
        except OutputError:  # a full disk is no picture's fault
            raise
        except DetcamError as error:
            row |= {"status": "error", "error": str(error)}
        row["ms"] = round((time.perf_counter() - began) * 1000, 1)
        folder.add_row(row)
        yield row


def task_facts(
    task: str, detector: Detector, command: Sequence[str], layers: Sequence[str], options: dict[str, Any]
) -> dict[str, Any]:
    """What run.json holds of a run that looks at a model: the task, the model, what was asked.

    Args:
        task: "features", "maps" or "kernels".
        detector: the model.
        command: as typed, word by word.
        layers: the layers looked at, if the task has any.
        options: what was asked.
    """
    return {
        "task": task,
        "command": list(command),
        "model": model_facts(detector),
        "device": str(device_of(detector.model)),
        "seed": None,
        "layers": list(layers),
        "options": options,
    }


def model_facts(detector: Detector) -> dict[str, Any]:
    """Which model a run used: its file, how far that was trusted, family and classes."""
    origin = detector.origin
    return {
        "path": origin and origin.path,
        "sha256": origin and origin.sha256,
        "trust": origin and origin.trust,
        "allowed_globals": list(origin.allowed_globals) if origin else [],
        "family": detector.family,
        "classes": {str(index): name for index, name in detector.class_names.items()},
    }


def versions() -> dict[str, str]:
    """Name -> version of Python and the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """How each picture's files begin: its own name, made plain; where two collide, with a hash of the path.

    The same path gets the same stem whatever the order.
    """
    return plain_names([path.stem for path in paths], _LONGEST_STEM, keys=[str(path) for path in paths])
