"""What a user says about a model, typed or in Python, read into `LoadOptions`; and whether it is of use."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcam.adapters.base import Family, LoadOptions
from detcam.adapters.layouts import LAYOUTS
from detcam.adapters.told_names import ordered_names
from detcam.errors import InputError, UnknownNameError
from detcam.labels.text import parse_yaml

_LISTS, _YAMLS = (".names", ".txt"), (".yaml", ".yml")
PERMISSIONS = frozenset({"allow_globals", "unsafe"})
"""Options that say nothing about a model: what its file may do."""

_FLAGS = {"allow_globals": "--allow-global", "unsafe": "--unsafe-load"}
_MOST_BYTES = 1_000_000  # a file of class names is far smaller; what is larger is another file


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
    if layout is not None and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS, "All are listed in docs/adapters.md")
    if cfg is not None and not os.path.isfile(cfg):
        raise InputError(f"--cfg: no file {cfg!r}. Give the .cfg that belongs to the weights")
    return LoadOptions(
        cfg=None if cfg is None else Path(cfg),
        names=None if names is None else read_names(names),
        num_classes=num_classes,
        anchors=None if anchors is None else parse_anchors(anchors),
        arch=arch,
        layout=layout,
    )


def options_of(said: Mapping[str, Any]) -> LoadOptions:
    """The options that were given as keywords.

    Raises:
        UnknownNameError: there is no such option; the closest are offered.
        InputError: one of them cannot be used.
    """
    for name in said:
        if name not in LoadOptions.__dataclass_fields__:
            hint = "With head=… there are more: docs/adapters.md"
            raise UnknownNameError("option", name, LoadOptions.__dataclass_fields__, hint)
    return LoadOptions(**said)


def check_used(
    wanted: LoadOptions, family: str, used: frozenset[str], families: Mapping[str, Family]
) -> None:
    """Check that nothing was said that would be ignored: it would look as if it had been heeded.

    Args:
        wanted: what was said.
        family: that takes the model.
        used: names of the options that it uses of this model.
        families: `ADAPTERS`, to say whose an option is.

    Raises:
        InputError: an option was given that the family does not use.
    """
    said = {
        name for name, one in LoadOptions.__dataclass_fields__.items() if getattr(wanted, name) != one.default
    }
    for name in sorted(said - used):
        owners = [other for other, one in families.items() if name in one.uses | one.file_uses]
        whose = ", ".join(owners) or ("files" if name in PERMISSIONS else "detcam.wrap(model, head=…)")
        takes = ", ".join(map(flag, sorted(used - PERMISSIONS)))
        raise InputError(f"{family} takes no {flag(name)}, which is for {whose}: it takes {takes}")


def flag(name: str) -> str:
    """A field of `LoadOptions` as it is typed: `--num-classes`."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


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
    if os.path.isfile(path):
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
    content = parse_yaml(text, f"--names {path}")
    names = content.get("names") if isinstance(content, Mapping) else None
    if not isinstance(names, list | Mapping) or not names:
        raise InputError(f"--names {path}: holds no `names:` list. Give the data set's data.yaml")
    try:
        return ordered_names(names) or ()
    except InputError as error:
        raise InputError(f"--names {path}: {error}") from error
