"""The file itself: whether it is there, whether it is a torch checkpoint, and what it is if not."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from detcam.checkpoints.acts import ActError, check_acts
from detcam.checkpoints.archive import Archive, open_archive
from detcam.checkpoints.records import DAMAGE, list_globals, unpickle_records
from detcam.errors import CheckpointError, UnsafeCheckpointError

_NOT_A_MODEL = "Give the checkpoint that training wrote, such as best.pt"
_FETCH_AGAIN = "Copy or download it again, and compare its size with the original"

# First bytes, what they mean, what to do. The first match counts.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it points to",
        "Fetch the file: git lfs pull",
    ),
    (b"\x89PNG", "a PNG picture", _NOT_A_MODEL),
    (b"\xff\xd8\xff", "a JPEG picture", _NOT_A_MODEL),
    (b"GIF8", "a GIF picture", _NOT_A_MODEL),
    (b"BM", "a BMP picture", _NOT_A_MODEL),
    (b"RIFF", "a WebP picture or another RIFF file", _NOT_A_MODEL),
    (b"II*\x00", "a TIFF picture", _NOT_A_MODEL),
    (b"MM\x00*", "a TIFF picture", _NOT_A_MODEL),
    (b"%PDF", "a PDF document", _NOT_A_MODEL),
    (b"\x89HDF", "an HDF5 file (Keras?)", _NOT_A_MODEL),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first"),
    (b"Rar!", "a RAR archive", "Unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive", "Unpack it first"),
)
_SAVE_AGAIN = "Ask its author to save it again with a newer torch"
# How torch's restricted unpickler stumbles over an instruction that torch.save never writes, and over the
# first one of a pickle of protocol 4 or 5.
_INSTRUCTION_MET = "Unsupported operand"
_FRAME_MET = f"{_INSTRUCTION_MET} {pickle.FRAME[0]}"
# How it refuses to call, import, make or fill in what is not on its list.
_ACTS_MET = (
    "Trying to call reduce",
    "Trying to load unsupported GLOBAL",
    "Can only create new object",
    "Can only build",
)
_HTML = (b"<!doctype html", b"<html", b"<?xml")


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """A torch checkpoint that has been looked at and not unpickled.

    Attributes:
        path: where it was.
        sha256: of `data`.
        globals: dotted names it wants, sorted, less the tensor machinery that torch itself calls safe.
        archive: its bytes, read once: what was hashed and listed is what will be loaded.
    """

    path: Path
    sha256: str
    globals: tuple[str, ...]
    archive: Archive = field(repr=False)

    @property
    def data(self) -> bytes:
        """The whole file."""
        return self.archive.data

    def records(self) -> Any:
        """What was saved, with a `Record` in place of every object of a class that the file names.

        Raises:
            what is in `DAMAGE`: it is damaged, or would do what no training run saves.
        """
        check_acts(self.archive, self.globals)
        return unpickle_records(self.data, self.globals)


def open_checkpoint(path: str | PathLike[str]) -> CheckpointFile:
    """Read a checkpoint's bytes and list the names in it, without unpickling.

    Raises:
        CheckpointError: there is no such file, or it is not a torch checkpoint.
        UnsafeCheckpointError: its archive was made to take more memory than it holds.
    """
    path = Path(path)
    data = read_bytes(path)
    if data.startswith(b"\x80"):
        raise UnsafeCheckpointError(
            f"{path} is a bare pickle, as torch saved before 1.6; those cannot be read safely. {_SAVE_AGAIN}"
        )
    if not data.startswith(b"PK\x03\x04"):
        what, advice = _describe(data)
        raise CheckpointError(f"{path} is {what}. {advice}")
    archive = open_archive(str(path), data)
    try:
        names = list_globals(data)
    except DAMAGE as error:
        raise unread(path, error) from error
    digest = hashlib.file_digest(io.BytesIO(data), "sha256").hexdigest()
    return CheckpointFile(path, digest, tuple(names), archive)


def unread(path: Path, error: BaseException) -> CheckpointError:
    """Make the error for a file that breaks while torch reads it, or that torch refuses to read on."""
    # torch wraps what it found into advice to load the file unsafely; that is not ours to pass on.
    found = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    if found.startswith(_FRAME_MET):
        return UnsafeCheckpointError(
            f"{path} was saved with pickle_protocol=4 or 5, which torch cannot read without running what is "
            "in it. Ask its author to save it again without that option"
        )
    if found.startswith(_INSTRUCTION_MET):
        return UnsafeCheckpointError(
            f"{path} has an instruction that torch.save never writes ({found.split()[2]}): it was made by "
            f"something else, or is damaged. Refused; nothing in it was run. {_SAVE_AGAIN}"
        )
    if isinstance(error, ActError) or any(words in str(error) for words in _ACTS_MET):
        return UnsafeCheckpointError(
            f"{path} calls or fills in something of its own making, which no plain training run saves. "
            "Refused; nothing in it was run. If you trust where it comes from: --unsafe-load"
        )
    said = printable(" ".join(found.split())[:200])
    return CheckpointError(f"{path} is damaged: {type(error).__name__}: {said}. {_FETCH_AGAIN}")


def printable(text: str) -> str:
    """Write out control characters: a name from the file must not steer the terminal it is shown on."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def read_bytes(path: Path) -> bytes:
    """Read a model file whole.

    Raises:
        CheckpointError: there is no such file, or it is empty; the text says what to do.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is a device or pipe, not a file. {_NOT_A_MODEL}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        is_bare_name = path.name == str(path)
        hint = (
            "A bare name is never downloaded: give the path of a file" if is_bare_name else "Check the path"
        )
        raise CheckpointError(f"no file {str(path)!r} in {Path.cwd()}. {hint}") from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f"{path} is a folder. Give the file in it, such as {path / 'best.pt'}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} is larger than the memory there is. {_NOT_A_MODEL}") from error
    if not data:
        raise CheckpointError(f"{path} is empty (0 bytes). {_FETCH_AGAIN}")
    return data


def _describe(data: bytes) -> tuple[str, str]:
    """Say what a file that is no zip archive is, and what to do about it."""
    for signature, what, advice in _SIGNATURES:
        if data.startswith(signature):
            return what, advice
    if data[:512].lstrip().lower().startswith(_HTML):
        return "a web page, so the download went wrong", "Fetch the file itself, not the page that shows it"
    if data[8:10] == b'{"':
        return "a safetensors file: weights without a model", _NOT_A_MODEL
    return f"not a torch checkpoint (it begins with {data[:8]!r})", _NOT_A_MODEL
