"""Right, wrong and not found: what is sorted how, explained, drawn, stored and ranked."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision.ops import box_iou

import detcam
from detcam.adapters.base import DetectOptions
from detcam.cli import cli
from detcam.errors import InputError
from detcam.explainer import LabelJudge
from detcam.explainer.candidates import RawCandidates
from detcam.explainer.judging import explained_of
from detcam.explanation import Verdict
from detcam.geometry import Letterbox
from detcam.images import read_picture
from detcam.labels import LabelledPictures, read_labelled
from detcam.render import class_colour
from detcam.report import read_run, write_report
from detcam.report.errors import summarise
from detcam.scenes import make_scene
from detcam.structures import Detections, Level, RawPrediction

FAST = {"method": "layer-cam", "layers": "backbone"}
SEED = 2_000_003  # of a scene with two squares, a triangle, and a circle that the detector gives .83
CONF = 0.9
SHAPES = Path(__file__).parents[1] / "weights" / "shapes.pt"
CIRCLE, SQUARE, TRIANGLE = 0, 1, 2


@functools.cache
def shapes() -> Any:
    return detcam.load(SHAPES, device="cpu")


def explain(picture: Any, conf: float = CONF, **more: Any) -> Any:
    return detcam.explain(shapes(), picture, conf=conf, max_boxes=more.pop("max_boxes", 300), **FAST, **more)


def data_set(folder: Path, pixels: np.ndarray, objects: list[tuple[int, list[float]]]) -> Path:
    """A YOLO data set of one picture; objects are (class, xyxy)."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    Image.fromarray(pixels).save(folder / "images" / "scene.png")
    height, width = pixels.shape[:2]
    lines = [
        f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
        for label, (x1, y1, x2, y2) in objects
    ]
    (folder / "labels" / "scene.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [circle, square, triangle]\n")
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def plain() -> Any:
    """What the detector finds without labels: two squares and a triangle."""
    found = explain(make_scene(SEED).image)
    assert sorted(found.detections.labels.tolist()) == [SQUARE, SQUARE, TRIANGLE]
    return found


@pytest.fixture(scope="module")
def data(plain, tmp_path_factory) -> Path:
    """Labels that call the better square a triangle, and an object of 9 pixels where nothing is."""
    scene = make_scene(SEED)
    boxes, labels = (torch.from_numpy(one) for one in scene.labelled("honest"))
    taken = int(box_iou(plain.detections.boxes[:1], boxes).argmax())
    assert labels[taken] == SQUARE
    labels[taken] = TRIANGLE
    corner = next(
        [x, y, x + 9.0, y + 9.0]
        for y in range(5, 300, 10)
        for x in range(5, 300, 10)
        if not (box_iou(torch.tensor([[x, y, x + 9.0, y + 9.0]]), boxes) > 0).any()
    )
    objects = [*zip(labels.tolist(), boxes.tolist(), strict=True), (TRIANGLE, corner)]
    return data_set(tmp_path_factory.mktemp("data") / "set", scene.image, objects)


@pytest.fixture(scope="module")
def judged(data) -> Any:
    labelled = read_labelled(data)
    return explain(labelled.pictures.paths[0], labels=labelled)


def of_kind(explanation: Any, kind: str) -> list[Verdict]:
    return [one for one in explanation.verdicts if one.kind == kind]


def test_detections_keep_their_maps_whatever_they_are_called(plain, judged):
    kept = [row for row, one in judged.verdict_of.items() if one.kind != "missed"]
    rows = {int(judged.detections.candidates[row]): row for row in kept}
    assert set(rows) == set(plain.detections.candidates.tolist())
    for same, candidate in enumerate(plain.detections.candidates.tolist()):
        row = rows[candidate]
        assert torch.equal(judged.detections.boxes[row], plain.detections.boxes[same])
        assert judged.detections.scores[row] == plain.detections.scores[same]
        for level, maps in judged.levels.items():
            torch.testing.assert_close(maps[row], plain.levels[level][same])


