"""The one piece of work of every run: explain some pictures, write their files, give their rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from detcam.cam.rescoring import is_out_of_memory
from detcam.errors import DetcamError, InputError
from detcam.explainer import Explainer, explain_piecemeal
from detcam.explanation import Explanation, SaveOptions, paths_of, save
from detcam.images import Picture, read_picture
from detcam.outputs import RunFolder, unique_stems

_NO_ROOM_TO_DRAW = "not enough memory to draw and store its maps: give smaller pictures or fewer --max-boxes"


class Job(NamedTuple):
    """A picture and how its files' names begin."""

    path: Path
    stem: str


def jobs_of(paths: Sequence[Path]) -> list[Job]:
    """A job for each picture of a run; all pictures are needed to know which names collide."""
    return [Job(*one) for one in zip(paths, unique_stems(paths), strict=True)]


@dataclass(frozen=True, eq=False)
class Row:
    """What became of one picture.

    Attributes:
        job: the picture.
        status: "ok", "no_detections" or "error".
        files: paths written.
        ms: milliseconds it took.
        explanation: unless it failed.
        error: the one-line reason, if it failed.
    """

    job: Job
    status: str
    files: tuple[Path, ...] = ()
    ms: float = 0.0
    explanation: Explanation | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The row as stored in index.jsonl."""
        boxes = 0 if self.explanation is None else len(self.explanation)
        return {
            "source": str(self.job.path),
            "status": self.status,
            "boxes": boxes,
            "files": [path.name for path in self.files],
            "ms": round(self.ms, 1),
            "error": self.error,
        }


@dataclass(frozen=True, eq=False)
class ReadJob:
    """A job, and its picture or what is wrong with it."""

    job: Job
    picture: Picture | None = None
    error: str | None = None


class ExplainBatch:
    """Explains pictures into a run folder; calling it does all of it, and can be repeated without harm.

    It can be sent to another process if `make` can: the model is loaded where it is used first.
    """

    def __init__(self, make: Callable[[], Explainer], folder: RunFolder, save_options: SaveOptions) -> None:
        """Nothing is loaded yet.

        Args:
            make: loads the model, such as an `ExplainerConfig`.
            folder: where files and rows go.
            save_options: what is written.
        """
        self.make, self.folder, self.save_options = make, folder, save_options
        self._most: int | None = None  # pictures of a forward pass, once memory has run out

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "explainer"}

    @cached_property
    def explainer(self) -> Explainer:
        """The model and what is asked of it."""
        return self.make()

    def __call__(self, jobs: Sequence[Job]) -> list[Row]:
        """Rows of pictures that share forward passes where their inputs are of one size.

        Raises:
            OutputError: the folder cannot be written.
        """
        return [self.write(row) for row in self.explain(self.read(jobs))]

    def read(self, jobs: Sequence[Job]) -> list[ReadJob]:
        """Decode the pictures. Needs no model: a thread may do it ahead."""
        return [_read(job) for job in jobs]

    def explain(self, part: Sequence[ReadJob]) -> list[Row]:
        """A row for each, without files yet. A picture that fails is a row with its error."""
        most = self._most or len(part)
        if len(part) > most:
            return self._in_parts(part, most)
        began = time.perf_counter()
        pictures = [one.picture for one in part if one.picture is not None]
        try:
            found = iter(self._explained(pictures))
        except (DetcamError, RuntimeError, MemoryError) as error:
            if len(part) == 1:
                return [Row(one.job, "error", error=_in_a_line(error)) for one in part]
            size = 1  # find out whose fault it was
            if is_out_of_memory(error):
                size = self._most = len(part) // 2  # and for all that follow
        else:
            ms = (time.perf_counter() - began) * 1000 / max(len(part), 1)
            return [
                Row(one.job, "error", error=one.error)
                if one.picture is None
                else _row(one.job, next(found), ms)
                for one in part
            ]
        # Not in the block above: there the error still holds every tensor of the pass that failed.
        return self._in_parts(part, size)

    def _in_parts(self, part: Sequence[ReadJob], size: int) -> list[Row]:
        return [row for i in range(0, len(part), size) for row in self.explain(part[i : i + size])]

    def write(self, row: Row) -> Row:
        """Write a picture's files and then its row. A thread may do it behind, one row at a time.

        Raises:
            OutputError: the folder cannot be written.
        """
        written = self._saved(row)
        self.folder.add_row(written.record())
        return written

    def _explained(self, pictures: Sequence[Picture]) -> list[Explanation]:
        """Explanations; of a single picture also where its boxes do not fit into memory together."""
        try:
            return list(self.explainer.explain(pictures, batch=max(len(pictures), 1)))
        except (RuntimeError, MemoryError) as error:
            if len(pictures) != 1 or not is_out_of_memory(error):
                raise
        return [explain_piecemeal(self.explainer, pictures[0])]

    def _saved(self, row: Row) -> Row:
        if row.explanation is None:
            return row
        began = time.perf_counter()
        try:
            written = save(row.explanation, self.folder.path, row.job.stem, self.save_options)
        except (InputError, RuntimeError, MemoryError) as error:  # unlike a full disk, about one picture only
            if isinstance(error, InputError):
                return Row(row.job, "error", error=str(error))
            if not is_out_of_memory(error):
                raise
            return Row(row.job, "error", error=_NO_ROOM_TO_DRAW)
        files = tuple(paths_of(written))
        return replace(row, files=files, ms=row.ms + (time.perf_counter() - began) * 1000)


def _read(job: Job) -> ReadJob:
    try:
        return ReadJob(job, read_picture(job.path))
    except DetcamError as error:
        return ReadJob(job, error=str(error))


def _in_a_line(error: Exception) -> str:
    """Ours say it all; of others it must be seen that they are the network's."""
    if isinstance(error, DetcamError):
        return str(error)
    first, *_ = str(error).splitlines() or [""]
    return f"the network failed: {type(error).__name__}: {first}"


def _row(job: Job, explanation: Explanation, ms: float) -> Row:
    return Row(job, "ok" if len(explanation) else "no_detections", (), ms, explanation)
