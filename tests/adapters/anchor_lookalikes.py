"""A pretend YOLOv5 / YOLOv7 repository: small layers of our own under the names that its pickles carry.

`planted()` puts them into `sys.modules` for as long as a file is written with them, as in a training.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

import torch
from torch import nn

ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)))
STRIDES = (8, 16)


class Conv(nn.Module):
    def __init__(self, c1, c2, s=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 3, s, 1, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))

    def fuse(self):
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse


class C3(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c, c), Conv(c, c), Conv(2 * c, c)
        self.m = nn.Sequential(Conv(c, c))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.d = 1

    def forward(self, x):
        return torch.cat(x, self.d)


class ImplicitA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.implicit = nn.Parameter(torch.randn(1, c, 1, 1))

    def forward(self, x):
        return self.implicit + x


class ImplicitM(ImplicitA):
    def forward(self, x):
        return self.implicit * x


class Detect(nn.Module):
    """Decodes in place, keeps its grids, and gives nothing but boxes when it exports."""

    export = False

    def __init__(self, nc, channels):
        super().__init__()
        self.nc, self.no, self.nl, self.na = nc, nc + 5, len(ANCHORS), 3
        self.grid = [torch.zeros(1)] * self.nl
        self.stride = torch.tensor(STRIDES, dtype=torch.float32)
        anchors = torch.tensor(ANCHORS, dtype=torch.float32)
        self.register_buffer("anchors", anchors / self.stride.view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * self.no, 1) for c in channels)

    def raw(self, i, x):
        return self.m[i](x)

    def forward(self, x):
        maps, boxes = [], []
        for i in range(self.nl):
            batch, _, h, w = x[i].shape
            y = self.raw(i, x[i]).view(batch, 3, self.no, h, w).permute(0, 1, 3, 4, 2).contiguous()
            maps.append(y)
            if self.grid[i].shape[2:4] != y.shape[2:4]:
                rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
                self.grid[i] = torch.stack((columns, rows), 2).view(1, 1, h, w, 2).float()
            z = y.sigmoid()
            z[..., 0:2] = (z[..., 0:2] * 2 - 0.5 + self.grid[i]) * self.stride[i]
            z[..., 2:4] = (z[..., 2:4] * 2) ** 2 * (self.anchors[i] * self.stride[i]).view(1, 3, 1, 1, 2)
            boxes.append(z.view(batch, -1, self.no))
        self.training |= self.export
        return (torch.cat(boxes, 1),) if self.export else (torch.cat(boxes, 1), maps)


class IDetect(Detect):
    def __init__(self, nc, channels):
        super().__init__(nc, channels)
        self.ia = nn.ModuleList(ImplicitA(c) for c in channels)
        self.im = nn.ModuleList(ImplicitM(3 * self.no) for _ in channels)

    def raw(self, i, x):
        return self.im[i](self.m[i](self.ia[i](x)))


class Model(nn.Module):
    """/2, /4, /8 and /16 in the backbone, then up to /8 and down to /16 again."""

    def __init__(self, nc=2, head=Detect, c=6):
        super().__init__()
        plan = [
            (-1, Conv(3, c, 2)),
            (-1, Conv(c, c, 2)),
            (-1, Conv(c, c, 2)),
            (-1, C3(c)),
            (-1, Conv(c, c, 2)),
            (-1, nn.Upsample(scale_factor=2.0)),
            ([-1, 3], Concat()),
            (-1, Conv(2 * c, c)),
            (-1, Conv(c, c, 2)),
            ([-1, 4], Concat()),
            (-1, Conv(2 * c, c)),
            ([7, 10], head(nc, (c, c))),
        ]
        for i, (f, layer) in enumerate(plan):
            layer.f, layer.i, layer.type = f, i, f"models.common.{type(layer).__name__}"
        self.model = nn.Sequential(*(layer for _, layer in plan))
        self.yaml = {"backbone": [None] * 5, "head": [None] * 7, "nc": nc}
        self.names = [f"kind {i}" for i in range(nc)]
        self.stride = torch.tensor(STRIDES, dtype=torch.float32)

    def forward(self, x):
        outputs = []
        for layer in self.model:
            if layer.f != -1:
                x = (
                    outputs[layer.f]
                    if isinstance(layer.f, int)
                    else [outputs[j] if j != -1 else x for j in layer.f]
                )
            x = layer(x)
            outputs.append(x)
        return x


_PLACES = {
    "models.common": (Conv, C3, Concat, ImplicitA, ImplicitM),
    "models.yolo": (Detect, IDetect, Model),
}


@contextlib.contextmanager
def planted(**further):
    """The layers under their pickled names; `further` are classes of `models.common`, by name."""
    modules = {"models": ModuleType("models")} | {name: ModuleType(name) for name in _PLACES}
    classes = [(home, kind.__name__, kind) for home, kinds in _PLACES.items() for kind in kinds]
    classes += [("models.common", name, kind) for name, kind in further.items()]
    own = [(kind, kind.__module__, kind.__qualname__) for _, _, kind in classes]
    for home, name, kind in classes:
        kind.__module__, kind.__qualname__ = home, name
        setattr(modules[home], name, kind)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for kind, module, qualname in own:
            kind.__module__, kind.__qualname__ = module, qualname


def trained(model, seed=0):
    """Random weights as after a training: statistics of their own, and logits that spread."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for name, tensor in model.state_dict(keep_vars=True).items():
        if "running_var" in name or name.endswith("bn.weight"):
            uniform(tensor, 0.7, 1.4)
        elif name.endswith(("implicit", "bias", "running_mean")):
            uniform(tensor, -0.6, 0.9)
        elif name.endswith("weight"):
            uniform(tensor, -0.4, 0.4)
            if ".m." in name and tensor.shape[-1] == 1:
                tensor.data.mul_(4)
    return model.eval()


def vendor_candidates(model, x):
    """Boxes (N, 4) xyxy, objectness (N,) and class scores (N, K), as the model itself decodes them."""
    with torch.no_grad():
        out = model(x)[0][0]
    centre, size = out[:, :2], out[:, 2:4]
    return torch.cat((centre - size / 2, centre + size / 2), 1), out[:, 4], out[:, 5:]
