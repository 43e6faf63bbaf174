"""What `detcam doctor` says of an installation."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from detcam import doctor
from detcam.cli import cli
from detcam.doctor import examine, opencv_finding, torch_finding


def test_this_installation_is_sound():
    found = {one.check: one for one in examine()}
    assert set(found) == {"python", "torch", "torchvision", "devices", "opencv", "ultralytics", "matplotlib"}
    assert {one.state for one in found.values()} == {"ok"}, found


@pytest.mark.parametrize(
    ("installed", "state"),
    [
        ({"opencv-python": "5.0"}, "ok"),
        ({"opencv-python-headless": "5.0"}, "ok"),
        ({"opencv-python": "5.0", "opencv-python-headless": "4.10"}, "problem"),
        ({}, "problem"),
    ],
)
def test_two_opencv_packages_are_one_too_many(installed, state):
    finding = opencv_finding(installed)
    assert finding.state == state
    if len(installed) == 2:
        assert "pip uninstall -y opencv-python opencv-python-headless" in finding.advice


@pytest.mark.parametrize(
    ("number", "state"), [("2.5.1", "problem"), ("2.6.0+cu126", "ok"), ("2.14.1", "ok"), ("3.0.0a1", "ok")]
)
def test_torch_before_its_safe_loading_is_a_problem(number, state):
    assert torch_finding(number).state == state


def test_a_look_that_fails_is_a_finding(monkeypatch):
    real = importlib.import_module

    def broken(name: str) -> object:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = {one.check: one for one in examine()}["torchvision"]
    assert (found.state, found.advice) == ("problem", "reinstall torchvision")
    assert "nms does not exist" in found.found


def test_a_suppression_that_keeps_both_boxes_is_a_problem(monkeypatch):
    real = importlib.import_module
    wrong = SimpleNamespace(
        __version__="0.1", ops=SimpleNamespace(nms=lambda *_: real("torch").tensor([0, 1]))
    )
    monkeypatch.setattr(
        doctor.importlib, "import_module", lambda name: wrong if name == "torchvision" else real(name)
    )
    assert {one.check: one for one in examine()}["torchvision"].state == "problem"


def test_the_command_prints_a_line_each_and_fails_on_a_problem(monkeypatch):
    said = CliRunner().invoke(cli, ["doctor"])
    assert said.exit_code == 0
    assert [line.split()[0] for line in said.output.splitlines()] == ["ok"] * 7
    assert json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)[0]["check"] == "python"
    monkeypatch.setattr(doctor, "_installed", lambda name: "1.0" if "opencv" in name else None)
    said = CliRunner().invoke(cli, ["doctor"])
    assert said.exit_code == 1
    assert "-> pip uninstall" in said.output
