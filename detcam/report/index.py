"""The page that lists a run's pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from detcam.explanation import KINDS
from detcam.report.errors import ErrorSummary, RankedError
from detcam.report.html import render
from detcam.report.page import in_words
from detcam.report.reading import StoredExplanation, StoredRow

THUMBS = "thumbs"  # folder of the small pictures, beside the index
PAGE_ROWS = 50
LISTED_FIRST = 20


def index_row(
    row: StoredRow,
    explanation: StoredExplanation | None = None,
    page: Path | None = None,
    thumb: Path | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """One picture in the list, as the page's script reads it.

    Args:
        row: what the run says of it.
        explanation: what was read.
        page: its report.
        thumb: its small picture.
        error: why it has no report, if the run does not say so.
    """
    error = row.error or error
    boxes = [] if explanation is None else _boxes(explanation)
    return {
        "source": row.source,
        "status": "error" if error else row.status,
        "words": error or ("" if explanation is None else in_words(explanation)),
        "boxes": boxes,
        "page": None if page is None else quote(os.fsencode(page.name)),
        "thumb": None if thumb is None else f"{THUMBS}/{quote(os.fsencode(thumb.name))}",
    }


def _boxes(explanation: StoredExplanation) -> list[tuple[str, float, str | None]]:
    """Class, score and kind, by which a picture is found: of its boxes, then of what is not explained."""
    kinds = {number: one.kind for number, one in explanation.verdict_of.items()}
    rest = [one for one in explanation.verdicts if one.row is None]
    return [
        *(
            (box.class_name, round(box.score, 4), kinds.get(number))
            for number, box in enumerate(explanation.boxes)
        ),
        *((one.class_name, round(one.score, 4), one.kind) for one in rest),
    ]


def index_page(run: str, rows: Sequence[dict[str, Any]], summary: ErrorSummary) -> bytes:
    """A list with filters, 50 pictures at a time, UTF-8; the pictures' own files lie beside it.

    Args:
        run: the run's name.
        rows: of `index_row`, in the order of the run.
        summary: of its errors, if they were sorted.
    """
    pages = {one["source"]: one["page"] for one in rows}
    return render(
        "index.html",
        ["base.css", "index.css"],
        ["index.js"],
        images="'self'",
        title=run,
        links=[(one["page"], one["source"]) for one in rows if one["page"]],
        counts=list(summary.counts.items()),
        found=[(size, some, of) for size, (some, of) in summary.found.items()],
        first=[_first(one, pages[one.row.source]) for one in summary.first[:LISTED_FIRST]],
        data={"rows": list(rows), "page_rows": PAGE_ROWS, "kinds": KINDS},
    )


def _first(error: RankedError, page: str | None) -> dict[str, str | None]:
    """One of the errors to look at first: where it is shown, and what it is."""
    verdict = error.verdict
    return {
        "page": page if page is None or verdict.row is None else f"{page}#box={verdict.row}",
        "what": verdict.title,
        "where": PurePath(error.row.source).name,
        "why": verdict.words,
    }
