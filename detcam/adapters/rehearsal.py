"""A question asked once of nothing: what would fail for every picture fails before a folder is made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from detcam.adapters.base import Detector
from detcam.errors import DetcamError

InputSize = int | tuple[int, int] | None


def rehearse(detector: Detector, imgsz: InputSize, ask: Callable[[np.ndarray, InputSize], object]) -> None:
    """Ask about a small black picture, or one of full size for a network that cannot see small ones.

    Networks of one fixed input size cannot, nor those with more queries than a small input has cells.

    Args:
        detector: whose input sizes count.
        imgsz: as it will be asked for.
        ask: the question, of pixels (H, W, 3) and an input size.

    Raises:
        DetcamError: whatever `ask` raises at the input size that will be used.
    """
    side = 2 * max(detector.strides)
    black = np.zeros((side, side, 3), np.uint8)
    detector.prepare(black, imgsz)
    with suppress(DetcamError, RuntimeError):
        ask(black, side)
        return
    ask(black, imgsz)
