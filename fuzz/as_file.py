"""Bytes as a file: what reads files is tried through the door that everybody uses."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path

_FOLDER = tempfile.TemporaryDirectory(prefix="detcam-fuzz-")
atexit.register(_FOLDER.cleanup)


def as_file(name: str, data: bytes) -> Path:
    """Write a file, the same one each time, and give its path."""
    path = Path(_FOLDER.name, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path
