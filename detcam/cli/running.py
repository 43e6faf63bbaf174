"""A run of `detcam explain`: its folder, its share of the pictures, what it says and prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detcam.cli.exits import EXIT_SOME_FAILED
from detcam.cli.judged import sort_out
from detcam.cli.minimal import write_minimal
from detcam.cli.options import run_folder
from detcam.cli.reporting import write_pages
from detcam.cli.saying import say_row
from detcam.cli.words import counted, print_paths, say

if TYPE_CHECKING:
    from detcam.explainer import Explainer
    from detcam.explanation import SaveOptions
    from detcam.outputs import RunFolder
    from detcam.runner import ExplainerConfig, Job, Shard

Told = tuple[dict[str, Any], list[Path]]
"""A picture's row, and the files to print."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run of which everything that can be checked has been.

    Attributes:
        config: how its explainer is made, anywhere.
        explainer: of this process.
        paths: all its pictures.
        save_options: what is written.
        options: as typed.
    """

    config: ExplainerConfig
    explainer: Explainer
    paths: Sequence[Path]
    save_options: SaveOptions
    options: dict[str, Any]

    def manifest(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """What run.json holds."""
        from detcam.runner import manifest_of

        command = ["detcam", *(click.get_current_context().obj or ())]
        asked = manifest_of(self.explainer, self.save_options, jobs, command)
        return {**asked, "told": self.config.told()}


@dataclass(frozen=True)
class Sharing:
    """A process's part in a run.

    Attributes:
        shard: its share of the pictures.
        resume: whether rows that are there stay.
        ends_together: whether all processes are ended when one of them fails, as torchrun does.
    """

    shard: Shard
    resume: bool
    ends_together: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether the folder is this process's own, and new."""
        return self.shard.count == 1 and not self.resume


def sharing_of(options: dict[str, Any]) -> Sharing:
    """What --shard, --resume and torchrun say; torchrun's workers also get a GPU each.

    Raises:
        InputError: a shard that is none.
    """
    from detcam.runner import WHOLE, Shard, shard_of_torchrun

    worker = shard_of_torchrun()
    if options["engine"] == "ray" and (worker or options["shard"]):
        raise click.UsageError("--engine ray deals pictures out itself: leave --shard and torchrun out")
    if options["engine"] == "ray" and options["exist_ok"] and not options["resume"]:
        raise click.UsageError(
            "--engine ray takes a folder of its own: leave --exist-ok out, or add --resume"
        )
    if options["minimal"] and (options["resume"] or options["engine"] == "ray"):
        raise click.UsageError("--minimal cannot be resumed or run on Ray: leave one of them out")
    if worker is None:
        shard = WHOLE if options["shard"] is None else Shard.parse(options["shard"])
        return Sharing(shard, options["resume"])
    if options["shard"] is not None:
        raise click.UsageError("torchrun deals pictures out itself: leave --shard out")
    import torch

    if options["device"] is None and torch.cuda.is_available():
        options["device"] = f"cuda:{worker.local}"
    return Sharing(worker.shard, options["resume"] or worker.is_restart, ends_together=True)


def drive(run: Prepared, sharing: Sharing) -> None:
    """Explain this process's share of the pictures, and end what only the last process can end."""
    from detcam.files import json_bytes
    from detcam.runner import count_failed, jobs_of, settle

    jobs, options = jobs_of(run.paths), run.options
    folder, mine = _opened(run, jobs, sharing)
    rows, done, failed = [], 0, 0
    rows_of = _ray_rows if options["engine"] == "ray" else _local_rows
    for record, files in rows_of(run, mine, folder):
        done += 1
        failed += record["status"] == "error"
        if options["as_json"]:
            rows.append(record)  # kept for the document alone: there may be millions
        else:
            print_paths(files)
    document: dict[str, Any] = {"run": str(folder.path), "images": rows}
    pages_failed, is_last = 0, settle(folder, jobs)
    if is_last:
        pages_failed = _finish(run, folder, document)
    else:
        say("other shares of this run are not done; the last one ends it")
    if options["as_json"]:
        click.echo(json_bytes(document, indent=1))
    if failed:
        say(f"{failed} of {done} pictures failed; see {folder.index}")
    if sharing.ends_together:  # others may still be at work: the last one says what has failed in any of them
        failed = count_failed(folder) if is_last else 0
    if failed or pages_failed:
        sys.exit(EXIT_SOME_FAILED)


def _opened(run: Prepared, jobs: Sequence[Job], sharing: Sharing) -> tuple[RunFolder, Sequence[Job]]:
    """The folder, and what this process has to do in it."""
    from detcam.runner import open_run, unfinished

    path = run_folder(run.options if sharing.is_alone else {**run.options, "exist_ok": True}).path
    folder = open_run(path, run.manifest(jobs), sharing.shard, is_new=sharing.is_alone, resume=sharing.resume)
    mine = sharing.shard.of(jobs)
    if not sharing.resume:
        return folder, mine
    left = unfinished(folder, mine)
    say(f"{len(mine) - len(left)} of {len(mine)} pictures are done already")
    return folder, left


def _local_rows(run: Prepared, jobs: Sequence[Job], folder: RunFolder) -> Iterator[Told]:
    from detcam.runner import ExplainBatch
    from detcam.runner import run as rows_of

    explainer, options = run.explainer, run.options
    work = ExplainBatch(lambda: explainer, folder, run.save_options)
    for row in counted(rows_of(work, jobs, batch=options["batch"]), len(jobs)):
        say_row(row, explainer)
        more = write_minimal(explainer, row, folder.path) if options["minimal"] else []
        yield row.record(), [*row.files, *more]


def _ray_rows(run: Prepared, jobs: Sequence[Job], folder: RunFolder) -> Iterator[Told]:
    from detcam.runner.on_ray import RayOptions, run_on_ray

    engine = RayOptions(run.options["address"], run.options["workers"], run.options["batch"])
    for record in counted(run_on_ray(run.config, folder, run.save_options, jobs, engine), len(jobs)):
        boxes = f"{record['boxes']} boxes"
        say(f"{record['source']}: {record['error'] or boxes}")
        yield record, [folder.path / name for name in record["files"]]


def _finish(run: Prepared, folder: RunFolder, document: dict[str, Any]) -> int:
    """What is made of all rows: errors ranked, pages, a table.

    Returns:
        How many pictures have no page though they were explained.
    """
    options = run.options
    if options["engine"] == "ray":
        from detcam.runner.on_ray import write_parquet

        document["table"] = str(write_parquet(folder))
    if run.explainer.judge is not None:
        document["errors"] = sort_out(folder.path, as_json=options["as_json"])
    if not options["with_report"]:
        return 0
    pages, failed = write_pages(folder.path, as_json=options["as_json"])
    document["pages"] = [str(page) for page in pages]
    return failed
