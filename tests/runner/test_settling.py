"""Processes of one run that end at the same time, and data sets that name a picture twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detcam.outputs import RunFolder
from detcam.runner import Job, settle, state, unfinished

A, B = Job(Path("a.png"), "a"), Job(Path("b.png"), "b")


def row(job: Job, error: str | None = None) -> dict[str, Any]:
    files = [] if error else [f"{job.stem}_cam.json"]
    return {"source": str(job.path), "status": "error" if error else "ok", "files": files, "error": error}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run that was ended once, when `a` failed, and that a share has gone on with."""
    for part, rows in ((None, [row(A, "a reason " * 9), row(B)]), ("1-of-2", [row(A)])):
        for one in rows:
            RunFolder(tmp_path, part).add_row(one)
    return RunFolder(tmp_path)


def rows(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.index.read_text().splitlines()]


def test_two_processes_that_end_at_once_write_the_same_index(folder, monkeypatch):
    write = state.whole_file

    def ends_first(path: Path) -> Any:
        monkeypatch.setattr(state, "whole_file", write)
        assert settle(folder, [A, B])  # the other process, after this one has read where rows are
        return write(path)

    monkeypatch.setattr(state, "whole_file", ends_first)
    assert settle(folder, [A, B])
    assert rows(folder) == [row(A), row(B)]


def test_what_others_are_writing_is_left_alone_and_what_a_killed_one_left_is_not(folder):
    RunFolder(folder.path, "2-of-2").add_row(row(Job(Path("c.png"), "c"), "is tried again just now"))
    names = [".a_cam.json", ".c_cam.json", ".a_report.html", ".errors.json"]
    for name in names:
        (folder.path / f"{name}.{'0' * 16}").touch()
    assert settle(folder, [A, B, Job(Path("c.png"), "c")])
    left = [path.name.removesuffix("." + "0" * 16) for path in folder.path.glob(".*")]
    assert sorted(left) == sorted(names[1:])


def test_a_picture_that_is_named_twice_has_one_row(folder):
    assert settle(folder, [A, B, A])
    assert rows(folder) == [row(A), row(B)]


def test_a_second_run_into_the_folder_does_not_take_the_first_ones_word_for_what_failed(tmp_path):
    folder = RunFolder(tmp_path)
    for one in (row(A), row(B), row(A, "is no picture any more")):
        folder.add_row(one)
    assert unfinished(folder, [A, B]) == [A]
    assert settle(folder, [A, B])
    assert rows(folder) == [row(A, "is no picture any more"), row(B)]
