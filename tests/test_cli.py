"""What a user of the command line sees: results on stdout, words on stderr, exit codes, files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from small_yolo import checkpoint, pictures

import detcam
from detcam.cam.methods import METHODS
from detcam.cli import cli, main
from detcam.targets import TARGETS

REPOSITORY = Path(detcam.__file__).parents[1]
ESCAPE = "\x1b"


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        return [Path(line) for line in self.out.splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with a model, two pictures, and nothing else."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint(), tmp_path / "small.pt")
    write(tmp_path / "street.png", 2)
    write(tmp_path / "park.png", 1)
    return tmp_path


def write(path: Path, which: int = 0, height: int = 61, width: int = 97) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(which + 1, height, width)[which]).save(path)
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def detcam_(capsys) -> Iterator[Any]:
    """Run the command line in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return Said(int(end.value.code or 0), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


def in_a_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detcam", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings(**environment),
    )


def surroundings(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore", **changes}


def index(run: Path = Path("runs/explain/run")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "index.jsonl").read_text("utf-8").splitlines()]


def schema(name: str) -> Any:
    text = resources.files("detcam").joinpath(f"schemas/{name}.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def assert_one_line(said: Said, message: str, code: int = 1) -> None:
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    assert re.search(message, said.err), said.err


# Results


def test_paths_of_what_was_written_are_all_there_is_on_stdout(here, detcam_):
    said = detcam_("explain", "small.pt", "street.png", "park.png")
    assert said.code == 0
    run = Path("runs/explain/run")
    assert said.paths == [
        run / f"{stem}_cam{ending}" for stem in ("street", "park") for ending in (".jpg", ".npz", ".json")
    ]
    assert all(path.is_file() for path in said.paths)
    written = {path.name for path in run.iterdir()}
    assert written == {*(path.name for path in said.paths), "run.json", "index.jsonl"}


def test_json_is_one_document_and_nothing_else(here, detcam_):
    said = detcam_("explain", "small.pt", "street.png", "park.png", "--json", "--save", "maps")
    document = json.loads(said.out)
    assert document["run"] == "runs/explain/run"
    assert document["images"] == index()
    assert [one["status"] for one in document["images"]] == ["ok", "ok"]
    for one in document["images"]:
        assert all(Path(document["run"], name).is_file() for name in one["files"])


def test_stderr_names_everything_that_was_explained(here, detcam_):
    said = detcam_("explain", "small.pt", "street.png", "--class", "dog", "--max-boxes", 2)
    sidecar = json.loads(Path("runs/explain/run/street_cam.json").read_text())
    first, *boxes, last = said.err.splitlines()
    assert first == (
        "street.png: 2 boxes, grad-cam-elementwise of class-logit, "
        "P2=model.2 P3=model.4 P4=model.6 P5=model.8, total"
    )
    for line, box in zip(boxes, sidecar["boxes"], strict=True):
        x1, y1, x2, y2 = box["xyxy"]
        assert f"b{box['id']:03d} dog {box['score']:.2f} at {x1:.0f},{y1:.0f},{x2:.0f},{y2:.0f}" in line
        assert f"predicted at {box['level']}" in line
        assert line.endswith(f"evidence: {box['energy_in_box']:.0%} in the box")
    assert "the best 2 explained: raise max_boxes" in last


def test_the_run_and_its_rows_fit_their_schemas(here, detcam_):
    truncate(write(here / "broken.jpg"))
    said = detcam_(
        *("explain", "small.pt", here / "street.png", here / "broken.jpg", "--conf", "0.97"),
        *("--class", "cat", "--class", "1", "--imgsz", 64, "--scale", "fixed:2", "--save", "levels"),
    )
    assert said.code == 3
    run = Path("runs/explain/run")
    schema("run-1").validate(json.loads((run / "run.json").read_text("utf-8")))
    for row in index():
        schema("index-1").validate(row)
    schema("explanation-1").validate(json.loads((run / "street_cam.json").read_text("utf-8")))


def test_the_run_says_what_was_asked_of_which_model(here, detcam_):
    asked = ["explain", "small.pt", "street.png", "--class", "dog", "--conf", "0.3", "--method", "odam"]
    detcam_(*asked, "--layers", "model.4,model.8", "--target", "x1", "--path", "total", "--name", "nine")
    written = json.loads(Path("runs/explain/nine/run.json").read_text())
    assert written["schema"] == "detcam.run/1"
    assert written["command"][: len(asked) + 1] == ["detcam", *asked]
    assert written["model"]["path"] == "small.pt"
    assert written["model"]["trust"] == "safe"
    assert written["model"]["classes"] == {"0": "cat", "1": "dog", "2": "fire hydrant"}
    assert written["layers"] == ["model.4", "model.8"]
    assert written["options"] == {
        "classes": ["dog"],
        "conf": 0.3,
        "iou": None,
        "max_det": 300,
        "imgsz": None,
        "max_boxes": 16,
        "method": "odam",
        "layers": "model.4,model.8",
        "target": "x1",
        "path": "total",
        "keep_features": False,
        "merge": None,
        "batch_size": None,
        "masks": 5000,
        "seed": 0,
        "near_misses": 0,
    }


def test_random_masks_are_asked_for_and_their_convergence_is_said(here, detcam_):
    said = detcam_("explain", "small.pt", "street.png", "--method", "d-rise", "--masks", 12, "--seed", 3)
    assert said.code == 0
    first, *boxes = said.err.splitlines()
    assert first.endswith(" boxes, d-rise of similarity, 12 masks of seed 3")
    assert re.fullmatch(r"  b000 .* predicted at P\d; evidence: convergence (-|\d\.\d\d)", boxes[0])
    run = Path("runs/explain/run")
    written = json.loads((run / "run.json").read_text())
    schema("run-1").validate(written)
    assert (written["seed"], written["layers"]) == (3, [])
    assert (written["options"]["masks"], written["options"]["seed"]) == (12, 3)
    document = json.loads((run / "street_cam.json").read_text())
    schema("explanation-1").validate(document)
    assert document["sampling"]["masks"] == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--method", "d-rise", "--layers", "neck"], "'d-rise' looks at no layer .*: leave layers out"),
        (["--seed", "1"], "'grad-cam-elementwise' draws no random masks: leave seed out"),
    ],
)
def test_options_that_do_not_fit_random_masks_are_told_before_a_folder_is_made(here, detcam_, given, message):
    assert_one_line(detcam_("explain", "small.pt", "street.png", *given), message)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("schema",), "detcam.run/2"),
        (("versions",), {}),
        (("model", "sha256"), "xyz"),
        (("model", "trust"), "blind"),
        (("options", "conf"), 2),
        (("options", "imgsz"), [64]),
        (("options", "surprise"), 1),
        (("scale", "kind"), "boxes"),
        (("save",), ["everything"]),
        (("layers",), []),
    ],
)
def test_a_broken_run_document_does_not_fit_the_schema(where, value):
    whole = {
        "schema": "detcam.run/1",
        "versions": dict.fromkeys(
            ("python", "detcam", "torch", "torchvision", "ultralytics", "numpy", "opencv-python", "pillow"),
            "1",
        ),
        "command": ["detcam"],
        "model": {
            **{"path": None, "sha256": None, "trust": None, "allowed_globals": []},
            **{"family": "any", "classes": {"0": "cat"}},
        },
        "device": "cpu",
        "seed": None,
        "layers": ["model.4"],
        "options": {
            **{"classes": None, "conf": 0.25, "iou": 0.7, "max_det": 300, "imgsz": [64, 96], "max_boxes": 16},
            **{"method": "layer-cam", "layers": ["model.4"], "target": "x1", "path": "direct"},
            "keep_features": False,
            "merge": None,
        },
        "scale": {"kind": "box", "value": None},
        "colormap": "inferno",
        "half": False,
        "save": [],
    }
    schema("run-1").validate(whole)
    place: Any = whole
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        schema("run-1").validate(whole)


