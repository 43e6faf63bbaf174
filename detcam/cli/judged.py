"""`detcam explain --labels`, `--errors` and `--near-misses`: what was right, wrong and not found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detcam.cli.words import print_paths, say

if TYPE_CHECKING:
    from detcam.labels import LabelledSet
    from detcam.report import RankedError
    from detcam.runner import LabelsConfig

_SAID = 5  # of the errors


def pictures_and_labels(
    images: Sequence[str], options: dict[str, Any]
) -> tuple[list[Path], LabelsConfig | None, LabelledSet | None]:
    """The pictures to explain, where their labels are, and these, if they have some.

    Raises:
        DetcamError: something does not exist, or none of the pictures is in the data set.
    """
    from detcam.errors import InputError
    from detcam.images import find_pictures
    from detcam.runner import LabelsConfig

    data, most, split = options["labels"], options["limit"], options["split"]
    if options["errors"]:
        if data is not None or len(images) != 1:
            raise click.UsageError("--errors takes one data set in place of IMAGES, and no --labels")
        labels = LabelsConfig(images[0], split)
        labelled = labels.read()
        return list(labelled.pictures.paths[:most]), labels, labelled
    paths = find_pictures(images)[:most]
    if data is None:
        if split is not None:
            raise click.UsageError("--split is of labels: give --labels DATA, or --errors")
        return paths, None, None
    is_folder_of_coco = Path(data).suffix.lower() == ".json" and len(images) == 1 and Path(images[0]).is_dir()
    labels = LabelsConfig(data, split, images[0] if is_folder_of_coco else None)
    labelled = labels.read()
    named = {path.name for path in labelled.pictures.paths}
    if not any(path.name in named for path in paths):
        raise InputError(
            f"{data}: its {len(named)} labelled pictures are none of the {len(paths)} given: check --split"
        )
    _check_names(paths, labelled)
    return paths, labels, labelled


def _check_names(paths: Sequence[Path], labelled: LabelledSet) -> None:
    """Refuse pictures of one name where it would decide whose the labels are."""
    from detcam.errors import InputError

    named = {path.name for path in labelled.pictures.paths}
    times = Counter(path.name for path in paths if path.name in named)
    known = set(map(os.path.abspath, labelled.pictures.paths))
    for path in paths:
        if times[path.name] > 1 and os.path.abspath(path) not in known:
            raise InputError(
                f"{path}: {times[path.name]} pictures are called {path.name}, and labels of pictures that "
                "lie elsewhere are found by name: explain each folder in a run of its own"
            )


def sort_out(folder: Path, *, as_json: bool) -> str:
    """Write and say how many errors of each kind a run has, and what to look at first.

    Returns:
        Where it was written.
    """
    from detcam.report import write_errors

    path, summary = write_errors(folder)
    say(", ".join(f"{count} {kind}" for kind, count in summary.counts.items()) or "nothing to sort")
    for size, (found, of) in summary.found.items():
        say(f"  {found} of {of} {size} objects found")
    if summary.first:
        say("look first at:")
    for error in summary.first[:_SAID]:
        say(f"  {_words(error)}")
    if not as_json:
        print_paths([path])
    return str(path)


def _words(error: RankedError) -> str:
    verdict = error.verdict
    where = verdict.truth if verdict.kind == "missed" and verdict.truth is not None else verdict.box
    place = ",".join(f"{side:.0f}" for side in where)
    return f"{error.row.source}: {verdict.title} at {place}: {verdict.words}"
