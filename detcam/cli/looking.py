"""`detcam features`, `detcam maps` and `detcam kernels`: what a network holds and computes, as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detcam.cli.exits import EXIT_SOME_FAILED
from detcam.cli.options import (
    class_option,
    half_option,
    imgsz_option,
    load_model,
    model_options,
    run_folder,
    run_options,
)
from detcam.cli.words import print_paths, say

if TYPE_CHECKING:
    from detcam.adapters import Detector
    from detcam.images import Picture
    from detcam.outputs import RunFolder


@click.command(short_help="Show what layers hold for pictures.")
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--layers",
    default="stages",
    show_default=True,
    help="stages (stem and backbone), backbone, neck, head, names, or patterns: model.*.cv1",
)
@click.option(
    "--channels",
    default="top16",
    show_default=True,
    help="all, topN (largest mean absolute activation), or numbers: 3,7",
)
@click.option(
    "--scale",
    type=click.Choice(["channel", "shared"]),
    default="channel",
    show_default=True,
    help="Full colour is each channel's own maximum, or the layer's.",
)
@click.option("--grey", is_flag=True, help="Shades of grey instead of colours.")
@click.option(
    "--split/--no-split",
    default=None,
    help="A picture per channel, too; default: unless only topN were asked for.",
)
@imgsz_option
@half_option
@run_options("runs/features")
@model_options
def features(model: str, images: tuple[str, ...], **options: Any) -> None:
    r"""Show what MODEL's layers hold for IMAGES (files, folders or globs), channel by channel.

    \b
    Examples:
      detcam features yolo.pt street.jpg
      detcam features yolo.pt street.jpg --layers model.4 --channels all

    Writes a contact sheet per layer with the numbers of its channels, all channels raw (.npz) and a
    description (.json) for each picture, and prints their paths.
    """
    from detcam.adapters import chosen_layers, rehearse
    from detcam.anatomy import Channels, FeatureMaps
    from detcam.anatomy import features as look

    Channels.parse(options["channels"])
    paths = _pictures(images)
    detector = load_model(model, options)
    names = list(chosen_layers(detector.model, detector.layers(), options["layers"]))

    def maps_of(picture: Any, imgsz: Any) -> FeatureMaps:
        return look(detector, picture, layers=names, channels=options["channels"], imgsz=imgsz)

    rehearse(detector, options["imgsz"], maps_of)
    style = {name: options[name] for name in ("scale", "grey", "split", "half")}
    folder = _task_folder("features", detector, names, options, ("layers", "channels", *style, "imgsz"))

    def save(picture: Picture, stem: str) -> list[Path]:
        maps = maps_of(picture, options["imgsz"])
        written = maps.save(folder.path, stem, **style)
        say(f"{picture.path}: {_shapes(maps)}")
        return written

    _each_picture(folder, paths, save, as_json=options["as_json"])


@click.command(short_help="Show objectness, class and score of every cell.")
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@class_option("the best of each cell")
@imgsz_option
@half_option
@run_options("runs/maps")
@model_options
def maps(model: str, images: tuple[str, ...], **options: Any) -> None:
    r"""Show what MODEL's head says of every cell of IMAGES, as probabilities, before any suppression.

    \b
    Examples:
      detcam maps yolo.pt street.jpg
      detcam maps yolo.pt street.jpg --class person --class bus

    Without --class it is the best class of each cell. Writes a sheet per map with all levels on one scale
    of 0 to 1, the raw maps (.npz) and a description (.json) for each picture, and prints their paths.
    """
    from detcam.adapters import rehearse
    from detcam.anatomy import OutputMaps, output_maps

    paths = _pictures(images)
    detector = load_model(model, options)

    def maps_of(picture: Any, imgsz: Any) -> OutputMaps:
        return output_maps(detector, picture, classes=options["classes"] or None, imgsz=imgsz)

    rehearse(detector, options["imgsz"], maps_of)
    folder = _task_folder("maps", detector, [], options, ("classes", "half", "imgsz"))

    def save(picture: Picture, stem: str) -> list[Path]:
        found = maps_of(picture, options["imgsz"])
        written = found.save(folder.path, stem, half=options["half"])
        say(f"{picture.path}: " + ", ".join(_peak(found, one.key) for one in found.maps))
        return written

    _each_picture(folder, paths, save, as_json=options["as_json"])


@click.command(short_help="Show the kernels of a convolution.")
@click.argument("model", metavar="MODEL")
@click.option("--layer", metavar="NAME", help="A 2-D convolution, or a layer with one; default: the first.")
@click.option(
    "--tiles",
    type=click.IntRange(1, 256),
    default=64,
    show_default=True,
    help="Kernels shown at most, those with the largest norm.",
)
@half_option
@run_options("runs/kernels")
@model_options
def kernels(model: str, **options: Any) -> None:
    r"""Show the kernels of a convolution of MODEL. Nothing runs.

    \b
    Examples:
      detcam kernels yolo.pt
      detcam kernels yolo.pt --layer model.4.m.0.cv1

    Writes a contact sheet and the weights (.npz), and prints their paths.
    """
    from detcam.anatomy import kernels as look
    from detcam.files import json_bytes

    detector = load_model(model, options)
    found = look(detector, options["layer"])
    found.sheet(options["tiles"])  # what cannot be drawn leaves no folder behind
    folder = _task_folder("kernels", detector, [found.layer], options, ("layer", "tiles", "half"))
    written = found.save(folder.path, tiles=options["tiles"], half=options["half"])
    shape = list(found.weights.shape)
    groups = f", {found.groups} groups" if found.groups > 1 else ""
    say(f"{found.layer}: {'×'.join(map(str, shape))}{groups}")
    if options["as_json"]:
        document = {"layer": found.layer, "shape": shape, "groups": found.groups}
        files = [path.name for path in written]
        click.echo(json_bytes({"run": str(folder.path), **document, "files": files}, indent=1))
    else:
        print_paths(written)


def _pictures(images: tuple[str, ...]) -> list[Path]:
    """The pictures meant; a single one that cannot be read leaves no folder behind."""
    from detcam.images import find_pictures, read_picture

    paths = find_pictures(images)
    if len(paths) == 1:
        read_picture(paths[0])
    return paths


def _task_folder(
    task: str, detector: Detector, layers: Sequence[str], options: dict[str, Any], recorded: Sequence[str]
) -> RunFolder:
    """Make the run's folder, and say in run.json what is asked of which model."""
    from detcam.outputs import task_facts

    folder = run_folder(options)
    command = ["detcam", *(click.get_current_context().obj or ())]
    asked = {name: options[name] for name in recorded}
    folder.write_manifest(task_facts(task, detector, command, layers, asked))
    return folder


def _each_picture(
    folder: RunFolder, paths: Sequence[Path], save: Callable[[Picture, str], list[Path]], *, as_json: bool
) -> None:
    from detcam.files import json_bytes
    from detcam.outputs import each_picture

    rows = []
    for row in each_picture(folder, paths, save):
        rows.append(row)
        if row["error"]:
            say(f"{row['source']}: {row['error']}")
        if not as_json:
            print_paths([folder.path / name for name in row["files"]])
    if as_json:
        click.echo(json_bytes({"run": str(folder.path), "images": rows}, indent=1))
    failed = sum(row["status"] == "error" for row in rows)
    if failed:
        say(f"{failed} of {len(rows)} pictures failed; see {folder.path / 'index.jsonl'}")
        sys.exit(EXIT_SOME_FAILED)


def _shapes(maps: Any) -> str:
    return ", ".join(
        f"{f'{one.level}=' if one.level else ''}{one.name} {'×'.join(map(str, one.values.shape))}"
        for one in maps.layers
    )


def _peak(maps: Any, key: str) -> str:
    levels = maps[key].levels
    best = max(levels, key=lambda level: float(levels[level].max()))
    return f"{key} up to {float(levels[best].max()):.2g} at {best}"
