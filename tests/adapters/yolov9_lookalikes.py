"""Small networks built like YOLOv9 with one, two or three branches, and like THU-MIG's YOLOv10."""

import torch
from anchor_free_replicas import picture, settle, spread
from torch import nn

STRIDES = [8, 16, 32]
BINS = 16
CHANNELS = [8, 12, 16]


class Layer(nn.Sequential):
    """Numbered, and told where its input comes from, as the layers of a parsed yaml are."""

    def __init__(self, index, source, inputs, outputs, stride=1):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
        )
        self.i, self.f = index, source


class Silent(nn.Module):
    i, f = 0, -1

    def forward(self, x):
        return x


class Head(nn.Module):
    """`branches` pairs of towers; keeps the grid of its last input; overwrites the list it is given."""

    shape = None
    anchors = torch.empty(0)

    def __init__(self, classes, branches, feeders):
        super().__init__()
        self.nc, self.nl, self.reg_max, self.f = classes, len(STRIDES), BINS, feeders
        self.stride = torch.tensor([float(stride) for stride in STRIDES])
        for branch in range(branches):
            boxes = (self.tower(c, 4 * BINS) for c in CHANNELS)
            self.add_module(f"cv{2 * branch + 2}", nn.ModuleList(boxes))
            self.add_module(f"cv{2 * branch + 3}", nn.ModuleList(self.tower(c, classes) for c in CHANNELS))
            self.add_module("dfl" if branch == 0 else f"dfl{branch + 1}", nn.Identity())
        self.branches = branches

    @staticmethod
    def tower(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, outputs, 1))

    def forward(self, x):
        if self.shape != x[0].shape:
            self.anchors, self.shape = torch.zeros(x[0].shape[2:]), x[0].shape
        levels = []
        for branch in range(self.branches):
            for i in range(self.nl):
                source = x[branch * self.nl + i]
                boxes, classes = (getattr(self, f"cv{2 * branch + k}")[i] for k in (2, 3))
                levels.append(torch.cat([boxes(source), classes(source)], 1))
        x[:] = []
        return [levels[0] * self.anchors, *levels[1:]]  # as theirs decodes: this is not what is explained


class Network(nn.Module):
    """Layers in `model` that read earlier ones by number; the picture goes past layer 0 as it is.

    Layers 1 to 5 are the backbone (/2 to /32), 6 to 8 the neck; each further branch reads three of its own.
    """

    def __init__(self, classes=3, branches=1):
        super().__init__()
        widths = [3, 6, 6, *CHANNELS]
        layers = [Silent(), *(Layer(i, -1, widths[i - 1], widths[i], 2) for i in range(1, 6))]
        feeders = []
        for _ in range(branches):  # the main branch's come last in the head's list, and first in the net
            start = len(layers)
            layers += [Layer(start + k, 3 + k, c, c) for k, c in enumerate(CHANNELS)]
            feeders = [start, start + 1, start + 2, *feeders]
        self.model = nn.Sequential(*layers, Head(classes, branches, feeders))
        self.yaml = {"backbone": [None] * 6}
        self.names = [f"thing {i}" for i in range(classes)]

    def forward(self, x):
        outputs = []
        for layer in self.model:
            if isinstance(layer.f, list):
                x = [outputs[i] for i in layer.f]
            elif layer.f >= 0:
                x = outputs[layer.f]
            x = layer(x)
            outputs.append(x)
        return x


class Detaching(Head):
    """THU-MIG's: a one2one twin of the towers reads detached inputs, even in evaluation."""

    def __init__(self, classes, branches, feeders):
        super().__init__(classes, branches, feeders)
        self.one2one_cv2 = nn.ModuleList(self.tower(c, 4 * BINS) for c in CHANNELS)
        self.one2one_cv3 = nn.ModuleList(self.tower(c, classes) for c in CHANNELS)

    def forward(self, x):
        detached = [one.detach() for one in x]
        one2one = [
            torch.cat([self.one2one_cv2[i](one), self.one2one_cv3[i](one)], 1)
            for i, one in enumerate(detached)
        ]
        return {"one2many": super().forward(list(x)), "one2one": one2one}


class Predicting(Network):
    """Like every model of ultralytics and its forks."""

    def __init__(self, classes=3):
        super().__init__(classes)
        self.model[-1] = Detaching(classes, 1, self.model[-1].f)

    def predict(self, x):
        return self(x)


def calibrated(model, prefixes=("",)):
    batch = torch.stack([torch.from_numpy(picture(seed=s)).permute(2, 0, 1) / 255 for s in range(3)])
    settle(model, batch)
    head = model.model[-1]
    for number in range(2, 8):
        for prefix in prefixes:
            tower = getattr(head, f"{prefix}cv{number}", None)
            if tower is not None and number % 2:
                spread([level[-1] for level in tower], -1.5)
            elif tower is not None:
                spread([level[-1] for level in tower], 0.0, scale=1.0)
                for level in tower:
                    level[-1].bias.data -= 0.3 * torch.arange(BINS).repeat(4)
    return model