ROW = {"source": "a.jpg", "status": "ok", "boxes": 1, "files": ["a", "b", "c"], "ms": 1.0, "error": None}


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"boxes": 0},
        {"status": "no_detections"},
        {"status": "error"},
        {"error": "why"},
        {"files": []},
        {"files": ["a", "b", "deep/c"]},
        {"ms": -1},
        {"surprise": 1},
    ],
)
def test_a_broken_row_does_not_fit_the_schema(change):
    schema("index-1").validate(ROW)
    with pytest.raises(jsonschema.ValidationError):
        schema("index-1").validate({**ROW, **change})


def test_a_second_run_gets_a_folder_of_its_own(here, detcam_):
    first, second = (detcam_("explain", "small.pt", "street.png").paths[0].parent for _ in range(2))
    assert (first.name, second.name) == ("run", "run-2")


def test_an_existing_folder_is_written_into_on_request_and_a_pictures_row_is_its_last(here, detcam_):
    write(here / "other.png")
    for name in ("street.png", "other.png", "street.png"):
        said = detcam_("explain", "small.pt", name, "--exist-ok", "--project", "out", "--name", "x")
        assert said.paths[0].parent == Path("out/x")
    assert [row["source"] for row in index(Path("out/x"))] == ["other.png", "street.png"]


