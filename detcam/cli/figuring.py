"""`detcam figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from detcam.cli.options import class_option, moved_option, run_argument
from detcam.cli.words import print_paths


def parse_list(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Words between commas; None if nothing was said."""
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise click.BadParameter(f"words between commas are wanted, got {text!r}")
    return words


def parse_numbers(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Whole numbers between commas; None if nothing was said."""
    words = parse_list(context, parameter, text)
    if words is None:
        return None
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(f"numbers between commas are wanted, such as 0,2, got {text!r}")
    return tuple(map(int, words))


@click.command(short_help="Make a figure for a paper of a run.")
@run_argument
@click.argument("pictures", metavar="[PICTURES]...", nargs=-1)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The figure: .pdf, .svg or .png.",
)
@click.option(
    "--boxes",
    callback=parse_numbers,
    metavar="0,2",
    help="Boxes that get a row each, by their numbers in the run, best first from 0.",
)
@class_option("one row shows all boxes")
@click.option(
    "--levels", callback=parse_list, metavar="P3,merged", help="A column each; default: all of the run."
)
@click.option(
    "--width",
    type=click.Choice(["column", "page"]),
    default="page",
    show_default=True,
    help="3.25 or 6.875 inches.",
)
@click.option(
    "--scale",
    help="Full colour is: energy, box, image (one for all panels), level, fixed:VALUE; default: the run's.",
)
@click.option("--colormap", default="inferno", show_default=True, help="inferno, viridis, magma, turbo, jet.")
@moved_option
def figure(run: Path, pictures: tuple[str, ...], output: Path, **options: Any) -> None:
    r"""Make a figure for a paper of PICTURES (all, if none is named) of RUN, which detcam explain wrote.

    \b
    Examples:
      detcam figure runs/explain/run street.jpg --boxes 0,2 --levels P3,P4,merged -o figure.pdf
      detcam figure runs/explain/run --width column --levels merged -o figure.svg

    Each row shows the photograph with its boxes, and a panel a level; all share one colour bar. Fonts are
    embedded as TrueType.
    """
    from detcam.explanation import Scale
    from detcam.report import FigureOptions, write_figure

    wanted = FigureOptions(
        boxes=options["boxes"],
        classes=options["classes"],
        levels=options["levels"],
        width=options["width"],
        scale=None if options["scale"] is None else Scale.parse(options["scale"]),
        colormap=options["colormap"],
    )
    print_paths([write_figure(run, output, wanted, pictures=pictures, images=options["images"])])
