#!/usr/bin/env python3
"""Test the FiftyOne integration: `make fiftyone`.

FiftyOne depends on opencv-python-headless, which must not lie beside opencv-python. So it gets an environment
of its own that sees this one's packages; nothing in this one changes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".fiftyone"
RELEASE = "fiftyone>=1"


def main(arguments: list[str]) -> int:
    """Run the tests; what follows is for pytest."""
    tests = ["-m", "pytest", "-p", "no:cacheprovider", "tests/integrations/test_fiftyone.py", *arguments]
    return subprocess.run([environment(), *tests], cwd=ROOT, check=False).returncode


def environment() -> Path:
    """The Python of the environment with FiftyOne, made unless it is there already."""
    python = FOLDER / "bin" / "python"
    if not python.is_file():
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".fiftyone-") as scratch:
            made = Path(scratch, "made")
            venv.create(made, with_pip=True)
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            site = made / "lib" / version / "site-packages"
            (site / "detcam.pth").write_text(sysconfig.get_paths()["purelib"])
            install = [made / "bin" / "python", "-m", "pip", "install", "--quiet", RELEASE]
            subprocess.run(install, check=True)
            shutil.move(made, FOLDER)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
