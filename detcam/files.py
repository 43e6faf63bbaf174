"""Writing files so that they are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from detcam.errors import OutputError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write beside `path` and rename at the end; nothing is left behind if the block fails or is interrupted.

    Raises:
        OutputError: the file cannot be written.
    """
    # Named before it is made: an interrupt as it opens would leave a file that only mkstemp knows.
    # The name is cut, for a picture's may be as long as a file system allows.
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise cannot_write(path, error) from error
    except BaseException:
        _discard(temporary)
        raise


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; it may exist.

    Raises:
        OutputError: it cannot be created, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def json_bytes(document: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8; a stray byte of a file's name, which is no text, becomes a lone surrogate's escape."""
    return json.dumps(document, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")


def append_line(path: Path, line: bytes) -> None:
    """Append one line in a single write, so that a killed run and a full disk leave whole lines.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if file.write(line + b"\n") <= len(line):  # the disk is full: the next write would say so
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The one-line error for a path that cannot be written."""
    return OutputError(f"cannot write {path}: {error.strerror or error}. Choose another place with --project")


def _discard(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()
