"""The layers of YOLOv5, YOLOv3 and YOLOv7 checkpoints, with forward passes of our own.

Such a checkpoint is a pickle of objects whose classes live in the repository that trained it (`models.yolo`,
`models.common` …). `detcam.checkpoints` makes these classes instead: empty, without a constructor, then given
the file's own weights and attributes. So a class here says only what its object computes; many pickled names
share one, for they differ in what their constructors made, and that is in the file.

The blocks: cross-stage partial networks (Wang et al. 2019, arXiv:1911.11929), spatial pyramid pooling (He et
al. 2014, arXiv:1406.4729), ghost modules (Han et al. 2019, arXiv:1911.11907), re-parameterised convolutions
(Ding et al. 2021, arXiv:2101.03697), implicit knowledge (Wang et al. 2021, YOLOR, arXiv:2105.04206).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = Tensor | list[Tensor]


class Graph(nn.Module):
    """`Model` and `DetectionModel`: layers in `model` that read earlier layers by number, in their `f`."""

    model: nn.Sequential

    def forward(self, x: Tensor) -> Inputs:
        """What the last layer makes of pictures (B, 3, H, W)."""
        layers = list(self.model)
        last_use = {source: i for i, layer in enumerate(layers) for source in sources_of(layer, i)}
        outputs: dict[int, Inputs] = {}
        value: Inputs = x
        for i, layer in enumerate(layers):
            outputs[i - 1] = value
            read = [outputs[source] for source in sources_of(layer, i)]
            value = layer(read[0] if isinstance(layer.f, int) else read)
            outputs = {j: kept for j, kept in outputs.items() if last_use.get(j, -1) > i}
        return value


def sources_of(layer: nn.Module, index: int) -> Iterator[int]:
    """Numbers of the layers whose outputs `layer`, itself number `index`, reads; -1 is the picture."""
    sources = cast("int | list[int]", layer.f)
    for source in [sources] if isinstance(sources, int) else sources:
        yield index + source if source < 0 else source


class _Layers(nn.Module):
    """The layers that blocks are made of; each has those of its file."""

    conv: nn.Module
    bn: nn.Module
    act: nn.Module
    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module
    cv4: nn.Module
    cv5: nn.Module
    cv6: nn.Module
    cv7: nn.Module
    m: nn.Module


class Convolution(_Layers):
    """`Conv`, `DWConv`: convolution, normalisation unless it was fused away, activation."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.conv(x)
        return cast(Tensor, self.act(self.bn(x) if "bn" in self._modules else x))

    # Fusing a model leaves `forward` bound to one of this name.
    forward_fuse = forward


class Bottleneck(_Layers):
    """`Bottleneck`, `CrossConv`: two layers, past which the input may be added."""

    add: bool

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = cast(Tensor, self.cv2(self.cv1(x)))
        return x + y if self.add else y


class ResidualBottleneck(_Layers):
    """`Res`, `ResX`: three layers, past which the input may be added."""

    add: bool

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = cast(Tensor, self.cv3(self.cv2(self.cv1(x))))
        return x + y if self.add else y


class GhostConvolution(_Layers):
    """`GhostConv`: half of the channels by a convolution, the other half cheaply from these."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.cv1(x)
        return torch.cat([y, self.cv2(y)], dim=1)


class GhostBottleneck(_Layers):
    """`GhostBottleneck`, `Ghost`: the sum of two paths."""

    shortcut: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.conv(x) + self.shortcut(x))


class PartialA(_Layers):
    """`C3` and `BottleneckCSPA`: blocks on one path, nothing on the other, then joined."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], dim=1)))


class PartialB(_Layers):
    """`BottleneckCSPB`: as A, but both paths begin behind the first layer."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.cv1(x)
        return cast(Tensor, self.cv3(torch.cat([self.m(x), self.cv2(x)], dim=1)))


class PartialC(_Layers):
    """`BottleneckCSPC`: as A, with a layer behind the blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.cv4(torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], dim=1)))


class NormalisedPartialC(_Layers):
    """`BottleneckCSP`: as C, the paths being normalised and activated together."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        joined = torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], dim=1)
        return cast(Tensor, self.cv4(self.act(self.bn(joined))))


class PyramidPooling(_Layers):
    """`SPP`: what several windows see, side by side."""

    m: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.cv1(x)
        return cast(Tensor, self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1)))


class SerialPyramidPooling(_Layers):
    """`SPPF`: one window applied once, twice and three times."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        seen = [self.cv1(x)]
        for _ in range(3):
            seen.append(self.m(seen[-1]))
        return cast(Tensor, self.cv2(torch.cat(seen, dim=1)))


