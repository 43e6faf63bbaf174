"""Runs that are killed, fill the disk or lose their folder, and go on as if nothing had happened."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from killable import draw, files_of, rows_of, said

DROPPED = 65534  # the user and group "nobody"


@pytest.fixture
def undisturbed(finish, pictures, tmp_path) -> Path:
    assert finish("--name", "undisturbed", "--save", "maps") == 3  # one picture is none
    return tmp_path / "runs/explain/undisturbed"


def kill_at_random(start: Any, tmp_path: Path, kills: int) -> int:
    """Start two workers and kill them at a random moment, again and again. How many died at work.

    The moment is counted in rows and then in a part of what a row takes: a fast machine would else be done.
    """
    generator, died = random.Random(0), 0
    for _ in range(kills):
        enough = rows_so_far(tmp_path) + generator.randint(0, 2)
        workers = [
            start("--name", "killed", "--save", "maps", "--shard", f"{i}/2", "--resume") for i in (1, 2)
        ]
        while rows_so_far(tmp_path) < enough and all(worker.is_alive() for worker in workers):
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.1))
        for worker in workers:
            if worker.is_alive():
                os.kill(worker.pid, signal.SIGKILL)
                died += 1
        for worker in workers:
            worker.join(20)
    return died


def rows_so_far(tmp_path: Path) -> int:
    parts = (tmp_path / "runs/explain/killed/parts").glob("*")
    return sum(path.read_bytes().count(b"\n") for path in parts)


def assert_as_if_undisturbed(run: Path, undisturbed: Path) -> None:
    assert rows_of(run) == rows_of(undisturbed)
    assert files_of(run) == files_of(undisturbed)
    assert (run / "metadata.jsonl").read_bytes() == (undisturbed / "metadata.jsonl").read_bytes()


@pytest.mark.parametrize(("count", "kills"), [(10, 4), pytest.param(60, 20, marks=pytest.mark.slow)])
def test_two_workers_killed_at_random_moments_lose_and_double_nothing(start, finish, tmp_path, count, kills):
    paths = draw(tmp_path / "pictures", count)
    assert finish("--name", "undisturbed", "--save", "maps") == 3
    died = kill_at_random(start, tmp_path, kills)
    assert died >= kills
    sys.stdout.write(f"{died} processes killed at work\n")  # for docs/reliability.md
    for shard in ("1/2", "2/2"):
        finish("--name", "killed", "--save", "maps", "--shard", shard, "--resume")
    run = tmp_path / "runs/explain/killed"
    assert [row["source"] for row in rows_of(run)] == [f"pictures/{path.name}" for path in sorted(paths)]
    assert_as_if_undisturbed(run, tmp_path / "runs/explain/undisturbed")


def test_a_run_alone_goes_on_and_tries_again_what_failed(start, finish, undisturbed, tmp_path):
    worker = start("--name", "killed", "--save", "maps")
    run = tmp_path / "runs/explain/killed"
    while not (run / "index.jsonl").exists():
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(20)
    with (run / "index.jsonl").open("ab") as file:
        file.write(b'{"source": "pictures/0')  # as a full disk may leave it
    before = {row["source"] for row in rows_of_whole_lines(run)}
    assert before
    assert finish("--name", "killed", "--save", "maps", "--resume") == 3
    assert_as_if_undisturbed(run, undisturbed)
    assert f"{len(before)} of 11 pictures are done already" in said(tmp_path)
    # The picture that was none has become one.
    (tmp_path / "pictures/broken.png").write_bytes((tmp_path / "pictures/000.png").read_bytes())
    assert finish("--name", "killed", "--save", "maps", "--resume") == 0
    rows = rows_of(run)
    assert [row["status"] for row in rows if "broken" in row["source"]] == ["ok"]
    assert len(rows) == 11


def rows_of_whole_lines(run: Path) -> list[dict[str, Any]]:
    whole = run.parent / "whole"
    whole.mkdir(exist_ok=True)
    content = (run / "index.jsonl").read_bytes()
    (whole / "index.jsonl").write_bytes(content[: content.rfind(b"\n") + 1])
    return [row for row in rows_of(whole) if row["status"] != "error"]


def test_another_question_is_not_mixed_in(finish, undisturbed, tmp_path):
    asked = ("--name", "undisturbed", "--save", "maps", "--resume")
    assert finish(*asked, "--conf", "0.5") == 1
    assert "undisturbed was made with other options: give the same, or another --name" in said(tmp_path)
    assert finish(*asked, "--half") == 1
    assert "undisturbed was made with other half" in said(tmp_path)
    assert finish(*asked, "--colormap", "jet") == 1
    assert "undisturbed was made with other colormap" in said(tmp_path)
    assert finish(*asked, "--num-classes", "3") == 1  # what the model has, but said now and not before
    assert "undisturbed was made with other told" in said(tmp_path)
    os.remove(tmp_path / "pictures/003.png")
    assert finish(*asked) == 1
    assert "undisturbed was made with other pictures" in said(tmp_path)


def test_a_run_that_is_there_is_not_begun_anew_by_a_share(finish, undisturbed, tmp_path):
    assert finish("--name", "undisturbed", "--save", "maps", "--shard", "1/2") == 1
    assert "undisturbed/index.jsonl is there already: add --resume" in said(tmp_path)


def small_files() -> None:
    """As of a disk with 12 KB left: no file can become larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


def test_a_full_disk_ends_the_run_with_one_line_and_it_goes_on_later(finish, undisturbed, tmp_path):
    assert finish("--name", "full", "--save", "maps", before=small_files) == 1
    run = tmp_path / "runs/explain/full"
    (line,) = [one for one in said(tmp_path).splitlines() if "cannot write" in one]
    assert line.startswith("error: cannot write runs/explain/full/")
    assert "File too large. Choose another place with --project" in line
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    assert finish("--name", "full", "--save", "maps", "--resume") == 3
    assert_as_if_undisturbed(run, undisturbed)


def lose_rights() -> None:
    """Root may write anywhere: be nobody instead."""
    if os.geteuid() == 0:
        os.setgid(DROPPED)
        os.setuid(DROPPED)


def test_a_folder_that_may_not_be_written_any_more_ends_the_run_with_one_line(
    start, finish, undisturbed, tmp_path
):
    folder = tmp_path
    while folder != folder.parent and os.stat(folder).st_uid == os.getuid():
        folder.chmod(folder.stat().st_mode | 0o755)  # pytest's folders are its own user's
        folder = folder.parent
    tmp_path.chmod(0o777)
    run = tmp_path / "runs/explain/lost"
    run.mkdir()
    run.chmod(0o777)
    process = start("--name", "lost", "--save", "maps", "--exist-ok", before=lose_rights)
    while not (run / "index.jsonl").exists() and process.is_alive():
        time.sleep(0.01)
    run.chmod(0o555)
    process.join(60)
    assert process.exitcode == 1, said(tmp_path)
    assert "Permission denied. Choose another place with --project" in said(tmp_path)
    run.chmod(0o777)
    assert finish("--name", "lost", "--save", "maps", "--resume") == 3
    assert_as_if_undisturbed(run, undisturbed)
