"""A small network built like YOLOv6."""

import torch
from anchor_free_replicas import picture, settle, spread
from torch import nn

CHANNELS = [8, 10, 12, 14]


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Backbone(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.stem = block(3, 6, 2)
        self.ERBlock_2 = block(6, 6, 2)
        for i in range(levels):
            self.add_module(f"ERBlock_{3 + i}", block(CHANNELS[i - 1] if i else 6, CHANNELS[i], 2))
        self.levels = levels

    def forward(self, x):
        x, outputs = self.ERBlock_2(self.stem(x)), []
        for i in range(self.levels):
            x = getattr(self, f"ERBlock_{3 + i}")(x)
            outputs.append(x)
        return tuple(outputs)


class Neck(nn.Module):
    """Gives a list; its children stand in another order than the one in which they run."""

    def __init__(self, levels):
        super().__init__()
        for i in reversed(range(levels)):
            self.add_module(f"Rep_{i}", block(CHANNELS[i], CHANNELS[i]))
            self.add_module(f"reduce_{i}", block(CHANNELS[i], CHANNELS[i]))
        self.upsample = nn.Upsample(scale_factor=2)
        self.levels = levels

    def forward(self, maps):
        self.upsample(maps[0])
        return [getattr(self, f"Rep_{i}")(getattr(self, f"reduce_{i}")(m)) for i, m in enumerate(maps)]


class Detect(nn.Module):
    """Overwrites the list it is given; gives centre, size, a 1 for objectness and class scores."""

    def __init__(self, classes, levels, reg_max):
        super().__init__()
        self.stride = torch.tensor([8, 16, 32, 64][:levels])
        for name in ("stems", "cls_convs", "reg_convs"):
            self.add_module(name, nn.ModuleList(block(c, c) for c in CHANNELS[:levels]))
        self.cls_preds = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in CHANNELS[:levels])
        self.reg_preds = nn.ModuleList(nn.Conv2d(c, 4 * (reg_max + 1), 1) for c in CHANNELS[:levels])

    def forward(self, x):
        outputs = []
        for i in range(len(x)):
            x[i] = self.stems[i](x[i])
            classes = self.cls_preds[i](self.cls_convs[i](x[i])).sigmoid()
            boxes = self.reg_preds[i](self.reg_convs[i](x[i]))
            outputs.append(torch.cat([boxes, torch.ones_like(classes[:, :1]), classes], 1))
        self.grid = [one.shape for one in x]
        return outputs


class Network(nn.Module):
    def __init__(self, classes=3, levels=3, reg_max=16):
        super().__init__()
        self.backbone, self.neck = Backbone(levels), Neck(levels)
        self.detect = Detect(classes, levels, reg_max)

    def forward(self, x):
        return self.detect(self.neck(self.backbone(x)))


def calibrated(levels, reg_max, classes=3):
    torch.manual_seed(levels)
    model = Network(classes, levels, reg_max)
    batch = torch.stack([torch.from_numpy(picture(seed=s)).permute(2, 0, 1) / 255 for s in range(3)])
    settle(model, nn.functional.pad(batch, (0, 32, 0, 32)))
    spread(model.detect.cls_preds, -2.5, scale=2.0)
    spread(model.detect.reg_preds, 1.5 if reg_max == 0 else 0.0, scale=0.5)
    for convolution in model.detect.reg_preds:
        convolution.bias.data -= 0.3 * torch.arange(reg_max + 1).repeat(4)
    return model
