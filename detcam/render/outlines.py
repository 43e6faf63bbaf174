"""Outlines of parts of a picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from detcam.errors import ShapeError
from detcam.render.colour import UInt8Array, check_image
from detcam.render.text import BLACK, Colour


def draw_outline(image: UInt8Array, mask: npt.NDArray[np.bool_], colour: Colour) -> UInt8Array:
    """A copy of a picture with the borders of a part drawn, holes too, on a black line that shows everywhere.

    Args:
        image: (H, W, 3) RGB.
        mask: (H, W), the part.
        colour: of the line, RGB.

    Raises:
        ShapeError: picture and mask differ in size.
    """
    check_image(image)
    if mask.shape != image.shape[:2]:
        raise ShapeError(f"mask and picture must be of one size, got {mask.shape} and {image.shape[:2]}")
    drawn = image.copy()
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for line, width in ((BLACK, 3), (colour, 1)):
        cv2.drawContours(drawn, borders, -1, line, width)
    return drawn
