"""The zip archive around a checkpoint: as torch writes it, or not opened.

torch packs nothing: its members lie in the file as they are. So an archive that claims more bytes than the
file has is no checkpoint but a bomb, and one that two readers could read in two ways was not made by torch.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field

from detcam.checkpoints.records import DAMAGE
from detcam.errors import CheckpointError, UnsafeCheckpointError

_MOST_PICKLE_BYTES = 16 << 20  # without its tensors a model takes far less; memory is some hundred times this
_END, _END64, _LOCATOR64 = (
    22,
    56,
    20,
)  # bytes of the records at an archive's end, in the order 64, locator, end
_FETCH_AGAIN = "Copy or download it again, and compare its size with the original"
_NOT_A_MODEL = "Give the checkpoint that training wrote, such as best.pt"


@dataclass(frozen=True, eq=False)
class Archive:
    """A checkpoint's archive, whose directory has been checked.

    Attributes:
        data: the whole file.
        pickle: the bytes of data.pkl.
        storages: name of each tensor's memory -> its bytes in the file.
    """

    data: bytes = field(repr=False)
    pickle: bytes = field(repr=False)
    storages: dict[str, int]


def open_archive(source: str, data: bytes) -> Archive:
    """Check a file's directory and take its pickle out; nothing is unpickled.

    Args:
        source: the file, for messages.
        data: its bytes, which begin as a zip archive does.

    Raises:
        CheckpointError: it is damaged, or the archive of something else.
        UnsafeCheckpointError: it was made to take more memory than it holds, or to be read in two ways.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_kind(source, members)
            _check_directory(source, data, archive.start_dir, members)
            (pickle,) = (one for one in members if _last(one) == "data.pkl")
            if pickle.file_size > _MOST_PICKLE_BYTES:
                raise UnsafeCheckpointError(
                    f"{source} holds a pickle of {pickle.file_size} bytes, over the {_MOST_PICKLE_BYTES} we "
                    "read: save the state dict alone"
                )
            folder = pickle.filename.removesuffix("data.pkl") + "data/"
            storages = {
                one.filename.removeprefix(folder): one.file_size
                for one in members
                if one.filename.startswith(folder)
            }
            return Archive(data, archive.read(pickle), storages)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{source} is a damaged zip archive, or cut short at {len(data)} bytes. {_FETCH_AGAIN}"
        ) from error
    except (*DAMAGE, OSError, NotImplementedError) as error:
        raise CheckpointError(f"{source} is a damaged zip archive. {_FETCH_AGAIN}") from error


def _check_kind(source: str, members: Sequence[zipfile.ZipInfo]) -> None:
    names = {_last(one) for one in members}
    if "constants.pkl" in names:
        raise CheckpointError(f"{source} is a TorchScript export, whose layers are gone. {_NOT_A_MODEL}")
    if "data.pkl" not in names:
        raise CheckpointError(f"{source} is a zip archive without data.pkl, so no checkpoint. {_NOT_A_MODEL}")


def _check_directory(source: str, data: bytes, start: int, members: Sequence[zipfile.ZipInfo]) -> None:
    """Check that every reader finds this directory, and that it lists no more than the file has."""
    names = [one.filename.casefold() for one in members]  # torch's reader does not tell cases apart
    pickles = sum(_last(one).casefold() == "data.pkl" for one in members)
    if len(set(names)) < len(names) or pickles > 1 or not _is_unambiguous(data, start):
        raise UnsafeCheckpointError(
            f"{source} is an archive that can be read in two ways, as torch writes none. Refused; "
            "fetch the original"
        )
    if any(one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size for one in members):
        raise UnsafeCheckpointError(
            f"{source} is a compressed archive, as torch writes none: what it takes unpacked cannot be told. "
            "Refused; unpack it and save it again with torch.save"
        )
    claimed = sum(one.file_size for one in members)
    if claimed > len(data):
        raise UnsafeCheckpointError(
            f"{source} has {len(data)} bytes and claims to hold {claimed}. Refused; fetch the original"
        )


def _is_unambiguous(data: bytes, start: int) -> bool:
    """Whether the records at the end say where the directory is, one after the other, and nothing follows."""
    end = len(data) - _END
    if data[end : end + 4] != b"PK\5\6" or data[-2:] != b"\0\0":
        return False
    length, offset = struct.unpack("<II", data[end + 12 : end + 20])
    locator = end - _LOCATOR64
    if data[locator : locator + 4] == b"PK\6\7":
        end = locator - _END64
        (said,) = struct.unpack("<Q", data[locator + 8 : locator + 16])
        if said != end or data[end : end + 4] != b"PK\6\6":
            return False
        length, offset = struct.unpack("<QQ", data[end + 40 : end + 56])
    return bool(offset == start and offset + length == end)


def _last(member: zipfile.ZipInfo) -> str:
    return member.filename.rpartition("/")[2]
