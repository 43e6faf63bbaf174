"""Text on pictures: the font, its size, plates with words on them."""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
SMALLEST = 9  # pixels; below, DejaVu Sans cannot be read
LONGEST = 120  # characters; class names come from strangers' checkpoints


def text_size_for(height: int, width: int) -> int:
    """Font size in pixels that reads well on a picture of (H, W)."""
    return max(SMALLEST, round(0.022 * math.sqrt(height * width)) + 2)


@functools.cache
def font(size: int) -> Font:
    """DejaVu Sans out of matplotlib's data folder, else Pillow's own font, which knows Latin only."""
    spec = importlib.util.find_spec("matplotlib")  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def one_line(text: str) -> str:
    """Clean the text: no line breaks or control characters, at most `LONGEST` characters."""
    printable = "".join(character if character.isprintable() else " " for character in text[: LONGEST + 1])
    return printable if len(printable) <= LONGEST else printable[: LONGEST - 1] + "…"


def text_width(text: str, size: int) -> int:
    """Pixels from the first to behind the last letter."""
    return round(font(size).getlength(text) + 0.5)


def fit(text: str, size: int, room: int, smallest: int = SMALLEST) -> tuple[str, int]:
    """Make a text fit `room` pixels: in a smaller size if that is enough, else shortened with an ellipsis."""
    text = one_line(text)
    while size > smallest and text_width(text, size) > room:
        size -= 1
    if text_width(text, size) <= room:
        return text, size
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return (text + "…" if text else ""), size


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(1.35 * size)


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: Colour) -> None:
    """Write one line; `at` is (x, y) of the left end at half its height."""
    draw.text(at, text, fill=colour, font=font(size), anchor="lm")


def readable_on(background: Colour) -> Colour:
    """Black or white, whichever has the larger WCAG contrast on the background."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Equal contrast to both: (L + 0.05)² = 1.05 · 0.05.
    return BLACK if luminance > 0.179 else WHITE
