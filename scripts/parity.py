#!/usr/bin/env python3
"""Compare our maps with pytorch-grad-cam's: `make parity`.

    python scripts/parity.py                 # the tests marked `parity`
    python scripts/parity.py -k segmentation # what follows is for pytest
    python scripts/parity.py --benchmark     # benchmarks/against_grad_cam.py instead, likewise
    python scripts/parity.py --speed         # benchmarks/speed.py, likewise

That library depends on opencv-python-headless, which must not lie beside opencv-python. So it is unpacked
without its dependencies into a folder of its own, with those that detcam lacks, and put in front of the
environment's packages for the time of one command; nothing in the environment changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".parity"

RELEASE = "grad-cam>=1.5.7,<1.6"  # the newest; docs/parity.md says what was found in it

# What it imports, and what that imports, as far as detcam does not.
IMPORTED = (
    "torchcam",  # for benchmarks/speed.py
    "ttach",
    "tqdm",
    "scikit-learn",
    "scipy",
    "joblib",
    "threadpoolctl",
    "cloudpickle",
    "narwhals",
)


def main(arguments: list[str]) -> int:
    """Run the tests, or the benchmark; its exit status."""
    if arguments[:1] == ["--benchmark"]:
        command = ["benchmarks/against_grad_cam.py", *arguments[1:]]
    elif arguments[:1] == ["--speed"]:
        command = ["benchmarks/speed.py", *arguments[1:]]
    else:
        command = ["-m", "pytest", "-m", "parity", "-p", "no:cacheprovider", "tests/parity", *arguments]
    paths = [str(unpacked()), os.environ.get("PYTHONPATH", "")]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TQDM_DISABLE": "1"}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False).returncode


def unpacked() -> Path:
    """The folder with the library, brought there unless it is there already."""
    packages = FOLDER / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not packages.is_dir():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            parts = Path(scratch, "parts")
            pip("install", "--no-deps", "--target", str(parts), RELEASE, *IMPORTED)
            # Programs of theirs that nobody asked for.
            shutil.rmtree(parts / "bin", ignore_errors=True)
            parts.rename(packages)
    return packages


def pip(*arguments: str) -> None:
    """Run pip, quietly unless it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    run = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode:
        sys.exit(run.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
