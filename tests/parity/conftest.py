"""Collects the measured differences, and prints them as the table of docs/parity.md."""

from __future__ import annotations

import pytest

_DIFFERENCES = pytest.StashKey[dict[str, dict[str, str]]]()


@pytest.fixture
def measured(request):
    """Call it with row, column and what was measured."""

    def note(row: str, column: str, found: str) -> None:
        request.config.stash.setdefault(_DIFFERENCES, {}).setdefault(row, {})[column] = found

    return note


def pytest_terminal_summary(terminalreporter):
    rows = terminalreporter.config.stash.get(_DIFFERENCES, {})
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    terminalreporter.section("largest differences, of values in 0..1")
    terminalreporter.write_line("| | " + " | ".join(columns) + " |")
    terminalreporter.write_line("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        cells = " | ".join(row.get(column, "") for column in columns)
        terminalreporter.write_line(f"| `{name}` | {cells} |")
