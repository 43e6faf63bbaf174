"""A made-up detector, the head that its user describes, and its boxes worked out cell by cell."""

import math

import torch
from torch import nn

from detcam.adapters import HeadOutput


class Block(nn.Module):
    """A residual block whose first convolution still works at the stride before."""

    def __init__(self, channels, out):
        super().__init__()
        self.reduce = nn.Conv2d(channels, out, 1)
        self.stride = nn.Conv2d(out, out, 3, stride=2, padding=1)

    def forward(self, x):
        return self.stride(self.reduce(x).relu()).tanh()


class Gate(nn.Module):
    """Squeeze and excitation: a layer without a stride."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.scale(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class Pond(nn.Module):
    """A made-up detector. A cell gives the classes, then height, width, cy, cx, in its own units."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(Block(8, 8), Block(8, 8))  # /8, /16
        self.gate = Gate(8)
        self.down_path = nn.Conv2d(8, 8, 1)  # top down, to /8
        self.up_path = nn.Conv2d(8, 8, 3, stride=2, padding=1)  # bottom up, to /16
        self.join = nn.Conv2d(16, 8, 1)
        self.out = nn.ModuleDict(
            {"fine": nn.Conv2d(8, classes + 4, 1), "coarse": nn.Conv2d(8, classes + 4, 1)}
        )

    def forward(self, x):
        c3 = self.deep[0](self.stem(x))
        c4 = self.gate(self.deep[1](c3))
        p3 = self.down_path(c3 + nn.functional.interpolate(c4, scale_factor=2.0))
        p4 = self.join(torch.cat([self.up_path(p3), c4], dim=1))
        return {"coarse": self.out["coarse"](p4), "fine": self.out["fine"](p3)}


# What a user writes, quoted in docs/adapters.md.
class PondHead:
    strides = (8, 16)

    def __init__(self, model):
        self.model = model

    def forward(self, batch):
        maps = self.model(batch)
        logits, boxes = [], []
        for stride, name in zip(self.strides, ("fine", "coarse"), strict=True):
            rows = maps[name].flatten(2).transpose(1, 2)
            logits.append(rows[..., :-4])
            boxes.append(self.boxes(rows[..., -4:], maps[name].shape[3], stride))
        return HeadOutput(torch.cat(logits, dim=1), torch.cat(boxes, dim=1))

    def boxes(self, values, columns, stride):
        height, width, cy, cx = values.unbind(-1)
        cell = torch.arange(values.shape[1])
        x, y = (cell % columns + cx) * stride, (cell // columns + cy) * stride
        w, h = width.exp() * 2 * stride, height.exp() * 2 * stride
        return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)


class Maps(nn.Module):
    """The same network with a head as others have it: three anchors; coarse level first."""

    anchors = (
        (10.0, 13.0),
        (16.0, 30.0),
        (33.0, 23.0),
        (30.0, 61.0),
        (62.0, 45.0),
        (59.0, 119.0),
    )  # coarse first

    def __init__(self, channels, pond=None):
        super().__init__()
        self.body = pond or Pond()
        self.fine, self.coarse = nn.Conv2d(7, channels, 1), nn.Conv2d(7, channels, 1)

    def forward(self, x):
        maps = self.body(x)
        return [self.coarse(maps["coarse"]), self.fine(maps["fine"])]


def seeded(model):
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.35)
    return model.eval()


def replica_v5(maps, anchors, strides):
    """YOLOv5's boxes and scores as plain sums in float64: rows level by level, fine first."""
    boxes, objectness, logits = [], [], []
    for level, stride in sorted(enumerate(strides), key=lambda pair: pair[1]):
        data = maps[level][0].double()
        values = data.shape[0] // 3
        for a in range(3):
            for y in range(data.shape[1]):
                for x in range(data.shape[2]):
                    v = data[a * values : (a + 1) * values, y, x]
                    s = v[:4].sigmoid()
                    cx, cy = (2 * s[0] - 0.5 + x) * stride, (2 * s[1] - 0.5 + y) * stride
                    w, h = (
                        (2 * s[2]) ** 2 * anchors[3 * level + a][0],
                        (2 * s[3]) ** 2 * anchors[3 * level + a][1],
                    )
                    boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                    objectness.append(v[4])
                    logits.append(v[5:])
    return torch.tensor(boxes), torch.stack(objectness), torch.stack(logits)


def pond_candidates(pond, tensor):
    """Boxes (N, 4) and class logits (N, K) of a picture (3, H, W) as plain sums, fine first."""
    with torch.no_grad():
        maps = pond(tensor[None])
    boxes, logits = [], []
    for name, stride in (("fine", 8), ("coarse", 16)):
        for y in range(maps[name].shape[2]):
            for x in range(maps[name].shape[3]):
                *classes, height, width, cy, cx = maps[name][0, :, y, x].tolist()
                w, h = math.exp(width) * 2 * stride, math.exp(height) * 2 * stride
                middle = (x + cx) * stride, (y + cy) * stride
                boxes.append([middle[0] - w / 2, middle[1] - h / 2, middle[0] + w / 2, middle[1] + h / 2])
                logits.append(classes)
    return torch.tensor(boxes, dtype=torch.float64), torch.tensor(logits, dtype=torch.float64)
