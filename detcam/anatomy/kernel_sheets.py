"""The kernels of a convolution, as colours where they look at colours, else one by one with their sign."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from detcam.adapters.base import Detector
from detcam.errors import InputError, UnknownNameError
from detcam.files import make_folder, plain_names, write_arrays, write_picture
from detcam.render import MOST_TILES, TileStyle, colour_kernel_sheet, matrix_sheet, tile_sheet

_DEFAULT_TILES = 64
_LONGEST_LABEL = 100  # bytes


@dataclass(frozen=True, eq=False)
class Kernels:
    """The weights of one 2-D convolution.

    Attributes:
        layer: its dotted name.
        weights: (O, I/groups, kh, kw) float32, as trained.
        groups: of the convolution.
        rgb: which of the three input channels are red, green and blue, where the layer reads the picture;
            None where it does not.
    """

    layer: str
    weights: Tensor
    groups: int = 1
    rgb: tuple[int, int, int] | None = None

    def sheet(self, tiles: int = _DEFAULT_TILES) -> npt.NDArray[np.uint8]:
        """A contact sheet, (H, W, 3) RGB, all tiles on one scale, mid-grey or light grey at zero.

        A convolution that reads the picture is shown in colour, kernel by kernel, with its output's number;
        one of 1×1 as a matrix, a row for each output; any other with a tile for each output and input,
        "12←3", or for each output alone if it reads one input only.

        Args:
            tiles: shown at most, those with the largest norm first; kernels in colour keep their order. Up
                to 256.

        Raises:
            InputError: too many tiles or none, or weights that are NaN or infinite.
        """
        if not 1 <= tiles <= MOST_TILES:
            raise InputError(f"a sheet shows 1 to {MOST_TILES} tiles, got {tiles}")
        weights = self.weights.cpu().numpy()
        what = f"{self.layer} · {'×'.join(map(str, weights.shape))}"
        if self.groups > 1:
            what += f" · {self.groups} groups"
        if self.rgb is not None:
            rows = sorted(_largest(weights, tiles))
            caption = f"{what} · {len(rows)} of {len(weights)} kernels"
            return colour_kernel_sheet(weights[:, self.rgb], rows, [str(row) for row in rows], caption)
        if weights.shape[2:] == (1, 1):
            return matrix_sheet(weights[:, :, 0, 0], "rows: outputs, columns: inputs", what)
        stack = weights.reshape(-1, *weights.shape[2:])
        rows = _largest(stack, tiles)
        caption = f"{what} · {len(rows)} of {len(stack)} kernels, largest first"
        return tile_sheet(stack, rows, [self._title(row) for row in rows], TileStyle("shared"), caption)

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str = "kernels",
        *,
        tiles: int = _DEFAULT_TILES,
        half: bool = False,
    ) -> list[Path]:
        """Write the contact sheet (.png) and the weights (.npz, under the layer's name).

        Args:
            folder: created if need be.
            stem: how file names begin; the layer's name follows.
            tiles: as in `sheet`.
            half: store the array in float16.

        Returns:
            The two paths.

        Raises:
            OutputError: the folder cannot be written.
            InputError: as in `sheet`.
        """
        sheet = self.sheet(tiles)
        folder, (label,) = Path(folder), plain_names([self.layer], _LONGEST_LABEL)
        make_folder(folder)
        raw = {self.layer: self.weights.cpu().numpy()}
        return [
            write_picture(folder / f"{stem}_{label}.png", sheet),
            write_arrays(folder / f"{stem}_{label}.npz", raw, half=half),
        ]

    def _title(self, row: int) -> str:
        outputs, inputs = self.weights.shape[:2]
        output, place = divmod(row, inputs)
        if inputs == 1 and self.groups > 1:
            return str(output)
        return f"{output}←{output // (outputs // self.groups) * inputs + place}"


def kernels(model: Detector | nn.Module, layer: str | None = None) -> Kernels:
    """The weights of a convolution. Nothing runs.

    Args:
        model: a detector, or any network.
        layer: dotted name of a 2-D convolution, or of a layer that holds just one; None for the first.

    Raises:
        UnknownNameError: no such layer; the closest are offered.
        InputError: it is or holds no 2-D convolution, or several.
    """
    network = model if isinstance(model, nn.Module) else model.model
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    if not convolutions:
        raise InputError(
            f"this {type(network).__name__} has no 2-D convolution, so there are no kernels to show"
        )
    first = next(iter(convolutions))
    name = first if layer is None else _convolution_in(network, list(convolutions), layer)
    convolution = convolutions[name]
    weights = convolution.weight.detach().clone().float()
    reads_picture = name == first and weights.shape[1] == 3 and convolution.groups == 1
    order = (0, 1, 2) if isinstance(model, nn.Module) else _colour_order(model)
    return Kernels(name, weights, convolution.groups, order if reads_picture else None)


def _convolution_in(network: nn.Module, convolutions: Sequence[str], layer: str) -> str:
    modules = dict(network.named_modules())
    if not layer or layer not in modules:
        raise UnknownNameError("layer", layer, convolutions, "List all: detcam layers MODEL")
    kind = type(modules[layer]).__name__
    if isinstance(modules[layer], _ConvNd) and layer not in convolutions:
        raise InputError(f"layer {layer!r} is a {kind}: only plain 2-D convolutions are shown")
    inside = [name for name in convolutions if name == layer or name.startswith(f"{layer}.")]
    if not inside:
        raise InputError(f"layer {layer!r} ({kind}) holds no 2-D convolution: see detcam layers MODEL")
    if len(inside) > 1:
        raise InputError(
            f"layer {layer!r} ({kind}) holds {len(inside)} convolutions: name one, such as {inside[0]!r}"
        )
    return inside[0]


def _colour_order(detector: Detector) -> tuple[int, int, int]:
    """Which of the input's channels are red, green and blue: some networks were trained on BGR."""
    side = 2 * max(detector.strides)
    inputs = []
    for colour in ((255, 0, 0), (0, 0, 255)):
        tensor, _ = detector.prepare(np.full((side, side, 3), colour, np.uint8), None)
        inputs.append(tensor.float().mean(dim=(1, 2)))
    return (2, 1, 0) if int(torch.sub(*inputs).argmax()) == 2 else (0, 1, 2)


def _largest(stack: npt.NDArray[np.float32], count: int) -> list[int]:
    """Rows of (n, …) with the largest norm, largest first; equal ones in their own order."""
    norms = np.square(stack.astype(np.float64)).reshape(len(stack), -1).sum(axis=1)
    return [int(row) for row in np.argsort(-norms, kind="stable")[:count]]
