"""Packages that detcam does without until they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import detcam
from detcam.errors import DetcamError, MissingPackageError
from detcam.integrations.wandb import to_image
from detcam.packages import optional

OTHERS = {"supervision", "tensorboard", "wandb", "fiftyone", "lightning", "pytorch_lightning"}


def test_importing_detcam_and_its_integrations_imports_none_of_them():
    code = (
        "import detcam, detcam.cli; [getattr(detcam, name) for name in detcam.__all__]; "
        "import detcam.integrations.supervision, detcam.integrations.tensorboard, "
        "detcam.integrations.wandb, detcam.integrations.fiftyone"
    )
    asked = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(detcam.__file__).parents[1],
    )
    assert {name.partition(".")[0] for name in asked.stdout.split()}.isdisjoint(OTHERS)


@pytest.fixture
def without(monkeypatch):
    """As if packages were not installed."""

    def hide(*names: str) -> None:
        for name in list(sys.modules):
            if name.partition(".")[0] in names:
                monkeypatch.delitem(sys.modules, name)
        finders = [Hiding(names), *sys.meta_path]
        monkeypatch.setattr(sys, "meta_path", finders)

    return hide


class Hiding:
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname.partition(".")[0])


def test_what_is_missing_is_one_line_that_says_what_to_install(without, explained, tmp_path, monkeypatch):
    without(*OTHERS)
    asked = {
        "supervision": explained.to_detections,
        "wandb": lambda: to_image(explained),
        "fiftyone": lambda: __import__("detcam.integrations.fiftyone").integrations.fiftyone.to_samples(
            tmp_path
        ),
        "lightning": lambda: __import__("detcam.integrations.lightning"),
    }
    monkeypatch.delitem(sys.modules, "detcam.integrations.lightning", raising=False)
    for package, call in asked.items():
        with pytest.raises(MissingPackageError) as raised:
            call()
        assert str(raised.value) == f"{package} is not installed: pip install {package}"
        assert isinstance(raised.value, DetcamError)
        assert isinstance(raised.value, ImportError)


def test_what_a_package_lacks_itself_is_not_said_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name") as raised:
        optional("half_there")
    assert not isinstance(raised.value, MissingPackageError)