def test_same_named_pictures_of_two_folders_do_not_collide(here, detcam_):
    write(here / "a" / "x.png", 0), write(here / "b" / "x.png", 1)
    said = detcam_("explain", "small.pt", "a", "b/x.png")
    assert said.code == 0
    assert len(set(said.paths)) == 6
    sidecars = [json.loads(path.read_text()) for path in said.paths if path.suffix == ".json"]
    assert [one["image"]["path"] for one in sidecars] == ["a/x.png", "b/x.png"]
    assert sidecars[0]["image"]["sha256"] != sidecars[1]["image"]["sha256"]


def test_paths_may_have_spaces_and_any_letters(here, detcam_):
    folder = here / "mein Ordner ö"
    write(folder / "grüße 日本.png")
    (here / "small.pt").rename(folder / "mein modell.pt")
    said = detcam_("explain", folder / "mein modell.pt", folder, "--project", folder / "läufe")
    assert said.code == 0
    assert said.paths[0] == folder / "läufe" / "run" / "grüße_日本_cam.jpg"
    assert index(folder / "läufe" / "run")[0]["source"] == str(folder / "grüße 日本.png")


@pytest.mark.skipif(sys.platform == "win32", reason="there no name has such characters")
def test_a_name_cannot_steer_the_terminal_or_break_a_line(here, detcam_):
    bad, good = here / "a\x1b[31m\nb.jpg", here / "c\x1b]0;title\x07\n.png"
    truncate(write(bad))
    write(good)
    assert_one_line(detcam_("explain", "small.pt", bad), r"a\\x1b\[31m\\nb\.jpg: cannot be decoded")
    said = detcam_("explain", "small.pt", good, "--max-boxes", 1)
    assert said.code == 0
    assert ESCAPE not in said.out + said.err
    assert len(said.paths) == 3
    assert "\\x07\\n.png: 1 boxes" in said.err.splitlines()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a name be any bytes")
def test_a_name_that_is_no_text_is_explained_like_any_other(here, detcam_):
    path = here / os.fsdecode(b"caf\xe9.png")
    (here / "street.png").rename(path)
    said = detcam_("explain", "small.pt", path, "--json")
    assert said.code == 0
    (row,) = json.loads(said.out)["images"]
    assert row["source"] == str(path) == index()[0]["source"]
    assert row["files"][0] == "caf__cam.jpg"


def test_a_name_as_long_as_the_file_system_allows_is_explained(here, detcam_):
    (here / "street.png").rename(here / ("n" * 251 + ".png"))
    assert detcam_("explain", "small.pt", "*.png").code == 0


