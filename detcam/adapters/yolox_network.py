"""YOLOX's network (Ge et al. 2021, arXiv:2107.08430), built to fit the tensors of a Megvii checkpoint.

Module names are those of the tensors. Everything that a size of YOLOX varies is read from names and shapes:
depth, width, kernel sizes, whether 3×3 convolutions are separable, whether batch normalisations are folded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)

_NORM_EPSILON = 1e-3  # set by Megvii's own builder, not torch's default
_POOLS = (5, 9, 13)


class YoloxNetwork(nn.Module):
    """Backbone, neck and head; gives (box values, objectness logits, class logits) of each level.

    Args:
        tensors: a Megvii state dict, without prefixes; only its names and shapes are looked at.

    Raises:
        KeyError: a tensor is missing.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.backbone = Pyramid(_Shapes(tensors, "backbone"))
        self.head = Head(_Shapes(tensors, "head"))

    def forward(self, batch: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Box values (B, 4, h, w), objectness (B, 1, h, w) and classes (B, K, h, w), finest level first.

        Args:
            batch: (B, 3, H, W) BGR 0..255, sides multiples of 32.
        """
        levels: list[tuple[Tensor, Tensor, Tensor]] = self.head(self.backbone(batch))
        return levels


class _Shapes:
    """The tensors below one module."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix

    def __truediv__(self, name: str | int) -> _Shapes:
        return _Shapes(self._tensors, f"{self._prefix}.{name}")

    def __contains__(self, name: str) -> bool:
        return any(key.startswith(f"{self._prefix}.{name}.") for key in self._tensors)

    def of(self, name: str) -> torch.Size:
        return self._tensors[f"{self._prefix}.{name}"].shape

    def count(self) -> int:
        """How many numbered modules there are."""
        number = 0
        while str(number) in self:
            number += 1
        return number


class Conv(nn.Module):
    """Convolution, batch normalisation unless it was folded into the convolution, SiLU."""

    def __init__(self, shapes: _Shapes, stride: int = 1, *, is_depthwise: bool = False) -> None:
        super().__init__()
        outputs, inputs, kernel, _ = shapes.of("conv.weight")
        groups = outputs if is_depthwise else 1
        has_norm = "bn" in shapes
        self.conv = nn.Conv2d(
            inputs * groups, outputs, kernel, stride, kernel // 2, groups=groups, bias=not has_norm
        )
        self.bn = nn.BatchNorm2d(outputs, eps=_NORM_EPSILON) if has_norm else nn.Identity()
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class SeparableConv(nn.Module):
    """A depthwise and a pointwise convolution in the place of one."""

    def __init__(self, shapes: _Shapes, stride: int) -> None:
        super().__init__()
        self.dconv = Conv(shapes / "dconv", stride, is_depthwise=True)
        self.pconv = Conv(shapes / "pconv")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.pconv(self.dconv(x))
        return out


class Bottleneck(nn.Module):
    """A 1×1 and a 3×3 convolution, in the backbone added to their input."""

    def __init__(self, shapes: _Shapes, *, has_shortcut: bool) -> None:
        super().__init__()
        self.conv1 = Conv(shapes / "conv1")
        self.conv2 = _conv(shapes / "conv2")
        self.has_shortcut = has_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.has_shortcut else out


class CspLayer(nn.Module):
    """Cross-stage partial layer: one half through bottlenecks, the other past them."""

    def __init__(self, shapes: _Shapes, *, has_shortcut: bool) -> None:
        super().__init__()
        self.conv1 = Conv(shapes / "conv1")
        self.conv2 = Conv(shapes / "conv2")
        self.conv3 = Conv(shapes / "conv3")
        self.m = nn.Sequential(
            *(Bottleneck(shapes / "m" / i, has_shortcut=has_shortcut) for i in range((shapes / "m").count()))
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))
        return out


class PooledPyramid(nn.Module):
    """Spatial pyramid pooling: the map beside its maxima over three windows."""

    def __init__(self, shapes: _Shapes) -> None:
        super().__init__()
        self.conv1 = Conv(shapes / "conv1")
        self.m = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in _POOLS)
        self.conv2 = Conv(shapes / "conv2")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.conv1(x)
        out: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))
        return out


