"""`detcam features`, `maps` and `kernels`, and what `detcam layers` says of weights, as a user sees them."""

# ruff: noqa: F811  # fixtures are imported by name

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import assert_one_line, detcam_, here, index, schema, truncate, write  # noqa: F401

import detcam
from detcam.adapters.darknet_cfg import parse_cfg
from detcam.adapters.darknet_network import DarknetNetwork

sys.path.append(str(Path(__file__).parent / "adapters"))
from darknet_replica import Replica, yolov4

STAGES = {"P1": "model.0", "P2": "model.2", "P3": "model.4", "P4": "model.6", "P5": "model.8"}


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Features


def test_features_are_a_sheet_per_stage_all_channels_raw_and_a_description(here, detcam_):
    said = detcam_("features", "small.pt", "street.png", "park.png")
    assert said.code == 0
    run = Path("runs/features/run")
    names = [f"features_{level}_{name}.png" for level, name in STAGES.items()]
    assert said.paths == [
        run / f"{stem}_{ending}"
        for stem in ("street", "park")
        for ending in ("features.npz", *names, "features.json")
    ]
    assert {path.name for path in run.iterdir()} == {
        *(path.name for path in said.paths),
        *("run.json", "index.jsonl"),
    }
    detector = detcam.load(here / "small.pt", device="cpu")
    maps = detcam.features(detector, "street.png")
    stored = loaded(run / "street_features.npz")
    assert set(stored) == set(STAGES.values())
    for name, values in stored.items():
        assert (values == maps[name].values.numpy()).all()
    assert "street.png: P1=model.0 8×32×48, P2=model.2 16×16×24" in said.err


def test_features_of_the_stages_are_what_the_detector_explains(here, detcam_):
    detcam_("features", "small.pt", "street.png", "--layers", "backbone")
    stored = loaded(Path("runs/features/run/street_features.npz"))
    detector = detcam.load(here / "small.pt", device="cpu")
    kept = detcam.explain(detector, "street.png", keep_features=True, max_boxes=1).features
    for level in ("P3", "P4", "P5"):
        np.testing.assert_allclose(stored[STAGES[level]], kept[level].cpu().numpy(), atol=1e-4)


@pytest.mark.parametrize("task", ["features", "maps"])
def test_the_run_and_its_rows_fit_their_schemas(here, detcam_, task):
    truncate(write(here / "broken.jpg"))
    extra = ["--channels", "1,0", "--scale", "shared", "--grey"] if task == "features" else ["--class", "dog"]
    asked = [task, "small.pt", "street.png", "broken.jpg", "--imgsz", "64", "--half", *extra]
    said = detcam_(*asked)
    assert said.code == 3
    assert "1 of 2 pictures failed" in said.err
    run = Path(f"runs/{task}/run")
    document = json.loads((run / "run.json").read_text("utf-8"))
    schema("run-1").validate(document)
    assert document["task"] == task
    assert document["command"] == ["detcam", *asked]
    assert document["model"]["classes"] == {"0": "cat", "1": "dog", "2": "fire hydrant"}
    assert document["layers"] == ([*STAGES.values()] if task == "features" else [])
    good, bad = index(run)
    for row in (good, bad):
        schema("index-1").validate(row)
    assert (good["status"], bad["status"]) == ("ok", "error")
    assert all((run / name).exists() for name in good["files"])
    assert "broken.jpg: cannot be decoded" in bad["error"]
    (npz,) = run.glob("*.npz")
    assert {array.dtype for array in loaded(npz).values()} == {np.dtype(np.float16)}


def test_a_run_document_with_another_tasks_options_does_not_fit(here, detcam_):
    detcam_("kernels", "small.pt")
    document = json.loads(Path("runs/kernels/run/run.json").read_text())
    schema("run-1").validate(document)
    for change in ({"task": "maps"}, {"scale": {"kind": "box", "value": None}}, {"options": {}}):
        assert not schema("run-1").is_valid({**document, **change})
    del document["task"]
    assert not schema("run-1").is_valid(document)


def test_all_channels_are_as_many_pictures_in_a_folder_per_layer(here, detcam_):
    said = detcam_("features", "small.pt", "street.png", "--channels", "all", "--layers", "model.2,model.4")
    folders = [path for path in said.paths if path.is_dir()]
    assert [path.name for path in folders] == ["street_channels_P2_model.2", "street_channels_P3_model.4"]
    assert [len(list(path.iterdir())) for path in folders] == [16, 16]
    with Image.open(folders[0] / "c0015.png") as image:
        assert image.size == (24 * 10, 16 * 10)  # 256 // 24 times


