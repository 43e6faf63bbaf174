"""How far a run is: which rows there are, in whichever lists, and the one list that they become."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from detcam.adapters.base import device_of
from detcam.errors import InputError
from detcam.explainer import Explainer
from detcam.explanation import SaveOptions
from detcam.files import json_bytes, remove_leftovers, remove_torn_line, whole_file
from detcam.outputs import INDEX, RunFolder, model_facts
from detcam.runner.batch import Job
from detcam.runner.shards import Shard

_MAP = re.compile(r"_map_b\d+\.png$")
_QUESTION = (
    *("model", "told", "layers", "options", "seed", "labels", "pictures"),
    *("scale", "colormap", "half", "save"),
)
"""Of run.json: what must be the same for rows to belong together."""


def manifest_of(
    explainer: Explainer, save_options: SaveOptions, jobs: Sequence[Job], command: Sequence[str]
) -> dict[str, Any]:
    """What run.json holds: what is asked of which model about which pictures, and how results are drawn."""
    detector, options = explainer.detector, explainer.options
    sources = hashlib.sha256()
    for job in jobs:
        sources.update(str(job.path).encode("utf-8", "surrogateescape") + b"\0")
    return {
        "command": list(command),
        "model": model_facts(detector),
        "device": str(device_of(detector.model)),
        "seed": options.seed if explainer.method.is_sampled else None,
        "layers": list(explainer.modules),
        "labels": explainer.labels,
        "pictures": {"count": len(jobs), "sha256": sources.hexdigest()},
        "options": asdict(options),
        "scale": asdict(save_options.style.scale),
        "colormap": save_options.style.colormap,
        "half": save_options.half,
        "save": list(save_options.extras),
    }


def open_run(
    path: Path, manifest: Mapping[str, Any], shard: Shard, *, is_new: bool, resume: bool
) -> RunFolder:
    """The folder of a run, as one of several processes or to go on with it.

    Args:
        path: the folder.
        manifest: see `manifest_of`.
        shard: this process's share.
        is_new: the folder has just been made, for this run alone.
        resume: rows that are there stay. Where nothing is, the run begins: a script may always ask for it.

    Raises:
        InputError: another question was asked there, or this share was run before.
        OutputError: the folder cannot be written.
    """
    folder = RunFolder(path, shard.part)
    earlier = folder.manifest()
    if is_new or earlier is None:
        folder.write_manifest(manifest)
        return folder
    _check_same(path, manifest, earlier)
    if resume:
        remove_torn_line(folder.index)
    elif there := [index for index in (folder.index, path / INDEX) if index.exists()]:
        raise InputError(f"{there[0]} is there already: add --resume, or give another --name")
    return folder


def unfinished(folder: RunFolder, jobs: Sequence[Job]) -> list[Job]:
    """Jobs without a row, and those whose row says that they failed."""
    with _lists(folder) as lists:
        _, done = _places(lists)
    return [job for job in jobs if str(job.path) not in done]


def settle(folder: RunFolder, jobs: Sequence[Job]) -> bool:
    """Make the rows of all shares one index.jsonl in the pictures' order, and list the 16-bit maps.

    Every process of a run calls this at its end; the last one finds all rows.

    Returns:
        Whether there are rows for all pictures.

    Raises:
        OutputError: it cannot be written.
    """
    sources = list(dict.fromkeys(str(job.path) for job in jobs))
    index = folder.path / INDEX
    with _lists(folder) as lists:
        places, _ = _places(lists)
        if any(source not in places for source in sources):
            return False
        ordered = [places.pop(source) for source in sources]
        ordered = [*places.values(), *ordered]  # of another run into the same folder, which was allowed
        if ordered != _lines_of(index, lists):
            with whole_file(index) as file:
                file.writelines(_lines(ordered, lists))
    maps = (line for row in _rows(index) for line in _map_lines(folder.path, row))
    first = next(maps, None)
    if first is not None:
        with whole_file(folder.path / "metadata.jsonl") as file:
            file.writelines(chain([first], maps))
    # What a row names is written: what is still on its way there was left by a process that was killed.
    # Other names may be in use: two processes that end at once both come here, and one may write the report.
    remove_leftovers(folder.path, of=(name for row in _rows(index) for name in row["files"]))
    return True


def count_failed(folder: RunFolder) -> int:
    """How many pictures of a settled run are rows with an error."""
    return sum(row["status"] == "error" for row in _rows(folder.path / INDEX))


class _Place(NamedTuple):
    """Where a row is: a list, and bytes from its beginning. Rows themselves would fill the memory."""

    path: Path
    start: int


Lists = Mapping[Path, BinaryIO]


@contextmanager
def _lists(folder: RunFolder) -> Iterator[Lists]:
    """All lists of rows, opened once: another process that ends may replace the index."""
    with ExitStack() as stack:
        yield {path: stack.enter_context(path.open("rb")) for path in folder.indexes()}


def _places(lists: Lists) -> tuple[dict[str, _Place], set[str]]:
    """Source -> its row, and the sources that are done.

    The last of a list counts; of several lists one that is done comes before one that failed. Torn lines are
    none.
    """
    found: dict[str, _Place] = {}
    done: set[str] = set()
    for path, file in lists.items():
        start = 0
        for line in file:
            row = _parsed(line)
            if row is not None:
                source, is_done = row["source"], row["status"] != "error"
                is_newer = source not in found or found[source].path == path
                if is_newer or source not in done:
                    found[source] = _Place(path, start)
                    (done.add if is_done else done.discard)(source)
            start += len(line)
    return found, done


def _lines_of(index: Path, lists: Lists) -> list[_Place]:
    """Every line as a place."""
    if index not in lists:
        return []
    lists[index].seek(0)
    lengths = [len(line) for line in lists[index]]
    return [_Place(index, start) for start in accumulate(lengths[:-1], initial=0)] if lengths else []


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return {"source": str(row["source"]), "status": str(row["status"]), "files": list(row["files"])}
    except (ValueError, TypeError, KeyError):
        return None


def _lines(places: Iterable[_Place], lists: Lists) -> Iterator[bytes]:
    for path, start in places:
        lists[path].seek(start)
        yield lists[path].readline()


def _rows(index: Path) -> Iterator[dict[str, Any]]:
    with index.open("rb") as file:
        yield from filter(None, map(_parsed, file))


def _map_lines(folder: Path, row: Mapping[str, Any]) -> Iterator[bytes]:
    """A line for each 16-bit map of a picture: data-set loaders then read them as a folder of images."""
    names = [name for name in row["files"] if name.endswith(".json")]
    if not any(_MAP.search(name) for name in row["files"]) or len(names) != 1:
        return
    document = json.loads((folder / names[0]).read_bytes())
    for name, box in zip(document["files"]["maps"], document["boxes"], strict=True):
        facts = {"class": box["class"], "score": box["score"], "xyxy": box["xyxy"]}
        yield json_bytes({"file_name": name, "image": row["source"], **facts}) + b"\n"


def _check_same(path: Path, asked: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    """Refuse rows that would not belong together."""
    now = json.loads(json_bytes(dict(asked)))
    for name in _QUESTION:
        one, other = now.get(name), earlier.get(name)
        if name == "model":
            one, other = (model and {**model, "path": None} for model in (one, other))
        if one != other:
            raise InputError(f"{path} was made with other {name}: give the same, or another --name")
