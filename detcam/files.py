"""Writing files so that they are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from detcam.errors import InputError, OutputError

_NUMPYS = ("file", "allow_pickle")  # parameters of `savez_compressed`
_NAMED = 40  # characters of a file's name in that of what becomes it
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")
# Controls that JSON itself lets through, and marks for direction and invisible joins.
_STEERING = re.compile(
    "[\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]"
)
_JPEG_QUALITY = 92
_LONGEST_LINE = 1 << 20  # bytes
_LONGEST_SIDE = 65_500  # pixels, of a JPEG


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write beside `path` and rename at the end; nothing is left behind if the block fails or is interrupted.

    Raises:
        OutputError: the file cannot be written.
    """
    # Named before it is made: an interrupt as it opens would leave a file that only mkstemp knows.
    # The name is cut, for a picture's may be as long as a file system allows.
    temporary = path.parent / f".{path.name[:_NAMED]}.{secrets.token_hex(8)}"
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


def write_picture(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write (H, W, 3) RGB as what the path's ending says: .jpg, or .png without any loss.

    Returns:
        The path.

    Raises:
        InputError: the picture is too large for a JPEG.
        OutputError: the file cannot be written.
    """
    is_jpeg = path.suffix == ".jpg"
    if is_jpeg and max(pixels.shape) > _LONGEST_SIDE:
        raise InputError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels do not fit a JPEG: cut it into tiles")
    with whole_file(path) as file:
        if is_jpeg:
            Image.fromarray(pixels).save(file, format="JPEG", quality=_JPEG_QUALITY)
        else:
            Image.fromarray(pixels).save(file, format="PNG")
    return path


def write_arrays(path: Path, content: Mapping[str, npt.NDArray[np.float32]], *, half: bool) -> Path:
    """Write a compressed .npz, in float16 if `half`.

    An array called "file" or "allow_pickle", which are numpy's own words here, gets an underscore behind.

    Returns:
        The path.

    Raises:
        OutputError: the file cannot be written.
    """
    stored = {name: array.astype(np.float16) if half else array for name, array in content.items()}
    with whole_file(path) as file:
        _savez(file, {f"{name}_" if name in _NUMPYS else name: array for name, array in stored.items()})
    return path


def write_json(path: Path, document: Any) -> Path:
    """Write one JSON document.

    Returns:
        The path.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_file(path) as file:
        file.write(json_bytes(document, indent=1))
    return path


def plain_names(texts: Sequence[str], longest: int, keys: Sequence[str] | None = None) -> list[str]:
    """Names that any file system takes, each made of its text; where two collide, with a hash behind them.

    Args:
        texts: what to name, such as a layer's name; a stranger's words.
        longest: bytes of a name without the hash.
        keys: what tells two equal texts apart, and is hashed; by default the texts, which must then differ.
    """
    plain = [_plain(text, longest) for text in texts]
    times = Counter(name.casefold() for name in plain)  # some file systems do not tell cases apart
    return [
        f"{name}-{_fingerprint(key)}" if times[name.casefold()] > 1 else name
        for name, key in zip(plain, keys or texts, strict=True)
    ]


def json_bytes(document: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8, fit to be shown: what steers a terminal or turns text around is escaped.

    So is a stray byte of a file's name, which is no text: it becomes a lone surrogate's escape.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8", "backslashreplace")


def append_line(path: Path, line: bytes) -> None:
    """Append one line in a single write, so that a killed run and a full disk leave whole lines.

    Raises:
        OutputError: the file cannot be written, or is a link: it may lead out of the run's folder.
    """
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link to somewhere else")
        with path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if file.write(line + b"\n") <= len(line):  # the disk is full: the next write would say so
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_torn_line(path: Path) -> None:
    """Cut off what stands behind the last end of line, of a list that somebody was killed writing.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - _LONGEST_LINE))
            file.truncate(start + file.read().rfind(b"\n") + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_leftovers(folder: Path, *, of: Iterable[str]) -> None:
    """Remove what `whole_file` was writing in a process that was killed.

    Args:
        folder: where.
        of: names of files that are written, and that nobody writes now.
    """
    left = defaultdict(list)
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            left[path.name[1:-17]].append(path)
    for name in of if left else ():
        for path in left.pop(name[:_NAMED], ()):
            _discard(path)


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The one-line error for a path that cannot be written."""
    return OutputError(f"cannot write {path}: {error.strerror or error}. Choose another place with --project")


def _discard(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()


def _savez(file: BinaryIO, content: dict[str, Any]) -> None:
    np.savez_compressed(file, **content)


def _plain(text: str, longest: int) -> str:
    plain = re.sub(r"[^\w.-]", "_", text).lstrip(".") or "image"
    return plain.encode()[:longest].decode(errors="ignore")


def _fingerprint(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:8]