def test_by_default_channels_do_not_become_files(here, detcam_):
    said = detcam_("features", "small.pt", "street.png")
    assert not [path for path in said.paths if path.is_dir()]
    said = detcam_("features", "small.pt", "street.png", "--split", "--channels", "top2")
    assert [len(list(path.iterdir())) for path in said.paths if path.is_dir()] == [2] * 5


@pytest.mark.parametrize("task", ["features", "maps", "kernels"])
def test_nothing_of_an_older_run_is_touched(here, detcam_, task):
    images = [] if task == "kernels" else ["street.png"]
    detcam_(task, "small.pt", *images)
    before = snapshot(here / "runs")
    said = detcam_(task, "small.pt", *images)
    assert {path.parent for path in said.paths} == {Path(f"runs/{task}/run-2")}
    assert snapshot(here / "runs").items() >= before.items()


def test_patterns_choose_layers(here, detcam_):
    detcam_("features", "small.pt", "street.png", "--layers", "model.2.cv?,model.0.conv")
    stored = loaded(Path("runs/features/run/street_features.npz"))
    assert list(stored) == ["model.2.cv1", "model.2.cv2", "model.0.conv"]


def test_same_named_pictures_of_two_folders_do_not_collide(here, detcam_):
    write(here / "a" / "x.png", 0), write(here / "b" / "x.png", 1)
    said = detcam_("features", "small.pt", "a", "b/x.png", "--layers", "model.4")
    assert len(set(said.paths)) == 6