def test_batches_give_the_files_of_single_pictures(here, detcam_):
    for which in range(3):
        write(here / "many" / f"{which}.png", which)
    write(here / "many" / "1b.png", 1, 97, 61)
    arguments = ("explain", "small.pt", "many", "--project", "out")
    singly, batched = detcam_(*arguments), detcam_(*arguments, "--batch", 3)
    assert [path.name for path in singly.paths] == [path.name for path in batched.paths]
    for one, other in zip(singly.paths, batched.paths, strict=True):
        if one.suffix == ".npz":
            with np.load(one) as arrays, np.load(other) as others:
                assert set(arrays.files) == set(others.files)
                for name in arrays.files:
                    np.testing.assert_allclose(arrays[name], others[name], atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_rows_follow_the_order_of_the_pictures(here, detcam_, batch):
    for name in ("c", "a", "b"):
        write(here / f"{name}.png")
    truncate(here / "a.png")
    detcam_("explain", "small.pt", "c.png", "a.png", "street.png", "b.png", "--batch", batch)
    assert [row["source"] for row in index()] == ["c.png", "a.png", "street.png", "b.png"]
    assert [row["status"] for row in index()] == ["ok", "error", "ok", "ok"]


def test_every_extra_can_be_saved(here, detcam_):
    extras = ["levels", "boxes", "maps", "features", "figure"]
    flags = [word for extra in extras for word in ("--save", extra)]
    said = detcam_("explain", "small.pt", "street.png", "--max-boxes", 2, "--half", *flags)
    assert said.code == 0
    names = {path.name for path in said.paths}
    assert names >= {
        *{"street_cam_P3.jpg", "street_cam_levels.jpg", "street_cam_b001.jpg", "street_map_b001.png"},
        *{"street_features.npz", "street_features_P5.jpg", "street_cam.pdf"},
    }
    assert index()[0]["files"] == [path.name for path in said.paths]


def test_maps_come_with_rows_that_data_set_loaders_read(here, detcam_):
    detcam_("explain", "small.pt", "street.png", "--max-boxes", 2, "--save", "maps")
    run = Path("runs/explain/run")
    rows = [json.loads(line) for line in (run / "metadata.jsonl").read_text().splitlines()]
    boxes = json.loads((run / "street_cam.json").read_text())["boxes"]
    assert [row["file_name"] for row in rows] == ["street_map_b000.png", "street_map_b001.png"]
    for row, box in zip(rows, boxes, strict=True):
        assert (row["class"], row["score"], row["xyxy"]) == (box["class"], box["score"], box["xyxy"])
        assert (run / row["file_name"]).is_file()


# Nothing found


def test_nothing_found_is_success_with_a_hint_that_helps(here, detcam_):
    said = detcam_("explain", "small.pt", "park.png", "--conf", "0.99")
    assert said.code == 0
    assert len(said.paths) == 3
    assert index()[0]["status"] == "no_detections"
    best = json.loads(Path("runs/explain/run/park_cam.json").read_text())["best_score"]
    hint = re.search(rf"nothing found: best score {best:.2g} <= 0.99, try --conf (\S+)", said.err)
    again = detcam_("explain", "small.pt", "park.png", "--conf", hint[1])
    assert index(Path("runs/explain/run-2"))[0]["status"] == "ok", again.err


def test_the_hint_is_about_the_wanted_classes(here, detcam_):
    asked = ("explain", "small.pt", "street.png", "--conf", "0.999")
    every, dogs = (
        float(re.search(r"best score (\S+)", said.err)[1])
        for said in (detcam_(*asked), detcam_(*asked, "--class", "dog"))
    )
    assert dogs < every


# Some failed


def test_one_truncated_picture_alone_fails_and_leaves_no_folder(here, detcam_):
    truncate(write(here / "broken.jpg"))
    assert_one_line(detcam_("explain", "small.pt", "broken.jpg"), r"broken\.jpg: cannot be decoded")
    assert not Path("runs").exists()


def test_one_truncated_picture_among_good_ones_is_a_row(here, detcam_):
    truncate(write(here / "broken.jpg"))
    said = detcam_("explain", "small.pt", "street.png", "broken.jpg", "park.png")
    assert said.code == 3
    assert [row["status"] for row in index()] == ["ok", "error", "ok"]
    assert "broken.jpg: cannot be decoded" in index()[1]["error"]
    assert "1 of 3 pictures failed; see runs/explain/run/index.jsonl" in said.err
    assert len(said.paths) == 6


def test_a_picture_that_cannot_be_drawn_is_a_row(here, detcam_):
    Image.fromarray(np.zeros((2, 65_501, 3), np.uint8)).save(here / "long.png")
    said = detcam_("explain", "small.pt", "long.png", "street.png")
    assert said.code == 3
    assert [row["status"] for row in index()] == ["error", "ok"]
    assert "do not fit a JPEG" in index()[0]["error"]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_box_without_gradient_makes_its_picture_a_row_and_the_others_go_on(here, detcam_, batch):
    # The best box of the first picture was predicted at P3, which does not see the head's input at P4.
    for which in range(3):
        write(here / "three" / f"{which}.png", which)
    asked = ("explain", "small.pt", "three", "--layers", "model.17", "--max-boxes", 1)
    assert detcam_(*asked, "--batch", batch).code == 3
    assert [row["status"] for row in index()] == ["error", "ok", "ok"]
    assert "'class-logit'" in index()[0]["error"] or "model.17" in index()[0]["error"]


# Whatever is wrong with the question is said in a line, and no folder is left


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class", "hydrant"], r"no class 'hydrant'\. Closest: 'fire hydrant'"),
        (["--class", "3"], "no class 3: this model has 3 classes, 0 to 2"),
        (["--class", "-1"], "no class -1"),
        (["--layers", "backbones"], r"no layer 'backbones'\. Closest: 'backbone'"),
        (["--layers", "model.4,model.99"], r"no layer 'model\.99'\. Closest: 'model\."),
        (["--layers", ""], "no layer ''"),
        (["--layers", "model.21.dfl"], r"layer 'model\.21\.dfl'"),
        (["--layers", "model"], "'model' did not run"),
        (["--layers", "model.21.cv2.0"], r"model\.21\.cv2\.0"),
        (["--method", "gradcam"], r"no method 'gradcam'\. Closest: 'grad-cam'.*detcam methods"),
        (["--target", "logit"], r"no target 'logit'\..*detcam methods"),
        (["--target", "objectness"], "no objectness"),
        (["--target", "class-difference"], "needs the other class"),
        (["--target", "class-difference:horse"], "no class 'horse'"),
        (["--scale", "boxes"], r"no scale 'boxes'\. Closest: 'box'"),
        (["--scale", "fixed:zero"], "needs a positive number"),
        (["--scale", "image:3"], "takes no value"),
        (["--colormap", "virdis"], r"no colour map 'virdis'\. Closest: 'viridis'"),
        (["--save", "level"], r"no output 'level'\. Closest: 'levels'"),
        (["--conf", "nan"], r"conf must lie in 0\.\.1, got nan"),
        (["--iou", "nan"], r"iou must lie in 0\.\.1, got nan"),
        (["--device", "cuda:99"], "no device 'cuda:99' here"),
        (["--device", "gpu"], "no device 'gpu' here"),
        (["--branch", "one2one"], "no one2one branch"),
        (["--name", "../x"], "put the folder into --project"),
        (["--name", ""], "put the folder into --project"),
        (["--name", "a/b"], "put the folder into --project"),
        (["--project", "small.pt"], r"cannot write small\.pt"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_line_and_no_folder(here, detcam_, flags, message):
    before = sorted(here.rglob("*"))
    assert_one_line(detcam_("explain", "small.pt", "street.png", "park.png", *flags), message)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("--conf", value) for value in ("-0.1", "1.5", "-1", "inf", "high")],
        *[("--iou", value) for value in ("-1", "1.5", "x")],
        *[
            (flag, value)
            for flag in ("--imgsz", "--max-boxes", "--max-det", "--batch")
            for value in ("0", "-1", "nan", "1.5")
        ],
        ("--path", "both"),
        ("--branch", "two"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error_that_names_it(here, detcam_, flag, value):
    before = sorted(here.rglob("*"))
    said = detcam_("explain", "small.pt", "street.png", flag, value)
    assert (said.code, said.out) == (2, "")
    assert f"Error: Invalid value for '{flag}'" in said.err.splitlines()[-1]
    assert value in said.err.splitlines()[-1]
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [["explain"], ["explain", "small.pt"], ["explode"], ["explain", "--bogus"], ["layers"]]
)
def test_what_is_no_command_is_a_usage_error(here, detcam_, arguments):
    said = detcam_(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "Usage: detcam" in said.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["no.jpg"], r"no\.jpg: no such file"),
        (["street.png", "no.jpg"], r"no\.jpg: no such file"),
        (["*.jpeg"], "no picture in pattern"),
        (["folder"], "no picture in folder 'folder'"),
        (["https://example.com/a.jpg"], "addresses are not fetched"),
        (["small.pt"], r"small\.pt: not a picture we read"),
        (["empty.jpg"], r"empty\.jpg: is empty"),
    ],
)
def test_no_picture_is_one_line_and_no_folder(here, detcam_, images, message):
    (here / "folder").mkdir()
    (here / "empty.jpg").touch()
    assert_one_line(detcam_("explain", "small.pt", *images), message)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [("no.pt", "no file 'no.pt'"), ("street.png", "a PNG picture"), (".", "is a folder")],
)
@pytest.mark.parametrize("command", ["explain", "layers"])
def test_no_model_is_one_line_and_no_folder(here, detcam_, command, model, message):
    images = ["street.png"] if command == "explain" else []
    assert_one_line(detcam_(command, model, *images), message)
    assert not Path("runs").exists()


