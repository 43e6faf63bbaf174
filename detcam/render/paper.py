"""Figures for papers: rows of panels over one colour bar, as wide as a column or page, with text as text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure  # not pyplot, which keeps every figure and picks a window system
from matplotlib.patches import Polygon, Rectangle

from detcam.errors import InputError, UnknownNameError
from detcam.render.boxes import Lettering, Outline, PlacedLabel, place_labels
from detcam.render.colour import UInt8Array, check_image, lookup_table
from detcam.render.sheets import shrink
from detcam.render.text import Colour, fit, readable_on

WIDTHS = {"column": 3.25, "page": 6.875}  # inches, IEEE and CVPR
FORMATS = ("pdf", "svg", "png")

_DOTS_PER_INCH = 300  # what printers ask of photographs
# Fonts as TrueType (IEEE and arXiv refuse Type 3), ids and dates that do not change from run to run.
_SETTINGS = {
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "detcam",
    "font.family": "DejaVu Sans",
}
_NO_DATE: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}

# All in points; inside a panel in tenths, so that whole numbers are fine enough.
_INCH, _TENTHS = 72, 10
_TEXT, _LABEL, _SMALLEST_TEXT = 7, 6, 5  # below 5 points, print cannot be read
_EDGE, _GAP, _LINE = 2, 3, 9
_BAR, _LINE_WIDTH, _DASHES = 6, 0.8, (2, 1.5)
_NARROWEST, _HIGHEST = 18, 200 * _INCH  # of a panel, a quarter of an inch; no PDF page may be higher


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture with boxes as lines, and labels if it has any.

    Attributes:
        image: (H, W, 3) RGB.
        outlines: of M boxes, corner points (x, y) in the picture's pixels.
        colours: M RGB triples.
        labels: M texts; an empty one is not drawn.
        dashed: M flags, which boxes are dashed: those that are no detections.
    """

    image: UInt8Array
    outlines: Sequence[Outline]
    colours: Sequence[Colour]
    labels: Sequence[str]
    dashed: Sequence[bool]


@dataclass(frozen=True)
class PaperBar:
    """The key to the colours of all panels.

    Attributes:
        colormap: a name in `COLORMAPS`.
        top: the raw value drawn in full colour in every panel; None where panels differ.
        top_text: what the end of the bar says then, such as "top tenth".
        caption: lines under the bar.
    """

    colormap: str
    top: float | None
    top_text: str
    caption: tuple[str, ...]


class PaperFigure(Figure):
    """A matplotlib figure whose PDFs embed their fonts as TrueType and whose SVGs keep text as text."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's, with 300 dots per inch if nothing else is said."""
        with rc_context(_SETTINGS), warnings.catch_warnings():
            # A class name in a script that the font lacks shows boxes there, as on the overlay.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            super().savefig(fname, **{"dpi": _DOTS_PER_INCH, **options})

    def encoded(self, file_format: str) -> bytes:
        """The file's bytes, "pdf", "svg" or "png"; the same figure gives the same bytes."""
        out = BytesIO()
        self.savefig(out, format=file_format, metadata=_NO_DATE[file_format])
        return out.getvalue()

    def _repr_png_(self) -> bytes:
        return self.encoded("png")


def paper_format(path: Path) -> str:
    """What a file's ending asks for.

    Raises:
        InputError: another ending than .pdf, .svg and .png.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise InputError(f"a figure ends in .{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}, got {path.name!r}")
    return ending


def paper_figure(
    titles: Sequence[str], rows: Sequence[Sequence[Panel]], bar: PaperBar, width: str
) -> PaperFigure:
    """Set rows of panels, the titles above the first one, and the colour bar they share.

    Args:
        titles: of the columns.
        rows: a panel for each title; the pictures of a row have one size.
        bar: the key to the colours.
        width: a key of `WIDTHS`.

    Raises:
        UnknownNameError: no such width.
        InputError: no panels, or so many that they cannot be read or that no page holds them.
    """
    if width not in WIDTHS:
        raise UnknownNameError("width", width, WIDTHS)
    if not rows or not titles:
        raise InputError(f"a figure needs panels, got {len(rows)} rows of {len(titles)}")
    across = WIDTHS[width] * _INCH
    side = (across - 2 * _EDGE - (len(titles) - 1) * _GAP) / len(titles)
    heights = [side * row[0].image.shape[0] / row[0].image.shape[1] for row in rows]
    foot = _GAP + _BAR + _LINE * (1 + len(bar.caption)) + _EDGE
    down = _LINE + _GAP + sum(heights) + _GAP * (len(rows) - 1) + _GAP + foot
    _check_room(len(titles), side, down, width)
    with rc_context(_SETTINGS):
        sheet = PaperFigure(figsize=(across / _INCH, down / _INCH))
        place = partial(_axis, sheet, (across, down))
        top = _LINE + _GAP
        for row, height in zip(rows, heights, strict=True):
            for column, panel in enumerate(row):
                axis = place((_EDGE + column * (side + _GAP), top, side, height))
                _draw_panel(axis, panel, (side, height))
                if row is rows[0]:
                    _write_title(axis, titles[column], side)
            top += height + _GAP
        _draw_bar(place((2 * _EDGE, top + _GAP, across - 4 * _EDGE, _BAR)), bar, across)
    return sheet


def _check_room(columns: int, side: float, down: float, width: str) -> None:
    if side < _NARROWEST:
        raise InputError(
            f"{columns} panels beside each other do not fit {WIDTHS[width]} inches: ask for fewer levels"
            + (", or the width page" if width == "column" else "")
        )
    if down > _HIGHEST:
        raise InputError(
            f"the figure would be {down / _INCH:.0f} inches high, no page may pass {_HIGHEST // _INCH}: "
            "ask for fewer pictures or boxes"
        )


def _axis(sheet: Any, size: tuple[float, float], place: tuple[float, float, float, float]) -> Any:
    """An empty axis at (left, top, width, height) in points, from the sheet's top left corner."""
    (across, down), (left, top, width, height) = size, place
    axis = sheet.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis


