"""A figure for a paper: what explains a row each, a panel a level, one colour bar for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

from detcam.errors import InputError, UnknownNameError
from detcam.explanation.overlay import (
    MERGED,
    Scale,
    Style,
    blended,
    maps_of,
    marks,
    named,
    top_text,
)
from detcam.render import box_outlines
from detcam.render.paper import Panel, PaperBar, PaperFigure, paper_figure

if TYPE_CHECKING:
    from detcam.explanation.core import Explanation


def chosen_rows(
    explanation: Explanation,
    boxes: Sequence[int] | None = None,
    classes: Sequence[int | str] | None = None,
) -> list[Explanation]:
    """What gets a row of its own: each of the boxes, each of the classes; without any, everything together.

    Raises:
        InputError: a box or class is not among the explained ones.
    """
    for box in boxes or ():
        if not 0 <= box < len(explanation):
            have = f"it has 0 to {len(explanation) - 1}" if len(explanation) else "nothing was detected there"
            raise InputError(f"no box {box} in {explanation.picture.stem}: {have}")
    rows = [explanation[box] for box in boxes or ()]
    rows += [explanation.of_class(_explained_class(explanation, name)) for name in classes or ()]
    return rows or [explanation]


def draw_figure(
    rows: Sequence[Explanation], style: Style, *, levels: Sequence[str] | None = None, width: str = "page"
) -> PaperFigure:
    """The photograph with its boxes and a panel a level, row by row, over one colour bar.

    With the scale "image" the bar's end is the largest value of all panels, so that colours can be compared
    between rows. Where a scale gives every box a value of its own, the bar says from where to where they go.

    Args:
        rows: one or more, all of one question and of the same levels.
        style: scale, colour map and opacity.
        levels: keys of `Explanation.levels`, or "merged"; None for all of them.
        width: "column" or "page".

    Raises:
        UnknownNameError: no such level or width.
        InputError: so many panels that they cannot be read, or rows of different questions.
    """
    first = rows[0]
    for row in rows:
        if row.question != first.question:  # one bar cannot be the key to both
            both = (" ".join(map(str, astuple(one.question))) for one in (first, row))
            raise InputError(f"rows of one figure answer one question, got {' and '.join(both)}")
    levels = _default_levels(first) if levels is None else levels
    drawn = replace(style, scale=_over_all(style.scale, rows, levels))
    tops = [top for row in rows for level in levels for top in drawn.scale.tops(row, level)]
    titles = ["photograph", *(_title(first, level) for level in levels)]
    panels = [[_photograph(row), *(_panel(row, drawn, level) for level in levels)] for row in rows]
    return paper_figure(titles, panels, _bar(first, style, tops), width)


def _explained_class(explanation: Explanation, name: int | str) -> int:
    ids: list[int] = sorted(set(explanation.detections.labels.tolist()))
    names = {explanation.class_names[label]: label for label in ids}
    known = names | {str(label): label for label in ids}
    if str(name) not in known:
        raise UnknownNameError(f"explained box in {explanation.picture.stem} of class", str(name), names)
    return known[str(name)]


def _title(explanation: Explanation, level: str) -> str:
    """What to call a level above its panel."""
    if level != MERGED:
        return level
    return "all levels" if explanation.question.merge == "sum" else f"{explanation.finest.level} (finest)"


def _default_levels(explanation: Explanation) -> list[str]:
    """All of them and their sum, if that is none of them."""
    is_another = explanation.question.merge == "sum" and len(explanation.levels) > 1
    return [*explanation.levels, MERGED] if is_another else [*explanation.levels]


def _over_all(scale: Scale, rows: Sequence[Explanation], levels: Sequence[str]) -> Scale:
    """The scale, where it is one value for all boxes taken over everything that is drawn."""
    if scale.kind != "image":
        return scale
    largest = [float(maps_of(row, level).max()) for row in rows if len(row) for level in levels]
    return Scale("fixed", max([0.0, *largest]))


def _photograph(row: Explanation) -> Panel:
    on_it = marks(row, [named(row, box) for box in range(len(row))])
    outlines = box_outlines(on_it.boxes, on_it.corners, row.geometry.image_size)
    return Panel(row.picture.pixels, outlines, on_it.colours, on_it.labels, on_it.dashed)


def _panel(row: Explanation, style: Style, level: str) -> Panel:
    """The map over the picture, boxes as lines only."""
    drawn = blended(row, style, level, style.scale.tops(row, level))
    plain = _photograph(row)
    return replace(plain, image=drawn, labels=[""] * len(plain.labels))


def _bar(explanation: Explanation, style: Style, tops: Sequence[float]) -> PaperBar:
    question = explanation.question
    what = f"{question.method} of {question.target}"
    unit = f" ({question.unit})" if question.unit != question.target else ""
    if not any(tops):
        return PaperBar(style.colormap, None, "", (f"{what}: nothing to show",))
    if len(set(tops)) == 1:
        return PaperBar(style.colormap, tops[0], "", (what + unit,))
    return PaperBar(
        style.colormap,
        None,
        top_text(style.scale),
        (
            what,
            f"full colour from {min(x for x in tops if x):.2g} to {max(tops):.2g}{unit}, by box and level",
        ),
    )
