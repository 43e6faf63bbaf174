"""A detector's layers in order, and the sets they belong to: the same meaning in every family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detcam.adapters.base import device_of
from detcam.cam.capture import borrowed, observe
from detcam.errors import UnsupportedModelError
from detcam.structures import Layer, LayerSet, with_stages


@dataclass(frozen=True)
class LayerTable:
    """What a detector's layers are.

    Attributes:
        parts: dotted name -> part of the network, for every layer, in the order in which they run.
        feeders: names of the layers whose outputs the head reads.
        members: dotted name -> the layer set it belongs to, for a family that knows them from its own graph;
            None finds them by stride (`with_sets`).
    """

    parts: Mapping[str, LayerSet]
    feeders: tuple[str, ...]
    members: Mapping[str, LayerSet] | None = None

    def measured(
        self, model: nn.Module, strides: Sequence[int], guard: Callable[[], AbstractContextManager[object]]
    ) -> list[Layer]:
        """The layers with strides, channels and sets, by one forward pass of a small blank picture.

        Args:
            model: the network that has them.
            strides: of the head's levels.
            guard: stands around the forward pass.
        """
        modules = {name: model.get_submodule(name) for name in self.parts}
        side = 2 * max(*strides, 32)

        def run_blank() -> None:
            with guard():
                model(torch.zeros(1, 3, side, side, device=device_of(model)))

        layers = measured_layers(model, modules, self.parts, side, run_blank)
        if self.members is None:
            return with_sets(layers, self.feeders, strides)
        return with_stages([replace(layer, member_of=self.members.get(layer.name)) for layer in layers])


def measured_layers(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    parts: Mapping[str, LayerSet],
    side: int,
    forward: Callable[[], object],
) -> list[Layer]:
    """Layers with strides and channels, measured in one forward pass.

    Args:
        model: borrowed for the pass.
        modules: dotted name -> module, in the order in which they run.
        parts: dotted name -> part of the network it stands in.
        side: of the square input that `forward` feeds, in pixels.
        forward: runs the model once.
    """
    with borrowed(model), torch.no_grad(), observe(modules) as seen:
        forward()
    return [_layer(name, module, parts[name], seen.get(name), side) for name, module in modules.items()]


def _layer(name: str, module: nn.Module, part: LayerSet, output: object, side: int) -> Layer:
    kind = type(module).__name__
    if not isinstance(output, Tensor) or output.ndim != 4:
        return Layer(name, kind, None, None, part)
    stride = side // output.shape[2] if side % output.shape[2] == 0 else None
    return Layer(name, kind, stride, output.shape[1], part)


def with_sets(layers: Sequence[Layer], feeders: Sequence[str], strides: Sequence[int]) -> list[Layer]:
    """Mark sets and stages. Sets: the head's inputs; the last of backbone and neck at each of its strides.

    Args:
        layers: in the order in which they run.
        feeders: names of the layers whose outputs the head reads.
        strides: of the head's levels.
    """
    parts: tuple[LayerSet, ...] = ("backbone", "neck")
    last: dict[tuple[LayerSet, int], str] = {}
    for stride in strides:
        for part in parts:
            for layer in layers:
                if (layer.part, layer.stride) == (part, stride) and layer.name not in feeders:
                    last[part, stride] = layer.name
    chosen: dict[str, LayerSet] = {name: part for (part, _), name in last.items()}
    chosen.update(dict.fromkeys(feeders, "head"))
    return with_stages([replace(layer, member_of=chosen.get(layer.name)) for layer in layers])


def described_backbone(model: nn.Module) -> int:
    """How many of a network's numbered layers are the backbone, by the description `yaml` that it keeps.

    Raises:
        UnsupportedModelError: it has none.
    """
    description = getattr(model, "yaml", None)
    if not isinstance(description, Mapping) or "backbone" not in description:
        raise UnsupportedModelError("the model lacks its description `yaml`, which says what its backbone is")
    return len(description["backbone"])
