"""Text files of strangers, whole or refused with the line."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcam.errors import InputError

MOST_TEXT, MOST_YAML, MOST_COCO = 256 << 20, 1 << 20, 2 << 30  # bytes; YAML takes ten seconds for as much
_YAML_SAID = "give the data.yaml of a data set"


def read_limited(path: Path, most_bytes: int) -> bytes:
    """Read a file whole, if it is a file and not larger than what it is said to be ever is.

    Raises:
        InputError: it cannot be read, or is too large.
    """
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise InputError(f"{path}: is a device or pipe, not a file; save it to a file first")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > most_bytes:
                raise InputError(f"{path}: larger than the {most_bytes} bytes we read of such a file")
            return file.read(most_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def read_text(path: Path, most_bytes: int = MOST_TEXT) -> str:
    """Read UTF-8, with or without a byte-order mark.

    Raises:
        InputError: the file cannot be read, is too large, or a line of it is no text.
    """
    data = read_limited(path, most_bytes)
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
    content = parse_yaml(read_text(path, MOST_YAML), str(path))
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds no `key: value` lines; {_YAML_SAID}")
    return content


def parse_yaml(text: str, source: str) -> Any:
    """What a YAML text holds, as plain data; an alias of a list or mapping is refused.

    Such aliases are how a few hundred bytes come to mean a billion values.

    Args:
        text: YAML.
        source: the file, for messages.

    Raises:
        InputError: it is no YAML; the text names the line.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.load(text, _plain_loader())  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"{source}, line {line}: no YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{source}: no YAML: {str(error).splitlines()[0]}") from error


@functools.cache
def _plain_loader() -> type[Any]:
    import yaml

    class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                node = self.anchors.get(event.anchor)
                if not isinstance(node, yaml.ScalarNode | None):
                    raise yaml.composer.ComposerError(
                        None,
                        None,
                        "aliases of lists and mappings are not read: write it out",
                        event.start_mark,
                    )
            return super().compose_node(parent, index)

        def construct_yaml_int(self, node: Any) -> int:
            value: int = super().construct_yaml_int(node)
            if value.bit_length() > 64:  # Python would not even print some of these
                raise yaml.constructor.ConstructorError(
                    None, None, "a number of over 64 bits", node.start_mark
                )
            return value

    PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_yaml_int)
    return PlainLoader
