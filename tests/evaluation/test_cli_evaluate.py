"""`detcam evaluate` as a user sees it."""

# ruff: noqa: F811  # fixtures are imported by name

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from known_truth import labelled_folder
from test_cli import detcam_, here, schema  # noqa: F401

QUICK = ("--methods", "layer-cam", "--max-boxes", "1", "--steps", "2", "--metrics", "overall,energy-in-box")


@pytest.fixture
def data(here) -> Path:
    return labelled_folder(here / "data", count=2)


def test_paths_on_stdout_words_on_stderr_and_every_file_there(here, data, detcam_):
    said = detcam_("evaluate", "small.pt", "data", *QUICK)
    assert said.code == 0
    assert [path.name for path in said.paths] == ["rows.csv", "summary.csv", "summary.json", "curves.png"]
    assert all(path.is_file() for path in said.paths)
    assert "2/2" in said.err
    assert "layer-cam evidence total class-logit" in said.err
    folder = said.paths[0].parent
    manifest = json.loads((folder / "run.json").read_text())
    schema("run-1").validate(manifest)
    assert manifest["task"] == "evaluate"
    assert manifest["options"]["preset"]["step"]["parts"] == 2
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert {row["metric"] for row in rows} == {"overall", "energy-in-box"}
    assert len(rows) == 2 * 5  # the method and four controls


def test_json_is_the_summary_alone(here, data, detcam_):
    said = detcam_("evaluate", "small.pt", "data/data.yaml", *QUICK, "--json", "--limit", "1")
    lines = json.loads(said.out)
    assert {line["way"] for line in lines} >= {"gaussian-in-box", "random"}
    assert {line["groups"] for line in lines} <= {0, 1}


def test_resuming_measures_only_what_is_left(here, data, detcam_):
    first = detcam_("evaluate", "small.pt", "data", *QUICK)
    folder = first.paths[0].parent
    kept, lost = sorted((folder / "pictures").iterdir())
    written = kept.stat().st_mtime_ns
    lost.unlink()
    again = detcam_("evaluate", "small.pt", "data", *QUICK, "--resume")
    assert again.paths == first.paths
    assert "2/2" in again.err
    assert "1/2" not in again.err
    assert kept.stat().st_mtime_ns == written
    refused = detcam_("evaluate", "small.pt", "data", *QUICK, "--resume", "--seed", "5")
    assert refused.code == 1
    assert len(refused.err.splitlines()) == 1


def test_a_picture_that_fails_is_told_and_the_others_are_measured(here, data, detcam_):
    (data / "images" / "0.png").write_bytes(b"no picture")
    said = detcam_("evaluate", "small.pt", "data", *QUICK)
    assert said.code == 3
    assert "progress.jsonl" in said.err
    lines = (said.paths[0].parent / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["error", "ok"]


def test_parquet_on_request(here, data, detcam_):
    parquet = pytest.importorskip("pyarrow.parquet")
    said = detcam_("evaluate", "small.pt", "data", *QUICK, "--format", "parquet", "--limit", "1")
    table = parquet.read_table(said.paths[0])
    assert {"picture", "way", "metric", "value"} <= set(table.column_names)
    assert table.num_rows == 2 * 5


@pytest.mark.parametrize("arguments", [(), ("data", "--planted", "3")])
def test_pictures_or_scenes_and_not_both(here, data, detcam_, arguments):
    said = detcam_("evaluate", "small.pt", *arguments)
    assert said.code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("data", "--methods", "layer-can"), "layer-cam"),
        (("data", "--preset", "d-clos"), "d-close"),
        (("data", "--metrics", "overal"), "overall"),
        (("data", "--layers", "model.99"), "model.9"),
        (("nowhere",), "nowhere"),
        (("--planted", "3"), "shapes-shortcut.pt"),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(here, data, detcam_, arguments, text):
    said = detcam_("evaluate", "small.pt", *arguments)
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert text in said.err
    assert not (here / "runs").exists()
