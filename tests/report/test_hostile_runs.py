"""A run folder that somebody gives us shows nothing of ours, runs nothing, and writes nowhere else."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcam.errors import InputError
from detcam.report import read_run, reading, write_report
from detcam.report.reading import read_checksum, read_explanation, read_verdicts

ATTACK = '</script><img src=x onerror="alert(1)">{{7*7}}\u202e\u2028\''


class Acts:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def sidecar_of(folder: Path) -> Path:
    return folder / "street_cam.json"


def rewrite(folder: Path, change) -> None:
    document = json.loads(sidecar_of(folder).read_text())
    change(document)
    sidecar_of(folder).write_text(json.dumps(document))


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def tags(page: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert not [name for name, _ in attrs if name.startswith("on")]
            found.append(tag)

    Reader().feed(page)
    return found


def test_pickled_arrays_do_not_run(tmp_path, write_run):
    folder, mark = write_run(tmp_path / "run"), tmp_path / "the attack ran"
    attack = np.empty(1, object)
    attack[0] = Acts(mark)
    with np.load(folder / "street_cam.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    for name in ("b000/P3", "unasked"):
        np.savez(folder / "street_cam.npz", **arrays | {name: attack})
        with pytest.raises(InputError, match="Object arrays cannot be loaded"):
            read_explanation(sidecar_of(folder))
    assert not mark.exists()
    with np.load(folder / "street_cam.npz", allow_pickle=True) as stored:
        assert stored["unasked"].shape == (1,)
    assert mark.exists(), "the attack is a real one"


@pytest.mark.parametrize("role", ["arrays", "overlay", "features"])
@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd.jpg", "a/../../secret.jpg", "nul\0.jpg", "..", "."]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, write_run, role, name):
    folder = write_run(tmp_path / "run")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    rewrite(folder, lambda document: document["files"].update({role: name if role != "features" else [name]}))
    if role == "features" and not name.endswith(".jpg"):
        assert read_explanation(sidecar_of(folder)).sheets == ()  # only pictures are shown
        return
    with pytest.raises(InputError, match="no plain file name"):
        read_explanation(sidecar_of(folder))


@pytest.mark.parametrize("name", ["../other_cam.json", "/tmp/x_cam.json", "a/b_cam.json", "nul\0_cam.json"])
def test_rows_that_lead_elsewhere_are_rows_with_an_error(tmp_path, write_run, name):
    folder = write_run(tmp_path / "run")
    row = {"source": "a.png", "status": "ok", "files": [name], "error": None}
    (folder / "index.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = read_run(folder).rows
    assert found.sidecar is None
    assert "no plain file name" in found.error


@pytest.mark.parametrize("linked", ["street_cam.jpg", "street_cam.npz", "street_cam.json"])
def test_links_are_not_followed_to_what_is_read(tmp_path, write_run, linked):
    folder = write_run(tmp_path / "run")
    (folder / linked).rename(tmp_path / linked)
    (folder / linked).symlink_to(tmp_path / linked)
    rows = [*read_run(folder).rows, *write_report(folder)]
    assert not list(folder.glob("*.html"))
    assert "is a link to somewhere else" in next(row.error for row in rows if row.error)


def test_links_are_not_followed_to_what_is_written(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    (tmp_path / "outside").mkdir()
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (folder / "thumbs").symlink_to(tmp_path / "outside")
    for page in ("index.html", "street_report.html"):
        (folder / page).symlink_to(mine)
    with (folder / "index.jsonl").open("a") as index:
        index.write('{"source": "gone.png", "status": "error", "files": [], "error": "gone"}\n')
    rows = list(write_report(folder))
    assert "is a link" in rows[0].error
    assert mine.read_text() == "mine"
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_photograph_is_shown_only_if_it_is_the_one_that_was_explained(tmp_path, write_run):
    folder, secret = write_run(tmp_path / "run"), tmp_path / "secret.png"
    Image.new("RGB", (97, 61), (1, 2, 3)).save(secret)
    for checksum in ("0" * 64, None, ""):
        said = {"path": str(secret), "sha256": checksum}
        rewrite(folder, lambda document, said=said: document["image"].update(said))
        (row,) = write_report(folder)
        assert row.page is None
        assert "is not the picture that was explained" in row.error


def leaves(value, place=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield from leaves(inner, (*place, key))
    elif isinstance(value, str):
        yield place


def put(document, place, value):
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


def test_no_word_of_a_run_is_more_than_text(tmp_path, write_run):
    """Every text in every file of the run, one after the other."""
    folder = write_run(tmp_path / "run")
    (row,) = write_report(folder)
    harmless = tags(row.page.read_text("utf-8"))
    shown = 0
    for name in ("street_cam.json", "run.json"):
        original = (folder / name).read_text()
        for place in leaves(json.loads(original)):
            document = json.loads(original)
            put(document, place, ATTACK)
            (folder / name).write_text(json.dumps(document))
            row.page.unlink(missing_ok=True)
            try:
                (found,) = write_report(folder)
            except InputError:
                continue
            if found.page is not None:
                shown += 1
                assert tags(found.page.read_text("utf-8")) == harmless, place
        (folder / name).write_text(original)
    assert shown > 20
    assert everything_below(tmp_path) == {"run", *(f"run/{path.name}" for path in folder.iterdir())}


@pytest.mark.parametrize("name", ["run.json", "street_cam.json", "index.jsonl"])
@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 10_000, b"", b"\xed\xa0\x80", b"\xff"],
    ids=["lists", "objects", "digits", "empty", "half a pair", "no text"],
)
def test_documents_that_are_none_are_one_line(tmp_path, write_run, name, content):
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    try:
        errors = [row.error for row in write_report(folder)]
        errors += [row.error for row in read_run(folder).rows]
    except InputError as error:
        errors = [str(error)]
    said = [error for error in errors if error]
    assert said or name == "index.jsonl"  # of an empty index there is nothing to say
    assert all("\n" not in error and len(error) < 1000 for error in said)


@pytest.mark.parametrize("read", [read_explanation, read_verdicts, read_checksum])
def test_no_reader_takes_in_a_description_that_would_fill_the_memory(tmp_path, write_run, monkeypatch, read):
    sidecar = sidecar_of(write_run(tmp_path / "run"))
    monkeypatch.setattr(reading, "_MOST_JSON", sidecar.stat().st_size - 1)
    with pytest.raises(InputError, match="it is larger than the"):
        read(sidecar)
