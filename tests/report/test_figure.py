"""`detcam figure`: a run folder read back into a figure."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_yolo import detector, pictures

import detcam
from detcam.explanation import MERGED, Verdict
from detcam.report import read_explanation, restored


@pytest.fixture
def run(tmp_path, write_run) -> Path:
    return write_run(tmp_path / "run")


def test_a_stored_explanation_is_the_one_that_was_stored(run, explained):
    again = restored(read_explanation(run / "street_cam.json"), explained.picture)
    assert again.question == explained.question
    assert again.layers == explained.layers
    assert again.geometry == explained.geometry
    assert again.deciding == explained.deciding
    assert again.target_values == explained.target_values
    for name in ("boxes", "scores", "labels", "candidates"):
        assert torch.equal(getattr(again.detections, name), getattr(explained.detections, name)), name
    for level, maps in explained.levels.items():
        assert torch.equal(again.levels[level], maps)
        assert torch.equal(again.involved[level], explained.involved[level])
    assert [again.label(box) for box in range(3)] == [explained.label(box) for box in range(3)]
    for level in (*explained.levels, MERGED):
        assert np.array_equal(again.overlay(level=level), explained.overlay(level=level))


def test_a_stored_explanation_of_rotated_boxes_keeps_their_corners(tmp_path):
    found = detcam.explain(detector("OBB"), pictures(1)[0], max_boxes=2)
    found.save(tmp_path)
    again = restored(read_explanation(tmp_path / "image_cam.json"), found.picture)
    torch.testing.assert_close(again.detections.corners, found.detections.corners)
    assert again.figure().encoded("svg") == found.figure().encoded("svg")


def test_a_stored_explanation_without_boxes_is_empty(tmp_path):
    found = detcam.explain(detector(), pictures(1)[0], conf=0.99)
    found.save(tmp_path)
    again = restored(read_explanation(tmp_path / "image_cam.json"), found.picture)
    assert len(again) == 0
    assert again.detections.best_score == pytest.approx(found.detections.best_score)
    assert again.figure().encoded("svg") == found.figure().encoded("svg")


def test_a_stored_explanation_keeps_what_its_boxes_are(tmp_path, explained):
    miss = Verdict("near miss", (1.0, 2.0, 30.0, 40.0), 0, "cat", 0.2, "below the threshold", 3, row=1)
    judged = replace(explained, verdicts=(miss,))
    judged.save(tmp_path)
    again = restored(read_explanation(tmp_path / "street_cam.json"), judged.picture)
    assert again.verdicts == judged.verdicts
    assert again.figure(boxes=[1]).encoded("svg") == judged.figure(boxes=[1]).encoded("svg")


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_figure_of_a_run_is_that_of_the_explanation(tmp_path, detcam_, run, explained, ending):
    asked = ("--boxes", "0,2", "--levels", "P3,merged", "--width", "column", "--scale", "image")
    assert detcam_("figure", run, *asked, "-o", f"a.{ending}") == (0, f"a.{ending}\n", "")
    sheet = explained.figure(boxes=[0, 2], levels=["P3", MERGED], width="column", scale="image")
    assert (tmp_path / f"a.{ending}").read_bytes() == sheet.encoded(ending)


def test_the_run_says_the_scale_if_nobody_does(tmp_path, detcam_, run, explained):
    assert detcam_("figure", run, "-o", "a.svg")[0] == 0
    assert (tmp_path / "a.svg").read_bytes() == explained.figure(scale="box").encoded("svg")


def add_picture(run: Path, source: Path, stem: str, status: str = "ok") -> None:
    """A second picture with the files of the first."""
    for name in ("street_cam.npz", "street_cam.jpg"):
        shutil.copy(run / name, run / name.replace("street", stem))
    document = json.loads((run / "street_cam.json").read_text())
    document["image"]["path"] = str(source)
    document["files"] = {role: name.replace("street", stem) for role, name in document["files"].items()}
    (run / f"{stem}_cam.json").write_text(json.dumps(document))
    row = {"source": str(source), "status": status, "files": [f"{stem}_cam.json"], "error": None}
    with (run / "index.jsonl").open("a") as index:
        index.write(json.dumps(row) + "\n")


def rows_of(path: Path) -> int:
    return path.read_text().count("<image ") - 1  # all panels but the bar; one level, so two a row


def test_each_picture_is_a_row(tmp_path, detcam_, run, explained):
    shutil.copy(explained.picture.path, tmp_path / "square.png")
    add_picture(run, tmp_path / "square.png", "square")
    assert detcam_("figure", run, "-o", "both.svg", "--levels", "P3")[0] == 0
    assert rows_of(tmp_path / "both.svg") == 4
    for name in ("square", "square.png", tmp_path / "square.png"):
        assert detcam_("figure", run, name, "-o", "one.svg", "--levels", "P3")[0] == 0
        assert rows_of(tmp_path / "one.svg") == 2
    code, _, err = detcam_("figure", run, "squore.png", "-o", "none.svg")
    assert (code, err.startswith("error: no picture 'squore.png'. Closest: 'square.png'")) == (1, True)


def test_two_pictures_of_one_name_are_told_apart_by_their_paths(tmp_path, detcam_, run, explained):
    (tmp_path / "other").mkdir()
    shutil.copy(explained.picture.path, tmp_path / "other" / "street.png")
    add_picture(run, tmp_path / "other" / "street.png", "street-2")
    code, _, err = detcam_("figure", run, "street", "-o", "a.svg")
    assert (code, err.startswith("error: 2 pictures are called 'street': give one's path, ")) == (1, True)
    assert detcam_("figure", run, tmp_path / "other" / "street.png", "-o", "a.svg")[0] == 0


def test_pictures_without_boxes_are_left_out_unless_they_are_named(tmp_path, detcam_, run, explained):
    shutil.copy(explained.picture.path, tmp_path / "empty.png")
    add_picture(run, tmp_path / "empty.png", "empty", "no_detections")
    assert detcam_("figure", run, "-o", "a.svg", "--levels", "P3")[0] == 0
    assert rows_of(tmp_path / "a.svg") == 2
    assert detcam_("figure", run, "street", "empty", "-o", "a.svg", "--levels", "P3")[0] == 0
    assert rows_of(tmp_path / "a.svg") == 4
    only = (run / "index.jsonl").read_text().splitlines()[1]
    (run / "index.jsonl").write_text(only + "\n")
    code, _, err = detcam_("figure", run, "-o", "a.svg")
    assert (code, err.startswith("error: nothing was found in the pictures of ")) == (1, True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--boxes", "7"], "no box 7 in street: it has 0 to 2"),
        (["--levels", "P3,P9"], "no level 'P9'. Closest: 'P5', 'P4', 'P3'"),
        (["--class", "bus"], "no explained box in street of class 'bus'."),
        (["--scale", "bx"], "no scale 'bx'. Closest: 'box'"),
        (["--colormap", "virids"], "no colour map 'virids'. Closest: 'viridis'"),
        (["--images", "elsewhere"], "the picture elsewhere/street.png is not there"),
        (["-o", "figure.jpg"], "a figure ends in .pdf, .svg or .png, got 'figure.jpg'"),
        (["-o", "nowhere/figure.pdf"], "cannot write nowhere/figure.pdf: No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_no_file(tmp_path, detcam_, run, asked, message):
    before = sorted(tmp_path.iterdir())
    code, out, err = detcam_("figure", run, "-o", "figure.pdf", *asked)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--boxes", "0,x"], "numbers between commas are wanted, such as 0,2, got '0,x'"),
        (["--boxes", ""], "words between commas are wanted, got ''"),
        (["--levels", "P3,,P4"], "words between commas are wanted, got 'P3,,P4'"),
        (["--width", "half"], "'half' is not one of 'column', 'page'"),
    ],
)
def test_wrong_usage_is_exit_code_2(detcam_, run, asked, message):
    code, _, err = detcam_("figure", run, "-o", "figure.pdf", *asked)
    assert code == 2
    assert message in err


def test_what_is_no_run_is_one_line(detcam_):
    code, _, err = detcam_("figure", "nowhere", "-o", "a.pdf")
    assert code == 1
    assert err.startswith("error: nowhere is no folder: give a folder that detcam explain wrote")
    assert err.count("\n") == 1


def test_a_picture_that_was_changed_or_not_explained_is_one_line(tmp_path, detcam_, run, explained):
    (tmp_path / "moved").mkdir()
    Image.fromarray(pictures(1)[0]).save(tmp_path / "moved" / "street.png")
    code, _, err = detcam_("figure", run, "--images", "moved", "-o", "a.pdf")
    assert (code, err) == (
        1,
        "error: moved/street.png is not the picture that was explained: explain it again\n",
    )
    shutil.copy(explained.picture.path, tmp_path / "moved" / "street.png")
    assert detcam_("figure", run, "--images", "moved", "-o", "a.pdf")[0] == 0
    with (run / "index.jsonl").open("a") as index:
        index.write(json.dumps({"source": "broken.png", "status": "error", "error": "cannot be read"}) + "\n")
    code, _, err = detcam_("figure", run, "broken", "-o", "b.pdf")
    assert (code, err) == (1, "error: broken.png was not explained: cannot be read\n")


def test_a_merge_that_does_not_exist_is_one_line(run, detcam_):
    document = json.loads((run / "street_cam.json").read_text())
    document["method"]["merge"] = "average"
    (run / "street_cam.json").write_text(json.dumps(document))
    code, _, err = detcam_("figure", run, "-o", "a.pdf")
    assert (code, err) == (1, "error: levels are merged by sum or finest, got 'average'\n")


def test_a_failure_leaves_the_old_figure(tmp_path, detcam_, run, monkeypatch):
    assert detcam_("figure", run, "-o", "a.png")[0] == 0
    before = (tmp_path / "a.png").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    code, _, err = detcam_("figure", run, "-o", "a.png", "--levels", "P3")
    assert (code, "No space left" in err) == (1, True)
    assert (tmp_path / "a.png").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert Image.open(io.BytesIO(before)).format == "PNG"
