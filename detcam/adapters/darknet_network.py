"""A Darknet network as a torch module, built layer by layer from its description.

What each layer computes follows Darknet (Redmon; the fork of Bochkovskiy). Nothing is allocated here: weights
come from `darknet_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from detcam.adapters.darknet_cfg import Section
from detcam.adapters.darknet_modules import (
    ACTIVATIONS,
    AvgPool,
    Convolutional,
    MaxPool,
    Route,
    Scale,
    Shortcut,
    Upsample,
    Yolo,
)

PICTURE = -1
"""Index of the network's input among the sources of a layer."""

_MOST_FILTERS = 1 << 16
_LARGEST_SIDE = 8192
_MOST_ACTIVATIONS = 1 << 33  # over all layers: 32 GiB, far beyond YOLOv4-P7

Shape = tuple[int, int, int]
"""(C, h, w)."""


@dataclass(frozen=True)
class Node:
    """How a layer hangs in the network.

    Attributes:
        section: its description.
        sources: indices of the layers it reads, `PICTURE` for the input.
        shape: of its output, for an input of the network's own size.
    """

    section: Section
    sources: tuple[int, ...]
    shape: Shape


class DarknetNetwork(nn.Module):
    """A network as a `.cfg` file describes it; `layers.12` is Darknet's layer 12.

    Built on torch's meta device: the weights have shapes and no memory until they are loaded.

    Attributes:
        input_size: (H, W) of the network's own input.
        nodes: how each layer hangs in the network.
        layers: the modules.

    Raises:
        CheckpointError: a layer of a kind, or with an option, that is not understood; shapes that do not fit;
            sizes that no detector has.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        net = sections[0]
        height, width = (net.integer(key, None, 1, _LARGEST_SIDE) for key in ("height", "width"))
        net.integer("channels", 3, 3, 3)
        self.input_size = height, width
        self.nodes: list[Node] = []
        self.layers = nn.ModuleList()
        activations = 0
        for section in sections[1:]:
            layer, sources, shape = _build(section, self.nodes, (3, height, width))
            activations += math.prod(shape)
            if activations > _MOST_ACTIVATIONS:
                raise section.error(f"gives {shape} values: all layers together exceed {_MOST_ACTIVATIONS}")
            self.nodes.append(Node(section, sources, shape))
            self.layers.append(layer)
        self._check_heads()
        last_reader = {source: index for index, node in enumerate(self.nodes) for source in node.sources}
        self._done_after: dict[int, list[int]] = {}
        for source, index in last_reader.items():
            self._done_after.setdefault(index, []).append(source)

    @property
    def heads(self) -> list[int]:
        """Indices of the `yolo` layers."""
        return [index for index, layer in enumerate(self.layers) if isinstance(layer, Yolo)]

    @property
    def classes(self) -> int:
        """Number of classes that every level scores."""
        return self.yolo(self.heads[0]).classes

    def yolo(self, index: int) -> Yolo:
        """The `yolo` layer of that index."""
        return cast(Yolo, self.layers[index])

    def convolution(self, index: int) -> Convolutional:
        """The convolutional layer of that index."""
        return cast(Convolutional, self.layers[index])

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Inputs of the `yolo` layers, (B, A·(5 + K), h, w) each, of pictures (B, 3, H, W)."""
        outputs = {PICTURE: pictures}
        for index, (node, layer) in enumerate(zip(self.nodes, self.layers, strict=True)):
            outputs[index] = layer(*(outputs[source] for source in node.sources))
            for source in self._done_after.get(index, ()):
                del outputs[source]  # nobody reads it any more
        return [outputs[index] for index in self.heads]

    def _check_heads(self) -> None:
        net = Section(self.nodes[0].section.source, 1, "net", {})
        if not self.heads:
            raise net.error("has no [yolo] layer: detectors with other heads, such as YOLOv2, are not read")
        classes = {self.yolo(index).classes for index in self.heads}
        if len(classes) > 1:
            raise net.error(f"has [yolo] layers of different numbers of classes: {sorted(classes)}")


_Built = tuple[nn.Module, tuple[int, ...], Shape]


