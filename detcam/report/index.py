"""The page that lists a run's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detcam.report.html import render
from detcam.report.page import in_words
from detcam.report.reading import StoredExplanation, StoredRow

THUMBS = "thumbs"  # folder of the small pictures, beside the index
PAGE_ROWS = 50


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
    boxes = () if explanation is None else explanation.boxes
    return {
        "source": row.source,
        "status": "error" if error else row.status,
        "words": error or ("" if explanation is None else in_words(explanation)),
        "boxes": [[box.class_name, round(box.score, 4)] for box in boxes],
        "page": None if page is None else quote(page.name),
        "thumb": None if thumb is None else f"{THUMBS}/{quote(thumb.name)}",
    }


def index_page(run: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """A list with filters, 50 pictures at a time, UTF-8; the pictures' own files lie beside it.

    Args:
        run: the run's name.
        rows: of `index_row`, in the order of the run.
    """
    return render(
        "index.html",
        ["base.css", "index.css"],
        ["index.js"],
        images="'self'",
        title=run,
        links=[(one["page"], one["source"]) for one in rows if one["page"]],
        data={"rows": list(rows), "page_rows": PAGE_ROWS},
    )
