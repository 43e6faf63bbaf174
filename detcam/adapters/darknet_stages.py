"""Which layers of a Darknet network are backbone stages, neck and head: read from how they hang together."""

from __future__ import annotations

from detcam.adapters.darknet_modules import Convolutional, MaxPool, Route, Upsample, Yolo
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.adapters.stages import LayerTable
from detcam.structures import LayerSet


def darknet_layers(network: DarknetNetwork) -> LayerTable:
    """Parts and sets of the layers.

    Head set: what the last convolution of each level reads. Neck set: what that in turn is made of. Backbone
    set: for each level the last backbone layer on its grid that the neck reads, else the last one there.
    """
    last = [network.nodes[index].sources[0] for index in network.heads]
    feeders = [_through_routes(network, network.nodes[index].sources[0]) for index in last]
    start = neck_start(network)
    parts: dict[int, LayerSet] = {
        index: "backbone" if index < start else "neck" for index in range(len(network.nodes))
    }
    parts.update(dict.fromkeys((*last, *network.heads), "head"))
    members: dict[int, LayerSet] = {}
    for stage in (_stage(network, head, start) for head in last):
        members.update(dict.fromkeys(stage, "backbone"))
    for source in (_through_routes(network, network.nodes[feeder].sources[0]) for feeder in feeders):
        if parts.get(source) == "neck":
            members[source] = "neck"
    members.update(dict.fromkeys(feeders, "head"))
    return LayerTable(
        parts={_name(index): part for index, part in parts.items()},
        feeders=tuple(map(_name, feeders)),
        members={_name(index): member for index, member in members.items()},
    )


def neck_start(network: DarknetNetwork) -> int:
    """Index of the first layer behind the backbone.

    The backbone ends on the grid of the coarsest level, before the first `yolo` layer or upsampling: behind
    the last residual sum there, where a 1x1 convolution first narrows the channels or spatial pyramid pooling
    begins. That is behind the last block of Darknet53 (layer 74), CSPDarknet53 (104) and their tiny forms.
    """
    trunk = next(i for i, layer in enumerate(network.layers) if isinstance(layer, Yolo | Upsample))
    coarsest = min(network.nodes[index].shape[1:] for index in network.heads)
    deep = [i for i in range(trunk) if network.nodes[i].shape[1:] == coarsest]
    residuals = [i for i in deep if network.nodes[i].section.kind == "shortcut"]
    # The first layer on the grid is the one that leads there; it is no reason to end.
    ends = (i for i in deep[1:] if i > max(residuals, default=-1))
    return next((i for i in ends if _narrows(network, i) or _pools_in_place(network, i)), trunk)


def _stage(network: DarknetNetwork, head: int, start: int) -> list[int]:
    """The backbone layer that stands for the grid of `head`; none if the backbone has no such grid."""
    grid = network.nodes[head].shape[1:]
    on_grid = [index for index in range(start) if network.nodes[index].shape[1:] == grid]
    read = {_through_routes(network, s) for node in network.nodes[start:] for s in node.sources}
    return ([index for index in on_grid if index in read] or on_grid)[-1:]


def _narrows(network: DarknetNetwork, index: int) -> bool:
    layer = network.layers[index]
    if not isinstance(layer, Convolutional):
        return False
    return layer.conv.kernel_size == (1, 1) and layer.conv.out_channels < layer.conv.in_channels


def _pools_in_place(network: DarknetNetwork, index: int) -> bool:
    """Whether a layer is of a spatial pyramid. The 2x2 pooling of YOLOv3-tiny is not."""
    layer = network.layers[index]
    return isinstance(layer, MaxPool) and layer.stride == 1 and layer.size > 2


def _through_routes(network: DarknetNetwork, index: int) -> int:
    """The layer that a route leads to if it hands on one layer as it is; else the layer itself."""
    while index >= 0:
        route, sources = network.layers[index], network.nodes[index].sources
        if not isinstance(route, Route) or route.groups > 1 or len(sources) > 1:
            break
        index = sources[0]
    return index


def _name(index: int) -> str:
    return f"layers.{index}"