class Stranger:
    """Something no one vouched for."""


def test_a_model_that_would_run_code_is_refused_with_a_code_of_its_own(here, detcam_):
    import torch

    torch.save({"model": Stranger()}, here / "strange.pt")
    said = detcam_("explain", "strange.pt", "street.png")
    assert_one_line(said, r"Stranger.*Nothing was run.*state_dict.*detcam\.wrap", code=4)
    assert not Path("runs").exists()


# Tracebacks


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(here, capsys, place):
    arguments = ["explain", "no.pt", "street.png"]
    arguments.insert(place, "--debug")
    with pytest.raises(detcam.DetcamError, match=r"no\.pt"):
        main(arguments)


def test_debug_does_not_change_what_works(here, detcam_):
    said = detcam_("explain", "small.pt", "street.png", "--debug")
    assert said.code == 0
    assert len(said.paths) == 3


# Interrupts


def test_ctrl_c_ends_with_130_and_one_word(here, detcam_, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("detcam.runner.run", interrupted)
    said = detcam_("explain", "small.pt", "street.png")
    assert (said.code, said.out) == (130, "")
    assert said.err.strip() == "interrupted"


def test_a_kill_ends_like_ctrl_c(here, detcam_, monkeypatch):
    def killed(*_: Any, **__: Any) -> list[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr("detcam.runner.run", killed)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a failure must not kill the tests
    assert detcam_("explain", "small.pt", "street.png").code == 130


def test_an_interrupted_run_leaves_only_whole_files(here):
    for number in range(60):
        (here / "many").mkdir(exist_ok=True)
        os.link(here / "street.png", here / "many" / f"{number:02d}.png")
    # A shell in the background has its children ignore Ctrl-C: take that back.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from detcam.cli import main; main(['explain', 'small.pt', 'many', '--save', 'maps'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(),
    )
    listed = [process.stdout.readline().strip() for _ in range(20)]
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    listed += rest.split()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    run = here / "runs" / "explain" / "run"
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    rows = index(run)
    assert 0 < len(rows) < 60
    for path in [Path(path) for path in listed] + [run / name for row in rows for name in row["files"]]:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name].size for name in arrays.files)
        else:
            Image.open(path).load()


