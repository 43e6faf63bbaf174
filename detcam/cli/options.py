"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from detcam.adapters import Detector
    from detcam.adapters.base import LoadOptions
    from detcam.outputs import RunFolder

Command = Callable[..., Any]
COUNT, SHARE = click.IntRange(min=1), click.FloatRange(0, 1)


def model_options(command: Command) -> Command:
    """What a user may say about a model that its file does not."""
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
        click.option(
            "--layout",
            metavar="NAME",
            help="Of a head's tensors: for detcam.wrap in Python, no file needs it.",
        ),
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


def run_options(project: str) -> Callable[[Command], Command]:
    """Where a run's files go, below `project` by default, and how its result is printed."""

    def add(command: Command) -> Command:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of paths."),
            click.option("--exist-ok", is_flag=True, help="Write into the folder even if it exists."),
            click.option(
                "--name",
                default="run",
                show_default=True,
                help="Folder of this run; -2, -3 … is added if taken.",
            ),
            click.option("--project", default=project, show_default=True, help="Folder of runs."),
        ):
            command = option(command)
        return command

    return add


def sharing_options(command: Command) -> Command:
    """How a run is shared among processes and machines, and gone on with."""
    for option in (
        click.option(
            "--workers", type=COUNT, default=1, show_default=True, help="Ray actors, each with its own model."
        ),
        click.option("--address", metavar="ADDRESS", help="Of a Ray cluster; default: one on this machine."),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Who drives the run; ray needs detcam[ray].",
        ),
        click.option(
            "--shard",
            metavar="I/N",
            help="Share I of N of the pictures, 1/N to N/N, each a process of its own with the same --name; "
            "under torchrun its own.",
        ),
        click.option("--resume", is_flag=True, help="Go on with the run of this --name; what is done stays."),
    ):
        command = option(command)
    return command


imgsz_option = click.option(
    "--imgsz", type=COUNT, metavar="PIXELS", help="Largest side of the input; default: as trained."
)
run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
moved_option = click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the pictures lie now; default: where they were explained.",
)
half_option = click.option("--half", is_flag=True, help="Store arrays in float16.")


def class_option(default: str) -> Callable[[Command], Command]:
    """Classes by id or name; `default` says in words what none means."""
    text = f"Class id or name. Repeatable; default: {default}."
    return click.option("--class", "classes", multiple=True, metavar="CLASS", help=text)


def run_folder(options: dict[str, Any]) -> RunFolder:
    """Make the folder of this run."""
    from detcam.outputs import RunFolder

    return RunFolder.create(Path(options["project"]), options["name"], exist_ok=options["exist_ok"])


def load_options_of(options: dict[str, Any]) -> LoadOptions:
    """What `model_options` read about the model."""
    from dataclasses import replace

    from detcam.adapters.options import load_options

    typed = ("cfg", "names", "num_classes", "anchors", "arch", "layout")
    return replace(
        load_options(**{name: options[name] for name in typed}),
        branch=options["branch"],
        allow_globals=options["allow_globals"],
        unsafe=options["unsafe_load"],
    )


def load_model(model: str, options: dict[str, Any]) -> Detector:
    """Load MODEL with what `model_options` read."""
    from detcam.adapters import load

    return load(model, device=options["device"], **vars(load_options_of(options)))
