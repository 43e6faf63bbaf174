"""One run shared among processes: by hand, by torchrun, by Ray."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from killable import FAST, SHAPES, draw, files_of, rows_of, said
from PIL import Image

import detcam
from detcam.errors import InputError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explanation import SaveOptions
from detcam.outputs import RunFolder
from detcam.runner import ExplainBatch, ExplainerConfig, Shard, jobs_of, shard_of_torchrun
from detcam.scenes import make_scene


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares_hold_everything_once(items, count):
    dealt = [list(Shard(number, count).of(items)) for number in range(1, count + 1)]
    assert sorted(one for share in dealt for one in share) == sorted(items)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "1/99999999", ""])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="a shard is i/n with i from 1 to n, such as 1/4, got"):
        Shard.parse(text)


def test_torchrun_says_which_share():
    assert shard_of_torchrun({}) is None
    assert shard_of_torchrun({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) is None  # somebody else's
    there = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    worker = shard_of_torchrun(there)
    assert worker is not None
    assert (worker.shard, worker.local, worker.is_restart) == (Shard(6, 8), 1, False)
    again = shard_of_torchrun({**there, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert again is not None
    assert again.is_restart
    with pytest.raises(InputError, match="torchrun's RANK, WORLD_SIZE and LOCAL_RANK cannot be read"):
        shard_of_torchrun({**there, "RANK": "x"})


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--engine", "ray", "--shard", "1/2"), {}, "--engine ray deals pictures out itself"),
        (("--engine", "ray", "--exist-ok"), {}, "--engine ray takes a folder of its own"),
        (("--minimal", "--resume"), {}, "--minimal cannot be resumed or run on Ray"),
        (("--shard", "2/1"), {}, "a shard is i/n"),
        (
            ("--shard", "1/1"),
            {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
            "torchrun deals pictures out itself",
        ),
        (("--box", "1,1,5,5", "--resume"), {}, "--box asks about one picture, here and at once"),
    ],
)
def test_shares_that_make_no_sense_are_refused_before_anything_is_made(
    finish, pictures, tmp_path, arguments, environment, message
):
    assert finish(*arguments, **environment) in (1, 2)
    assert message in said(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_shares_make_the_run_that_one_process_makes(finish, pictures, tmp_path):
    assert finish("--name", "alone", "--save", "maps") == 3
    for number in (3, 1, 2):
        finish("--name", "shared", "--save", "maps", "--shard", f"{number}/3")
        done = (tmp_path / "runs/explain/shared/index.jsonl").exists()
        assert done == (number == 2)  # the last one ends it
    alone, shared = (tmp_path / "runs/explain" / name for name in ("alone", "shared"))
    assert rows_of(shared) == rows_of(alone)
    assert files_of(shared) == files_of(alone)
    assert said(tmp_path).count("other shares of this run are not done; the last one ends it") == 2


def python(folder: Path, *arguments: str) -> Any:
    """Run Python in a folder, with this very code."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


EXPLAIN = ("-m", "detcam", "explain", str(SHAPES), "pictures", *FAST)


def test_torchrun_makes_the_run_that_one_process_makes(finish, tmp_path):
    draw(tmp_path / "pictures", 5)
    (tmp_path / "pictures/broken.png").unlink()
    assert finish("--name", "alone") == 0
    made = python(
        tmp_path,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *EXPLAIN,
        "--name",
        "two",
    )
    assert made.returncode == 0, made.stderr
    alone, shared = (tmp_path / "runs/explain" / name for name in ("alone", "two"))
    assert {path.name for path in (shared / "parts").iterdir()} == {
        "index-1-of-2.jsonl",
        "index-2-of-2.jsonl",
    }
    assert rows_of(shared) == rows_of(alone)
    assert files_of(shared) == files_of(alone)


def test_a_picture_that_fails_does_not_make_torchrun_end_the_other_workers(finish, pictures, tmp_path):
    there = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "3"}
    codes = [finish(RANK=rank, LOCAL_RANK=rank, **there) for rank in ("1", "0", "2")]
    rows = rows_of(tmp_path / "runs/explain/run")
    (failed,) = [number for number, row in enumerate(rows) if row["status"] == "error"]
    assert (len(rows), failed % 3) == (11, 1)  # the first to end had it, and the last one says so
    assert codes == [0, 0, 3]


