"""Run folders, file names and files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcam.errors import OutputError
from detcam.files import append_line, json_bytes, make_folder, whole_file
from detcam.outputs import RunFolder, unique_stems, versions


def create(project: Path, name: str = "run", *, exist_ok: bool = False) -> Path:
    return RunFolder.create(project, name, exist_ok=exist_ok).path


# Numbering


def test_the_first_run_takes_the_plain_name(tmp_path):
    assert create(tmp_path / "runs" / "explain") == tmp_path / "runs" / "explain" / "run"


def test_later_runs_are_numbered_from_two(tmp_path):
    assert [create(tmp_path).name for _ in range(4)] == ["run", "run-2", "run-3", "run-4"]


def test_a_gap_in_the_numbers_is_filled(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-3").mkdir()
    assert [create(tmp_path).name for _ in range(2)] == ["run-2", "run-4"]


def test_a_file_of_that_name_counts_as_taken(tmp_path):
    (tmp_path / "run").write_text("")
    assert create(tmp_path).name == "run-2"


def test_a_dangling_link_of_that_name_counts_as_taken(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    assert create(tmp_path).name == "run-2"


def test_a_run_that_takes_the_name_a_moment_earlier_wins_it(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def race(path: Path, *arguments, **keywords) -> None:
        if path.name in ("run", "run-2"):
            mkdir(path)  # another process, just now
        mkdir(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "mkdir", race)
    assert create(tmp_path).name == "run-3"


def test_runs_that_start_together_never_share_a_folder(tmp_path):
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(create(tmp_path).name)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 12


def test_an_existing_folder_may_be_used_on_request(tmp_path):
    assert create(tmp_path, exist_ok=True) == create(tmp_path, exist_ok=True) == tmp_path / "run"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_names_may_have_dots_spaces_and_any_letters(tmp_path):
    assert create(tmp_path, "Versuch 2.b – ö").name == "Versuch 2.b – ö"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a/", "/abs", "./x"])
@pytest.mark.parametrize("exist_ok", [True, False])
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path, name, exist_ok):
    with pytest.raises(OutputError, match="put the folder into --project") as raised:
        create(tmp_path / "project", name, exist_ok=exist_ok)
    assert repr(name) in str(raised.value)
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("exist_ok", [True, False])
def test_a_file_where_the_project_should_be_is_one_line(tmp_path, exist_ok):
    (tmp_path / "project").write_text("")
    with pytest.raises(OutputError, match=r"^cannot write .*project.*Choose another place with --project$"):
        create(tmp_path / "project", exist_ok=exist_ok)


def test_a_file_where_the_run_should_be_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match=r"^cannot write .*run: File exists"):
        create(tmp_path, exist_ok=True)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    def refuse(path: Path, *_, **__) -> None:
        if path.name == "run":
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"^cannot write .*run: Permission denied\. Choose"):
        create(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_place_that_takes_no_folders_is_one_line():
    with pytest.raises(OutputError, match=r"^cannot write /proc/detcam"):
        create(Path("/proc/detcam"))


def test_a_name_longer_than_the_file_system_allows_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="File name too long"):
        create(tmp_path, "n" * 300)


# Names of a picture's files


def stems(*paths: str) -> list[str]:
    return unique_stems([Path(path) for path in paths])


def test_a_stem_is_the_pictures_own_name():
    assert stems("photos/street.jpg", "photos/park.final.png") == ["street", "park.final"]


@pytest.mark.parametrize(
    "paths",
    [
        ("a/street.jpg", "b/street.jpg"),
        ("street.jpg", "street.png"),
        ("Street.jpg", "street.jpg"),
        ("a b.jpg", "a_b.jpg"),
        ("a:b.jpg", "a?b.jpg"),
        ("straße.jpg", "STRASSE.jpg"),
        ("x" * 200 + "1.jpg", "x" * 200 + "2.jpg"),
        ("...jpg", "image.jpg"),
        ("caf\udce9.jpg", "caf\udce8.jpg"),
    ],
)
def test_pictures_that_would_share_files_are_told_apart(paths):
    one, other = stems(*paths)
    assert one.casefold() != other.casefold()


def test_only_those_that_collide_get_a_longer_name():
    assert stems("a/street.jpg", "b/street.jpg", "park.jpg")[2] == "park"


def test_a_path_has_one_stem_whatever_the_order():
    paths = ["a/x.jpg", "b/x.jpg", "c/X.jpg", "y.jpg"]
    forwards = dict(zip(paths, stems(*paths), strict=True))
    backwards = dict(zip(paths[::-1], stems(*paths[::-1]), strict=True))
    assert forwards == backwards


def test_weird_characters_become_underscores_and_letters_stay():
    assert stems("a b*c?<d>|'\"e.jpg", "größe-日本.jpg", "tab\tnew\nline.jpg") == [
        "a_b_c__d____e",
        "größe-日本",
        "tab_new_line",
    ]


def test_a_stem_never_hides_a_file():
    assert stems("..hidden.jpg", ".jpg") == ["hidden", "jpg"]


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(lambda s: s not in (".", "..")),
        unique=True,
        max_size=8,
    )
)
def test_stems_are_always_distinct_plain_and_short(paths):
    found = unique_stems([Path(path) for path in paths])
    assert len({stem.casefold() for stem in found}) == len(paths)
    for stem in found:
        assert stem
        assert not stem.startswith(".")
        assert set(stem).isdisjoint('/\\:*?"<>| \n\t')
        assert len(f"{stem}_features_P5.jpg".encode()) < 230


def test_the_longest_name_a_file_system_takes_still_gives_files(tmp_path):
    (stem,) = stems("é" * 125 + ".jpg")
    with whole_file(tmp_path / f"{stem}_cam_levels.jpg") as file:
        file.write(b"x")


# Lines


def test_lines_are_appended_whole(tmp_path):
    for line in (b"one", "zwei ö".encode()):
        append_line(tmp_path / "index.jsonl", line)
    assert (tmp_path / "index.jsonl").read_text("utf-8") == "one\nzwei ö\n"


def test_a_line_is_one_single_write(tmp_path, monkeypatch):
    # With every write at the end of the file, lines of several processes never mix.
    writes = []
    opened = Path.open

    def watched(path: Path, *arguments, **keywords):
        file = opened(path, *arguments, **keywords)
        assert "a" in file.mode
        assert keywords.get("buffering") == 0
        writes.append(path)
        return file

    monkeypatch.setattr(Path, "open", watched)
    append_line(tmp_path / "index.jsonl", b"x" * 100_000)
    assert writes == [tmp_path / "index.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with pytest.raises(OutputError, match=r"^cannot write /dev/full: No space left on device"):
        append_line(Path("/dev/full"), b"line")


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    # A nearly full disk takes the first bytes and says so; only the next write fails.
    append_line(tmp_path / "index.jsonl", b"whole")
    opened = Path.open

    class NearlyFull:
        def __init__(self, file) -> None:
            self.file = file
            self.fileno, self.truncate = file.fileno, file.truncate

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            return self.file.write(data[:3])

    monkeypatch.setattr(Path, "open", lambda *a, **k: NearlyFull(opened(*a, **k)))
    with pytest.raises(OutputError, match="No space left on device"):
        append_line(tmp_path / "index.jsonl", b"second line")
    monkeypatch.undo()
    assert (tmp_path / "index.jsonl").read_bytes() == b"whole\n"


def test_json_keeps_letters_readable():
    assert json_bytes({"name": "größe 日本"}) == '{"name": "größe 日本"}'.encode()


def test_json_brings_a_stray_byte_of_a_file_name_back():
    name = os.fsdecode(b"caf\xe9.jpg")
    assert os.fsencode(json.loads(json_bytes([name]).decode("utf-8"))[0]) == b"caf\xe9.jpg"


# Whole files


def test_a_file_appears_at_the_end(tmp_path):
    with whole_file(tmp_path / "a.txt") as file:
        file.write(b"content")
        file.flush()
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["a.txt"]


def write_half(path: Path, failure: BaseException) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise failure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_nothing_and_keeps_its_error(tmp_path, failure):
    with pytest.raises(failure):
        write_half(tmp_path / "a.txt", failure())
    assert os.listdir(tmp_path) == []


def test_a_failing_block_keeps_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "a.txt", RuntimeError())
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_interrupt_as_the_file_opens_leaves_nothing(tmp_path, monkeypatch):
    # Python raises it on the way out of the system call: the file is there, and nobody holds it.
    opened = os.open

    def interrupted(*arguments, **keywords) -> int:
        opened(*arguments, **keywords)
        raise KeyboardInterrupt

    def interrupted_path(path: Path, mode: str) -> None:
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    monkeypatch.setattr(Path, "open", interrupted_path)
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a.txt", RuntimeError())
    assert os.listdir(tmp_path) == []


def test_a_disk_error_becomes_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match=r"^cannot write .*a\.txt: No space left on device\. Choose"):
        write_half(tmp_path / "a.txt", OSError(errno.ENOSPC, "No space left on device"))
    assert os.listdir(tmp_path) == []


def test_a_failing_rename_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="cannot write"), whole_file(tmp_path / "taken") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"), whole_file(tmp_path / "no" / "a.txt"):
        pass


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    with whole_file(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with whole_file(tmp_path / "a.txt") as file:
            file.write(b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_a_folder_and_its_parents_may_exist_already(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


# Versions


def test_versions_name_everything_a_result_depends_on():
    import torch

    found = versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert set(found) >= {"python", "detcam", "ultralytics", "numpy", "opencv-python", "pillow"}


def test_a_package_that_is_not_installed_is_said_to_be_so(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(_name: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr("detcam.outputs.version", missing)
    assert versions()["torch"] == "not installed"