def test_right_wrong_and_missed_are_told_with_the_reason(judged, data):
    assert sorted(one.kind for one in judged.verdicts) == ["missed", "missed"] + ["true positive"] * 2 + [
        "wrong class"
    ]
    (wrong,) = of_kind(judged, "wrong class")
    assert (wrong.class_name, wrong.truth_class) == ("square", "triangle")
    assert wrong.words.startswith(f"a labelled triangle, IoU {wrong.overlap:.2f}; triangle scores ")
    (circle,) = [one for one in of_kind(judged, "missed") if one.truth_class == "circle"]
    # The detector itself gives it at a lower threshold.
    lower = explain(judged.picture.pixels, conf=0.5)
    (row,) = (lower.detections.labels == CIRCLE).nonzero().flatten().tolist()
    assert circle.candidate == int(lower.detections.candidates[row])
    assert circle.score == pytest.approx(float(lower.detections.scores[row]))
    assert circle.words.endswith(f"IoU {circle.overlap:.2f}: below the threshold")
    assert circle.overlap == pytest.approx(
        float(box_iou(torch.tensor([circle.box]), torch.tensor([circle.truth]))), abs=1e-4
    )


def test_the_map_of_a_missed_object_is_that_of_its_best_candidate(judged):
    (circle,) = [one for one in of_kind(judged, "missed") if one.truth_class == "circle"]
    lower = explain(judged.picture.pixels, conf=0.5)
    (row,) = (lower.detections.labels == CIRCLE).nonzero().flatten().tolist()
    for level, maps in judged.levels.items():
        torch.testing.assert_close(maps[circle.row], lower.levels[level][row])
    scores = judged.detections.scores
    assert torch.equal(scores, scores.sort(descending=True).values)


def test_errors_come_first_where_not_all_are_explained(judged, data):
    labelled = read_labelled(data)
    few = explain(labelled.pictures.paths[0], labels=labelled, max_boxes=2)
    assert len(few) == 2
    assert len(few.verdicts) == len(judged.verdicts)
    # What is wrong costs its score, what was missed 1 minus that: .98 and nearly 1 before .17.
    assert {few.verdict_of[row].truth_class for row in range(2)} == {"triangle"}
    assert {few.verdict_of[row].kind for row in range(2)} == {"wrong class", "missed"}
    assert any("5 detections and misses, the first 2 explained" in warning for warning in few.warnings)
    (alone,) = few[1].verdicts
    assert (alone.candidate, alone.row) == (few.verdict_of[1].candidate, 0)


def test_near_misses_are_the_best_below_the_threshold_apart_from_everything_found(plain):
    pixels = plain.picture.pixels
    weak = explain(pixels, conf=0.01).detections
    taken, expected = list(plain.detections.boxes), []
    for candidate, box, score in zip(weak.candidates, weak.boxes, weak.scores, strict=True):
        if score <= CONF and not any(box_iou(box[None], one[None]) > 0.5 for one in taken):
            taken.append(box)
            expected.append(int(candidate))
    several = explain(pixels, near_misses=2)
    near = of_kind(several, "near miss")
    assert [one.candidate for one in near] == expected[:2]
    assert near[0].class_name == "circle"
    assert near[0].words == f"{near[0].score:.3g} is below the threshold 0.9"
    assert len(several) == len(plain) + len(near)


def test_what_was_not_found_is_dashed_beside_the_labelled_object(judged):
    (circle,) = [one for one in of_kind(judged, "missed") if one.truth_class == "circle"]
    apart = replace(circle, truth=(200.0, 20.0, 280.0, 60.0))
    alone = replace(judged[circle.row], verdicts=(replace(apart, row=0),))
    drawn, plain = alone.overlay(), replace(alone, verdicts=()).overlay()
    top = (drawn[20, 200:280] == 255).all(axis=1)
    assert 0.3 < top.mean() < 0.7
    # Its own outline: solid without the verdict, with gaps now.
    y1, x1, x2 = round(circle.box[1]), round(circle.box[0]), round(circle.box[2])
    colour = np.array(class_colour(CIRCLE))
    solid, dashed = ((one[y1, x1:x2] == colour).all(axis=1).mean() for one in (plain, drawn))
    assert dashed < 0.8 * solid


