"""Stacks of raw values as tiles: channels of a layer, weights of a convolution. Zero keeps its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from detcam.errors import InputError, ShapeError, UnknownNameError
from detcam.render.colour import DIVERGING, GREY, UInt8Array, check_map, colourise
from detcam.render.sheets import contact_sheet, with_colour_bar

TileScale = Literal["channel", "shared"]
TILE_SCALES = ("channel", "shared")
MOST_TILES = 256
_SIDES = ((36, 192), (100, 128), (MOST_TILES, 96))  # up to so many tiles, so many pixels a side
_MATRIX_SIDE = 1024


@dataclass(frozen=True)
class ColourKey:
    """What colour a value gets: linear from zero on, the same on both sides of it.

    Attributes:
        top: the absolute value that is drawn in full; 0 where there is nothing but zeros.
        is_signed: whether values below zero are told apart (-top..top) or there are none (0..top).
        colormap: a key of `COLORMAPS`, `DIVERGING` or `GREY`.
    """

    top: float
    is_signed: bool
    colormap: str

    @classmethod
    def of(cls, values: npt.NDArray[Any], *, grey: bool = False, colormap: str = "inferno") -> ColourKey:
        """The key that shows all of `values`: diverging if any is below zero, else from zero upwards."""
        is_signed = bool((values < 0).any())
        table = GREY if grey else DIVERGING if is_signed else colormap
        return cls(float(np.abs(values).max()), is_signed, table)

    def paint(self, values: npt.NDArray[Any]) -> UInt8Array:
        """Colour raw values: (h, w) -> (h, w, 3) RGB.

        Raises:
            ShapeError: the values are not (h, w).
            InputError: they hold NaN or infinity.
        """
        check_map(values)
        full = values.astype(np.float64) / (self.top or 1.0)
        position = (full + 1) / 2 if self.is_signed else full
        return colourise(position.clip(0, 1).astype(np.float32), self.colormap)

    @property
    def reach(self) -> str:
        """How far the colours reach, in few letters: "±0.31", or "2.4" where nothing is below zero."""
        return f"{'±' if self.is_signed else ''}{self.top:.2g}"

    @property
    def ends(self) -> tuple[str, str]:
        """The values at the two ends of a colour bar."""
        return (f"-{self.top:.3g}" if self.is_signed else "0"), f"{self.top:.3g}"


@dataclass(frozen=True)
class TileStyle:
    """How the tiles of a stack are coloured.

    Attributes:
        scale: "channel": each tile by its own largest absolute value, which is written over it. "shared":
            all by the largest of the whole stack.
        grey: whether in shades of grey: black to white, or with negative values, mid-grey is zero.
        colormap: for stacks without negative values, a key of `COLORMAPS`.
    """

    scale: TileScale = "channel"
    grey: bool = False
    colormap: str = "inferno"

    def __post_init__(self) -> None:
        if self.scale not in TILE_SCALES:
            raise UnknownNameError("scale", self.scale, TILE_SCALES)

    def keys(self, stack: npt.NDArray[Any], rows: Sequence[int]) -> list[ColourKey]:
        """The key of each of the tiles `rows` of a stack (n, h, w); signed or not is the same for all.

        Raises:
            ShapeError: the stack is not (n, h, w).
            InputError: it holds NaN or infinity.
        """
        if stack.ndim != 3 or not stack.size:
            raise ShapeError(f"a stack of tiles must be (n, h, w), got {stack.shape}")
        if not np.isfinite(stack).all():
            raise InputError(f"values must be finite, got {int((~np.isfinite(stack)).sum())} NaN or infinite")
        whole = ColourKey.of(stack, grey=self.grey, colormap=self.colormap)
        if self.scale == "shared":
            return [whole] * len(rows)
        return [ColourKey(float(np.abs(stack[r]).max()), whole.is_signed, whole.colormap) for r in rows]


def tile_sheet(
    stack: npt.NDArray[Any], rows: Sequence[int], titles: Sequence[str], style: TileStyle, caption: str
) -> UInt8Array:
    """A contact sheet of some tiles of a stack with the key to their colours, (H, W, 3) RGB.

    Args:
        stack: (n, h, w) raw values; all of them set the shared scale, shown or not.
        rows: which to show, in that order; at most `MOST_TILES`.
        titles: of the tiles shown.
        style: scale and colours.
        caption: under the colour bar.

    Raises:
        ShapeError: the stack is not (n, h, w).
        InputError: it holds NaN or infinity, or no tile or too many are to be shown.
    """
    _check_count(len(rows))
    keys = style.keys(stack, rows)
    is_shared = style.scale == "shared"
    if not is_shared:
        titles = [f"{title}  {key.reach}" for title, key in zip(titles, keys, strict=True)]
    side = _side(len(rows))
    tiles = [
        (title, key.paint(_shrunk(stack[row], side)))
        for title, row, key in zip(titles, rows, keys, strict=True)
    ]
    low, high = keys[0].ends if is_shared else ("−max" if keys[0].is_signed else "0", "max of each")
    sheet = contact_sheet(tiles, tile_side=side, numbered=False)
    return with_colour_bar(sheet, keys[0].colormap, low, high, caption)


def colour_kernel_sheet(
    kernels: npt.NDArray[Any], rows: Sequence[int], titles: Sequence[str], caption: str
) -> UInt8Array:
    """A contact sheet of kernels that look at colours, all on one scale around mid-grey, (H, W, 3) RGB.

    Args:
        kernels: (n, 3, h, w) weights of red, green and blue; all of them set the scale, shown or not.
        rows: which to show, in that order; at most `MOST_TILES`.
        titles: of the kernels shown.
        caption: under the bar.

    Raises:
        ShapeError: they are not (n, 3, h, w).
        InputError: they hold NaN or infinity, or none or too many are to be shown.
    """
    if kernels.ndim != 4 or kernels.shape[1] != 3:
        raise ShapeError(f"kernels of colours must be (n, 3, h, w), got {kernels.shape}")
    _check_count(len(rows))
    (whole,) = TileStyle("shared").keys(kernels.reshape(-1, *kernels.shape[2:]), [0])
    grey = ColourKey(whole.top, is_signed=True, colormap=GREY)
    tiles = [
        (title, np.stack([grey.paint(channel)[..., 0] for channel in kernels[row]], axis=-1))
        for title, row in zip(titles, rows, strict=True)
    ]
    sheet = contact_sheet(tiles, tile_side=_side(len(rows)), numbered=False)
    return with_colour_bar(sheet, GREY, *grey.ends, f"{caption} · red, green, blue: dark to bright")


def matrix_sheet(matrix: npt.NDArray[Any], title: str, caption: str) -> UInt8Array:
    """A matrix, a pixel or more for each entry, with the key to its colours, (H, W, 3) RGB.

    Raises:
        ShapeError: it is not (rows, columns).
        InputError: it holds NaN or infinity.
    """
    check_map(matrix)
    key = ColourKey.of(matrix)
    side = max(_MATRIX_SIDE, *matrix.shape)
    sheet = contact_sheet([(title, key.paint(matrix))], tile_side=side, numbered=False)
    return with_colour_bar(sheet, key.colormap, *key.ends, caption)


def _check_count(tiles: int) -> None:
    if not 0 < tiles <= MOST_TILES:
        raise InputError(f"a sheet shows 1 to {MOST_TILES} tiles, got {tiles}")


def _side(tiles: int) -> int:
    return next(side for count, side in _SIDES if tiles <= count)


def _shrunk(values: npt.NDArray[Any], longest_side: int) -> npt.NDArray[Any]:
    """Values averaged over a coarser grid where theirs is finer than a tile; colours never are."""
    height, width = values.shape
    factor = longest_side / max(height, width)
    if factor >= 1:
        return values
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA))
