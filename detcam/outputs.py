"""The run folder: run.json once, a line of index.jsonl per picture, the pictures' own files."""

from __future__ import annotations

import hashlib
import platform
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from detcam.errors import OutputError
from detcam.files import append_line, cannot_write, json_bytes, make_folder, whole_file

RUN_SCHEMA = "detcam.run/1"
_PACKAGES = ("detcam", "torch", "torchvision", "ultralytics", "numpy", "opencv-python", "pillow")
_LONGEST_STEM = 160  # bytes; file systems allow 255, and every file adds an ending


@dataclass(frozen=True)
class RunFolder:
    """An output folder that belongs to one run.

    Attributes:
        path: the folder.
    """

    path: Path

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

    def write_manifest(self, facts: dict[str, Any]) -> Path:
        """Write run.json: the schema, the versions of everything that counts, and `facts`."""
        path = self.path / "run.json"
        content = {"schema": RUN_SCHEMA, "versions": versions(), **facts}
        with whole_file(path) as file:
            file.write(json_bytes(content, indent=1))
        return path

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one picture's row to index.jsonl."""
        append_line(self.path / "index.jsonl", json_bytes(row))

    def add_map_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append to metadata.jsonl: data-set loaders then read the 16-bit maps as a folder of images."""
        for row in rows:
            append_line(self.path / "metadata.jsonl", json_bytes(row))


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
    plain = [_plain_stem(path) for path in paths]
    times = Counter(stem.casefold() for stem in plain)  # some file systems do not tell cases apart
    return [
        f"{stem}-{_fingerprint(path)}" if times[stem.casefold()] > 1 else stem
        for stem, path in zip(plain, paths, strict=True)
    ]


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(str(path).encode(errors="surrogatepass")).hexdigest()[:8]


def _plain_stem(path: Path) -> str:
    plain = re.sub(r"[^\w.-]", "_", path.stem).lstrip(".") or "image"
    return plain.encode()[:_LONGEST_STEM].decode(errors="ignore")
