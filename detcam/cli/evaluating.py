"""`detcam evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detcam.cli.exits import EXIT_SOME_FAILED
from detcam.cli.options import COUNT, SHARE, imgsz_option, load_model, model_options, run_folder, run_options
from detcam.cli.words import print_paths, print_rows, say

if TYPE_CHECKING:
    from detcam.evaluation import Evaluator, Progress, Source, SummaryLine


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(",") if name.strip())


@click.command(short_help="Measure how far a model's maps can be trusted.")
@click.argument("model", metavar="MODEL")
@click.argument("data", required=False, metavar="[DATA]")
@click.option(
    "--planted", type=COUNT, metavar="N", help="Instead of DATA: N drawn scenes whose evidence is known."
)
@click.option("--split", help="Of a data.yaml; default: val, or train.")
@click.option("--images", metavar="FOLDER", help="Pictures of a COCO JSON; default: beside it.")
@click.option(
    "--methods",
    callback=_names,
    default="grad-cam-elementwise,layer-cam,grad-cam,eigen-cam",
    show_default=True,
    help="See `detcam methods`; the controls are always there.",
)
@click.option(
    "--layers",
    multiple=True,
    default=("evidence",),
    show_default=True,
    help="A layer set, or names with commas between them. Repeatable.",
)
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Choice(["direct", "total"]),
    default=("total",),
    show_default=True,
    help="Gradients of several layers. Repeatable.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("class-logit",),
    show_default=True,
    help="What is explained. Repeatable.",
)
@click.option("--metrics", callback=_names, help="See docs/metrics.md; default: all but the sanity checks.")
@click.option(
    "--sanity", is_flag=True, help="Also compare with maps of another class, box and shuffled weights."
)
@click.option(
    "--preset", default="d-close", show_default=True, help="Of deletion and insertion: d-close, odam, d-rise."
)
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Of deletion and insertion; 0 takes the preset's own, for hundreds of forward passes a map.",
)
@click.option("--conf", type=SHARE, default=0.25, show_default=True, help="Lowest score of a detection.")
@click.option(
    "--truth-iou", type=SHARE, default=0.5, show_default=True, help="Least overlap with a labelled object."
)
@click.option(
    "--max-boxes", type=COUNT, default=3, show_default=True, help="Detections measured per picture."
)
@click.option("--limit", type=COUNT, help="Pictures at most, from the first.")
@imgsz_option
@click.option(
    "--batch-size", type=COUNT, default=8, show_default=True, help="Changed pictures per forward pass."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which detections are measured.")
@click.option(
    "--format",
    "table_format",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Of the rows; parquet needs pyarrow.",
)
@click.option("--resume", is_flag=True, help="Go on with the run of this --name; what is finished stays.")
@run_options("runs/evaluate")
@model_options
def evaluate(model: str, data: str | None, **options: Any) -> None:
    r"""Measure the maps of MODEL on labelled pictures: DATA is a data.yaml, a YOLO folder or a COCO JSON.

    \b
    Examples:
      detcam evaluate yolo.pt data.yaml --limit 50
      detcam evaluate yolo.pt instances.json --images val2017 --methods layer-cam,grad-cam --layers head
      detcam evaluate weights/shapes-shortcut.pt --planted 50

    Writes a row per detection, method and metric, a summary with intervals beside the controls, and a plot
    of the curves; prints their paths. Deletion and insertion need 20 forward passes a map.
    """
    from detcam.evaluation import evaluate as run
    from detcam.evaluation import open_unfinished, write_question, write_tables

    evaluator, source, described = _prepare_evaluate(model, data, options)
    path = Path(options["project"]) / options["name"]
    if options["resume"]:
        folder = open_unfinished(path, evaluator, described)
    else:
        folder = run_folder(options)
        write_question(folder, evaluator, described, ["detcam", *(click.get_current_context().obj or ())])
    failed = _watch(run(evaluator, source, folder))
    lines, written = write_tables(folder, source, evaluator, options["table_format"])
    if options["as_json"]:
        print_rows([line.record() for line in lines], as_json=True)
    else:
        _say_summary(lines)
        print_paths(written)
    if failed:
        say(f"{failed} pictures failed; see {folder.path / 'progress.jsonl'}")
        sys.exit(EXIT_SOME_FAILED)


def _prepare_evaluate(model: str, data: str | None, options: dict[str, Any]) -> tuple[Evaluator, Source, str]:
    """Check everything that can be wrong before a folder is made; cheap checks before the model."""
    if (data is None) == (options["planted"] is None):
        raise click.UsageError("Give labelled pictures (DATA), or --planted N.")
    from detcam.evaluation import (
        DEFAULT_METRICS,
        SANITY_METRICS,
        EvaluateOptions,
        Evaluator,
        LabelledSource,
        PlantedSource,
        check_writable,
        ways_for,
    )
    from detcam.labels import read_labelled
    from detcam.metrics import get_preset

    check_writable(options["table_format"])
    ways = ways_for(options["methods"], options["layers"], options["paths"], options["targets"])
    preset = get_preset(options["preset"])
    metrics = options["metrics"] or DEFAULT_METRICS
    evaluate_options = EvaluateOptions(
        metrics=(*metrics, *SANITY_METRICS) if options["sanity"] else metrics,
        preset=(preset.with_steps(options["steps"]) if options["steps"] else preset).divided(),
        conf=options["conf"],
        truth_iou=options["truth_iou"],
        max_boxes=options["max_boxes"],
        imgsz=options["imgsz"],
        batch_size=options["batch_size"],
        seed=options["seed"],
    )
    labelled = None if data is None else read_labelled(data, split=options["split"], images=options["images"])
    detector = load_model(model, options)
    if labelled is None:
        source: Source = PlantedSource.of(detector.class_names, options["planted"])
    else:
        source = LabelledSource.of(labelled, detector.class_names, options["limit"])
    evaluator = Evaluator(detector, ways, evaluate_options)
    evaluator.rehearse()
    return evaluator, source, data if data is not None else f"planted {options['planted']}"


def _watch(steps: Iterable[Progress]) -> int:
    """Say how far the run is, and count what failed."""
    failed = 0
    for step in steps:
        record = step.record
        failed += record["status"] == "error"
        what = record["error"] or f"{record['boxes']} of {record['matched']} matched boxes measured"
        left = "" if step.seconds_left is None else f", {_duration(step.seconds_left)} left"
        say(f"{step.done}/{step.total} {record['source']}: {what}{left}")
    return failed


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min" if minutes >= 3 else f"{minutes * 60 + rest} s"


def _say_summary(lines: Iterable[SummaryLine]) -> None:
    """The numbers that ask the network if there are any, else all, on stderr."""
    lines = list(lines)
    for line in [one for one in lines if one.preset] or lines:
        value, difference = line.value, line.difference
        against = (
            f"  {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" if difference else ""
        )
        what = f"{line.metric} {line.variant}".strip()
        numbers = f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}] n={value.n}"
        say(f"{what:24} {line.way:34} {numbers}{against}")
