"""`detcam explain --box`: why something was missed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from detcam.cli.options import run_folder
from detcam.cli.words import print_paths, say

if TYPE_CHECKING:
    from detcam.cli.running import Prepared
    from detcam.explainer import Missed


def parse_box(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> list[float] | None:
    """Read "x1,y1,x2,y2"; whether they fit the picture is seen later."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise click.BadParameter(f"four numbers x1,y1,x2,y2 in picture pixels, got {text!r}")
    return numbers


def answer_missed(run: Prepared) -> None:
    """Say, draw and store why a region of one picture is not among the detections, or that it is.

    Raises:
        DetcamError: no such region, or the network does not answer.
    """
    from detcam.explainer import why_missed
    from detcam.explanation import paths_of, save
    from detcam.files import json_bytes, write_json
    from detcam.images import read_picture
    from detcam.runner import jobs_of

    (job,), explainer, options = jobs_of(run.paths), run.explainer, run.options
    missed = why_missed(explainer, read_picture(job.path), options["box"])
    names = explainer.detector.class_names
    say(f"{job.path}: {_count(missed)} over {', '.join(f'{x:g}' for x in missed.box)}")
    for one in missed.candidates:
        say(f"  {one.in_words(names, missed.detections)}")
    folder = run_folder(options)
    folder.write_manifest(run.manifest([job]))
    document = {
        "schema": "detcam.missed/1",
        "image": str(job.path),
        "box": missed.box,
        "candidates": [
            {**asdict(one), "class": names[one.class_id], "winner_class": names[one.winner]}
            for one in missed.candidates
        ],
    }
    written = [write_json(folder.path / f"{job.stem}_missed.json", document)]
    for what, explanation in (("for", missed.speaks_for), ("against", missed.speaks_against)):
        files = save(explanation, folder.path, f"{job.stem}_{what}", run.save_options)
        written += paths_of(files)
    if options["as_json"]:
        click.echo(json_bytes(document, indent=1))
    else:
        print_paths(written)


def _count(missed: Missed) -> str:
    if not missed.candidates:
        return "no candidate, however weak, lies"
    return f"{len(missed.candidates)} candidates, the best first,"