def _draw_panel(axis: Any, panel: Panel, size: tuple[float, float]) -> None:
    """The picture, lines and labels in an axis whose unit is a tenth of a point."""
    image = panel.image
    check_image(image)
    width, height = (round(side * _TENTHS) for side in size)
    most_pixels = round(max(size) / _INCH * _DOTS_PER_INCH)
    axis.imshow(shrink(image, most_pixels), interpolation="none", extent=(0, width, height, 0), aspect="auto")
    across, down = width / image.shape[1], height / image.shape[0]
    outlines = [[(x * across, y * down) for x, y in points] for points in panel.outlines]
    for points, colour, is_dashed in zip(outlines, panel.colours, panel.dashed, strict=True):
        _draw_outline(axis, points, colour, is_dashed=is_dashed)
    lettering = Lettering(_LABEL * _TENTHS, _TENTHS, _SMALLEST_TEXT * _TENTHS)
    placed = place_labels(outlines, panel.labels, (height, width), lettering)
    for label, colour in zip(placed, panel.colours, strict=True):
        if label is not None:
            _write_label(axis, label, colour)


def _draw_outline(axis: Any, points: Outline, colour: Colour, *, is_dashed: bool) -> None:
    """A bright line on a dark rim, which is seen on any ground."""
    for line_colour, points_wide in (("black", _LINE_WIDTH + 0.6), (_rgb(colour), _LINE_WIDTH)):
        # matplotlib measures dashes in widths of their line
        dashes = (0, [length / points_wide for length in _DASHES]) if is_dashed else "-"
        axis.add_patch(
            Polygon(
                points,
                fill=False,
                edgecolor=line_colour,
                linewidth=points_wide,
                linestyle=dashes,
                joinstyle="miter",
            )
        )


def _write_label(axis: Any, label: PlacedLabel, colour: Colour) -> None:
    plate, size = label.plate, label.size
    axis.add_patch(
        Rectangle(
            (plate.left, plate.top),
            plate.right - plate.left,
            plate.bottom - plate.top,
            facecolor=_rgb(colour),
            edgecolor="none",
        )
    )
    middle = (plate.top + plate.bottom) / 2
    axis.text(
        plate.left + _TENTHS,
        middle + 0.365 * size,  # half the height of DejaVu's capitals
        label.text,
        size=size / _TENTHS,
        color=_rgb(readable_on(colour)),
        parse_math=False,  # a dollar in a class name is a dollar
    )


def _write_title(axis: Any, title: str, room: float) -> None:
    text, size = fit(title, _TEXT * _TENTHS, round(room * _TENTHS), _SMALLEST_TEXT * _TENTHS)
    axis.set_title(text, pad=_GAP, size=size / _TENTHS, parse_math=False)


def _draw_bar(axis: Any, bar: PaperBar, across: float) -> None:
    """The bar, its ends and middle named below it, and what it means below these."""
    axis.imshow(lookup_table(bar.colormap)[None], extent=(0, 1, 0, 1), aspect="auto", interpolation="none")
    texts = [(0.0, "0", "left"), (1.0, bar.top_text if bar.top is None else f"{bar.top:.3g}", "right")]
    if bar.top is not None:
        texts.append((0.5, f"{bar.top / 2:.3g}", "center"))
    axis.set_xticks([position for position, *_ in texts])
    axis.tick_params(length=2, width=0.5, pad=1)
    axis.set_xticklabels([])
    for position, text, side in texts:
        _write_below(axis, position, text, 0, side, _TEXT)
    room = round((across - 4 * _EDGE) * _TENTHS)
    for number, line in enumerate(bar.caption, start=1):
        text, size = fit(line, _TEXT * _TENTHS, room, _SMALLEST_TEXT * _TENTHS)
        _write_below(axis, 0.5, text, number, "center", size / _TENTHS)


def _write_below(axis: Any, position: float, text: str, line: int, side: str, size: float) -> None:
    axis.annotate(
        text,
        (position, 0),
        xycoords="axes fraction",
        xytext=(0, -3 - line * _LINE),
        textcoords="offset points",
        ha=side,
        va="top",
        size=size,
        parse_math=False,
    )


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