@pytest.mark.parametrize("task", ["features", "maps"])
def test_json_is_one_document_and_nothing_else(here, detcam_, task):
    document = json.loads(detcam_(task, "small.pt", "street.png", "--json").out)
    assert document == {"run": f"runs/{task}/run", "images": index(Path(f"runs/{task}/run"))}


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("features", ["--layers", "backbones"], r"no layer 'backbones'\. Closest: 'backbone'.*detcam layers"),
        ("features", ["--layers", "model.4,model.99"], r"no layer 'model\.99'"),
        ("features", ["--layers", "model.x*"], r"no layer 'model\.x\*'"),
        ("features", ["--layers", ""], "no layer ''"),
        ("features", ["--layers", "model"], "'model' did not run"),
        ("features", ["--layers", "model.21"], "layer 'model.21"),
        ("features", ["--channels", "best"], "channels are all, topN"),
        ("features", ["--channels", "8"], r"layer 'model\.0' has 8 channels, 0 to 7: there is no 8"),
        ("maps", ["--class", "hydrant"], r"no class 'hydrant'\. Closest: 'fire hydrant'"),
        ("maps", ["--class", "3"], "no class 3"),
        ("maps", ["--name", "a/b"], "put the folder into --project"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_line_and_no_folder(here, detcam_, task, flags, message):
    before = sorted(here.rglob("*"))
    assert_one_line(detcam_(task, "small.pt", "street.png", "park.png", *flags), message)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("task", ["features", "maps"])
def test_one_truncated_picture_alone_fails_and_leaves_no_folder(here, detcam_, task):
    truncate(write(here / "broken.jpg"))
    assert_one_line(detcam_(task, "small.pt", "broken.jpg"), r"broken\.jpg: cannot be decoded")
    assert not Path("runs").exists()


@pytest.mark.parametrize("flags", [["--scale", "layer"], ["--imgsz", "0"], ["--channels"]])
def test_a_wrong_flag_is_a_usage_error(here, detcam_, flags):
    assert detcam_("features", "small.pt", "street.png", *flags).code == 2
    assert not Path("runs").exists()


# Maps


def test_maps_are_probabilities_of_every_cell(here, detcam_):
    said = detcam_("maps", "small.pt", "street.png", "--class", "cat", "--class", "2")
    assert [path.name for path in said.paths] == [
        *("street_map_score_0.jpg", "street_map_score_2.jpg", "street_maps.npz", "street_maps.json")
    ]
    assert "street.png: score_0 up to " in said.err
    stored = loaded(said.paths[2])
    found = detcam.explain(detcam.load("small.pt", device="cpu"), "street.png", classes=["cat"], conf=0.1)
    level, best = found.deciding[0], float(found.detections.scores[0])
    assert stored[f"score_0/{level}"].max() == pytest.approx(best, abs=1e-5)
    assert stored["score_0/P3"].shape == (8, 12)
    schema("maps-1").validate(json.loads(said.paths[3].read_text()))


# Kernels


def test_kernels_are_the_first_convolutions_weights(here, detcam_):
    said = detcam_("kernels", "small.pt")
    assert [path.name for path in said.paths] == ["kernels_model.0.conv.png", "kernels_model.0.conv.npz"]
    detector = detcam.load("small.pt", device="cpu")
    expected = detector.model.get_submodule("model.0.conv").weight.detach().numpy()
    assert (loaded(said.paths[1])["model.0.conv"] == expected).all()
    assert said.err == "model.0.conv: 8×3×3×3\n"


def test_kernels_as_json(here, detcam_):
    document = json.loads(detcam_("kernels", "small.pt", "--layer", "model.2.cv1", "--json").out)
    assert document == {
        **{"run": "runs/kernels/run", "layer": "model.2.cv1.conv", "shape": [16, 16, 1, 1], "groups": 1},
        "files": ["kernels_model.2.cv1.conv.png", "kernels_model.2.cv1.conv.npz"],
    }


@pytest.mark.parametrize("layer", ["model.2", "model.99", "model.0.bn"])
def test_a_layer_without_a_single_convolution_leaves_no_folder(here, detcam_, layer):
    assert_one_line(detcam_("kernels", "small.pt", "--layer", layer), f"'{layer}'")
    assert not Path("runs").exists()


# Layers


def test_layers_say_their_weights_shape_or_how_many_there_are(here, detcam_):
    rows = {row["name"]: row for row in json.loads(detcam_("layers", "small.pt", "--json").out)}
    # 8 kernels of 3×3×3, and scale and shift of the normalisation behind them.
    assert (rows["model.0"]["weights"], rows["model.0"]["parameters"]) == ("8×3×3×3", 8 * 27 + 16)
    assert rows["model.2"]["weights"] is None
    assert rows["model.2"]["parameters"] > 0
    assert (rows["model.9"]["weights"], rows["model.9"]["parameters"]) == (None, 0)
    line = next(x for x in detcam_("layers", "small.pt").out.splitlines() if x.startswith("model.0 "))
    assert "8×48×48" in line
    assert "8×3×3×3" in line


# Darknet's YOLOv4


def test_a_yolov4s_stages_are_the_stem_and_the_five_stages(tmp_path, monkeypatch, detcam_):
    monkeypatch.chdir(tmp_path)
    cfg = yolov4(height=64, width=96, w=4)
    Path("thin.cfg").write_text(cfg)
    Path("thin.weights").write_bytes(Replica(cfg).file())
    write(tmp_path / "street.png", 2)
    said = detcam_("features", "thin.weights", "street.png", "--cfg", "thin.cfg")
    assert said.code == 0, said.err
    document = json.loads(said.paths[-1].read_text())
    assert [(row["name"], row["stride"], row["shape"]) for row in document["layers"]] == [
        ("layers.0", 1, [8, 64, 96]),
        ("layers.10", 2, [8, 32, 48]),
        ("layers.20", 4, [16, 16, 24]),
        ("layers.30", 8, [32, 8, 12]),
        ("layers.40", 16, [64, 4, 6]),
        ("layers.50", 32, [128, 2, 3]),
    ]


def test_of_full_width_at_416_pixels_they_have_the_shapes_that_papers_print():
    stem, rest = "filters=64", yolov4(height=416, width=416, w=32)  # thin in depth only
    network = DarknetNetwork(parse_cfg(rest.replace(stem, "filters=32", 1), "a.cfg"))
    assert [tuple(network.nodes[index].shape) for index in (0, 10, 20, 30, 40, 50)] == [
        *((32, 416, 416), (64, 208, 208), (128, 104, 104)),
        *((256, 52, 52), (512, 26, 26), (1024, 13, 13)),
    ]


COMMANDS = [
    *("explain", "report", "figure", "evaluate", "features", "maps", "kernels"),
    *("layers", "methods", "inspect", "doctor"),
]


def test_help_tells_the_commands_in_the_order_of_need(detcam_):
    text = detcam_("--help").out
    listed = [line.split()[0] for line in text.split("Commands:\n")[1].splitlines()]
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_stand_in_lines_of_their_own(detcam_, command):
    lines = detcam_(command, "--help").out.splitlines()
    assert any(line.startswith(f"    detcam {command}") for line in lines)
    assert not any("\\b" in line for line in lines)
