"""What may be wrong with an installation, looked at without changing it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

State = Literal["ok", "warning", "problem"]

_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Attributes:
        check: what was looked at.
        state: "ok"; "warning": works, but; "problem": something will fail or is unsafe.
        found: what was found.
        advice: what to do, unless it is fine.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Every look, one after the other; a look that fails is a finding, too."""
    for look in (_python, _torch, _torchvision, _devices, _opencv, _ultralytics, _matplotlib):
        try:
            yield look()
        except Exception as error:  # noqa: BLE001  # whatever a broken installation raises
            name = look.__name__.strip("_")
            yield Finding(name, "problem", f"{type(error).__name__}: {error}", f"reinstall {name}")


def opencv_finding(installed: Mapping[str, str]) -> Finding:
    """Judge the OpenCV packages that are installed, name -> version: they all write the same `cv2`."""
    named = ", ".join(f"{name} {number}" for name, number in installed.items())
    if len(installed) == 1:
        return Finding("opencv", "ok", named)
    if not installed:
        return Finding("opencv", "problem", "not installed", "pip install opencv-python")
    return Finding(
        "opencv",
        "problem",
        f"{named}: each has overwritten files of the other",
        f"pip uninstall -y {' '.join(installed)} && pip install opencv-python; packages that need the "
        "headless one go into an environment of their own",
    )


def torch_finding(number: str) -> Finding:
    """Judge a torch version: before 2.6 a crafted file can make `weights_only` loading run code."""
    release = tuple(int(part) for part in number.split("+")[0].split(".")[:2])
    if release < (2, 6):
        advice = "pip install --upgrade torch torchvision"
        return Finding("torch", "problem", f"{number}: loading weights is not safe before 2.6", advice)
    return Finding("torch", "ok", number)


def _python() -> Finding:
    return Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _torch() -> Finding:
    return torch_finding(importlib.import_module("torch").__version__)


def _torchvision() -> Finding:
    torch, vision = importlib.import_module("torch"), importlib.import_module("torchvision")
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]])
    kept = vision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    if kept != [0]:
        return Finding(
            "torchvision", "problem", f"{vision.__version__}: suppression is wrong", "reinstall it"
        )
    return Finding("torchvision", "ok", f"{vision.__version__}, its operators work")


def _devices() -> Finding:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("devices", "ok", ", ".join(f"cuda:{i} {name}" for i, name in enumerate(names)))
    if torch.backends.mps.is_available():
        return Finding("devices", "ok", "mps")
    return Finding("devices", "ok", f"cpu, {torch.get_num_threads()} threads; no GPU that torch can use")


def _opencv() -> Finding:
    importlib.import_module("cv2")
    return opencv_finding({name: number for name in _OPENCV if (number := _installed(name))})


def _ultralytics() -> Finding:
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    is_able = importlib.import_module("detcam.adapters.ultralytics_checkpoint").has_safe_mode()
    safety = (
        "has a safe mode, which its own YOLO() leaves off"
        if is_able
        else "has no safe mode: its own YOLO() runs what a file says"
    )
    return Finding(
        "ultralytics",
        "ok" if is_able else "warning",
        f"{_installed('ultralytics')}; {safety}; detcam never runs a file unless told to",
        "" if is_able else "load strangers' files with detcam.load, not with YOLO()",
    )


def _matplotlib() -> Finding:
    importlib.import_module("matplotlib")
    return Finding("matplotlib", "ok", str(_installed("matplotlib")))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