# Other people's words


def test_a_process_of_its_own_prints_paths_only(here):
    # A folder without settings: ultralytics greets there, on stdout, when it is first imported.
    done = in_a_process("explain", "small.pt", "street.png", YOLO_CONFIG_DIR=str(here), YOLO_VERBOSE="true")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all((here / line).is_file() for line in lines)
    assert ESCAPE not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_gets_no_colours_and_may_lack_letters():
    # FORCE_COLOR is set by many continuous-integration services; × and σ are not ASCII.
    done = in_a_process("methods", FORCE_COLOR="1", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "layer-cam" in done.stdout
    assert ESCAPE not in done.stdout


# Help


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--version"],
        ["explain", "--help"],
        ["layers", "-h"],
        ["methods", "-h"],
        ["report", "-h"],
    ],
)
def test_help_and_version_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom detcam.cli import main\n"
        f"try: main({arguments!r})\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=surroundings()
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "click" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "cv2", "PIL", "ultralytics", "matplotlib", "rich"})
    assert done.stdout


def test_the_version_is_said(detcam_):
    assert detcam_("--version").out == f"detcam, version {detcam.__version__}\n"


def test_help_shows_an_example_first():
    for command, example in [
        ([], "detcam explain yolo.pt street.jpg"),
        (["explain"], "detcam explain yolo.pt street.jpg --class 0"),
        (["layers"], "detcam layers yolo.pt"),
        (["methods"], "detcam methods"),
    ]:
        text = CliRunner().invoke(cli, [*command, "--help"]).output
        assert example in text
        assert text.index(example) < text.index("Options:")


