"""An evaluation's folder: nothing finished is lost, and what cannot be measured is a row with its error."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from known_truth import labelled_folder
from small_yolo import CLASS_NAMES, checkpoint, detector

from detcam.errors import InputError, OutputError
from detcam.evaluation import (
    EvaluateOptions,
    Evaluator,
    LabelledSource,
    PlantedSource,
    Way,
    evaluate,
    open_unfinished,
    summarise,
    write_question,
    write_tables,
)
from detcam.evaluation.run import write_table
from detcam.labels import read_labelled
from detcam.outputs import RunFolder

WAYS = [
    Way("layer-cam", "backbone", "direct", "class-logit"),
    Way("gaussian-in-box", "backbone", "direct", "class-logit"),
]
OPTIONS = EvaluateOptions(metrics=("overall", "energy-in-box"), max_boxes=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def evaluator() -> Evaluator:
    return Evaluator(detector(), WAYS, OPTIONS)


def source_of(data: Path) -> LabelledSource:
    return LabelledSource.of(read_labelled(data), CLASS_NAMES)


def started(tmp_path: Path, evaluator: Evaluator) -> RunFolder:
    folder = RunFolder.create(tmp_path, "run", exist_ok=False)
    write_question(folder, evaluator, "data", ["detcam", "evaluate"])
    return folder


def stored(folder: RunFolder) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in (folder.path / "pictures").iterdir()}


def without_time(pictures: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: one[key] for key in one if key != "seconds"} for name, one in pictures.items()}


def test_a_killed_run_goes_on_where_it_was_and_gives_what_an_unbroken_one_gives(tmp_path, data, evaluator):
    whole = started(tmp_path / "whole", evaluator)
    assert [step.done for step in evaluate(evaluator, source_of(data), whole)] == [1, 2, 3]
    broken = started(tmp_path / "broken", evaluator)
    steps = evaluate(evaluator, source_of(data), broken)
    next(steps)
    steps.close()
    (first,) = (broken.path / "pictures").iterdir()
    written = first.stat().st_mtime_ns
    again = open_unfinished(broken.path, evaluator, "data")
    assert [step.done for step in evaluate(evaluator, source_of(data), again)] == [2, 3]
    assert first.stat().st_mtime_ns == written
    assert without_time(stored(broken)) == without_time(stored(whole))
    lines = [write_tables(one, source_of(data), evaluator, "csv")[0] for one in (whole, broken)]
    assert lines[0] == lines[1]


def test_a_run_that_asked_something_else_is_not_gone_on_with(tmp_path, evaluator):
    started(tmp_path, evaluator)
    other = Evaluator(detector(), WAYS, EvaluateOptions(metrics=("overall", "energy-in-box"), max_boxes=2))
    with pytest.raises(InputError, match="other max_boxes"):
        open_unfinished(tmp_path / "run", other, "data")
    with pytest.raises(InputError, match="other ways"):
        open_unfinished(tmp_path / "run", Evaluator(detector(), WAYS[:1], OPTIONS), "data")
    with pytest.raises(InputError, match="other data"):
        open_unfinished(tmp_path / "run", evaluator, "elsewhere")
    with pytest.raises(InputError, match="nothing to resume"):
        open_unfinished(tmp_path / "none", evaluator, "data")


def test_what_cannot_be_read_is_a_row_and_is_tried_again(tmp_path, evaluator):
    folder = labelled_folder(tmp_path / "data", count=2)
    labels = folder / "labels" / "0.txt"
    right = labels.read_text()
    labels.write_text("0 0.5 0.5 nonsense 0.1\n")
    run = started(tmp_path, evaluator)
    records = [step.record for step in evaluate(evaluator, source_of(folder), run)]
    assert [record["status"] for record in records] == ["error", "ok"]
    assert "0.txt" in records[0]["error"]
    assert "\n" not in records[0]["error"]
    labels.write_text(right)
    assert [step.record["status"] for step in evaluate(evaluator, source_of(folder), run)] == ["ok"]


def test_the_tables_hold_every_number_of_the_pictures(tmp_path, data, evaluator):
    folder = started(tmp_path, evaluator)
    list(evaluate(evaluator, source_of(data), folder))
    lines, written = write_tables(folder, source_of(data), evaluator, "csv")
    assert {path.name for path in written} == {"rows.csv", "summary.csv", "summary.json", "curves.png"}
    rows = list(csv.DictReader((folder.path / "rows.csv").read_text().splitlines()))
    values = [row["value"] for one in sorted(stored(folder)) for row in stored(folder)[one]["rows"]]
    assert [float(row["value"]) for row in rows] == pytest.approx(values)
    assert len(rows) == 3 * len(WAYS) * 2
    document = json.loads((folder.path / "summary.json").read_text())
    assert document["measured"] == 3
    assert document["preset"]["name"] == "d-close-10-steps-f0"
    assert {line.metric for line in lines} == {"overall", "energy-in-box"}
    assert len(document["lines"]) == len(lines) == 4
    assert set(document["seconds_a_box"]) == {way.name for way in WAYS}


def test_parquet_holds_the_same_as_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [{"way": "a", "value": 0.5}, {"way": "b", "value": None}]
    path = write_table(tmp_path / "rows.parquet", records, "parquet")
    assert parquet.read_table(path).to_pylist() == records


def test_a_folder_that_cannot_be_written_ends_the_run(tmp_path, data, evaluator):
    folder = started(tmp_path, evaluator)
    (folder.path / "pictures").write_text("in the way")
    with pytest.raises(OutputError):
        list(evaluate(evaluator, source_of(data), folder))


def test_planted_scenes_are_for_detectors_that_were_taught_them():
    with pytest.raises(InputError, match=r"shapes-shortcut\.pt"):
        PlantedSource.of(CLASS_NAMES, 3)
    source = PlantedSource.of({0: "circle", 1: "square", 2: "triangle"}, 3)
    _, truth = source.load(1)
    assert source.labelling == "honest"
    assert set(truth.regions) == {"object", "marker"}
    assert not bool((truth.regions["object"] & truth.regions["marker"]).any())


def test_a_detector_of_one_file_is_told_from_one_of_another(tmp_path):
    import detcam

    loaded = Evaluator(detcam.load(checkpoint()), WAYS, OPTIONS)
    started(tmp_path, loaded)
    with pytest.raises(InputError, match="other model"):
        open_unfinished(
            tmp_path / "run", Evaluator(detcam.wrap(loaded.detector.model), WAYS, OPTIONS), "data"
        )


def test_nothing_measured_gives_an_empty_summary():
    assert summarise([]) == []
