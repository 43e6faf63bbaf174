"""A figure for a paper, made of pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detcam.errors import InputError, UnknownNameError
from detcam.explanation import Explanation, Scale, Style
from detcam.files import whole_file
from detcam.report.pictures import original
from detcam.report.reading import StoredRow, StoredRun, read_explanation, read_run
from detcam.report.restoring import restored


@dataclass(frozen=True)
class FigureOptions:
    """What a figure shows, and how.

    Attributes:
        boxes: those that get a row each.
        classes: ids or names of classes that get a row each; with neither, a picture is one row.
        levels: their names, or "merged"; None for all.
        width: "column" or "page".
        scale: what is drawn in full colour; None for what the run took.
        colormap: key of `detcam.render.COLORMAPS`.
    """

    boxes: tuple[int, ...] | None = None
    classes: tuple[int | str, ...] | None = None
    levels: tuple[str, ...] | None = None
    width: str = "page"
    scale: Scale | None = None
    colormap: str = "inferno"


def write_figure(
    folder: Path,
    path: Path,
    options: FigureOptions,
    *,
    pictures: Sequence[str] = (),
    images: Path | None = None,
) -> Path:
    """Write a PDF, SVG or PNG, as the path's ending says, whole or not at all.

    Args:
        folder: of a run of `detcam explain`.
        path: of the figure.
        options: what it shows, and how.
        pictures: their names in the run, with or without folder and ending; none for all that have boxes.
        images: where the pictures lie now, if they were moved.

    Returns:
        The path.

    Raises:
        InputError: the folder is no such run; no such picture, box, class, level, width or ending; or the
            photograph is gone or another one.
        OutputError: the figure cannot be written.
    """
    from detcam.explanation.paper import chosen_rows, draw_figure  # here, since matplotlib takes 0.2 s
    from detcam.render.paper import paper_format

    file_format = paper_format(path)
    run = read_run(folder)
    rows: list[Explanation] = []
    scale = options.scale
    for row in _chosen(run, pictures):
        stored = read_explanation(_sidecar(row))
        scale = scale or stored.scale
        explanation = restored(stored, original(stored, images))
        rows += chosen_rows(explanation, options.boxes, options.classes)
    style = Style(scale or Scale("energy"), options.colormap)
    content = draw_figure(rows, style, levels=options.levels, width=options.width).encoded(file_format)
    with whole_file(path) as file:
        file.write(content)
    return path


def _chosen(run: StoredRun, names: Sequence[str]) -> list[StoredRow]:
    """The rows of the pictures of these names, in their order; of all with boxes if there are none.

    Raises:
        InputError: no such picture, or several, or none that has boxes.
    """
    if not names:
        with_boxes = [row for row in run.rows if row.status == "ok"]
        if not with_boxes:
            raise InputError(f"nothing was found in the pictures of {run.path}: explain with a lower --conf")
        return with_boxes
    return [_named(run, name) for name in names]


def _named(run: StoredRun, name: str) -> StoredRow:
    found = [row for row in run.rows if name in (row.source, Path(row.source).name, Path(row.source).stem)]
    if not found:
        known = [Path(row.source).name for row in run.rows]
        raise UnknownNameError("picture", name, known, f"{run.path} holds {len(known)}")
    if len(found) > 1:
        raise InputError(f"{len(found)} pictures are called {name!r}: give one's path, {found[0].source}")
    return found[0]


def _sidecar(row: StoredRow) -> Path:
    if row.sidecar is None:
        raise InputError(f"{row.source} was not explained: {row.error}")
    return row.sidecar