def test_commands_are_listed_in_the_order_of_need():
    text = CliRunner().invoke(cli, ["--help"]).output
    assert text.index("  explain ") < text.index("  report ") < text.index("  evaluate ")
    assert text.index("  evaluate ") < text.index("  layers ") < text.index("  methods ")


def test_every_option_says_what_it_is():
    for name, command in cli.commands.items():
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)


# Tables


def test_methods_lists_every_method_control_and_target(detcam_):
    rows = json.loads(detcam_("methods", "--json").out)
    assert {row["name"] for row in rows if row["kind"] == "target"} == set(TARGETS)
    named = {row["name"]: row for row in rows if row["kind"] != "target"}
    assert set(named) == set(METHODS)
    for name, method in METHODS.items():
        assert named[name]["kind"] == ("control" if method.is_control else "method")
        assert named[name]["source"] == method.source
    assert all(row["what"] for row in rows)


def test_the_table_of_methods_has_a_line_for_each(detcam_):
    said = detcam_("methods")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].split() == ["kind", "name", "what", "source"]
    assert [line.split()[1] for line in lines[1:]] == [*METHODS, *TARGETS]
    assert ESCAPE not in said.out


def test_layers_lists_name_stride_set_and_windows(here, detcam_):
    rows = {row["name"]: row for row in json.loads(detcam_("layers", "small.pt", "--json").out)}
    assert list(rows)[:3] == ["model.0", "model.1", "model.2"]
    assert {name: row["set"] for name, row in rows.items() if row["set"]} == {
        **dict.fromkeys(["model.4", "model.6", "model.8"], "backbone"),
        **{name: "neck" for name in rows if rows[name]["set"] == "neck"},
        **dict.fromkeys(["model.14", "model.17", "model.20"], "head"),
    }
    assert (rows["model.4"]["kind"], rows["model.4"]["stride"], rows["model.4"]["level"]) == ("C2f", 8, "P3")
    assert rows["model.4"]["shape"] == "16×12×12"
    # At the head's inputs a prediction sees its own cell through two 3×3 convolutions: 5×5 cells at P3,
    # the whole 3×3 grid at P5; other levels take no part.
    assert rows["model.14"]["direct"] == "P3:5×5 P4:- P5:-"
    assert rows["model.20"]["direct"] == "P3:- P4:- P5:3×3"
    assert rows["model.15"]["direct"] is None
    # In total, a coarse prediction reaches the finer head inputs, and never the other way round.
    assert "-" not in rows["model.14"]["total"]
    assert rows["model.20"]["total"] == rows["model.20"]["direct"]


