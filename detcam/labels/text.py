"""Text files of strangers, whole or refused with the line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcam.errors import InputError


def read_text(path: Path) -> str:
    """Read UTF-8, with or without a byte-order mark.

    Raises:
        InputError: the file cannot be read, or a line of it is no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error


def read_yaml(path: Path) -> Mapping[Any, Any]:
    """Read a YAML file that holds keys and values; nothing in it is run.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    import yaml  # type: ignore[import-untyped]

    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"{path}, line {line}: no YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds no `key: value` lines; give the data.yaml of a data set")
    return content
