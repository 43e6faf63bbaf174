"""`detcam layers`, `detcam methods`, `detcam inspect` and `detcam doctor`."""

from __future__ import annotations

import sys
from typing import Any

import click

from detcam.cli.exits import EXIT_FAILED
from detcam.cli.options import COUNT, load_model, model_options
from detcam.cli.words import print_rows


@click.command(short_help="List a model's layers.")
@click.argument("model", metavar="MODEL")
@click.option("--imgsz", type=COUNT, metavar="PIXELS", help="Side of the input the windows are measured at.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@model_options
def layers(model: str, imgsz: int | None, as_json: bool, **options: Any) -> None:
    r"""List MODEL's layers: name, kind, stride, shape, set, and how far a box's gradient reaches there.

    \b
    Example:
      detcam layers yolo.pt

    A window is the span, in cells, of the gradient of one prediction of each level in the middle of the
    picture: `total` through everything behind the layer, `direct` with the other layers of its set cut.
    """
    from detcam.windows import describe_layers

    print_rows(describe_layers(load_model(model, options), imgsz), as_json=as_json)


@click.command(short_help="List methods and targets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def methods(as_json: bool) -> None:
    r"""List the CAM methods, the controls and the targets.

    \b
    Example:
      detcam methods
    """
    from detcam.cam.methods import METHODS
    from detcam.targets import TARGETS, summary

    rows = [
        {"kind": "control" if m.is_control else "method", "name": name, "what": m.summary, "source": m.source}
        for name, m in METHODS.items()
    ]
    rows += [{"kind": "target", "name": name, "what": summary(name), "source": ""} for name in TARGETS]
    print_rows(rows, as_json=as_json)


@click.command(name="inspect", short_help="Say what a model file is, without running it.")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def inspect_file(file: str, as_json: bool) -> None:
    r"""Say what FILE is: family, classes, tensors, last convolutions, names that it would import, sha256.

    \b
    Example:
      detcam inspect best.pt

    Nothing in the file runs. A pickle is listed instruction by instruction, and none is carried out.
    """
    from dataclasses import asdict

    from detcam.adapters import inspect
    from detcam.files import json_bytes

    found = inspect(file)
    if as_json:
        click.echo(json_bytes(asdict(found), indent=1))
    else:
        click.echo("\n".join(found.lines()))


@click.command(short_help="Look for what is wrong with this installation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def doctor(as_json: bool) -> None:
    r"""Look at versions, devices, OpenCV packages that overwrite each other, and safe loading.

    \b
    Example:
      detcam doctor

    Nothing is changed. Exits with 1 if something will fail or is unsafe.
    """
    from dataclasses import asdict

    from detcam.doctor import examine
    from detcam.files import json_bytes

    findings = list(examine())
    if as_json:
        click.echo(json_bytes([asdict(one) for one in findings], indent=1))
    else:
        for one in findings:
            click.echo(f"{one.state:8} {one.check:12} {one.found}")
            if one.advice:
                click.echo(f"{'':21} -> {one.advice}")
    if any(one.state == "problem" for one in findings):
        sys.exit(EXIT_FAILED)