def test_the_table_of_layers_has_a_line_for_each(here, detcam_):
    rows = json.loads(detcam_("layers", "small.pt", "--json").out)
    lines = detcam_("layers", "small.pt").out.splitlines()
    assert lines[0].split() == list(rows[0])
    assert [line.split()[0] for line in lines[1:]] == [row["name"] for row in rows]


def test_layers_measures_at_the_size_that_the_network_will_see(here, detcam_):
    # 100 is no multiple of 32: like `explain`, it looks at 128 pixels.
    odd, even = (detcam_("layers", "small.pt", "--imgsz", side, "--json").out for side in (100, 128))
    assert odd == even
    assert '"16×16×16"' in odd


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan"])
def test_layers_refuses_a_size_that_is_none(here, detcam_, value):
    said = detcam_("layers", "small.pt", "--imgsz", value)
    assert (said.code, said.out) == (2, "")
    assert "Invalid value for '--imgsz'" in said.err


def test_reading_and_writing_happen_beside_explaining_and_rows_keep_their_order(here, detcam_, monkeypatch):
    import threading

    from detcam.runner import ExplainBatch

    where: dict[str, set[str]] = {"read": set(), "explain": set(), "write": set()}

    def noted(name: str, function: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            where[name].add(threading.current_thread().name.partition("_")[0])
            return function(*given, **more)

        return call

    for name in where:
        monkeypatch.setattr(ExplainBatch, name, noted(name, getattr(ExplainBatch, name)))
    for name in "dbca":
        write(here / f"{name}.png")
    said = detcam_("explain", "small.pt", "d.png", "b.png", "c.png", "a.png", "--max-boxes", "1")
    assert said.code == 0
    assert where == {"read": {"read"}, "explain": {threading.main_thread().name}, "write": {"write"}}
    rows = [json.loads(line) for line in Path("runs/explain/run/index.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["d.png", "b.png", "c.png", "a.png"]


def test_a_disk_that_fills_up_ends_the_run_with_its_error(here, detcam_, monkeypatch):
    from detcam.errors import OutputError

    written = []

    def save(*_given: Any) -> Any:
        if len(written) == 1:
            raise OutputError("cannot write: no space left")
        written.append(1)
        return {}

    monkeypatch.setattr("detcam.runner.batch.save", save)
    for name in "abcd":
        write(here / f"{name}.png")
    said = detcam_("explain", "small.pt", "a.png", "b.png", "c.png", "d.png", "--max-boxes", "1")
    assert said.code == 1
    assert "no space left" in said.err
    assert len(Path("runs/explain/run/index.jsonl").read_text().splitlines()) == 1


def test_a_contrast_is_the_difference_of_two_classes_of_the_firsts_detections(here, detcam_):
    assert detcam_("explain", "small.pt", "street.png", "--contrast", "dog,cat", "--max-boxes", "2").code == 0
    asked = ("--class", "dog", "--target", "class-difference:cat", "--max-boxes", "2")
    assert detcam_("explain", "small.pt", "street.png", *asked).code == 0
    one, other = (
        json.loads(Path(f"runs/explain/{run}/street_cam.json").read_text()) for run in ("run", "run-2")
    )
    assert one["method"] == other["method"]
    assert one["method"]["target"] == "class-difference:cat"
    assert {box["class"] for box in one["boxes"]} == {"dog"}
    assert one["boxes"] == other["boxes"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--contrast", "dog"], "--contrast takes two classes, A,B"),
        (["--contrast", "dog,cat,bird"], "--contrast takes two classes, A,B"),
        (["--contrast", "dog,cat", "--class", "cat"], "leave --class and --target out"),
        (["--class", "cat", "--contrast", "dog,cat"], "leave --class and --target out"),
        (["--contrast", "dog,cat", "--target", "probability"], "leave --class and --target out"),
    ],
)
def test_a_contrast_that_cannot_be_read_is_a_usage_error(here, detcam_, given, message):
    said = detcam_("explain", "small.pt", "street.png", *given)
    assert said.code == 2
    assert message in said.err
    assert not Path("runs").exists()
