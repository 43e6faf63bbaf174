"""A stranger's words, class names and the names of files, never lead out of a run or out of a text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_yolo import checkpoint, detector, pictures

from detcam.cli import main
from detcam.errors import OutputError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explanation import SaveOptions
from detcam.files import append_line, json_bytes
from detcam.outputs import RunFolder, unique_stems
from detcam.runner import ExplainBatch, jobs_of, manifest_of, run, settle

REPOSITORY = Path(__file__).parents[1]
WORDS = (
    "../../outside",
    "/etc/passwd",
    "..\\..\\outside",
    "new\nline\rand\ttab",
    "nul\0inside",
    "\x1b[2Jescape\x9b31m",
    "\u202eright to left\u2066",
    "</script><img src=x onerror=alert(1)>",
    "'\"`$(touch outside)`;|&",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "%s%n{0}",
    "x" * 5000,
    "\ud800 half a pair",
    "",
)


def is_fit_to_be_shown(text: str) -> bool:
    return all(char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp") for char in text)


@given(
    st.recursive(
        st.text() | st.sampled_from(WORDS), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_shows_nothing_that_steers_and_says_the_same(document):
    written = json_bytes(document, indent=1).decode("utf-8")
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]", written
    )
    assert json.loads(written) == document


@pytest.fixture
def named(monkeypatch):
    """A detector whose classes are called as somebody liked."""

    def make(words):
        one = detector()
        monkeypatch.setattr(one, "class_names", dict.fromkeys(one.class_names, words))
        return one

    return make


@pytest.mark.parametrize("words", WORDS, ids=lambda words: ascii(words)[:30])
def test_class_names_and_picture_names_stay_in_the_run(words, named, tmp_path, capsys):
    # As much of it as a file system takes; what it does not take cannot arrive.
    name = words.replace("/", "∕").replace("\0", "").encode("utf-8", "replace")[:200] or b"empty"
    picture = tmp_path / "pictures" / os.fsdecode(name + b".png")
    picture.parent.mkdir()
    Image.fromarray(pictures(1)[0]).save(picture)
    explainer = Explainer.of(named(words), ExplainOptions(max_boxes=1))
    options = SaveOptions(extras=("levels", "boxes", "maps", "figure"))
    folder = RunFolder.create(tmp_path / "runs", "run", exist_ok=False)
    jobs = jobs_of([picture])
    folder.write_manifest(manifest_of(explainer, options, jobs, ["detcam", words]))
    (row,) = run(ExplainBatch(lambda: explainer, folder, options), jobs)
    assert settle(folder, jobs)
    assert row.status == "ok", row.error
    with pytest.raises(SystemExit) as exited:
        main(["report", str(folder.path)])
    assert exited.value.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    for path in folder.path.iterdir():
        assert path.is_file()
        assert re.fullmatch(r"[\w.-]+", path.name)
        if path.suffix in (".json", ".jsonl"):
            assert is_fit_to_be_shown(path.read_text("utf-8"))
    assert is_fit_to_be_shown(capsys.readouterr().err)
    page = next(folder.path.glob("*.html")).read_text("utf-8")
    assert "<img src=x" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), unique=True
    )
)
def test_names_of_pictures_become_plain_names(names):
    stems = unique_stems([Path(name) for name in names])
    assert all(re.fullmatch(r"[\w.-]+", stem) and stem not in (".", "..") for stem in stems)
    assert all(len(stem.encode()) <= 200 for stem in stems)


def test_a_link_in_a_folder_that_is_used_again_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "index.jsonl").symlink_to(outside)
    with pytest.raises(OutputError, match="it is a link"):
        append_line(tmp_path / "run" / "index.jsonl", b"{}")
    (tmp_path / "run" / "run.json").symlink_to(outside)
    RunFolder.create(tmp_path, "run", exist_ok=True).write_manifest({})
    assert outside.read_text() == "mine"


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    """A sampled and a gradient method, with another order of hashes in each process; only timings differ."""
    Image.fromarray(pictures(1)[0]).save(tmp_path / "street.png")
    commands = [
        ["--method", "d-rise", "--masks", "16", "--seed", "3", "--name", "sampled"],
        ["--method", "grad-cam-elementwise", "--save", "maps", "--save", "levels", "--name", "gradients"],
    ]
    script = f"""
import sys
from detcam.cli import main
for more in {commands!r}:
    try:
        main(["explain", {str(checkpoint())!r}, "../street.png", "--max-boxes", "2", *more])
    except SystemExit as exited:
        assert not exited.code
"""
    running = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        around = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONHASHSEED": seed,
            "PYTHONWARNINGS": "ignore",
        }
        running.append(subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path / seed, env=around))
    assert [one.wait(120) for one in running] == [0, 0]
    first, second = (sorted((tmp_path / seed).rglob("*.*")) for seed in ("1", "2"))
    assert [path.relative_to(tmp_path / "1") for path in first] == [
        path.relative_to(tmp_path / "2") for path in second
    ]
    assert len(first) > 10
    for one, other in zip(first, second, strict=True):
        assert _without_timings(one) == _without_timings(other), one


def _without_timings(path: Path) -> bytes:
    return re.sub(rb'"ms": [\d.]+', b"", path.read_bytes())