def test_corners_of_rotated_boxes_go_with_their_boxes():
    found = Detections(
        torch.tensor([[0.0, 0, 4, 4], [5, 5, 9, 9]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([0, 1]),
        torch.tensor([7, 8]),
        torch.arange(16.0).reshape(2, 4, 2),
    )
    verdicts = [
        Verdict("missed", (1, 2, 3, 4), 1, "dog", 0.1, "", 3),
        Verdict("true positive", (5, 5, 9, 9), 1, "dog", 0.8, "", 8),
        Verdict("missed", (0, 0, 1, 1), 1, "dog", 0.0, "", None),
    ]
    chosen, told = explained_of(verdicts, found, most=5)
    assert chosen.candidates.tolist() == [8, 3]
    assert torch.equal(chosen.corners[0], found.corners[1])
    assert chosen.corners[1].tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
    assert [one.row for one in told] == [1, 0, None]


def test_an_object_that_no_candidate_lies_over_is_told_and_not_explained(data):
    """Candidates everywhere but there: the labelled corner is given to a detector that looks elsewhere."""
    labelled = read_labelled(data)
    judge = LabelJudge.of(labelled, shapes().class_names)
    raw = RawPrediction(
        torch.full((4, 3), -9.0), (Level("P5", 32, (2, 2)),), boxes=lambda rows: torch.zeros(len(rows), 4)
    )
    size = labelled.pictures[0].size
    seen = RawCandidates(shapes(), raw, Letterbox(size, size, (0, 0), size), DetectOptions(conf=CONF))
    verdicts = judge(read_picture(labelled.pictures.paths[0]), seen)
    assert {(one.kind, one.candidate, one.words) for one in verdicts} == {
        ("missed", None, "no candidate lies over it")
    }
    assert len(verdicts) == len(labelled.pictures[0].labels)


def test_what_was_detected_can_be_had_alone(judged, plain):
    alone = judged.detected()
    assert torch.equal(alone.detections.candidates, plain.detections.candidates)
    assert {one.kind for one in alone.verdicts} == {"true positive", "wrong class"}
    assert len(plain.detected()) == len(plain)


def test_labels_and_near_misses_exclude_each_other(data):
    with pytest.raises(InputError, match="near_misses are for pictures without labels"):
        explain(make_scene(SEED).image, labels=read_labelled(data), near_misses=1)
    with pytest.raises(InputError, match="near_misses must be a whole number of at least 0, got -1"):
        explain(make_scene(SEED).image, near_misses=-1)


def test_a_picture_without_labels_is_refused_by_name(data, tmp_path):
    Image.fromarray(make_scene(1).image).save(tmp_path / "other.png")
    with pytest.raises(InputError, match=r"other\.png: .* has no labels for this picture"):
        explain(tmp_path / "other.png", labels=read_labelled(data))


# On disk


def schema(name: str) -> Any:
    text = resources.files("detcam").joinpath(f"schemas/{name}-1.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def run(*arguments: str) -> Any:
    asked = ["explain", str(SHAPES), *arguments, "--method", "layer-cam", "--conf", str(CONF)]
    return CliRunner().invoke(cli, asked, obj=[])


def test_a_data_set_is_sorted_and_ranked_by_one_command(judged, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run(str(data), "--errors", "--report")
    assert said.exit_code == 0, said.output
    folder = Path("runs/explain/run")
    document = json.loads((folder / "errors.json").read_text())
    schema("errors").validate(document)
    sidecar = json.loads((folder / "scene_cam.json").read_text())
    schema("explanation").validate(sidecar)
    manifest = json.loads((folder / "run.json").read_text())
    schema("run").validate(manifest)
    assert manifest["labels"] == str(data)
    assert document["counts"] == {"missed": 2, "wrong class": 1, "true positive": 2}
    assert [one["kind"] for one in sidecar["verdicts"]] == [one.kind for one in judged.verdicts]
    assert document["first"][0]["kind"] == "wrong class"
    assert "look first at:" in said.output
    assert "runs/explain/run/errors.json" in said.output
    assert (folder / "scene_report.html").is_file()


def test_labels_of_pictures_that_lie_elsewhere_meet_them_by_name(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(SEED).image).save("scene.png")
    said = run("scene.png", "--labels", str(data))
    assert said.exit_code == 0, said.output
    assert "true positive: a labelled" in said.output
    Image.fromarray(make_scene(1).image).save("other.png")
    said = run("other.png", "--labels", str(data))
    assert isinstance(said.exception, InputError)
    assert "its 1 labelled pictures are none of the 1 given" in str(said.exception)


def test_pictures_of_one_name_do_not_get_each_others_labels(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(1).image).save("scene.png")
    own = str(data.parent / "images" / "scene.png")
    said = run(own, "scene.png", "--labels", str(data))
    assert isinstance(said.exception, InputError)
    assert str(said.exception).startswith("scene.png: 2 pictures are called scene.png")
    assert not Path("runs").exists()


def test_a_data_set_that_names_a_picture_twice_is_refused(data):
    labelled = read_labelled(data)
    (path,) = labelled.pictures.paths
    twice = replace(labelled, pictures=LabelledPictures([path, path], lambda _: labelled.pictures[0]))
    with pytest.raises(InputError, match=r"names .*scene\.png 2 times"):
        LabelJudge.of(twice, shapes().class_names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b", "--errors"), "--errors takes one data set"),
        (("a", "--errors", "--labels", "b"), "--errors takes one data set"),
    ],
)
def test_a_question_that_makes_no_sense_is_a_usage_error(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    said = run(*arguments)
    assert said.exit_code == 2
    assert message in said.output


# Ranking


def write_judged(folder: Path, verdicts: list[Verdict]) -> None:
    """A run of one picture, of which only the verdicts matter."""
    folder.mkdir()
    (folder / "run.json").write_text('{"schema": "detcam.run/1"}')
    row = {"source": "a.png", "status": "ok", "files": ["a_cam.json"], "error": None}
    (folder / "index.jsonl").write_text(json.dumps(row))
    (folder / "a_cam.json").write_text(json.dumps({"verdicts": [one.record() for one in verdicts]}))


def verdict(kind: Any, score: float, truth: tuple[float, float, float, float] | None) -> Verdict:
    return Verdict(kind, (0, 0, 1, 1), 0, "cat", score, "", 0, truth, None if truth is None else "cat")


def test_surprise_is_the_score_and_for_what_was_missed_how_unlikely_that_is_at_its_size(tmp_path):
    def large(number: int) -> tuple[float, float, float, float]:
        return (0, 0, 100 + number, 100)

    small, medium = (0, 0, 10, 10), (0, 0, 40, 40)
    write_judged(
        tmp_path / "run",
        [
            *(verdict("true positive", 0.9, large(number)) for number in range(3)),
            verdict("missed", 0.2, large(3)),  # 3 of 4 large ones found: (1 - .2) * .75 = .6
            verdict("missed", 0.0, small),  # none of 1: 0
            verdict("badly placed", 0.5, medium),
            verdict("background", 0.65, None),
            verdict("duplicate", 0.7, large(0)),
            verdict(
                "wrong class", 0.05, small
            ),  # of a class that nobody may have asked about: no part of 0 of 1
        ],
    )
    summary = summarise(read_run(tmp_path / "run"))
    assert [(one.verdict.kind, pytest.approx(one.surprise)) for one in summary.first] == [
        ("duplicate", 0.7),
        ("background", 0.65),
        ("missed", 0.6),
        ("badly placed", 0.5),
        ("wrong class", 0.05),
        ("missed", 0.0),
    ]
    assert summary.found == {"small": (0, 1), "medium": (0, 1), "large": (3, 4)}
    assert list(summary.counts) == [
        *("missed", "background", "wrong class", "badly placed", "duplicate", "true positive")
    ]
    assert summary.counts["missed"] == 2


def test_a_damaged_verdict_is_left_out_of_the_ranking_and_said_by_the_report(tmp_path):
    write_judged(tmp_path / "run", [verdict("background", 0.6, None)])
    path = tmp_path / "run" / "a_cam.json"
    path.write_text(path.read_text().replace("background", "<script>"))
    assert summarise(read_run(tmp_path / "run")).first == ()
    (row,) = write_report(tmp_path / "run")
    assert row.page is None
