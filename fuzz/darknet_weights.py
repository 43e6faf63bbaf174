"""Darknet's `.weights`, for the description of a small network."""

from __future__ import annotations

from contextlib import suppress

import darknet_cfg
import numpy as np
from as_file import as_file

import detcam
from detcam.adapters import inspect
from detcam.errors import DetcamError

_NUMBERS = 4 * (4 + 27) + 14 * (1 + 4)  # β, γ, μ, σ² and 3·3·3 weights of 4 filters; bias and 4 of 14


def seeds() -> list[bytes]:
    """Both lengths of header."""
    body = np.full(_NUMBERS, 0.5, "<f4").tobytes()
    return [np.array(head, "<i4").tobytes() + body for head in ((0, 2, 5, 0, 0), (0, 1, 0, 0))]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    path = as_file("net.weights", data)
    with suppress(DetcamError):
        inspect(path)
    with suppress(DetcamError):
        detcam.load(path, device="cpu", cfg=as_file("net.cfg", darknet_cfg.TINY.encode()))