class _Site:
    """Where a layer is being built: its description, the layers before it, and what it reads."""

    def __init__(self, section: Section, nodes: Sequence[Node], picture: Shape) -> None:
        self.section = section
        self.nodes = nodes
        self._picture = picture

    @property
    def previous(self) -> int:
        return self.resolve(-1) if self.nodes else PICTURE

    def resolve(self, reference: int) -> int:
        """Layer index of a reference: negative counts back from here, others are absolute."""
        index = reference if reference >= 0 else len(self.nodes) + reference
        if not 0 <= index < len(self.nodes):
            raise self.section.error(f"reads layer {reference}: before layer {len(self.nodes)} there is none")
        if self.nodes[index].section.kind == "yolo":
            raise self.section.error(f"reads layer {index}, a [yolo] layer: read the one before it")
        return index

    def references(self, key: str) -> tuple[int, ...]:
        return tuple(self.resolve(reference) for reference in self.section.integers(key))

    def shape(self, index: int) -> Shape:
        return self._picture if index == PICTURE else self.nodes[index].shape

    def activation(self, default: str) -> nn.Module:
        name = self.section.text("activation", default)
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise self.section.error(
                f"activation={name[:40]!r} is not understood, only {known}", "activation"
            )
        return ACTIVATIONS[name]()


# Options that change what a layer computes, in ways that are not built here.
_NOT_UNDERSTOOD: dict[str, tuple[str, ...]] = {
    "convolutional": (
        *("binary", "xnor", "antialiasing", "coordconv", "deform", "share_index", "stride_x", "stride_y"),
        *("rotate", "stretch", "stretch_sway", "sway"),
    ),
    "maxpool": ("antialiasing", "maxpool_depth", "out_channels", "stride_x", "stride_y"),
    "shortcut": ("weights_type", "weights_normalization", "weights_normalizion"),
    "scale_channels": ("scale_wh",),
}


def _build(section: Section, nodes: Sequence[Node], picture: Shape) -> _Built:
    """Module, sources and output shape of the next layer."""
    if section.kind not in _BUILDERS:
        known = ", ".join(f"[{kind}]" for kind in _BUILDERS)
        raise section.error(f"is a kind of layer that is not understood, only {known}")
    for key in _NOT_UNDERSTOOD.get(section.kind, ()):
        if section.is_set(key):
            raise section.error(f"{key}={section.text(key, '')[:40]} is not understood", key)
    with torch.device("meta"):
        return _BUILDERS[section.kind](_Site(section, nodes, picture))


