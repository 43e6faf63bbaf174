"""Darknet detectors from `.cfg` and `.weights`: YOLOv3, v4, their tiny forms, Yolo-Fastest and relatives.

Predictions are those of OpenCV's `DetectionModel` and of Darknet's own Python scripts: the picture stretched
bilinearly over the whole input, score = objectness · class, best class per box, suppression per class at .45.
Logits are taken before any activation, also where a network with `new_coords` activates them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor, nn

from detcam.adapters.anchor_grid import AnchorGridDetector, AnchorHead
from detcam.adapters.base import LoadOptions
from detcam.adapters.class_names import class_names_for
from detcam.adapters.darknet_cfg import read_cfg
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.adapters.darknet_stages import darknet_layers
from detcam.adapters.darknet_weights import load_weights
from detcam.adapters.decoding import exponential_anchor_boxes, squared_anchor_boxes
from detcam.adapters.preparation import Stretched, bilinear_cv2
from detcam.checkpoints import ModelFile
from detcam.errors import CheckpointError, UnsupportedModelError
from detcam.geometry import Letterbox
from detcam.scoring import ObjectTimesClass
from detcam.structures import Origin

_OWN_IOU = 0.45


@dataclass(eq=False)
class DarknetDetector(AnchorGridDetector):
    """A Darknet detector; see `AnchorGridDetector`.

    Attributes:
        input_size: (H, W) of the input that the network's description asks for; they may differ.
    """

    input_size: tuple[int, int] = (416, 416)

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """The input (3, H, W) of a picture (H, W, 3) uint8 RGB: stretched, 0..1."""
        return super().prepare(pixels, self.input_size if imgsz is None else imgsz)


def recognises(model: nn.Module) -> bool:
    """Whether a live model is a network built from Darknet's description."""
    return isinstance(model, DarknetNetwork)


def wrap(model: nn.Module, options: LoadOptions, origin: Origin | None = None) -> DarknetDetector:
    """A detector around a network that has its weights.

    Args:
        model: a `DarknetNetwork`.
        options: `names`; `num_classes` to check the description's.
        origin: the file the weights came from.

    Raises:
        UnsupportedModelError: it is another network.
        InputError: names or number of classes do not fit the network.
    """
    if not isinstance(model, DarknetNetwork):
        raise UnsupportedModelError(f"a {type(model).__name__} is no DarknetNetwork")
    heads = tuple(_head(model, index) for index in model.heads)
    return DarknetDetector(
        model=model,
        family="Darknet YOLO",
        heads=heads,
        class_names=class_names_for(model.classes, None, options),
        preparation=Stretched(max(head.stride for head in heads), bilinear_cv2),
        scoring=ObjectTimesClass(),
        own_iou=_OWN_IOU,
        table=darknet_layers(model),
        imgsz=max(model.input_size),
        origin=origin,
        input_size=model.input_size,
    )


def reads(file: ModelFile, options: LoadOptions) -> bool:
    """Whether a file is Darknet's."""
    return file.kind == "darknet"


def load(file: ModelFile, options: LoadOptions) -> DarknetDetector:
    """A detector from a `.weights` file and the network's description `options.cfg`.

    Raises:
        CheckpointError: there is no description, one of the two cannot be read, or they do not belong
            together.
        InputError: see `wrap`.
    """
    if options.cfg is None:
        raise CheckpointError(
            f"{file.path} holds numbers alone: give the network's description, --cfg NAME.cfg"
        )
    network = DarknetNetwork(read_cfg(options.cfg))
    load_weights(network, file)
    return wrap(network.eval(), options, Origin(str(file.path), file.sha256, trust="safe"))


def _head(network: DarknetNetwork, index: int) -> AnchorHead:
    """The level of the `yolo` layer at `index`; its raw map is what the layer before gives unactivated."""
    yolo, (source,) = network.yolo(index), network.nodes[index].sources
    part = "conv" if network.convolution(source).norm is None else "norm"
    decode = squared_anchor_boxes if yolo.is_squared else exponential_anchor_boxes
    return AnchorHead(
        layer=f"layers.{source}.{part}",
        stride=_stride(network, source),
        anchors=yolo.anchors,
        decode=partial(decode, scale_xy=yolo.scale_xy),
    )


def _stride(network: DarknetNetwork, index: int) -> int:
    """Input pixels per cell.

    Raises:
        CheckpointError: they are no whole number, or differ along the two sides.
    """
    node = network.nodes[index]
    (height, width), (h, w) = network.input_size, node.shape[1:]
    if height % h or width % w or height // h != width // w:
        raise node.section.error(
            f"gives a {h}x{w} map of a {height}x{width} input, not one cell per so many pixels: "
            "make width and height of [net] multiples of 32"
        )
    return height // h
