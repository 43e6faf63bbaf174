"""`detcam explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from detcam.cli.judged import pictures_and_labels
from detcam.cli.missing import answer_missed, parse_box
from detcam.cli.options import (
    COUNT,
    SHARE,
    class_option,
    half_option,
    imgsz_option,
    load_options_of,
    model_options,
    run_options,
    sharing_options,
)
from detcam.cli.running import Prepared, drive, sharing_of
from detcam.cli.words import progress_bar


@click.command(short_help="Explain the detections in pictures.")
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@class_option("all")
@click.option("--conf", type=SHARE, default=0.25, show_default=True, help="Lowest score.")
@click.option(
    "--iou",
    type=SHARE,
    help="Overlap at which the weaker box of a class goes; default: the model's own, 0.7 for ultralytics.",
)
@imgsz_option
@click.option("--max-det", type=COUNT, default=300, show_default=True, help="Detections per picture.")
@click.option(
    "--max-boxes", type=COUNT, default=16, show_default=True, help="Boxes explained per picture, best first."
)
@click.option("--method", default="grad-cam-elementwise", show_default=True, help="See `detcam methods`.")
@click.option(
    "--layers",
    help="evidence, backbone, neck, head, stages, or names and patterns: model.4,model.9. Default: evidence "
    "(the backbone's stages from stride 4 on) for methods that work cell by cell, else backbone.",
)
@click.option(
    "--target", default="class-logit", show_default=True, help="What is explained; see `detcam methods`."
)
@click.option(
    "--box",
    callback=parse_box,
    metavar="X1,Y1,X2,Y2",
    help="Why was it missed? What the network thought over this region of the one picture, what became of "
    "it, and what spoke for and against the best.",
)
@click.option(
    "--labels",
    metavar="DATA",
    help="Labels of IMAGES (data.yaml, YOLO folder, COCO JSON): sort detections into right and wrong, and "
    "explain what was missed.",
)
@click.option(
    "--errors",
    is_flag=True,
    help="IMAGES is a labelled data set: sort all of it, and say what to look at first.",
)
@click.option("--split", help="Of a data.yaml; default: val, or train.")
@click.option("--limit", type=COUNT, help="Pictures at most, from the first.")
@click.option(
    "--near-misses",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Without labels: also explain the strongest candidates below the threshold, so many per picture.",
)
@click.option(
    "--contrast",
    metavar="A,B",
    help="Why class A and not B, of the detections of A: for --class A --target class-difference:B.",
)
@click.option(
    "--path",
    "gradient_path",
    type=click.Choice(["direct", "total"]),
    help="Gradients of several layers: adding up, or through the deeper captured ones too. Default: total at "
    "the evidence layers, else direct.",
)
@click.option(
    "--merge",
    type=click.Choice(["sum", "finest"]),
    help="A box's levels in one map; default: finest for total gradients of the backbone, else sum.",
)
@click.option(
    "--scale",
    default="energy",
    show_default=True,
    help="Full colour is: energy, box, image, level, or fixed:VALUE.",
)
@click.option("--colormap", default="inferno", show_default=True, help="inferno, viridis, magma, turbo, jet.")
@click.option(
    "--save",
    "extras",
    multiple=True,
    metavar="WHAT",
    help="Also write: levels, boxes, maps, features, figure. Repeatable.",
)
@click.option(
    "--report", "with_report", is_flag=True, help="Also write pages to explore the maps in a browser."
)
@half_option
@click.option(
    "--minimal",
    is_flag=True,
    help="Also find how little of the picture keeps or kills each detection, by forward passes.",
)
@click.option(
    "--batch", type=COUNT, default=1, show_default=True, help="Pictures of one size per forward pass."
)
@click.option(
    "--batch-size",
    type=COUNT,
    help="Changed pictures per forward pass, of methods that need many; halved when memory runs out. "
    "Default: 8 on the CPU, 32 elsewhere.",
)
@click.option(
    "--masks",
    type=click.IntRange(min=2),
    default=5000,
    show_default=True,
    help="Random masks that d-rise looks at the picture through: as many forward passes.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of these masks.")
@sharing_options
@run_options("runs/explain")
@model_options
def explain(model: str, images: tuple[str, ...], **options: Any) -> None:
    r"""Explain why MODEL fired on IMAGES (files, folders or globs).

    \b
    Examples:
      detcam explain yolo.pt street.jpg --class 0
      detcam explain yolo.pt photos/ --class person --class bus --save levels
      detcam explain yolo.pt data.yaml --errors --report

    Writes an overlay, the raw maps (.npz) and a description (.json) for each picture, and prints their
    paths. --report adds what `detcam report` writes. Finding nothing is success.
    """
    sharing = sharing_of(options)
    run = _prepare_explain(model, images, options)
    if options["box"] is not None:
        if len(run.paths) != 1 or not sharing.is_alone or options["engine"] != "local":
            raise click.UsageError(f"--box asks about one picture, here and at once, got {len(run.paths)}")
        answer_missed(run)
    else:
        drive(run, sharing)


def _prepare_explain(model: str, images: tuple[str, ...], options: dict[str, Any]) -> Prepared:
    """Check everything that can be wrong before a folder is made; cheap checks before the model."""
    from detcam.explanation import SaveOptions, Scale, Style
    from detcam.images import read_picture

    classes, target = _classes_and_target(options)
    style = Style(Scale.parse(options["scale"]), options["colormap"])
    save_options = SaveOptions(style, options["extras"], options["half"])
    paths, labels, labelled = pictures_and_labels(images, options)
    if len(paths) == 1:
        read_picture(paths[0])  # a single picture that cannot be read leaves no folder behind
    from detcam.explainer import ExplainOptions
    from detcam.runner import ExplainerConfig

    explain_options = ExplainOptions(
        classes=classes or None,
        conf=options["conf"],
        iou=options["iou"],
        max_det=options["max_det"],
        imgsz=options["imgsz"],
        max_boxes=options["max_boxes"],
        method=options["method"],
        layers=options["layers"],
        target=target,
        path=options["gradient_path"],
        merge=options["merge"],
        keep_features="features" in options["extras"],
        batch_size=options["batch_size"],
        masks=options["masks"],
        seed=options["seed"],
        near_misses=options["near_misses"],
    )
    config = ExplainerConfig(
        Path(model), load_options_of(options), options["device"], explain_options, labels
    )
    explainer = config(progress_bar("changed pictures"), labelled)
    explainer.rehearse()
    return Prepared(config, explainer, paths, save_options, options)


def _classes_and_target(options: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """What --class and --target say, or --contrast A,B in their place."""
    if options["contrast"] is None:
        return options["classes"], options["target"]
    source = click.get_current_context().get_parameter_source
    if ParameterSource.COMMANDLINE in (source("classes"), source("target")):
        raise click.UsageError("--contrast names the class and the target: leave --class and --target out")
    names = [name.strip() for name in options["contrast"].split(",")]
    if len(names) != 2 or not all(names):
        raise click.UsageError(f"--contrast takes two classes, A,B, got {options['contrast']!r}")
    return (names[0],), f"class-difference:{names[1]}"
