"""How much memory the worst files take, measured in a process of their own."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hostile import BOMBS, LIES

MEGABYTE = 1 << 20
MOST = 100 * MEGABYTE  # beyond what is there before the first file; the files themselves have up to 10 MB
PICTURES_MOST = (
    2500 * MEGABYTE
)  # the largest picture that is read has 179 million pixels, of 3 bytes and in copies

READ = """
import json, os, resource, sys
import numpy as np
from torch import nn
import detcam
from detcam.adapters import inspect
from detcam.adapters.options import read_names
from detcam.errors import DetcamError
from detcam.images import read_frame, read_picture
from detcam.labels import read_labelled
from detcam.report import write_report
from detcam.report.reading import read_explanation

network = nn.Conv2d(1, 1, 1)
DOORS = {
    "model": [inspect, lambda p: detcam.load(p, device="cpu"), lambda p: detcam.load_weights(network, p)],
    "cfg": [lambda p: detcam.load(p.replace(".cfg", ".weights"), device="cpu", cfg=p)],
    "picture": [read_frame, read_picture],
    "labels": [read_labelled],
    "names": [read_names],
    "run": [read_explanation],
}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
for kind, path in json.load(sys.stdin):
    for door in DOORS[kind]:
        try:
            from pathlib import Path
            door(Path(path) if kind == "run" else path)
            print(json.dumps([path, "came through", peak() - before]))
        except DetcamError as error:
            print(json.dumps([path, str(error), peak() - before]))
"""


def measured(files):
    """(path, what was said, peak so far beyond the start, in bytes) of each door's reading of each file."""
    said = json.dumps([(kind, str(path)) for kind, path in files])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ],
        input=said,
        text=True,
        capture_output=True,
        env=environment,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


CFG = "[net]\nwidth=8192\nheight=8192\nchannels=3\n" + "[convolutional]\nfilters=65536\nsize=255\n" * 3
YAML_LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
YAML_MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def _npz(path, shape):
    """Arrays that unpack to a gigabyte and more, or say that they do."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(5 if shape[0] > 1 else 1):
            with archive.open(f"a{number}.npy", "w") as member:
                member.write(header)
                for _ in range(250 if shape[0] > 1 else 1):
                    member.write(bytes(MEGABYTE))


def _run(folder, name, shape):
    """A description beside such arrays."""
    document = {
        "schema": "detcam.explanation/1", "layers": [], "boxes": [], "warnings": [], "detections_found": 0,
        "image": {"path": None, "sha256": None, "width": 1, "height": 1}, "best_score": 0.0,
        "input": {"width": 1, "height": 1, "letterbox": {"ratio": [1, 1], "pad": [0, 0]}},
        "method": dict.fromkeys(("name", "target", "unit", "gradients", "merge", "scale_value"))
        | {"scale": "box"},
        "files": {"arrays": f"{name}.npz"},
    }  # fmt: skip
    _npz(folder / f"{name}.npz", shape)
    (folder / f"{name}_cam.json").write_text(json.dumps(document))
    return folder / f"{name}_cam.json"


def _png(width, height, body):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body(chunk) + chunk(b"IEND", b"")


def _text_bomb(chunk):
    return chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300 * MEGABYTE))) + chunk(
        b"IDAT", zlib.compress(b"\0" * 5)
    )


def _profile_bomb(chunk):
    return chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(300 * MEGABYTE))) + chunk(
        b"IDAT", zlib.compress(b"\0" * 5)
    )


def test_hostile_files_take_little_memory(tmp_path):
    files: list[tuple[str, Path]] = []

    def add(kind, name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        files.append((kind, path))

    for number, (name, content) in enumerate(LIES.items()):
        add("model", f"{number}-{name}.safetensors".replace(" ", "-"), content)
    for name, bomb in BOMBS.items():
        add("model", f"{name}.pt".replace(" ", "-"), bomb())
    (tmp_path / "terabytes.weights").write_bytes(bytes(64))
    add("cfg", "terabytes.cfg", CFG)
    (tmp_path / "long.weights").write_bytes(bytes(64))
    add("cfg", "long.cfg", "[net]\nwidth=8\nheight=8\n" + "[route]\nlayers=-1\n" * 10_000)
    add("labels", "laughs.yaml", YAML_LAUGHS)
    add("labels", "merges.yaml", YAML_MERGES)
    add("labels", "deep.yaml", "[" * 100_000)
    add("labels", "count.yaml", "train: .\nnc: 1000000000000\n")
    add("labels", "digits.yaml", "train: .\nnc: 0x" + "f" * 100_000 + "\n")
    add("labels", "large.yaml", "#" * (2 * MEGABYTE))
    add("labels", "deep.json", "[" * 10_000_000)
    add("labels", "digits.json", '{"images": [' + "1" * 1_000_000 + "]}")
    add("names", "laughs-names.yaml", YAML_LAUGHS + "names: *a11\n")
    files += [
        ("run", _run(tmp_path, "unpacks", (65_536_000,))),
        ("run", _run(tmp_path, "claims", (1, 10**12))),
    ]
    rows = measured(files)
    for path, said, _ in rows:
        is_listing = path.endswith(".pt")  # to list what is in a pickle is harmless
        assert said != "came through" or is_listing, path
        assert "\n" not in said
        assert len(said) < 1000
    assert rows[-1][2] < MOST, max(rows, key=lambda row: row[2])


@pytest.mark.slow
def test_pictures_take_no_more_memory_than_the_largest_that_is_read(tmp_path):
    files: list[tuple[str, Path]] = []
    side = 13_377  # 178,944,129 pixels, just below the limit
    rows = zlib.compress(bytes((4 * side + 1) * side), 1)
    for name, content in {
        "largest.png": _png(side, side, lambda chunk: chunk(b"IDAT", rows)),
        "too-large.png": _png(side + 1, side + 1, lambda chunk: chunk(b"IDAT", rows)),
        "text.png": _png(1, 1, _text_bomb),
        "profile.png": _png(1, 1, _profile_bomb),
        "claims.ppm": b"P6 60000 60000 255\n" + bytes(99),
        "claims.bmp": b"BM"
        + struct.pack("<IHHIIiiHHII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0)
        + bytes(16),
    }.items():
        (tmp_path / name).write_bytes(content)
        files.append(("picture", tmp_path / name))
    rows = measured(files)
    read = [
        Path(path).name for path, said, _ in rows[1::2] if said == "came through"
    ]  # after each one's size
    assert read == ["largest.png"]
    assert rows[-1][2] < PICTURES_MOST
