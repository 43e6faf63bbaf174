"""What is said: results on stdout, words to a person on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 60


def say(line: str) -> None:
    """Say a line on stderr; file and class names are strangers' words, and may not steer the terminal."""
    click.echo("".join(x if x.isprintable() else repr(x)[1:-1] for x in line), err=True)


def print_paths(paths: Iterable[Path]) -> None:
    """Print files on stdout, a line each, in the very bytes of their names."""
    for path in paths:
        click.echo(os.fsencode(path))


def end(message: str, code: int) -> NoReturn:
    """Say why, and exit."""
    say(message)
    sys.exit(code)


def progress_bar(what: str) -> Callable[[Iterable[int]], Iterable[int]] | None:
    """A bar on stderr around an iterable; None where nobody is looking.

    Args:
        what: is counted, for people.
    """
    if not sys.stderr.isatty():
        return None

    def shown(steps: Iterable[int]) -> Iterable[int]:
        from rich.console import Console
        from rich.progress import track

        return track(steps, description=what, console=Console(stderr=True), transient=True)

    return shown


def counted(pictures: Iterable[Item], total: int) -> Iterator[Item]:
    """Results of pictures as they come: how many, how fast, how long still, in a bar on a terminal.

    In a log it is a line every minute.
    """
    if total < 2 or not sys.stderr.isatty():
        yield from pictures if total < 2 else _logged(pictures, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} pictures/s,"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rate="-")
        for one in pictures:
            bar.stop()  # gone while others write
            yield one
            bar.start()
            bar.advance(task)
            bar.update(task, rate=f"{bar.tasks[0].speed or 0:.2g}")


def _logged(pictures: Iterable[Item], total: int) -> Iterator[Item]:
    began = said = time.monotonic()
    for done, one in enumerate(pictures, start=1):
        yield one
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said, rate = now, done / (now - began)
            left = timedelta(seconds=round((total - done) / rate))
            say(f"{done} of {total} pictures, {rate:.2g} pictures/s, {left} left")


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows with the same keys as a table, or as one JSON document."""
    from detcam.files import json_bytes

    click.echo(json_bytes(rows, indent=1)) if as_json else _print_table(rows)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    # On a pipe nothing is cut and nothing coloured: the table takes the room it needs.
    is_terminal = sys.stdout.isatty()
    console = Console(
        force_terminal=is_terminal, width=None if is_terminal else 400, highlight=False, markup=False
    )
    console.print(table)
