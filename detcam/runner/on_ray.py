"""A run on Ray Data: actors that each load the model once, on one machine or many.

All of them write into the run's folder, which every machine must see under the same name.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcam.errors import InputError, OutputError
from detcam.explanation import NOT_FOUND, SaveOptions
from detcam.files import json_bytes, whole_file
from detcam.outputs import INDEX, RunFolder
from detcam.runner.batch import ExplainBatch, Job
from detcam.runner.config import ExplainerConfig

TABLE = "index.parquet"
_GROUP = 1000  # rows


@dataclass(frozen=True)
class RayOptions:
    """How Ray is used.

    Attributes:
        address: of a cluster; None for one on this machine, for the time of the run.
        workers: actors, each with a model of its own, and a GPU where there are some.
        batch: pictures of a call.
    """

    address: str | None = None
    workers: int = 1
    batch: int = 1


class _Actor:
    """`ExplainBatch` as Ray calls it: columns in, columns out."""

    def __init__(self, config: ExplainerConfig, folder: RunFolder, save_options: SaveOptions) -> None:
        import ray

        name = ray.get_runtime_context().get_actor_id()
        self.work = ExplainBatch(config, RunFolder(folder.path, f"ray-{name}"), save_options)

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        pairs = zip(columns["path"], columns["stem"], strict=True)
        jobs = [Job(Path(os.fsdecode(path)), str(stem)) for path, stem in pairs]
        rows = [json_bytes(row.record()).decode() for row in self.work(jobs)]
        return {"row": np.array(rows, dtype=object)}


def run_on_ray(
    config: ExplainerConfig,
    folder: RunFolder,
    save_options: SaveOptions,
    jobs: Sequence[Job],
    options: RayOptions,
) -> Iterator[dict[str, Any]]:
    """Explain pictures with Ray's actors, and yield their rows as they are done.

    Raises:
        InputError: Ray is not installed, or does not start.
        OutputError: the folder cannot be written.
    """
    ray = _started(options)
    try:
        if not jobs:
            return
        # A path is bytes: a letter that is none would be no text for Arrow.
        items = [{"path": os.fsencode(job.path), "stem": job.stem} for job in jobs]
        pictures = ray.data.from_items(items)
        rows = pictures.map_batches(
            _Actor,
            fn_constructor_args=(config, folder, save_options),
            batch_size=options.batch,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=options.workers),
            num_gpus=1 if torch.cuda.is_available() else 0,
        )
        for one in rows.iter_rows():
            yield json.loads(one["row"])
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        first, *_ = str(cause).splitlines() or [""]
        raise OutputError(f"a Ray actor failed: {first}") from error
    finally:
        if options.address is None:
            ray.shutdown()


def write_parquet(folder: RunFolder) -> Path:
    """Write index.parquet: the rows of index.jsonl with their detections, a group of rows at a time.

    Raises:
        OutputError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    detection = pa.struct(
        {
            "class": pa.string(),
            "class_id": pa.int32(),
            "score": pa.float32(),
            "xyxy": pa.list_(pa.float32(), 4),
            "level": pa.string(),
            "energy_in_box": pa.float32(),
            "kind": pa.string(),
        }
    )
    columns = {"source": pa.string(), "status": pa.string(), "boxes": pa.int32(), "ms": pa.float32()}
    more = {"files": pa.list_(pa.string()), "error": pa.string(), "detections": pa.list_(detection)}
    schema = pa.schema({**columns, **more})
    path = folder.path / TABLE
    with whole_file(path) as file, pq.ParquetWriter(file, schema) as table:
        for rows in _groups(folder):
            table.write_table(pa.Table.from_pylist(rows, schema))
    return path


def _groups(folder: RunFolder) -> Iterator[list[dict[str, Any]]]:
    """Rows with their detections, as many at a time as memory should hold."""
    with (folder.path / INDEX).open("rb") as file:
        while lines := list(islice(file, _GROUP)):
            yield [_with_detections(folder.path, json.loads(line)) for line in lines]


def _with_detections(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in row["files"] if name.endswith("_cam.json")]
    documents = [json.loads((folder / name).read_bytes()) for name in names]
    return {**row, "detections": [box for one in documents for box in _detected(one)]}


def _detected(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its boxes with what each is beside the labels, without those that the detector did not give."""
    kinds = {one["row"]: one["kind"] for one in document.get("verdicts", ())}
    boxes = [{**box, "kind": kinds.get(number)} for number, box in enumerate(document["boxes"])]
    return [box for box in boxes if box["kind"] not in NOT_FOUND]


def _started(options: RayOptions) -> Any:
    """Ray, running.

    Raises:
        InputError: it is not installed, or does not start.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("the engine ray needs Ray: pip install 'detcam[ray]'") from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # progress is told by whoever asks for the rows
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a run leaves these machines
    # Ray Data keeps processors for itself: with no more than the actors take, it may wait for ever.
    here = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, options.workers + 2)}
    try:
        ray.init(
            address=options.address,
            **(here if options.address is None else {}),
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first, *_ = str(error).splitlines() or [""]
        raise InputError(f"Ray does not start: {first}") from error
    return ray
