"""Figures for papers: PDF and SVG with panels and one shared colour bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

from detcam.errors import InputError
from detcam.render.colour import UInt8Array, check_image, lookup_table
from detcam.render.sheets import shrink

ONE_COLUMN, TWO_COLUMNS = 3.25, 6.875  # inches, IEEE and CVPR
_DOTS_PER_INCH = 300  # what printers ask of photographs
# Fonts as TrueType (IEEE and arXiv refuse Type 3), ids and dates that do not change from run to run.
_SETTINGS = {"pdf.fonttype": 42, "svg.hashsalt": "detcam", "font.size": 7, "font.family": "DejaVu Sans"}
_NO_DATE: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def figure(
    panels: Sequence[tuple[str, UInt8Array]],
    *,
    colormap: str,
    value_range: tuple[float, float],
    title: str,
    width: float = ONE_COLUMN,
    columns: int | None = None,
    file_format: Literal["pdf", "svg"] = "pdf",
) -> bytes:
    """Set panels and the colour bar they share; the same input gives the same bytes.

    Args:
        panels: (title, (H, W, 3) RGB) each; all were drawn over one range.
        colormap: a name in `COLORMAPS`.
        value_range: the raw values at the bar's two ends.
        title: the bar's caption, such as "class logit".
        width: inches; `ONE_COLUMN` 3.25 or `TWO_COLUMNS` 6.875.
        columns: panels in a row; None puts all in one.
        file_format: "pdf" or "svg".

    Returns:
        The file's bytes.
    """
    from matplotlib import rc_context

    if not panels or file_format not in _NO_DATE:
        raise InputError(
            f"a figure is pdf or svg and needs panels, got {file_format!r}, {len(panels)} panels"
        )
    columns = columns or len(panels)
    with rc_context(_SETTINGS):
        sheet, axes = _empty_sheet(panels, width, columns)
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, round(width / columns * _DOTS_PER_INCH))
        _add_colour_bar(sheet, axes, colormap, value_range, title)
        out = BytesIO()
        sheet.savefig(out, format=file_format, metadata=_NO_DATE[file_format], dpi=_DOTS_PER_INCH)
    return out.getvalue()


def _empty_sheet(panels: Sequence[tuple[str, UInt8Array]], width: float, columns: int) -> tuple[Any, Any]:
    """Make a figure just high enough for its panels, their titles and the colour bar."""
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure and picks a window system

    rows = math.ceil(len(panels) / columns)
    tallest = max(image.shape[0] / image.shape[1] for _, image in panels)
    height = rows * (width / columns * tallest + 0.2) + 0.45
    sheet = Figure(figsize=(width, height), layout="constrained")
    axes = sheet.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return sheet, axes


def _draw_panel(axis: Any, panel: tuple[str, UInt8Array], most_pixels: int) -> None:
    name, image = panel
    check_image(image)
    axis.imshow(shrink(image, most_pixels), interpolation="none")
    axis.set_title(name, pad=2, parse_math=False)  # a dollar in a class name is a dollar"


def _add_colour_bar(
    sheet: Any, axes: Any, colormap: str, value_range: tuple[float, float], title: str
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap(lookup_table(colormap) / 255, name=colormap)
    mappable = ScalarMappable(Normalize(*value_range), colours)
    bar = sheet.colorbar(mappable, ax=axes, location="bottom", fraction=0.05, aspect=40, pad=0.02)
    bar.set_label(title, labelpad=1, parse_math=False)
    bar.ax.tick_params(length=2, pad=1)
