"""Where the real weights are, and others kept from the home folder, the network and installing packages."""

import os
import tempfile
from pathlib import Path

import pytest

# Set here and not in a fixture: they are read when a package is first imported, maybe during collection.
_vendor_settings = tempfile.TemporaryDirectory(prefix="detcam-tests-")
os.environ["YOLO_CONFIG_DIR"] = _vendor_settings.name
os.environ["YOLO_AUTOINSTALL"] = "false"
for _name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
    os.environ[f"WANDB_{_name}"] = _vendor_settings.name
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same sums on every machine


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and photographs; see DETCAM_ASSETS in the contributor's guide."""
    beside = Path(__file__).parents[2] / "shared" / "assets"
    folder = Path(os.environ.get("DETCAM_ASSETS", beside))
    if not folder.is_dir():
        pytest.skip(f"no real weights: {folder} does not exist and DETCAM_ASSETS names no other place")
    return folder