def test_ray_makes_the_run_that_one_process_makes_and_a_table(finish, tmp_path):
    pytest.importorskip("ray", reason="no Ray: pip install 'detcam[ray]'")
    import pyarrow.parquet

    draw(tmp_path / "pictures", 5)
    assert finish("--name", "alone") == 3
    made = python(tmp_path, *EXPLAIN, "--name", "ray", "--engine", "ray", "--workers", "2", "--json")
    assert made.returncode == 3, made.stderr
    alone, shared = (tmp_path / "runs/explain" / name for name in ("alone", "ray"))
    assert rows_of(shared) == rows_of(alone)
    document = json.loads(made.stdout)
    assert sorted(row["source"] for row in document["images"]) == [row["source"] for row in rows_of(alone)]
    table = pyarrow.parquet.read_table(tmp_path / document["table"]).to_pylist()
    assert [row["source"] for row in table] == [row["source"] for row in rows_of(alone)]
    sidecar = json.loads((alone / "003_cam.json").read_text())
    (row,) = (row for row in table if row["source"].endswith("003.png"))
    assert [one["class"] for one in row["detections"]] == [box["class"] for box in sidecar["boxes"]]
    assert row["detections"][0]["xyxy"] == pytest.approx(sidecar["boxes"][0]["xyxy"], abs=1e-3)
    (shared / "index.parquet").unlink()
    assert files_of(shared) == files_of(alone)


def test_the_table_leaves_out_what_was_not_detected(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="no Arrow: pip install 'detcam[ray]'")
    from detcam.runner.on_ray import write_parquet

    explainer = Explainer.of(
        detcam.load(SHAPES, device="cpu"),
        ExplainOptions(method="layer-cam", layers="backbone", conf=0.9, near_misses=1),
    )
    folder = RunFolder.create(tmp_path, "run", exist_ok=False)
    Image.fromarray(make_scene(2_000_003).image).save(tmp_path / "scene.png")  # with a circle that gets .83
    (row,) = ExplainBatch(lambda: explainer, folder, SaveOptions())(jobs_of([tmp_path / "scene.png"]))
    kinds = [one.kind for one in row.explanation.verdicts]
    assert sorted(kinds) == ["detection"] * (len(kinds) - 1) + ["near miss"]
    (stored,) = parquet.read_table(write_parquet(folder)).to_pylist()
    assert [one["kind"] for one in stored["detections"]] == ["detection"] * (len(kinds) - 1)


@pytest.mark.slow
def test_a_ray_run_whose_driver_is_killed_goes_on(finish, tmp_path):
    pytest.importorskip("ray", reason="no Ray: pip install 'detcam[ray]'")
    draw(tmp_path / "pictures", 20)
    assert finish("--name", "alone") == 3
    command = [*EXPLAIN, "--name", "ray", "--engine", "ray", "--resume"]
    driver = subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / "runs/explain/ray/parts"
    while driver.poll() is None and sum(len(one.read_bytes().splitlines()) for one in parts.glob("*")) < 3:
        time.sleep(0.05)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    made = python(tmp_path, *command)
    assert made.returncode == 3, made.stderr
    assert "0 of 21 pictures are done already" not in made.stderr
    assert rows_of(tmp_path / "runs/explain/ray") == rows_of(tmp_path / "runs/explain/alone")


def test_the_work_can_be_sent_away_without_its_model(tmp_path):
    options = ExplainOptions(method="layer-cam", layers="backbone")
    folder = RunFolder.create(tmp_path, "run", exist_ok=False)
    work = ExplainBatch(ExplainerConfig(SHAPES, device="cpu", options=options), folder, SaveOptions())
    (picture, *_) = draw(tmp_path / "pictures", 1)
    (row,) = work(jobs_of([picture]))
    sent = pickle.dumps(work)
    assert len(sent) < 5_000
    (again,) = pickle.loads(sent)(jobs_of([picture]))
    assert again.record() | {"ms": 0} == row.record() | {"ms": 0}


def test_without_ray_the_engine_says_what_to_install(tmp_path, monkeypatch):
    from detcam.runner.on_ray import RayOptions, run_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"the engine ray needs Ray: pip install 'detcam\[ray\]'"):
        next(run_on_ray(ExplainerConfig(SHAPES), RunFolder(tmp_path), SaveOptions(), [], RayOptions()))