class Focus(nn.Module):
    """Every 2×2 block of pixels becomes one with four times the channels, column by column."""

    def __init__(self, shapes: _Shapes) -> None:
        super().__init__()
        self.conv = Conv(shapes / "conv")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out


class CspDarknet(nn.Module):
    """Stem /2 and four stages /4 to /32; gives the last three."""

    def __init__(self, shapes: _Shapes) -> None:
        super().__init__()
        self.stem = Focus(shapes / "stem")
        self.dark2 = _stage(shapes / "dark2")
        self.dark3 = _stage(shapes / "dark3")
        self.dark4 = _stage(shapes / "dark4")
        self.dark5 = nn.Sequential(
            _conv(shapes / "dark5" / 0, stride=2),
            PooledPyramid(shapes / "dark5" / 1),
            CspLayer(shapes / "dark5" / 2, has_shortcut=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        c3 = self.dark3(self.dark2(self.stem(x)))
        c4 = self.dark4(c3)
        return c3, c4, self.dark5(c4)


class Pyramid(nn.Module):
    """Backbone and path aggregation neck: top-down, then bottom-up."""

    def __init__(self, shapes: _Shapes) -> None:
        super().__init__()
        self.backbone = CspDarknet(shapes / "backbone")
        self.upsample = nn.Upsample(scale_factor=2)
        self.lateral_conv0 = Conv(shapes / "lateral_conv0")
        self.C3_p4 = CspLayer(shapes / "C3_p4", has_shortcut=False)
        self.reduce_conv1 = Conv(shapes / "reduce_conv1")
        self.C3_p3 = CspLayer(shapes / "C3_p3", has_shortcut=False)
        self.bu_conv2 = _conv(shapes / "bu_conv2", stride=2)
        self.C3_n3 = CspLayer(shapes / "C3_n3", has_shortcut=False)
        self.bu_conv1 = _conv(shapes / "bu_conv1", stride=2)
        self.C3_n4 = CspLayer(shapes / "C3_n4", has_shortcut=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        c3, c4, c5 = self.backbone(x)
        top = self.lateral_conv0(c5)
        middle = self.reduce_conv1(self.C3_p4(torch.cat([self.upsample(top), c4], dim=1)))
        p3: Tensor = self.C3_p3(torch.cat([self.upsample(middle), c3], dim=1))
        p4: Tensor = self.C3_n3(torch.cat([self.bu_conv2(p3), middle], dim=1))
        p5: Tensor = self.C3_n4(torch.cat([self.bu_conv1(p4), top], dim=1))
        return p3, p4, p5


class Head(nn.Module):
    """Decoupled head: classes apart from boxes and objectness, each level with weights of its own."""

    def __init__(self, shapes: _Shapes) -> None:
        super().__init__()
        self.stems = _each(Conv, shapes / "stems")
        self.cls_convs = _each(_tower, shapes / "cls_convs")
        self.reg_convs = _each(_tower, shapes / "reg_convs")
        self.cls_preds = _each(_prediction, shapes / "cls_preds")
        self.reg_preds = _each(_prediction, shapes / "reg_preds")
        self.obj_preds = _each(_prediction, shapes / "obj_preds")

    def forward(self, maps: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """See the class."""
        levels = []
        for i, stem in enumerate(self.stems):
            x = stem(maps[i])
            boxes, classes = self.reg_convs[i](x), self.cls_convs[i](x)
            levels.append((self.reg_preds[i](boxes), self.obj_preds[i](boxes), self.cls_preds[i](classes)))
        return levels


def _each(build: Callable[[_Shapes], nn.Module], shapes: _Shapes) -> nn.ModuleList:
    """One module for each level."""
    return nn.ModuleList(build(shapes / i) for i in range(len(STRIDES)))


def _conv(shapes: _Shapes, stride: int = 1) -> nn.Module:
    return SeparableConv(shapes, stride) if "dconv" in shapes else Conv(shapes, stride)


def _stage(shapes: _Shapes) -> nn.Sequential:
    return nn.Sequential(_conv(shapes / 0, stride=2), CspLayer(shapes / 1, has_shortcut=True))


def _tower(shapes: _Shapes) -> nn.Sequential:
    return nn.Sequential(*(_conv(shapes / i) for i in range(shapes.count())))


def _prediction(shapes: _Shapes) -> nn.Conv2d:
    outputs, inputs, kernel, _ = shapes.of("weight")
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
