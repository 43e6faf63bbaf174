"""What a user types about a model, read into `LoadOptions`: class names, anchors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcam.adapters.base import LoadOptions
from detcam.adapters.layouts import LAYOUTS
from detcam.errors import InputError, UnknownNameError

_LISTS, _YAMLS = (".names", ".txt"), (".yaml", ".yml")
_MOST_BYTES = 1_000_000  # a file of class names is far smaller; what is larger is another file
_MOST_NAMES = 100_000


def load_options(
    *,
    cfg: str | None = None,
    names: str | None = None,
    num_classes: int | None = None,
    anchors: str | None = None,
    arch: str | None = None,
    layout: str | None = None,
) -> LoadOptions:
    """The options that were typed; None where nothing was.

    Args:
        cfg: path of a Darknet description.
        names: see `read_names`.
        num_classes: number of classes.
        anchors: see `parse_anchors`.
        arch: name of a torchvision builder.
        layout: key of `detcam.adapters.layouts.LAYOUTS`.

    Raises:
        InputError: one of them cannot be used; for a file, the text names file and line.
    """
    if num_classes is not None and num_classes < 1:
        raise InputError(f"--num-classes must be at least 1, got {num_classes}")
    if layout is not None and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS, "All are listed in docs/adapters.md")
    if cfg is not None and not Path(cfg).is_file():
        raise InputError(f"--cfg: no file {cfg!r}. Give the .cfg that belongs to the weights")
    return LoadOptions(
        cfg=None if cfg is None else Path(cfg),
        names=None if names is None else read_names(names),
        num_classes=num_classes,
        anchors=None if anchors is None else parse_anchors(anchors),
        arch=arch,
        layout=layout,
    )


def read_names(given: str) -> tuple[str, ...]:
    """Class names, in order of their ids.

    Args:
        given: a `.names` or `.txt` file with a name per line, a `.yaml` of a data set with `names:`, or the
            names themselves with commas between them.

    Raises:
        InputError: the file cannot be used; the text names it and the line.
    """
    path = Path(given)
    if path.suffix.lower() in _LISTS:
        return _names_in_lines(path, _text(path))
    if path.suffix.lower() in _YAMLS:
        return _names_in_yaml(path, _text(path))
    if path.is_file():
        raise InputError(f"--names {given}: a file of names ends in {', '.join(_LISTS + _YAMLS)}")
    names = tuple(name.strip() for name in given.split(","))
    if not all(names):
        raise InputError(f"--names {given!r}: a name is empty. Write: --names cat,dog,bird")
    return names


def parse_anchors(given: str) -> tuple[tuple[float, float], ...]:
    """Anchors as (w, h) in network-input pixels, from "10,13 16,30 33,23".

    Raises:
        InputError: a pair is not two positive numbers.
    """
    anchors = []
    for number, pair in enumerate(given.split(), start=1):
        parts = pair.split(",")
        try:
            width, height = (float(part) for part in parts)
        except ValueError:
            width = height = math.nan
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise InputError(
                f"--anchors: pair {number}, {pair!r}, is not two positive numbers w,h. "
                'Write: --anchors "10,13 16,30 33,23"'
            )
        anchors.append((width, height))
    if not anchors:
        raise InputError('--anchors is empty. Write: --anchors "10,13 16,30 33,23"')
    return tuple(anchors)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"--names {path}: cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"--names {path}: over {_MOST_BYTES} bytes, too large for a file of class names")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"--names {path}, line {line}: not UTF-8 text") from error


def _names_in_lines(path: Path, text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise InputError(
                f"--names {path}, line {number}: empty. A name's line is its class's id: none may be missing"
            )
    return tuple(lines)


def _names_in_yaml(path: Path, text: str) -> tuple[str, ...]:
    import yaml  # type: ignore[import-untyped]  # comes with ultralytics

    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"--names {path}, line {line}: no YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"--names {path}: no YAML: {str(error).splitlines()[0]}") from error
    names = content.get("names") if isinstance(content, Mapping) else None
    if not isinstance(names, list | Mapping) or not names:
        raise InputError(f"--names {path}: holds no `names:` list. Give the data set's data.yaml")
    if isinstance(names, Mapping):
        names = _in_order(path, names)
    for index, name in enumerate(names):
        # YAML reads a class called `no` or `1` as false or a number.
        if not isinstance(name, str | int | float | bool) or not str(name).strip():
            raise InputError(f"--names {path}: the name of class {index} is no text ({type(name).__name__})")
    return tuple(str(name) for name in names)


def _in_order(path: Path, names: Mapping[Any, Any]) -> list[Any]:
    if set(names) != set(range(len(names))) or len(names) > _MOST_NAMES:
        missing = next((index for index in range(len(names)) if index not in names), len(names))
        raise InputError(
            f"--names {path}: ids must be 0 to {len(names) - 1} without a gap, but {missing} is missing"
        )
    return [names[index] for index in range(len(names))]
