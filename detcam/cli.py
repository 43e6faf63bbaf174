"""The command line: parses, calls one library function, prints. The only file that prints and exits.

Nothing heavier than click is imported before a command needs it: `--help` is instant.
"""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from detcam import __version__
from detcam.errors import DetcamError, UnsafeCheckpointError

if TYPE_CHECKING:
    from detcam.adapters import Detector
    from detcam.explainer import Explainer
    from detcam.runner import Row

_COUNT, _SHARE = click.IntRange(min=1), click.FloatRange(0, 1)
EXIT_FAILED, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130


class _DetectFirst(click.Group):
    """Lists commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_DetectFirst, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="detcam")
@click.option("--debug", is_flag=True, help="Show tracebacks. May stand anywhere.")
def cli(debug: bool) -> None:
    r"""Show why an object detector fired: heatmaps per box, per class and per level.

    \b
    Example:
      detcam explain yolo.pt street.jpg --class person
    """


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--unsafe-load", is_flag=True, help="Run whatever the checkpoint says. Only for your own files."
        ),
        click.option(
            "--allow-global",
            "allow_globals",
            multiple=True,
            metavar="NAME",
            help="A class in the checkpoint that may be imported and run: lab.blocks.CBAM. Repeatable.",
        ),
        click.option("--layout", metavar="NAME", help="Layout of the head's tensors; see docs/adapters.md."),
        click.option("--arch", metavar="NAME", help="A torchvision builder: fasterrcnn_resnet50_fpn_v2."),
        click.option("--anchors", metavar="PAIRS", help='In input pixels, level by level: "10,13 16,30 …".'),
        click.option("--num-classes", type=int, metavar="N", help="To settle or check what the weights say."),
        click.option(
            "--names", metavar="FILE", help="Class names: .names, .txt, data.yaml, or cat,dog,bird."
        ),
        click.option("--cfg", metavar="PATH", help="Darknet's .cfg for its .weights."),
        click.option(
            "--branch",
            type=click.Choice(["one2many", "one2one"]),
            help="Of a head with two; default: its own.",
        ),
        click.option(
            "--device", metavar="DEVICE", help="cpu, 0, cuda:1 …; default: the first GPU, else the CPU."
        ),
    ):
        command = option(command)
    return command


@cli.command(short_help="Explain the detections in pictures.")
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--class", "classes", multiple=True, metavar="CLASS", help="Class id or name. Repeatable; default: all."
)
@click.option("--conf", type=_SHARE, default=0.25, show_default=True, help="Lowest score.")
@click.option(
    "--iou",
    type=_SHARE,
    help="Overlap at which the weaker box of a class goes; default: the model's own, 0.7 for ultralytics.",
)
@click.option(
    "--imgsz", type=_COUNT, metavar="PIXELS", help="Largest side of the input; default: as trained."
)
@click.option("--max-det", type=_COUNT, default=300, show_default=True, help="Detections per picture.")
@click.option(
    "--max-boxes", type=_COUNT, default=16, show_default=True, help="Boxes explained per picture, best first."
)
@click.option("--method", default="layer-cam", show_default=True, help="See `detcam methods`.")
@click.option(
    "--layers", default="backbone", show_default=True, help="backbone, neck, head, or names: model.4,model.9"
)
@click.option(
    "--target", default="class-logit", show_default=True, help="What is explained; see `detcam methods`."
)
@click.option(
    "--path",
    "gradient_path",
    type=click.Choice(["direct", "total"]),
    default="direct",
    show_default=True,
    help="Gradients of several layers: adding up, or through the deeper captured ones too.",
)
@click.option(
    "--scale", default="box", show_default=True, help="Full colour is: box, image, level, or fixed:VALUE."
)
@click.option("--colormap", default="inferno", show_default=True, help="inferno, viridis, magma, turbo, jet.")
@click.option(
    "--save",
    "extras",
    multiple=True,
    metavar="WHAT",
    help="Also write: levels, boxes, maps, features, figure. Repeatable.",
)
@click.option("--half", is_flag=True, help="Store arrays in float16.")
@click.option(
    "--batch", type=_COUNT, default=1, show_default=True, help="Pictures of one size per forward pass."
)
@click.option("--project", default="runs/explain", show_default=True, help="Folder of runs.")
@click.option(
    "--name", default="run", show_default=True, help="Folder of this run; -2, -3 … is added if taken."
)
@click.option("--exist-ok", is_flag=True, help="Write into the folder even if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of paths.")
@_model_options
def explain(model: str, images: tuple[str, ...], **options: Any) -> None:
    r"""Explain why MODEL fired on IMAGES (files, folders or globs).

    \b
    Examples:
      detcam explain yolo.pt street.jpg --class 0
      detcam explain yolo.pt photos/ --class person --class bus --save levels

    Writes an overlay, the raw maps (.npz) and a description (.json) for each picture, and prints their
    paths. Finding nothing is success.
    """
    from detcam.files import json_bytes
    from detcam.runner import run, write_manifest

    explainer, paths, save_options = _prepare_explain(model, images, options)
    folder = _run_folder(options)
    write_manifest(folder, explainer, save_options, ["detcam", *(click.get_current_context().obj or ())])
    rows = []
    for row in run(explainer, paths, folder, save_options, batch=options["batch"]):
        rows.append(row.record())
        _report(row, explainer)
        if not options["as_json"]:
            for path in row.files:
                click.echo(os.fsencode(path))
    if options["as_json"]:
        click.echo(json_bytes({"run": str(folder.path), "images": rows}, indent=1))
    failed = sum(row["status"] == "error" for row in rows)
    if failed:
        _say(f"{failed} of {len(rows)} pictures failed; see {folder.path / 'index.jsonl'}")
        sys.exit(EXIT_SOME_FAILED)


def _prepare_explain(
    model: str, images: tuple[str, ...], options: dict[str, Any]
) -> tuple[Explainer, list[Path], Any]:
    """Check everything that can be wrong before a folder is made; cheap checks before the model."""
    from detcam.explanation import SaveOptions, Scale, Style
    from detcam.images import find_pictures, read_picture

    style = Style(Scale.parse(options["scale"]), options["colormap"])
    save_options = SaveOptions(style, options["extras"], options["half"])
    paths = find_pictures(images)
    if len(paths) == 1:
        read_picture(paths[0])  # a single picture that cannot be read leaves no folder behind
    detector = _load(model, options)
    from detcam.explainer import Explainer, ExplainOptions

    explain_options = ExplainOptions(
        classes=options["classes"] or None,
        conf=options["conf"],
        iou=options["iou"],
        max_det=options["max_det"],
        imgsz=options["imgsz"],
        max_boxes=options["max_boxes"],
        method=options["method"],
        layers=options["layers"],
        target=options["target"],
        path=options["gradient_path"],
        keep_features="features" in options["extras"],
    )
    explainer = Explainer.of(detector, explain_options)
    explainer.rehearse()
    return explainer, paths, save_options


def _run_folder(options: dict[str, Any]) -> Any:
    from detcam.outputs import RunFolder

    return RunFolder.create(Path(options["project"]), options["name"], exist_ok=options["exist_ok"])


def _report(row: Row, explainer: Explainer) -> None:
    """Say on stderr what was explained: class, score, box, level, layers, method, target."""
    explanation, question = row.explanation, explainer.question
    if explanation is None:
        _say(f"{row.source}: {row.error}")
        return
    layers = " ".join(f"{layer.level}={layer.module}" for layer in explanation.layers)
    how = f"{question.method} of {question.target}, {layers}, {question.path}"
    _say(f"{row.source}: {len(explanation)} boxes, {how}")
    for box in range(len(explanation)):
        x1, y1, x2, y2 = explanation.detections.boxes[box].tolist()
        evidence = " ".join(
            f"{level} {_percent(shares[box])}" for level, shares in explanation.shares.items()
        )
        _say(
            f"  b{box:03d} {explanation.label(box)} at {x1:.0f},{y1:.0f},{x2:.0f},{y2:.0f}"
            f" predicted at {explanation.deciding[box]}; evidence {evidence}"
        )
    if not len(explanation):
        _say(f"  nothing found: {_nothing_found(explanation.detections.best_score, explainer.options.conf)}")
    for warning in explanation.warnings:
        _say(f"  {warning}")


def _nothing_found(best: float, conf: float) -> str:
    if not best:
        return "no candidate, however weak, is most like a class that was asked for"
    return f"best score {best:.2g} <= {conf:g}, try --conf {best * 0.9:.2g}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


@cli.command(short_help="List a model's layers.")
@click.argument("model", metavar="MODEL")
@click.option("--imgsz", type=_COUNT, metavar="PIXELS", help="Side of the input the windows are measured at.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@_model_options
def layers(model: str, imgsz: int | None, as_json: bool, **options: Any) -> None:
    r"""List MODEL's layers: name, kind, stride, shape, set, and how far a box's gradient reaches there.

    \b
    Example:
      detcam layers yolo.pt

    A window is the span, in cells, of the gradient of one prediction of each level in the middle of the
    picture: `total` through everything behind the layer, `direct` with the other layers of its set cut.
    """
    from detcam.windows import describe_layers

    _print_rows(describe_layers(_load(model, options), imgsz), as_json=as_json)


@cli.command(short_help="List methods and targets.")
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
    _print_rows(rows, as_json=as_json)


@cli.command(name="inspect", short_help="Say what a model file is, without running it.")
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


def _load(model: str, options: dict[str, Any]) -> Detector:
    from dataclasses import replace

    from detcam.adapters import load
    from detcam.adapters.options import load_options

    typed = ("cfg", "names", "num_classes", "anchors", "arch", "layout")
    wanted = replace(
        load_options(**{name: options[name] for name in typed}),
        branch=options["branch"],
        allow_globals=options["allow_globals"],
        unsafe=options["unsafe_load"],
    )
    return load(model, device=options["device"], **vars(wanted))


def _print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    from detcam.files import json_bytes

    click.echo(json_bytes(rows, indent=1)) if as_json else _print_table(rows)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    # On a pipe nothing is cut and nothing coloured: the table takes the room it needs.
    is_terminal = sys.stdout.isatty()
    console = Console(
        force_terminal=is_terminal, width=None if is_terminal else 400, highlight=False, markup=False
    )
    console.print(table)


def _say(line: str) -> None:
    """Say a line on stderr; file and class names are strangers' words, and may not steer the terminal."""
    click.echo("".join(x if x.isprintable() else repr(x)[1:-1] for x in line), err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 some failed, 4 refused, 130 interrupted."""
    # Libraries that would fetch or install something on their own, or talk on stdout, are told not to.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` and `docker stop` tidy up like Ctrl-C
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):  # a letter that a pipe cannot hold is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        cli.main(
            args=[one for one in given if one != "--debug"],
            prog_name="detcam",
            standalone_mode=False,
            obj=given,
        )
    except click.exceptions.Abort:
        _end("interrupted", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _end("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DetcamError as error:
        if debug:
            raise
        _end(f"error: {error}", EXIT_REFUSED if isinstance(error, UnsafeCheckpointError) else EXIT_FAILED)
    sys.exit(0)


def _end(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)
