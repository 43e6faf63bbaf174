"""Channels of a network's layers: what they hold for one picture, on their own grids, with their sign."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detcam.adapters.base import Detector, device_of
from detcam.adapters.choosing import STAGES, chosen_layers
from detcam.anatomy.choice import Channels, strongest
from detcam.anatomy.feature_files import save_features, sheet_of
from detcam.cam.capture import capture, module_name
from detcam.cam.layers import shift_of
from detcam.cam.network_inputs import NetworkInputs, unwrapped
from detcam.cam.tokens import Cells, InputFrame
from detcam.errors import InputError, ShapeError, UnknownNameError
from detcam.geometry import Letterbox
from detcam.images import Picture, as_picture
from detcam.render import MOST_TILES, TileScale, TileStyle
from detcam.structures import level_name


@dataclass(frozen=True, eq=False)
class FeatureLayer:
    """One layer's activations for one picture.

    Attributes:
        name: dotted name of the module.
        kind: its class.
        stride: input pixels per cell, or None where that is not known and the grid does not divide the input.
        values: (C, h, w) float32, all channels, as the layer gave them.
        channels: the chosen ones; the strongest first, or in the order asked for.
    """

    name: str
    kind: str
    stride: int | None
    values: Tensor
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not self.values.numel():
            raise ShapeError(f"values of {self.name!r} must be (C, h, w), got {tuple(self.values.shape)}")

    @property
    def level(self) -> str | None:
        """Name of the level of this stride, such as "P3"; None without a stride."""
        return level_name(self.stride) if self.stride else None

    @property
    def on_sheet(self) -> tuple[int, ...]:
        """The channels that a contact sheet shows: the chosen ones, of more than 256 the strongest."""
        if len(self.channels) <= MOST_TILES:
            return self.channels
        best = strongest(self.values[list(self.channels)], MOST_TILES)
        return tuple(self.channels[row] for row in sorted(best))


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """What a network's layers hold for one picture.

    Attributes:
        layers: in the order asked for.
        choice: which channels were asked for.
        input_size: (H, W) of the network's input, which every grid covers; None if that is no picture.
        picture: what was read, or None for a tensor.
        geometry: picture <-> network input, or None for a tensor.
    """

    layers: tuple[FeatureLayer, ...]
    choice: Channels
    input_size: tuple[int, int] | None = None
    picture: Picture | None = None
    geometry: Letterbox | None = None

    def __getitem__(self, layer: str) -> FeatureLayer:
        """A layer by its dotted name, or by its level where only one has it.

        Raises:
            UnknownNameError: no such layer.
        """
        for key in ("name", "level"):
            found = [one for one in self.layers if getattr(one, key) == layer]
            if len(found) == 1:
                return found[0]
        raise UnknownNameError("layer", layer, [one.name for one in self.layers])

    def sheet(self, layer: str, *, scale: TileScale = "channel", grey: bool = False) -> npt.NDArray[np.uint8]:
        """A contact sheet of a layer's chosen channels, at most 256, (H, W, 3) RGB.

        Args:
            layer: dotted name or level.
            scale: "channel": full colour is each channel's own largest absolute value, written over it.
                "shared": that of the whole layer.
            grey: in shades of grey. Else, where the layer has values below zero, blue to red with light grey
                at zero; where it has none, black to yellow.

        Raises:
            UnknownNameError: no such layer or scale.
            InputError: the values hold NaN or infinity.
        """
        return sheet_of(self[layer], TileStyle(scale, grey))

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str | None = None,
        *,
        scale: TileScale = "channel",
        grey: bool = False,
        split: bool | None = None,
        half: bool = False,
    ) -> list[Path]:
        """Write all channels raw (.npz), a contact sheet per layer, and a description (.json).

        Args:
            folder: created if need be.
            stem: how file names begin; the picture's own by default.
            scale: as in `sheet`.
            grey: as in `sheet`.
            split: also a picture per chosen channel, in a folder per layer; None does so unless only the
                strongest were asked for.
            half: store arrays in float16.

        Returns:
            The paths written; of channels split into pictures, their folder.

        Raises:
            OutputError: the folder cannot be written.
            InputError: the values hold NaN or infinity.
        """
        stem = stem or (self.picture.stem if self.picture else "image")
        wants_split = self.choice.strongest is None if split is None else split
        return save_features(self, Path(folder), stem, TileStyle(scale, grey), split=wants_split, half=half)


def features(
    model: Detector | nn.Module,
    image: Any,
    *,
    layers: str | Sequence[str] = STAGES,
    channels: str | int | Sequence[int] = "top16",
    imgsz: int | tuple[int, int] | None = None,
) -> FeatureMaps:
    """Look at what layers hold for a picture: every channel, raw, in one forward pass.

    Args:
        model: a detector, or any network.
        image: for a detector a path, PIL picture, numpy RGB array or tensor; for a network its ready input,
            a tensor (1, …), or a tuple or dict of arguments.
        layers: "stages" (stem and backbone stages), "backbone", "neck", "head", dotted names, patterns such
            as "model.*.cv1", or several. A plain network knows names and patterns only.
        channels: the chosen ones, for sheets and pictures: "all", "top16" (the 16 with the largest mean
            absolute activation), "3,7" or [3, 7]. All are kept in `FeatureLayer.values`.
        imgsz: the input's largest side, or (H, W), for a detector; None for the size it was trained at.

    Returns:
        `FeatureMaps`; the network is as it was.

    Raises:
        InputError: a layer, channel or picture that does not exist or cannot be used.
        CaptureError: a layer did not run, or gave no feature map; the text has its name.
    """
    choice = Channels.parse(channels)
    if isinstance(model, nn.Module):
        return _of_network(model, image, layers, choice)
    modules = chosen_layers(model.model, model.layers(), layers)
    picture = as_picture(image)
    tensor, geometry = model.prepare(picture.pixels, imgsz)
    frame = InputFrame(1, geometry.input_size)
    with capture(model.model, modules) as caught, torch.no_grad():
        model.forward(tensor[None].to(device_of(model.model)))
        caught.check_all_ran()
    strides = {layer.name: layer.stride for layer in model.layers()}
    found = _layers(model.model, caught.activations, modules, frame, choice, strides)
    return FeatureMaps(found, choice, geometry.input_size, picture, geometry)


def _of_network(model: nn.Module, given: Any, layers: str | Sequence[str], choice: Channels) -> FeatureMaps:
    network = unwrapped(model)
    try:
        inputs = NetworkInputs.of(given).prepared(network)
    except InputError as error:
        raise InputError(f"{error}; for a picture, give a detector: detcam.wrap(model)") from error
    frame = InputFrame(inputs.batch, inputs.input_size)
    if frame.batch != 1 or len(frame.input_size) != 2:
        raise InputError(
            f"features are of one picture (1, C, H, W), got {frame.batch} of {frame.input_size}: "
            "give them one by one"
        )
    modules = chosen_layers(network, (), layers)
    with capture(network, modules) as caught, torch.no_grad():
        inputs.called(network)
        caught.check_all_ran()
    size = (frame.input_size[0], frame.input_size[1])
    return FeatureMaps(_layers(network, caught.activations, modules, frame, choice, {}), choice, size)


def _layers(
    network: nn.Module,
    activations: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    frame: InputFrame,
    choice: Channels,
    strides: Mapping[str, int | None],
) -> tuple[FeatureLayer, ...]:
    found = {}
    for name, output in activations.items():
        values = frame.layout(output, name, shift_of(network, name))(output)[0].detach().float()
        kind = type(network.get_submodule(module_name(name))).__name__
        # Of an input that is no multiple of the stride, a grid is rounded: the detector knows better.
        stride = strides.get(name) or _stride(values, frame.input_size)
        found[name] = FeatureLayer(name, kind, stride, values, choice.of(values, name))
    order = [*(name for name in modules if name in found), *(name for name in found if name not in modules)]
    return tuple(found[name] for name in order)


def _stride(values: Tensor, input_size: Cells) -> int | None:
    return None if input_size[0] % values.shape[1] else input_size[0] // values.shape[1]
