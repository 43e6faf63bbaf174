"""torch checkpoints: archives, and the pickles in them."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress

import torch
from as_file import as_file
from torch import nn

import detcam
from detcam.adapters import inspect
from detcam.checkpoints import Ignored, open_checkpoint, read_checkpoint
from detcam.errors import DetcamError

_NETWORK = nn.Conv2d(1, 2, 1)


def archive_of(pickled: bytes, storage: bytes = bytes(16)) -> bytes:
    """An archive around a pickle, with two storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/version", "3\n")
        for key in "01":
            archive.writestr(f"model/data/{key}", storage)
    return file.getvalue()


def saved(content: object) -> bytes:
    """The archive that torch makes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def pickle_of(content: object) -> bytes:
    """The pickle in that archive."""
    with zipfile.ZipFile(io.BytesIO(saved(content))) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def seeds() -> list[bytes]:
    """Weights, a model, plain data, as archives and as their pickles."""
    contents = (
        _NETWORK.state_dict(),
        {"model": nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), "epoch": 3},
        {
            "names": {0: "a", 1: "b"},
            "best": [1.5, None, True, (1, 2)],
            "set": {1, 2},
            "size": torch.Size([1]),
        },
    )
    return [form(content) for content in contents for form in (saved, pickle_of)]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    path = as_file("model.pt", data if data.startswith(b"PK") else archive_of(data))
    with suppress(DetcamError):
        inspect(path)
    with suppress(DetcamError):
        detcam.load_weights(_NETWORK, path)
    with suppress(DetcamError):
        read_checkpoint(open_checkpoint(path), resolve={"lab.Ignored": Ignored}.get)