class PartialPyramidPooling(_Layers):
    """`SPPCSPC`: pyramid pooling on one of two paths."""

    m: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(torch.cat([y, *(pool(y) for pool in self.m)], dim=1)))
        return cast(Tensor, self.cv7(torch.cat([y, self.cv2(x)], dim=1)))


class Focus(_Layers):
    """`Focus`: a layer on the picture at half its size, with four times the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.conv(_quarters(x)))


class Reorganised(nn.Module):
    """`ReOrg`: half the size, four times the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _quarters(x)


def _quarters(x: Tensor) -> Tensor:
    """The four pixels of every 2x2 square as channels: first those of even columns, upper before lower."""
    return torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)


class Contract(nn.Module):
    """`Contract`: squares of pixels into channels."""

    gain: int

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        batch, channels, height, width = x.shape
        h, w = height // self.gain, width // self.gain
        x = x.reshape(batch, channels, h, self.gain, w, self.gain).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(batch, channels * self.gain**2, h, w)


class Expand(nn.Module):
    """`Expand`: channels into squares of pixels."""

    gain: int

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        batch, channels, h, w = x.shape
        x = x.reshape(batch, self.gain, self.gain, channels // self.gain**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(batch, channels // self.gain**2, h * self.gain, w * self.gain)


class Stem(_Layers):
    """`Stem`: a quarter of the size, by a convolution and by pooling."""

    pool: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.cv1(x)
        return cast(Tensor, self.cv4(torch.cat([self.cv3(self.cv2(x)), self.pool(x)], dim=1)))


class DownC(_Layers):
    """`DownC`: half the size, by a convolution and by pooling."""

    mp: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([self.cv2(self.cv1(x)), self.cv3(self.mp(x))], dim=1)


class Pool(_Layers):
    """`MP`, `SP`: pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.m(x))


class Concat(nn.Module):
    """`Concat`: inputs side by side."""

    d: int

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """See the class."""
        return torch.cat(list(x), dim=self.d)


class Chuncat(nn.Module):
    """`Chuncat`: first halves of the inputs, then the second halves."""

    d: int

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """See the class."""
        halves = [value.chunk(2, dim=self.d) for value in x]
        return torch.cat([half[part] for part in (0, 1) for half in halves], dim=self.d)


class Shortcut(nn.Module):
    """`Shortcut`: the sum of the first two inputs."""

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """See the class."""
        return x[0] + x[1]


class Foldcut(nn.Module):
    """`Foldcut`: the sum of the two halves of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        first, second = x.chunk(2, dim=1)
        return first + second


class RepConvolution(_Layers):
    """`RepConv`: the sum of a 3x3, a 1x1 and perhaps an identity path, or the one 3x3 they were made into."""

    rbr_dense: nn.Module
    rbr_1x1: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if "rbr_reparam" in self._modules:
            return cast(Tensor, self.act(cast(nn.Module, self.rbr_reparam)(x)))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        identity = getattr(self, "rbr_identity", None)
        return cast(Tensor, self.act(y if identity is None else y + identity(x)))


class ImplicitAddition(nn.Module):
    """`ImplicitA`: learned values are added."""

    implicit: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.implicit + x


class ImplicitProduct(nn.Module):
    """`ImplicitM`: learned factors."""

    implicit: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.implicit * x


class TransformerLayer(nn.Module):
    """`TransformerLayer`: attention and two linear layers, without normalisation (arXiv:2010.11929)."""

    q: nn.Module
    k: nn.Module
    v: nn.Module
    ma: nn.Module
    fc1: nn.Module
    fc2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """See the class; x is (cells, B, C)."""
        x = self.ma(self.q(x), self.k(x), self.v(x))[0] + x
        return cast(Tensor, self.fc2(self.fc1(x)) + x)


class TransformerBlock(nn.Module):
    """`TransformerBlock`: cells as tokens."""

    conv: nn.Module | None
    linear: nn.Module
    tr: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)
        return cast(Tensor, self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape))


class Mish(nn.Module):
    """`Mish`, `MemoryEfficientMish` of releases before torch had it."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.mish(x)


class FunnelActivation(_Layers):
    """`FReLU`: the greater of the input and a convolution of it (arXiv:2007.11824)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.maximum(x, self.bn(self.conv(x)))


class Head(nn.Module):
    """`Detect`, `Segment`, `IDetect`, `IAuxDetect`: the raw maps, finest level first; nothing is decoded."""

    m: nn.ModuleList

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, A·(5 + K), h, w) of the levels' inputs; inputs of auxiliary heads stand behind these."""
        if "ia" not in self._modules:
            return [conv(value) for conv, value in zip(self.m, x, strict=False)]
        before, behind = cast(nn.ModuleList, self.ia), cast(nn.ModuleList, self.im)
        layers = zip(before, self.m, behind, x, strict=False)
        return [factor(conv(addition(value))) for addition, conv, factor, value in layers]
