"""YOLOv4 and YOLOv4-tiny (Bochkovskiy et al. 2020, arXiv:2004.10934), built to fit bubbliiiing's tensors.

Module names are those of the tensors. Widths, depths and the number of classes are read from names and
shapes; strides, activations and what is joined with what are the paper's. Nothing is allocated: modules are
made on torch's meta device and are given the file's own tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POOLS = (13, 9, 5)  # of the spatial pyramid, in the order in which they are joined

_Tensors = Mapping[str, Tensor]


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, activation; channels and kernel as the tensors under `name` say."""

    def __init__(self, tensors: _Tensors, name: str, activation: Callable[[], nn.Module], stride: int = 1):
        super().__init__()
        filters, channels, size, _ = tensors[f"{name}.conv.weight"].shape
        self.conv = nn.Conv2d(channels, filters, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(filters)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        output: Tensor = self.activation(self.bn(self.conv(x)))
        return output


class Residual(nn.Module):
    """x + block(x)."""

    def __init__(self, tensors: _Tensors, name: str) -> None:
        super().__init__()
        self.block = nn.Sequential(*(ConvBlock(tensors, f"{name}.block.{i}", nn.Mish) for i in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        output: Tensor = x + self.block(x)
        return output


class CspStage(nn.Module):
    """A stage of CSPDarknet53: half the side, one branch of residual blocks and one past them, joined."""

    def __init__(self, tensors: _Tensors, name: str) -> None:
        super().__init__()
        self.downsample_conv = ConvBlock(tensors, f"{name}.downsample_conv", nn.Mish, stride=2)
        self.split_conv0 = ConvBlock(tensors, f"{name}.split_conv0", nn.Mish)
        self.split_conv1 = ConvBlock(tensors, f"{name}.split_conv1", nn.Mish)
        blocks = f"{name}.blocks_conv"
        depth = _count(tensors, blocks, "block.0.conv.weight")
        self.blocks_conv = nn.Sequential(
            *(Residual(tensors, f"{blocks}.{i}") for i in range(depth)),
            ConvBlock(tensors, f"{blocks}.{depth}", nn.Mish),
        )
        self.concat_conv = ConvBlock(tensors, f"{name}.concat_conv", nn.Mish)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / 2, w / 2)."""
        x = self.downsample_conv(x)
        through = self.blocks_conv(self.split_conv1(x))
        output: Tensor = self.concat_conv(torch.cat([through, self.split_conv0(x)], dim=1))
        return output


class CspDarknet(nn.Module):
    """CSPDarknet53: a stem and five stages at strides 2 to 32."""

    def __init__(self, tensors: _Tensors) -> None:
        super().__init__()
        self.conv1 = ConvBlock(tensors, "backbone.conv1", nn.Mish)
        self.stages = nn.ModuleList(CspStage(tensors, f"backbone.stages.{i}") for i in range(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the last three stages, finest first."""
        outputs = [self.conv1(x)]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs[3], outputs[4], outputs[5]


class SpatialPyramid(nn.Module):
    """Maxima over windows of three sizes beside the map itself (He et al. 2014, arXiv:1406.4729)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 4·C, h, w)."""
        return torch.cat([*(F.max_pool2d(x, size, 1, size // 2) for size in _POOLS), x], dim=1)


class Upsample(nn.Module):
    """A convolution, then every cell repeated twice in both directions."""

    def __init__(self, tensors: _Tensors, name: str) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            ConvBlock(tensors, f"{name}.upsample.0", _leaky), nn.Upsample(scale_factor=2, mode="nearest")
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', 2·h, 2·w)."""
        output: Tensor = self.upsample(x)
        return output


class Yolov4Network(nn.Module):
    """CSPDarknet53, spatial pyramid, path aggregation and three heads; gives raw maps, coarsest first.

    Args:
        tensors: the state dict, without prefixes; only names and shapes are looked at.

    Raises:
        KeyError: a tensor is missing.
        ValueError: one has an impossible shape.
    """

    def __init__(self, tensors: _Tensors) -> None:
        super().__init__()
        with torch.device("meta"):
            self.backbone = CspDarknet(tensors)
            self.conv1, self.conv2 = _chain(tensors, "conv1"), _chain(tensors, "conv2")
            self.SPP = SpatialPyramid()
            self.upsample1, self.upsample2 = Upsample(tensors, "upsample1"), Upsample(tensors, "upsample2")
            self.conv_for_P4 = ConvBlock(tensors, "conv_for_P4", _leaky)
            self.conv_for_P3 = ConvBlock(tensors, "conv_for_P3", _leaky)
            self.make_five_conv1 = _chain(tensors, "make_five_conv1")
            self.make_five_conv2 = _chain(tensors, "make_five_conv2")
            self.make_five_conv3 = _chain(tensors, "make_five_conv3")
            self.make_five_conv4 = _chain(tensors, "make_five_conv4")
            self.down_sample1 = ConvBlock(tensors, "down_sample1", _leaky, stride=2)
            self.down_sample2 = ConvBlock(tensors, "down_sample2", _leaky, stride=2)
            self.yolo_head1 = _head(tensors, "yolo_head1")
            self.yolo_head2 = _head(tensors, "yolo_head2")
            self.yolo_head3 = _head(tensors, "yolo_head3")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw maps (B, A·(5 + K), h, w) at strides 32, 16 and 8 of pictures (B, 3, H, W)."""
        c3, c4, c5 = self.backbone(x)
        p5 = self.conv2(self.SPP(self.conv1(c5)))
        p4 = self.make_five_conv1(torch.cat([self.conv_for_P4(c4), self.upsample1(p5)], dim=1))
        p3 = self.make_five_conv2(torch.cat([self.conv_for_P3(c3), self.upsample2(p4)], dim=1))
        p4 = self.make_five_conv3(torch.cat([self.down_sample1(p3), p4], dim=1))
        p5 = self.make_five_conv4(torch.cat([self.down_sample2(p4), p5], dim=1))
        return self.yolo_head1(p5), self.yolo_head2(p4), self.yolo_head3(p3)


class TinyStage(nn.Module):
    """A stage of tiny CSPDarknet53; its `conv4` is the stage's feature, the output is joined and pooled."""

    def __init__(self, tensors: _Tensors, name: str) -> None:
        super().__init__()
        self.conv1 = ConvBlock(tensors, f"{name}.conv1", _leaky)
        self.conv2 = ConvBlock(tensors, f"{name}.conv2", _leaky)
        self.conv3 = ConvBlock(tensors, f"{name}.conv3", _leaky)
        self.conv4 = ConvBlock(tensors, f"{name}.conv4", _leaky)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> (B, 2·C', h / 2, w / 2) and the feature (B, C', h, w)."""
        x = self.conv1(x)
        inner = self.conv2(x.chunk(2, dim=1)[1])
        feature = self.conv4(torch.cat([self.conv3(inner), inner], dim=1))
        return F.max_pool2d(torch.cat([x, feature], dim=1), 2), feature


class TinyCspDarknet(nn.Module):
    """The backbone of YOLOv4-tiny: two halving convolutions, three stages, one more convolution."""

    def __init__(self, tensors: _Tensors) -> None:
        super().__init__()
        self.conv1 = ConvBlock(tensors, "backbone.conv1", _leaky, stride=2)
        self.conv2 = ConvBlock(tensors, "backbone.conv2", _leaky, stride=2)
        self.resblock_body1 = TinyStage(tensors, "backbone.resblock_body1")
        self.resblock_body2 = TinyStage(tensors, "backbone.resblock_body2")
        self.resblock_body3 = TinyStage(tensors, "backbone.resblock_body3")
        self.conv3 = ConvBlock(tensors, "backbone.conv3", _leaky)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features at strides 16 and 32."""
        x, _ = self.resblock_body1(self.conv2(self.conv1(x)))
        x, _ = self.resblock_body2(x)
        x, feature = self.resblock_body3(x)
        return feature, self.conv3(x)


class Yolov4TinyNetwork(nn.Module):
    """YOLOv4-tiny without attention (`phi` 0); gives raw maps, coarsest first. See `Yolov4Network`."""

    def __init__(self, tensors: _Tensors) -> None:
        super().__init__()
        with torch.device("meta"):
            self.backbone = TinyCspDarknet(tensors)
            self.conv_for_P5 = ConvBlock(tensors, "conv_for_P5", _leaky)
            self.upsample = Upsample(tensors, "upsample")
            self.yolo_headP5 = _head(tensors, "yolo_headP5")
            self.yolo_headP4 = _head(tensors, "yolo_headP4")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps (B, A·(5 + K), h, w) at strides 32 and 16 of pictures (B, 3, H, W)."""
        c4, c5 = self.backbone(x)
        p5 = self.conv_for_P5(c5)
        return self.yolo_headP5(p5), self.yolo_headP4(torch.cat([self.upsample(p5), c4], dim=1))


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


def _chain(tensors: _Tensors, name: str) -> nn.Sequential:
    """As many convolutions one behind the other as there are tensors for."""
    count = _count(tensors, name, "conv.weight")
    return nn.Sequential(*(ConvBlock(tensors, f"{name}.{i}", _leaky) for i in range(count)))


def _head(tensors: _Tensors, name: str) -> nn.Sequential:
    filters, channels, size, _ = tensors[f"{name}.1.weight"].shape
    return nn.Sequential(ConvBlock(tensors, f"{name}.0", _leaky), nn.Conv2d(channels, filters, size))


def _count(tensors: _Tensors, name: str, member: str) -> int:
    """How many of `name`.0, `name`.1 … have that member."""
    count = 0
    while f"{name}.{count}.{member}" in tensors:
        count += 1
    return count
