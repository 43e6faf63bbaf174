"""safetensors: a length, a JSON header that may lie, and the bytes behind it."""

from __future__ import annotations

import json
from contextlib import suppress

from as_file import as_file
from torch import nn

import detcam
from detcam.adapters import inspect
from detcam.errors import DetcamError

_NETWORK = nn.Conv2d(1, 2, 1)


def file_of(header: object, body: bytes) -> bytes:
    """A file with that header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def seeds() -> list[bytes]:
    """One that fits the network, one with other types, one with nothing."""
    weight = {"dtype": "F32", "shape": [2, 1, 1, 1], "data_offsets": [0, 8]}
    bias = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
    odd = {name: {"dtype": name, "shape": [1], "data_offsets": [0, 1]} for name in ("U8", "BOOL", "F8_E4M3")}
    return [
        file_of({"weight": weight, "bias": bias, "__metadata__": {"a": "b"}}, bytes(16)),
        *(file_of({name: one}, b"\x01") for name, one in odd.items()),
        file_of({}, b""),
    ]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    path = as_file("model.safetensors", data)
    for read in (inspect, lambda path: detcam.load_weights(_NETWORK, path), detcam.load):
        with suppress(DetcamError):
            read(path)
