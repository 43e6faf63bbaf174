"""What surrounds a picture: the colour bar, and sheets of many pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from detcam.errors import InputError
from detcam.render.colour import UInt8Array, check_image, colourise
from detcam.render.text import (
    BLACK,
    WHITE,
    Colour,
    fit,
    line_height,
    one_line,
    text_size_for,
    text_width,
    write,
)

GREY: Colour = (120, 120, 120)
NARROWEST = 240  # pixels: on less, no sentence can be read


def with_colour_bar(
    image: UInt8Array, colormap: str, low_text: str, high_text: str, title: str
) -> UInt8Array:
    """Put the key to the colours under a picture.

    The picture keeps its place in the top left corner, so that coordinates stay true; a sheet narrower
    than 240 pixels is widened to the right for the sake of the text.

    Args:
        image: (H, W, 3) RGB.
        colormap: a name in `COLORMAPS`.
        low_text: what the left end means, such as "0".
        high_text: what the right end means, such as "0.0123".
        title: what is measured and how it was scaled, such as "class logit · scale: box".
    """
    check_image(image)
    height, width = image.shape[:2]
    size = text_size_for(height, max(width, NARROWEST))
    strip = _key(colormap, (one_line(low_text), one_line(high_text), title), size, max(width, NARROWEST))
    sheet = Image.new("RGB", (strip.width, height + strip.height), WHITE)
    sheet.paste(Image.fromarray(image), (0, 0))
    sheet.paste(strip, (0, height))
    return np.array(sheet)


def contact_sheet(
    tiles: Sequence[tuple[str, UInt8Array]],
    columns: int | None = None,
    tile_side: int = 320,
    *,
    numbered: bool = True,
) -> UInt8Array:
    """Lay pictures out in titled tiles, row by row.

    Args:
        tiles: (title, (H, W, 3) RGB) each. A larger picture is shrunk; a smaller one, such as a feature
            map, is magnified by a whole number with its cells left sharp.
        columns: tiles in a row; None takes up to four in one row, more as a square.
        tile_side: pixels a tile's longer side has at most.
        numbered: whether tiles are counted from 1 in front of their titles.

    Raises:
        InputError: no tiles, or no columns.
    """
    if not tiles or (columns is not None and columns < 1):
        raise InputError(f"a sheet needs tiles and columns, got {len(tiles)} tiles and columns = {columns}")
    columns = columns or (len(tiles) if len(tiles) <= 4 else math.ceil(math.sqrt(len(tiles))))
    fitted = [_fit_tile(image, tile_side) for _, image in tiles]
    cell = (max(tile.shape[0] for tile in fitted), max(tile.shape[1] for tile in fitted))
    size = text_size_for(*cell) + 2
    gap, header = size // 2, line_height(size)
    step = (cell[0] + header + gap, cell[1] + gap)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (gap + columns * step[1], gap + rows * step[0]), WHITE)
    draw = ImageDraw.Draw(sheet)
    for index, ((title, _), tile) in enumerate(zip(tiles, fitted, strict=True)):
        left, top = gap + index % columns * step[1], gap + index // columns * step[0]
        text, text_size = fit(f"{index + 1}  {title}" if numbered else title, size, cell[1])
        write(draw, (left, top + header / 2), text, text_size, BLACK)
        sheet.paste(Image.fromarray(tile), (left, top + header))
    return np.array(sheet)


def shrink(image: UInt8Array, longest_side: int) -> UInt8Array:
    """Make a picture smaller if it must be, so that no side is longer than `longest_side`."""
    height, width = image.shape[:2]
    factor = longest_side / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def magnify(image: UInt8Array, longest_side: int) -> UInt8Array:
    """Make a picture larger by the largest whole number that fits `longest_side`, its pixels left sharp."""
    factor = max(1, longest_side // max(image.shape[:2]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _fit_tile(image: UInt8Array, tile_side: int) -> UInt8Array:
    check_image(image)
    return magnify(shrink(image, tile_side), tile_side)


def _key(colormap: str, texts: tuple[str, str, str], size: int, width: int) -> Image.Image:
    """Draw the bar with five ticks, its two ends named, the title between them or in a line of its own."""
    low, high, title = texts
    edge, line = size // 2, line_height(size)
    ends = 2 * edge + text_width(low, size) + text_width(high, size)
    # The title stands in the middle, so the longer end decides whether there is room for it.
    longer = max(text_width(low, size), text_width(high, size))
    is_one_line = 2 * (edge + longer) + text_width(one_line(title), size) + 4 * edge <= width
    title, title_size = fit(title, size, width - 2 * edge)
    width = max(width, ends + size)
    text_top = edge + size + size // 3
    strip = Image.new("RGB", (width, text_top + (1 if is_one_line else 2) * line + edge // 2), WHITE)
    draw = ImageDraw.Draw(strip)
    _draw_bar(strip, draw, colormap, (edge, edge, width - edge, edge + size))
    middle = text_top + line / 2
    write(draw, (edge, middle), low, size, BLACK)
    write(draw, (width - edge - text_width(high, size), middle), high, size, BLACK)
    title_at = ((width - text_width(title, title_size)) / 2, middle + (0 if is_one_line else line))
    write(draw, title_at, title, title_size, BLACK)
    return strip


def _draw_bar(
    strip: Image.Image, draw: ImageDraw.ImageDraw, colormap: str, frame: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = frame
    ramp = np.linspace(0, 1, right - left, dtype=np.float32)[None].repeat(bottom - top, axis=0)
    strip.paste(Image.fromarray(colourise(ramp, colormap)), (left, top))
    for quarter in range(5):
        x = left + round((right - left - 1) * quarter / 4)
        draw.line((x, bottom, x, bottom + (bottom - top) // 3), fill=GREY)
