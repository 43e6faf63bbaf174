"""Darknet's network descriptions (`.cfg`): sections of options, every complaint with its line.

The file is a stranger's. It is only ever split into texts and numbers, and what it asks for is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

from detcam.errors import CheckpointError

_LARGEST_FILE = 1 << 20  # bytes; the largest published cfg has 70 kB
_MOST_SECTIONS = 4096
_NUMBERS_BELOW = 1e10
_ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool"}
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Section:
    """One section: a layer, or `net` for the network's input.

    Attributes:
        source: the file, for messages.
        line: where it starts, from 1.
        kind: name in the brackets, lower case, Darknet's short forms written out.
        options: key -> (text, line). As in Darknet the first of several equal keys counts.
    """

    source: str
    line: int
    kind: str
    options: Mapping[str, tuple[str, int]]

    def error(self, what: str, key: str = "") -> CheckpointError:
        """An error about this section, or about one of its options."""
        line = self.options.get(key, ("", self.line))[1]
        return CheckpointError(f"{self.source}, line {line}: [{self.kind}] {what}")

    def text(self, key: str, default: str) -> str:
        """An option as it stands, in lower case."""
        return self.options.get(key, (default, 0))[0].lower()

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """A whole number in low..high.

        Raises:
            CheckpointError: it is none, lies outside, or is missing where `default` is None.
        """
        return self._checked(key, self._numbers(key, default, int), low, high)

    def number(self, key: str, default: float | None, low: float, high: float) -> float:
        """A number in low..high; see `integer`."""
        return self._checked(key, self._numbers(key, default, float), low, high)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Whole numbers with commas between them; see `integer`."""
        return self._numbers(key, default, int)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Numbers with commas between them; see `integer`."""
        return self._numbers(key, None, float)

    def is_set(self, key: str) -> bool:
        """Whether a switch is there and not 0."""
        return self.text(key, "0") not in ("0", "0.0", "none")

    def _checked(self, key: str, values: tuple[_Number, ...], low: float, high: float) -> _Number:
        if len(values) != 1 or not low <= values[0] <= high:
            given = ",".join(map(str, values))
            raise self.error(f"{key}={given} is not one number in {low}..{high}", key)
        return values[0]

    def _numbers(
        self, key: str, default: _Number | tuple[_Number, ...] | None, read: Callable[[str], _Number]
    ) -> tuple[_Number, ...]:
        if key not in self.options:
            if default is None:
                raise self.error(f"has no {key}")
            return default if isinstance(default, tuple) else (default,)
        given = self.options[key][0]
        try:
            values = tuple(read(part) for part in given.split(",") if part)
        except ValueError:
            raise self.error(f"{key}={given[:40]!r} is not made of numbers", key) from None
        if not values or not all(abs(value) < _NUMBERS_BELOW for value in values):  # also no NaN
            raise self.error(f"{key}={given[:40]!r} is not made of numbers", key)
        return values


def read_cfg(path: str | PathLike[str]) -> list[Section]:
    """The sections of a file; the first is `net`.

    Raises:
        CheckpointError: there is no such file, or it is no network description.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}. Give Darknet's .cfg file") from error
    if len(data) > _LARGEST_FILE:
        raise CheckpointError(f"{path} is larger than {_LARGEST_FILE} bytes: no Darknet .cfg file is")
    return parse_cfg(data.decode("utf-8-sig", errors="replace"), str(path))


def parse_cfg(text: str, source: str) -> list[Section]:
    """The sections in a text; `source` names it in messages. See `read_cfg`."""
    sections: list[Section] = []
    options: dict[str, tuple[str, int]] = {}
    for number, line in _meaningful_lines(text):
        if line.startswith("["):
            options = {}
            kind = line.removeprefix("[").partition("]")[0].lower()[:40]
            sections.append(Section(source, number, _ALIASES.get(kind, kind), options))
            continue
        key, equals, value = line.partition("=")
        if not equals or not sections:
            raise CheckpointError(
                f"{source}, line {number}: {line[:40]!r} is neither [section] nor key=value of one: "
                "is this Darknet's .cfg file?"
            )
        options.setdefault(key, (value, number))
    if not sections or sections[0].kind != "net":
        raise CheckpointError(f"{source} does not start with a [net] section: is this Darknet's .cfg file?")
    if not 1 < len(sections) <= _MOST_SECTIONS:
        raise CheckpointError(
            f"{source} has {len(sections) - 1} layers, which is not in 1..{_MOST_SECTIONS - 1}"
        )
    return sections


def _meaningful_lines(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines, white space taken out everywhere and comments cut, as Darknet does.

    What cannot be printed becomes "?": parts of the lines end up in messages.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        line = "".join(c if c.isprintable() else "?" for c in line if not c.isspace())
        if line and line[0] != ";":
            line = line.partition("#")[0]
            if line:
                yield number, line
