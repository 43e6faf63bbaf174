#!/usr/bin/env python3
"""Install the wheel with the lowest versions that pyproject.toml admits, and run the demo and the tests.

    python scripts/lowest.py      # into .compat/lowest, which is made anew where floors have changed

The newest versions are those of `make test`; this is the other end: torch 2.6, OpenCV 4, Pillow 10 ...
"""

# ruff: noqa: T201

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".compat" / "lowest"
TOOLS = ("pytest>=8", "hypothesis>=6.100", "jsonschema>=4.20")

# What touches other packages most and knows no detector; the adapters' tests marked `compat` come on top.
TESTS = (
    *("tests/test_render.py", "tests/test_images.py", "tests/test_geometry.py", "tests/test_targets.py"),
    *("tests/cam/test_methods.py", "tests/cam/test_capture.py", "tests/metrics", "tests/test_verdicts.py"),
    *("tests/test_checkpoints.py", "tests/test_outputs.py", "tests/test_overlays.py", "tests/test_scenes.py"),
)


def main() -> int:
    """Run all of it; 0 if everything passes."""
    floors = lowest()
    python = environment(floors)
    for command in (["-m", "detcam", "--help"], *demo(), *tests()):
        print(" ".join(command[:4]), flush=True)
        # Away from the checkout, so that what is imported is the wheel's.
        done = subprocess.run([python, "-P", *command], cwd=FOLDER, check=False)
        if done.returncode:
            return done.returncode
    return 0


def lowest() -> list[str]:
    """A constraint for each dependency: its floor, or the last release of that series where it names none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    constraints = []
    for text in project["dependencies"]:
        requirement = Requirement(text)
        (floor,) = (one.version for one in requirement.specifier if one.operator == ">=")
        series = "" if floor.count(".") >= 2 else ".*"
        constraints.append(f"{requirement.name}=={floor}{series}")
    return constraints


def environment(floors: list[str]) -> str:
    """Python of an environment with the wheel and the lowest versions."""
    mark, python = FOLDER / "floors.txt", FOLDER / "bin" / "python"
    text = "\n".join([*floors, *TOOLS, ""])
    if not mark.is_file() or mark.read_text() != text:
        shutil.rmtree(FOLDER, ignore_errors=True)
        venv.create(FOLDER, with_pip=True)
        constraints = FOLDER / "constraints.txt"
        constraints.write_text("\n".join([*floors, ""]))
        pip(python, "install", "--constraint", str(constraints), str(wheel()), *TOOLS)
        mark.write_text(text)
    else:
        pip(python, "install", "--no-deps", "--force-reinstall", str(wheel()))
    return str(python)


def wheel() -> Path:
    """The project's wheel, built anew."""
    folder = FOLDER / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (path,) = folder.glob("detcam-*.whl")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name} sha256 {digest}", flush=True)
    return path


def demo() -> list[list[str]]:
    """The two bundled detectors on the bundled scene, as `make demo` asks."""
    shutil.rmtree(FOLDER / "demo", ignore_errors=True)
    weights = ROOT / "weights"
    return [
        ["-m", "detcam", "explain", str(weights / name), str(weights / "scene.png"), "--project", "demo"]
        for name in ("shapes.pt", "shapes-shortcut.pt")
    ]


def tests() -> list[list[str]]:
    """The tests against the installed wheel; what other packages say about their own past is not ours."""
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", "--rootdir", str(ROOT)]
    command = ["-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options]
    # The letterbox of ultralytics 8.3.0 fails for pictures of a pixel's height, to which ours is compared.
    chosen = ["-m", "not slow", "-k", "not the_pixels_are_the_vendors", *(str(ROOT / path) for path in TESTS)]
    return [[*command, *chosen], [*command, "-m", "compat and not slow", str(ROOT / "tests" / "adapters")]]


def pip(python: str | Path, *arguments: str) -> None:
    """Run pip, quietly unless it fails."""
    subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True
    )


if __name__ == "__main__":
    sys.exit(main())
