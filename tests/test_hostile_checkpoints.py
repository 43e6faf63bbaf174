"""Nobody is let in: every attack on every door that reads a model file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import subprocess
import sys

import pytest
from hostile import BOMBS, LIES, RUNNING, archive, call, text
from PIL import Image
from torch import nn

import detcam
from detcam.adapters import inspect
from detcam.checkpoints import open_checkpoint, read_checkpoint
from detcam.cli import main
from detcam.errors import CheckpointError, UnsafeCheckpointError

REFUSED = 4


@pytest.fixture
def doors(tmp_path, monkeypatch):
    """Sends a file through every door; gives what was raised by each, and the command's exit code."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(picture)

    def started(*_arguments, **_options):
        raise AssertionError("a process was started")

    def through(path):
        monkeypatch.setattr(subprocess.Popen, "__init__", started)
        raised = {}
        for name, door in {
            "load": lambda: detcam.load(path, device="cpu"),
            "load_weights": lambda: detcam.load_weights(nn.Conv2d(1, 1, 1), path),
            "read": lambda: read_checkpoint(open_checkpoint(path), resolve={}.get),
            "inspect": lambda: inspect(path),
        }.items():
            try:
                door()
            except CheckpointError as error:
                raised[name] = error
        assert not any("\n" in str(error) for error in raised.values())
        with pytest.raises(SystemExit) as exited:
            main(["explain", str(path), str(picture), "--project", str(tmp_path / "runs")])
        assert not (tmp_path / "runs").exists()
        with pytest.raises(SystemExit) as inspected:
            main(["inspect", str(path)])
        assert inspected.value.code == (0 if "inspect" not in raised else _code(raised["inspect"]))
        return raised, exited.value.code

    return through


def _code(error):
    return REFUSED if isinstance(error, UnsafeCheckpointError) else 1


@pytest.fixture
def mark(tmp_path):
    yield tmp_path / "the attack ran"
    os.unsetenv("DETCAM_ATTACK")


@pytest.mark.parametrize("attack", RUNNING)
def test_nothing_in_a_file_runs(attack, tmp_path, mark, doors, capsys):
    pickled = RUNNING[attack](mark)
    (tmp_path / "model.pt").write_bytes(archive(pickled))
    raised, code = doors(tmp_path / "model.pt")
    assert not mark.exists()
    assert ctypes.CDLL(None).getenv(b"DETCAM_ATTACK") == 0  # what putenv sets, os.environ does not show
    assert {"load", "load_weights", "read"} <= set(raised)
    assert all(isinstance(error, UnsafeCheckpointError) for error in raised.values())
    assert code == REFUSED
    assert capsys.readouterr().err.count("\n") <= 2


@pytest.mark.parametrize("attack", RUNNING)
def test_the_attack_is_a_real_one(attack, mark):
    with contextlib.suppress(TypeError, AttributeError, RuntimeError):  # what it does afterwards
        pickle.loads(RUNNING[attack](mark))
    assert mark.exists()


@pytest.mark.parametrize("attack", RUNNING)
def test_nothing_runs_in_a_file_of_torch_before_1_6(attack, tmp_path, mark, doors):
    (tmp_path / "model.pt").write_bytes(b"\x80\x02" + RUNNING[attack](mark).removeprefix(b"\x80\x02"))
    raised, code = doors(tmp_path / "model.pt")
    assert not mark.exists()
    assert {"load", "load_weights", "read"} <= set(raised)
    assert code == REFUSED


@pytest.mark.parametrize(
    "name", ["detcam_no_such_package.Model", "pip.main", "ultralytics.utils.checks.check_requirements"]
)
def test_nothing_is_installed_for_a_name(name, tmp_path, doors):
    (tmp_path / "model.pt").write_bytes(
        archive(b"\x80\x02" + call(name, text("detcam-no-such-package")) + b".")
    )
    raised, code = doors(tmp_path / "model.pt")  # which fails where a process is started
    assert name in str(raised["read"]) or name in raised["read"].unsafe_globals
    assert code == REFUSED
    assert name.partition(".")[0] in sys.modules or name.startswith(("detcam_no", "pip"))


def test_a_checkpoint_inside_an_archive_is_not_looked_for(tmp_path, mark, doors):
    inner = archive(RUNNING["exec"](mark))
    (tmp_path / "model.pt").write_bytes(archive(b"\x80\x02}.", nested=inner))
    raised, _ = doors(tmp_path / "model.pt")
    assert not mark.exists()
    assert {"load", "load_weights"} <= set(raised)
    assert "read" not in raised  # an empty dictionary: there is nothing to refuse


@pytest.mark.parametrize("folder", ["../outside", "/tmp/detcam-outside", "..\\outside", "a/../../outside"])
def test_names_in_an_archive_lead_nowhere(folder, tmp_path, doors):
    before = sorted(tmp_path.parent.iterdir())
    (tmp_path / "model.pt").write_bytes(archive(b"\x80\x02}.", folder=folder, _0=bytes(4)))
    raised, code = doors(tmp_path / "model.pt")
    assert {"load", "load_weights"} <= set(raised)
    assert code in (1, REFUSED)
    assert sorted(tmp_path.parent.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "picture.png"]


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_take_all_memory_or_time_is_refused(bomb, tmp_path, doors):
    (tmp_path / "model.pt").write_bytes(BOMBS[bomb]())
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    spent = int(sum(os.times()[:2]))
    resource.setrlimit(
        resource.RLIMIT_CPU, (spent + 60, hard)
    )  # a hash of 2^64 values is not interrupted else
    try:
        raised, code = doors(tmp_path / "model.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    assert {"load", "load_weights", "read"} <= set(raised)
    assert code in (1, REFUSED)
    assert "damaged" in str(raised["read"]) or isinstance(raised["read"], UnsafeCheckpointError)


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_refused(lie, tmp_path, doors):
    (tmp_path / "model.safetensors").write_bytes(LIES[lie])
    raised, code = doors(tmp_path / "model.safetensors")
    assert {"load", "load_weights", "inspect"} <= set(raised)
    assert code == 1
