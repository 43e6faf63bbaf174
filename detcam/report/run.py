"""A run folder's pages written: one a picture, and an index where there are several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from detcam.errors import DetcamError, InputError, OutputError
from detcam.files import make_folder, whole_file
from detcam.images import read_picture
from detcam.report.errors import summarise
from detcam.report.index import THUMBS, index_page, index_row
from detcam.report.page import picture_page
from detcam.report.pictures import as_jpeg, original
from detcam.report.reading import (
    StoredExplanation,
    StoredRow,
    StoredRun,
    read_checksum,
    read_explanation,
    read_run,
)

_THUMB_SIDE, _THUMB_BYTES = 360, 40_000


@dataclass(frozen=True)
class ReportRow:
    """What became of one picture of the run, or of the index.

    Attributes:
        source: the picture's path; the run's folder for the index.
        page: the file written, or None.
        error: why there is no page, if that is not what the run said already.
    """

    source: str
    page: Path | None
    error: str | None = None


def write_report(
    folder: Path, *, images: Path | None = None, others: Sequence[Path] = ()
) -> Iterator[ReportRow]:
    """Write `stem`_report.html for each picture of a run, then index.html if it has more than one.

    A picture whose files are missing or damaged becomes a row with the reason; the rest goes on.

    Args:
        folder: of a run of `detcam explain`.
        images: where the pictures lie now, if they were moved.
        others: further runs; what they say of the same pictures can be chosen in the pages.

    Raises:
        InputError: a folder is no such run.
        OutputError: a page cannot be written.
    """
    run = read_run(folder)
    rest = [read_run(other) for other in others]
    return _pages(run, rest, images)


def _pages(run: StoredRun, others: Sequence[StoredRun], images: Path | None) -> Iterator[ReportRow]:
    elsewhere = _by_picture(others)
    is_alone = len(run.rows) == 1
    listed = []
    for row in run.rows:
        if row.sidecar is None:  # the run has said why
            listed.append(index_row(row))
            continue
        try:
            explanation = read_explanation(row.sidecar)
            ways = [(run, explanation)]
            for other, path in elsewhere[explanation.sha256]:
                with suppress(InputError):  # what cannot be read is left out
                    ways.append((other, read_explanation(path)))
            page = _write_page(run, row, ways, images)
            thumb = None if is_alone else _write_thumb(run, row, explanation)
        except OutputError:  # a full disk is no picture's fault
            raise
        except DetcamError as failure:
            listed.append(index_row(row, error=str(failure)))
            yield ReportRow(row.source, None, str(failure))
        else:
            listed.append(index_row(row, explanation, page, thumb))
            yield ReportRow(row.source, page)
    if not is_alone:
        content = index_page(run.path.resolve().name, listed, summarise(run))
        yield ReportRow(str(run.path), _write(run.path / "index.html", content))


def _by_picture(runs: Sequence[StoredRun]) -> Mapping[str | None, list[tuple[StoredRun, Path]]]:
    """Checksum of a picture -> which runs explain it, and where."""
    found = defaultdict(list)
    for run in runs:
        for row in run.rows:
            if row.sidecar is not None:
                with suppress(InputError):
                    found[read_checksum(row.sidecar)].append((run, row.sidecar))
    return found


def _write_page(
    run: StoredRun, row: StoredRow, ways: Sequence[tuple[StoredRun, StoredExplanation]], images: Path | None
) -> Path:
    picture = original(ways[0][1], images)
    page = picture_page(row.source, picture, [(one.manifest, explanation) for one, explanation in ways])
    return _write(run.path / f"{row.stem}_report.html", page)


def _write_thumb(run: StoredRun, row: StoredRow, explanation: StoredExplanation) -> Path | None:
    """A small overlay for the index; None where there is no overlay."""
    if explanation.overlay is None or not explanation.overlay.is_file():
        return None
    if (run.path / THUMBS).is_symlink():
        raise InputError(f"{run.path / THUMBS} is a link: nothing is written outside the run's folder")
    make_folder(run.path / THUMBS)
    height, width = (
        explanation.geometry.image_size
    )  # what lies beyond is the colour bar, too small to be read
    pixels = read_picture(explanation.overlay).pixels[:height, :width]
    return _write(run.path / THUMBS / f"{row.stem}.jpg", as_jpeg(pixels, _THUMB_SIDE, _THUMB_BYTES))


def _write(path: Path, content: bytes) -> Path:
    with whole_file(path) as file:
        file.write(content)
    return path
