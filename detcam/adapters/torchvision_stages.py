"""The layers of torchvision's detection backbones, and which of them feed the head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detcam.adapters.base import device_of
from detcam.cam.capture import borrowed, observe
from detcam.structures import Layer, LayerSet, level_name


@dataclass(frozen=True)
class FeatureMap:
    """One of the feature maps that the backbone hands to the head.

    Attributes:
        name: its key in the backbone's output: "0", "pool".
        stride: network-input pixels per cell.
        feeder: dotted name of the module that gives it, or None.
    """

    name: str
    stride: int
    feeder: str | None

    @property
    def level(self) -> str:
        """`P` and the binary logarithm of the stride, or the stride itself where that is no whole number."""
        return level_name(self.stride)


def probe_backbone(model: Any, size: tuple[int, int]) -> tuple[list[Layer], list[FeatureMap]]:
    """A backbone's layers and feature maps, measured in one pass over a blank input of (H, W) pixels.

    Layers are the outermost modules that give a feature map; the backbone's plain sequences also one by one.
    """
    modules = {f"backbone.{name}".rstrip("."): one for name, one in model.backbone.named_modules()}
    device = device_of(model)
    with borrowed(model), torch.no_grad(), observe(modules) as seen:
        output = model.backbone(torch.zeros(1, 3, *size, device=device))
    maps = {"0": output} if isinstance(output, Tensor) else output
    gives_map = {name for name, one in seen.items() if isinstance(one, Tensor) and one.ndim == 4}
    listed = set(_stages("backbone", modules, gives_map))
    layers = [
        Layer(
            name,
            type(modules[name]).__name__,
            stride_of(size[0], seen[name].shape[2]),
            seen[name].shape[1],
            _part(name, model.backbone),
        )
        for name in seen  # in the order in which they finished
        if name in listed
    ]
    feeders = {id(seen[layer.name]): layer.name for layer in layers}
    found = [
        FeatureMap(name, stride_of(size[0], one.shape[2]), feeders.get(id(one))) for name, one in maps.items()
    ]
    if found[0].feeder is None and _is_vgg(model.backbone):
        # The head reads this stage normalised and rescaled, by no module of its own.
        found[0] = FeatureMap(found[0].name, found[0].stride, "backbone.features")
    return layers, found


def stride_of(side: int, cells: int) -> int:
    """Input pixels per cell: the power of two that a side was divided by and rounded up, or the quotient."""
    pixels = side / cells
    power: int = 2 ** round(math.log2(pixels))
    # 300 pixels in 38 or 10 cells are strides of 8 and 32; in 3 cells, of 100.
    return power if abs(pixels / power - 1) < 0.1 else round(pixels)


def _stages(name: str, modules: Mapping[str, nn.Module], gives_map: set[str]) -> Iterator[str]:
    is_series = type(modules[name]) is nn.Sequential and _part(name, modules["backbone"]) == "backbone"
    if name not in gives_map or is_series:
        for child, _ in modules[name].named_children():
            if f"{name}.{child}" in modules:
                yield from _stages(f"{name}.{child}", modules, gives_map)
    if name in gives_map:
        yield name


def _part(name: str, backbone: nn.Module) -> LayerSet:
    """Feature pyramids and the layers SSD adds are the neck; SSD's first one is the end of VGG."""
    part, _, rest = name.removeprefix("backbone.").partition(".")
    is_end_of_vgg = _is_vgg(backbone) and part == "extra" and rest.split(".")[0] == "0"
    return "neck" if part in ("fpn", "extra") and not is_end_of_vgg else "backbone"


def _is_vgg(backbone: nn.Module) -> bool:
    return hasattr(backbone, "scale_weight")
