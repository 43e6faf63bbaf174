"""Darknet's network descriptions: text to a network without memory."""

from __future__ import annotations

from contextlib import suppress

from detcam.adapters.darknet_cfg import parse_cfg
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.errors import DetcamError

TINY = """[net]
width=64
height=32
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=2
stride=1
[route]
layers=-1,-2
groups=2
group_id=1
[upsample]
stride=2
[shortcut]
from=-1
activation=linear
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=10,14, 23,27
classes=2
"""
_MORE = """[net]
width=32
height=32
[conv]
filters=8
groups=1
activation=mish
[avgpool]
[convolutional]
filters=8
activation=logistic
[scale_channels]
from=-3
activation=linear
[sam]
from=-1
[dropout]
probability=.5
[convolutional]
filters=6
activation=logistic
[yolo]
anchors=10,14
classes=1
new_coords=1
scale_x_y=2.0
"""


def seeds() -> list[bytes]:
    """Every kind of layer."""
    return [TINY.encode(), _MORE.encode()]


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    with suppress(DetcamError):
        DarknetNetwork(parse_cfg(data.decode("utf-8-sig", errors="replace"), "fuzzed.cfg"))