def _convolutional(site: _Site) -> _Built:
    section, source = site.section, site.previous
    channels, height, width = site.shape(source)
    filters = section.integer("filters", 1, 1, _MOST_FILTERS)
    size = section.integer("size", 1, 1, 255)
    stride = section.integer("stride", 1, 1, 64)
    dilation = section.integer("dilation", 1, 1, 64)
    groups = section.integer("groups", 1, 1, _MOST_FILTERS)
    padding = size // 2 if section.is_set("pad") else section.integer("padding", 0, 0, 255)
    if channels % groups or filters % groups:
        raise section.error(f"groups={groups} divides {channels} channels into {filters} filters", "groups")
    is_normalised = section.is_set("batch_normalize") or section.is_set("cbn")
    conv = nn.Conv2d(
        channels, filters, size, stride, padding * dilation, dilation, groups, bias=not is_normalised
    )
    norm = nn.BatchNorm2d(filters, eps=1e-5) if is_normalised else None
    window = dilation * (size - 1) + 1
    sides = [(side + 2 * padding * dilation - window) // stride + 1 for side in (height, width)]
    shape = _positive(section, (filters, *sides))
    return Convolutional(conv, norm, site.activation("logistic")), (source,), shape


def _maxpool(site: _Site) -> _Built:
    section, source = site.section, site.previous
    channels, *sides = site.shape(source)
    stride = section.integer("stride", 1, 1, 64)
    size = section.integer("size", stride, 1, 255)
    padding = section.integer("padding", size - 1, 0, size)
    sides = [(side + padding - size) // stride + 1 for side in sides]
    return MaxPool(size, stride, padding), (source,), _positive(section, (channels, *sides))


def _avgpool(site: _Site) -> _Built:
    return AvgPool(), (site.previous,), (site.shape(site.previous)[0], 1, 1)


def _upsample(site: _Site) -> _Built:
    stride = site.section.integer("stride", 2, 1, 16)
    site.section.number("scale", 1, 1, 1)
    channels, height, width = site.shape(site.previous)
    return Upsample(stride), (site.previous,), (channels, stride * height, stride * width)


def _dropout(site: _Site) -> _Built:
    # No torch Dropout: one that somebody set to training would change what is explained.
    return nn.Identity(), (site.previous,), site.shape(site.previous)


def _route(site: _Site) -> _Built:
    sources = site.references("layers")
    groups = site.section.integer("groups", 1, 1, _MOST_FILTERS)
    group = site.section.integer("group_id", 0, 0, groups - 1)
    shapes = [site.shape(source) for source in sources]
    if len({shape[1:] for shape in shapes}) > 1 or any(channels % groups for channels, *_ in shapes):
        raise site.section.error(f"cannot join {shapes} in {groups} groups", "layers")
    channels = sum(shape[0] // groups for shape in shapes)
    return Route(groups, group), sources, (channels, *shapes[0][1:])


def _shortcut(site: _Site) -> _Built:
    sources = (site.previous, *site.references("from"))
    shapes = [site.shape(source) for source in sources]
    if len(set(shapes)) > 1:
        raise site.section.error(f"cannot add {shapes}", "from")
    return Shortcut(site.activation("linear")), sources, shapes[0]


def _scale(site: _Site) -> _Built:
    sources = (site.previous, *site.references("from"))
    shapes = [site.shape(source) for source in sources]
    sides = (1, 1) if site.section.kind == "scale_channels" else shapes[-1][1:]
    if len(shapes) != 2 or shapes[0] != (shapes[1][0], *sides):
        raise site.section.error(f"cannot multiply {shapes}", "from")
    return Scale(site.activation("linear")), sources, shapes[1]


def _yolo(site: _Site) -> _Built:
    section, source = site.section, site.previous
    values = section.numbers("anchors")
    pairs = list(zip(values[::2], values[1::2], strict=False))
    mask = section.integers("mask", tuple(range(len(pairs))))
    if len(values) % 2 or min(values) <= 0 or any(not 0 <= index < len(pairs) for index in mask):
        raise section.error(
            f"mask {mask} does not fit {len(values) / 2:g} anchors (width, height > 0)", "mask"
        )
    classes = section.integer("classes", 20, 1, _MOST_FILTERS)
    is_squared = section.is_set("new_coords")
    if source == PICTURE or site.nodes[source].section.kind != "convolutional":
        raise section.error("does not stand behind a [convolutional] layer")
    needed, head = "logistic" if is_squared else "linear", site.nodes[source]
    if head.section.text("activation", "logistic") != needed:
        raise section.error(f"needs activation={needed} in the layer before it", "new_coords")
    filters = len(mask) * (5 + classes)
    if head.shape[0] != filters:
        raise section.error(
            f"classes={classes} and {len(mask)} anchors need {filters} filters in the layer before it "
            f"(line {head.section.line}), which has {head.shape[0]}",
            "classes",
        )
    scale_xy = section.number("scale_x_y", 1.0, 1.0, 10.0)
    anchors = tuple(pairs[index] for index in mask)
    return Yolo(anchors, classes, scale_xy, is_squared=is_squared), (source,), head.shape


def _positive(section: Section, shape: tuple[int, ...]) -> Shape:
    channels, height, width = shape
    if min(height, width) < 1:
        raise section.error(f"gives a map of {height}x{width}: its input is too small")
    return channels, height, width


_BUILDERS: dict[str, Callable[[_Site], _Built]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "dropout": _dropout,
    "route": _route,
    "shortcut": _shortcut,
    "sam": _scale,
    "scale_channels": _scale,
    "yolo": _yolo,
}
