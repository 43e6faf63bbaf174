"""`detcam report`, and what `detcam explain --report` writes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from detcam.cli.exits import EXIT_SOME_FAILED
from detcam.cli.options import moved_option, run_argument
from detcam.cli.words import print_paths, say


@click.command(short_help="Show a run's maps in a browser.")
@run_argument
@click.option(
    "--with",
    "others",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Another run over the same pictures, to be chosen in the pages: another method. Repeatable.",
)
@moved_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of paths.")
def report(run: Path, others: tuple[Path, ...], images: Path | None, as_json: bool) -> None:
    r"""Write pages that show the maps of RUN, a folder that `detcam explain` wrote, in any browser.

    \b
    Examples:
      detcam report runs/explain/run
      detcam report runs/explain/run --with runs/explain/run-2

    A page per picture, which needs no other file, server or network, and index.html where there are several;
    prints their paths.
    """
    from detcam.files import json_bytes

    pages, failed = write_pages(run, images, others, as_json=as_json)
    if as_json:
        click.echo(json_bytes({"run": str(run), "pages": [str(page) for page in pages]}, indent=1))
    if failed:
        sys.exit(EXIT_SOME_FAILED)


def write_pages(
    run: Path, images: Path | None = None, others: tuple[Path, ...] = (), *, as_json: bool
) -> tuple[list[Path], int]:
    """Write a run's pages and print their paths, unless they go into a document.

    Returns:
        The pages, and how many pictures have none though they were explained.
    """
    from detcam.report import write_report

    pages, failed = [], 0
    for row in write_report(run, images=images, others=others):
        if row.page is None:
            failed += 1
            say(f"{row.source}: {row.error}")
            continue
        pages.append(row.page)
        if not as_json:
            print_paths([row.page])
    if failed:
        say(f"{failed} pictures have no page")
    return pages, failed
