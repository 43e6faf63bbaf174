"""Why something was missed: what became of raw candidates, against what the detector itself finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_yolo import checkpoint, detector, pictures

from detcam.adapters.base import DetectOptions
from detcam.cam.capture import borrowed
from detcam.cli import cli
from detcam.errors import InputError
from detcam.explainer import Explainer, ExplainOptions, why_missed
from detcam.explainer.candidates import RawCandidates
from detcam.geometry import Letterbox
from detcam.images import as_picture
from detcam.structures import Detections, Level, RawPrediction

LEVELS = (Level("P4", 16, (2, 3)),)
REGION = (0.0, 0.0, 10.0, 10.0)


@dataclass
class Keeps:
    """A detector that keeps what it is told to."""

    kept: Detections

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        return self.kept


def candidates(
    scores: list[list[float]], boxes: list[list[float]], kept: list[tuple[int, int]]
) -> RawCandidates:
    """Raw candidates beside detections, which are (row, class)."""
    padded = torch.tensor(scores + [[0.001, 0.001]] * (6 - len(scores)))
    places = torch.tensor(boxes + [[90.0, 90, 99, 99]] * (6 - len(boxes)))
    raw = RawPrediction(torch.logit(padded), LEVELS, boxes=lambda rows: places[rows])
    rows, labels = [one[0] for one in kept], [one[1] for one in kept]
    found = Detections(
        places[rows].reshape(-1, 4),
        torch.tensor([float(padded[row, label]) for row, label in kept]),
        torch.tensor(labels).long(),
        torch.tensor(rows).long(),
    )
    untouched = Letterbox((1000, 1000), (1000, 1000), (0, 0), (1000, 1000))
    return RawCandidates(Keeps(found), raw, untouched, DetectOptions(conf=0.25))  # type: ignore[arg-type]


def asked(
    scores: list[list[float]], boxes: list[list[float]], kept: list[tuple[int, int]], **more: Any
) -> Any:
    return candidates(scores, boxes, kept).over(REGION, more.get("classes"), 10)


def test_candidates_come_by_score_times_overlap_and_far_ones_do_not_count():
    # IoU 1, .5 and .05: .3, .4 and .0475.
    found = asked(
        [[0.3, 0.1], [0.8, 0.1], [0.95, 0.1]],
        [[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 200]],
        [],
    )
    assert [one.row for one in found] == [1, 0]
    assert [one.iou for one in found] == pytest.approx([0.5, 1.0])
    assert [one.score for one in found] == pytest.approx([0.8, 0.3])
    assert [one.level for one in found] == ["P4", "P4"]


def test_each_fate_has_its_reason():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [0, 0, 9, 9], [1, 1, 10, 10]]
    scores = [[0.9, 0.1], [0.8, 0.1], [0.2, 0.1], [0.3, 0.7], [0.1, 0.6]]
    found = {one.row: one for one in asked(scores, boxes, [(0, 0), (3, 1)], classes=[0])}
    assert (found[0].fate, found[0].by) == ("kept", 0)
    assert (found[1].fate, found[1].by, found[1].by_iou) == ("suppressed", 0, pytest.approx(0.9))
    assert found[2].fate == "below the threshold"
    assert (found[3].fate, found[3].by, found[3].winner) == ("another class", 1, 1)
    assert found[4].fate == "below the threshold"
    # Nothing was kept near: neither the threshold nor a box explains it.
    assert [one.fate for one in asked(scores[:1], boxes[:1], [])] == ["left out"]
    # Class 1 at row 4 loses to the detection of its own class, not to the stronger one of class 0.
    (other,) = (one for one in asked(scores, boxes, [(0, 0), (3, 1)], classes=[1]) if one.row == 4)
    assert (other.fate, other.by) == ("suppressed", 1)


def test_what_suppressed_a_candidate_is_called_by_class_and_score():
    """A number would be that of no box that is drawn."""
    seen = candidates([[0.9, 0.1], [0.8, 0.1]], [[0, 0, 10, 10], [0, 0, 10, 9]], [(0, 0)])
    names = {0: "cat", 1: "dog"}
    assert [one.in_words(names, seen.kept) for one in seen.over(REGION, None, 10)] == [
        "cat 0.9 at P4, IoU 1.00: kept",
        "cat 0.8 at P4, IoU 0.90: suppressed by cat 0.90, IoU 0.90",
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_kept_is_what_the_detector_finds(seed):
    small, picture = detector(), as_picture(pictures(4)[seed])
    explainer = Explainer.of(small, ExplainOptions(conf=0.25))
    tensor, geometry = small.prepare(picture.pixels, None)
    with borrowed(small.model), torch.no_grad():
        (raw,) = small.forward(tensor[None])
        found = small.detect(raw, geometry, DetectOptions(conf=0.25))
    kept = set(zip(found.candidates.tolist(), found.labels.tolist(), strict=True))
    assert kept
    for x1, y1, x2, y2 in found.boxes[:6].tolist():
        missed = why_missed(explainer, picture, (x1, y1, x2, y2))
        assert missed.candidates
        for one in missed.candidates:
            assert (one.fate == "kept") == ((one.row, one.class_id) in kept)
            if one.fate == "suppressed":
                assert float(found.scores[one.by]) >= one.score - 1e-6


def test_for_and_against_are_the_two_signs_of_one_map():
    small, picture = detector(), as_picture(pictures(3)[2])
    options = ExplainOptions(classes=("cat",), method="hires-cam", layers="backbone", path="direct")
    missed = why_missed(Explainer.of(small, options), picture, (5, 5, 60, 50))
    one, other = missed.speaks_for, missed.speaks_against
    assert len(one) == len(other) == 3
    assert set(one.detections.labels.tolist()) == {0}
    assert other.question.target == "minus class-logit"
    assert other.target_values == pytest.approx([-value for value in one.target_values])
    for level, maps in one.levels.items():  # of relu(x) and relu(-x) one is 0 in every cell
        assert not ((maps > 0) & (other.levels[level] > 0)).any()
        assert (maps > 0).any()
        assert (other.levels[level] > 0).any()


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 9, 2, 20), (200, 5, 210, 9), (1, 2, 3), (0, 0, float("nan"), 5)]
)
def test_a_region_that_is_none_is_refused(box):
    explainer = Explainer.of(detector(), ExplainOptions())
    with pytest.raises(InputError, match="a region"):
        why_missed(explainer, as_picture(pictures(3)[2]), box)


def run(*more: str) -> Any:
    Image.fromarray(pictures(3)[2]).save("street.png")
    return CliRunner().invoke(cli, ["explain", str(checkpoint()), "street.png", *more], obj=[])


def test_the_command_lists_draws_and_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("--box", "5,5,60,50", "--class", "dog")
    assert said.exit_code == 0, said.output
    folder = Path("runs/explain/run")
    document = json.loads((folder / "street_missed.json").read_text())
    schema = json.loads(resources.files("detcam").joinpath("schemas/missed-1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert {one["class"] for one in document["candidates"]} == {"dog"}
    explained = json.loads(resources.files("detcam").joinpath("schemas/explanation-1.json").read_text())
    for what in ("for", "against"):
        sidecar = json.loads((folder / f"street_{what}_cam.json").read_text())
        jsonschema.Draft202012Validator(explained).validate(sidecar)
        Image.open(folder / f"street_{what}_cam.jpg").load()
    assert "dog" in said.output
    assert "IoU" in said.output


def test_a_region_where_nothing_lies_is_an_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("--box", "95.5,59.5,96,60")
    assert said.exit_code == 0, said.output
    assert "no candidate, however weak, lies over" in said.output
    assert json.loads(Path("runs/explain/run/street_missed.json").read_text())["candidates"] == []


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", ""])
def test_a_box_that_cannot_be_read_is_a_usage_error(tmp_path, monkeypatch, box):
    monkeypatch.chdir(tmp_path)
    said = run("--box", box)
    assert said.exit_code == 2
    assert "four numbers x1,y1,x2,y2" in said.output
