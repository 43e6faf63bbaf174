"""The kinds of layers of Darknet networks as torch modules, by Darknet's rules where torch has others."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "silu": nn.SiLU,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""Darknet's name of an activation -> what makes it."""


class Convolutional(nn.Module):
    """Convolution, batch normalisation if there is one, activation.

    Attributes:
        conv: with a bias only where there is no normalisation.
        norm: a `BatchNorm2d`, or None.
        activation: a module of torch.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, filters, h', w')."""
        x = self.conv(x)
        output: Tensor = self.activation(x if self.norm is None else self.norm(x))
        return output


class MaxPool(nn.Module):
    """Maximum over windows; the outside counts as -∞. Of an odd padding the larger half goes behind."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.before, self.behind = padding // 2, padding - padding // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, (h + padding - size) // stride + 1, …)."""
        sides = (self.before, self.behind, self.before, self.behind)
        return F.max_pool2d(F.pad(x, sides, value=-math.inf), self.size, self.stride)


class AvgPool(nn.Module):
    """Mean over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=True)


class Upsample(nn.Module):
    """Every cell repeated `stride` times in both directions."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, stride·h, stride·w)."""
        return F.interpolate(x, scale_factor=float(self.stride), mode="nearest")


class Route(nn.Module):
    """Earlier layers one behind the other along the channels; with groups only one slice of each."""

    def __init__(self, groups: int, group: int) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *sources: Tensor) -> Tensor:
        """(B, C_i, h, w) … -> (B, Σ C_i / groups, h, w)."""
        return torch.cat([source.chunk(self.groups, dim=1)[self.group] for source in sources], dim=1)


class Shortcut(nn.Module):
    """Sum of layers, then an activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """(B, C, h, w) … -> (B, C, h, w)."""
        for other in others:
            x = x + other
        output: Tensor = self.activation(x)
        return output


class Scale(nn.Module):
    """Product of two layers, then an activation: `sam` cell by cell, `scale_channels` channel by channel."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """(B, C, h, w) or (B, C, 1, 1), and (B, C, h, w) -> (B, C, h, w)."""
        output: Tensor = self.activation(x * other)
        return output


class Yolo(nn.Module):
    """The head of one level. Gives its input on: boxes are decoded elsewhere.

    Attributes:
        anchors: (width, height) in network-input pixels, those of this level.
        classes: number of classes.
        scale_xy: how far a centre can leave its cell; 1 is not at all.
        is_squared: sizes are squared sigmoids (`new_coords`) instead of exponentials.
    """

    def __init__(
        self, anchors: tuple[tuple[float, float], ...], classes: int, scale_xy: float, *, is_squared: bool
    ) -> None:
        super().__init__()
        self.anchors, self.classes = anchors, classes
        self.scale_xy, self.is_squared = scale_xy, is_squared

    def forward(self, x: Tensor) -> Tensor:
        """(B, A·(5 + K), h, w), unchanged."""
        return x
