"""YOLOX once more: random tensors under Megvii's names, and in float64 what they compute."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from anchor_free_replicas import picture, settle, spread

from detcam.adapters.yolox_network import YoloxNetwork

STRIDES = [8, 16, 32]
EPSILON = 1e-3  # of Megvii's batch normalisations


def state_dict(base=8, depth=1, classes=3, *, separable=False, folded=False, seed=0):
    """Random tensors with Megvii's names; `base` channels in the stem, `depth` bottlenecks in stage 2."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}

    def conv(name, inputs, outputs, kernel, groups=1):
        shape = (outputs, inputs // groups, kernel, kernel)
        tensors[f"{name}.conv.weight"] = torch.randn(shape, generator=generator) / math.sqrt(
            inputs // groups * kernel**2
        )
        if folded:
            tensors[f"{name}.conv.bias"] = torch.rand(outputs, generator=generator)
            return
        for key, low in {"weight": 0.5, "bias": 0.0, "running_mean": -0.5, "running_var": 0.5}.items():
            tensors[f"{name}.bn.{key}"] = torch.rand(outputs, generator=generator) + low
        tensors[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def wide(name, inputs, outputs):
        if separable:
            conv(f"{name}.dconv", inputs, inputs, 3, groups=inputs)
            conv(f"{name}.pconv", inputs, outputs, 1)
        else:
            conv(name, inputs, outputs, 3)

    def csp(name, inputs, outputs, count):
        half = outputs // 2
        conv(f"{name}.conv1", inputs, half, 1)
        conv(f"{name}.conv2", inputs, half, 1)
        conv(f"{name}.conv3", 2 * half, outputs, 1)
        for i in range(count):
            conv(f"{name}.m.{i}.conv1", half, half, 1)
            wide(f"{name}.m.{i}.conv2", half, half)

    body, c = "backbone.backbone", [base * 2**i for i in range(5)]
    conv(f"{body}.stem.conv", 12, c[0], 3)
    for i, count in enumerate([depth, 3 * depth, 3 * depth], start=1):
        wide(f"{body}.dark{i + 1}.0", c[i - 1], c[i])
        csp(f"{body}.dark{i + 1}.1", c[i], c[i], count)
    wide(f"{body}.dark5.0", c[3], c[4])
    conv(f"{body}.dark5.1.conv1", c[4], c[3], 1)
    conv(f"{body}.dark5.1.conv2", 4 * c[3], c[4], 1)
    csp(f"{body}.dark5.2", c[4], c[4], depth)
    conv("backbone.lateral_conv0", c[4], c[3], 1)
    csp("backbone.C3_p4", 2 * c[3], c[3], depth)
    conv("backbone.reduce_conv1", c[3], c[2], 1)
    csp("backbone.C3_p3", 2 * c[2], c[2], depth)
    wide("backbone.bu_conv2", c[2], c[2])
    csp("backbone.C3_n3", 2 * c[2], c[3], depth)
    wide("backbone.bu_conv1", c[3], c[3])
    csp("backbone.C3_n4", 2 * c[3], c[4], depth)
    for i in range(3):
        conv(f"head.stems.{i}", c[2 + i], c[2], 1)
        for j in range(2):
            wide(f"head.cls_convs.{i}.{j}", c[2], c[2])
            wide(f"head.reg_convs.{i}.{j}", c[2], c[2])
        for name, outputs in {"cls": classes, "reg": 4, "obj": 1}.items():
            weight = torch.randn(outputs, c[2], 1, 1, generator=generator) / math.sqrt(c[2])
            tensors[f"head.{name}_preds.{i}.weight"] = weight
            tensors[f"head.{name}_preds.{i}.bias"] = torch.rand(outputs, generator=generator)
    return tensors


def replica(tensors, x):
    """The network in float64, straight from the paper's figures: (reg, obj, cls) of each level."""
    t = {name: tensor.double() for name, tensor in tensors.items()}

    def conv(name, x, stride=1):
        weight = t[f"{name}.conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(
            x, weight, t.get(f"{name}.conv.bias"), stride, padding=weight.shape[2] // 2, groups=groups
        )
        if f"{name}.bn.weight" in t:
            scale = t[f"{name}.bn.weight"] / (t[f"{name}.bn.running_var"] + EPSILON).sqrt()
            shift = t[f"{name}.bn.bias"] - t[f"{name}.bn.running_mean"] * scale
            x = x * scale[:, None, None] + shift[:, None, None]
        return x * torch.sigmoid(x)

    def wide(name, x, stride=1):
        if f"{name}.dconv.conv.weight" in t:
            return conv(f"{name}.pconv", conv(f"{name}.dconv", x, stride))
        return conv(name, x, stride)

    def csp(name, x, *, shortcut=False):
        through, i = conv(f"{name}.conv1", x), 0
        while f"{name}.m.{i}.conv1.conv.weight" in t:
            inner = wide(f"{name}.m.{i}.conv2", conv(f"{name}.m.{i}.conv1", through))
            through, i = (through + inner if shortcut else inner), i + 1
        return conv(f"{name}.conv3", torch.cat([through, conv(f"{name}.conv2", x)], 1))

    def twice(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    body = "backbone.backbone"
    top, bottom = x[:, :, 0::2], x[:, :, 1::2]
    x = torch.cat([top[..., 0::2], bottom[..., 0::2], top[..., 1::2], bottom[..., 1::2]], 1)
    x = conv(f"{body}.stem.conv", x.double())
    stages = []
    for stage in ("dark2", "dark3", "dark4"):
        x = csp(f"{body}.{stage}.1", wide(f"{body}.{stage}.0", x, 2), shortcut=True)
        stages.append(x)
    x = conv(f"{body}.dark5.1.conv1", wide(f"{body}.dark5.0", x, 2))
    x = torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1)
    c5 = csp(f"{body}.dark5.2", conv(f"{body}.dark5.1.conv2", x))
    top = conv("backbone.lateral_conv0", c5)
    middle = conv("backbone.reduce_conv1", csp("backbone.C3_p4", torch.cat([twice(top), stages[2]], 1)))
    p3 = csp("backbone.C3_p3", torch.cat([twice(middle), stages[1]], 1))
    p4 = csp("backbone.C3_n3", torch.cat([wide("backbone.bu_conv2", p3, 2), middle], 1))
    p5 = csp("backbone.C3_n4", torch.cat([wide("backbone.bu_conv1", p4, 2), top], 1))
    levels = []
    for i, x in enumerate((p3, p4, p5)):
        x = conv(f"head.stems.{i}", x)
        towers = {}
        for name in ("cls", "reg"):
            towers[name] = x
            for j in range(2):
                towers[name] = wide(f"head.{name}_convs.{i}.{j}", towers[name])
        for name, source in {"reg": "reg", "obj": "reg", "cls": "cls"}.items():
            weight, bias = t[f"head.{name}_preds.{i}.weight"], t[f"head.{name}_preds.{i}.bias"]
            levels.append(F.conv2d(towers[source], weight, bias))
    return levels[0::3], levels[1::3], levels[2::3]


def calibrated(classes=3):
    """A small network that finds a few things in `picture()`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = YoloxNetwork(state_dict(classes=classes))
        batch = torch.from_numpy(np.stack([picture(seed=s)[..., ::-1].copy() for s in range(3)]))
        settle(model, batch.permute(0, 3, 1, 2).float())
        spread(model.head.cls_preds, -0.5, scale=2.0)
        spread(model.head.obj_preds, -1.0, scale=2.0)
        spread(model.head.reg_preds, 1.0, scale=0.5)
    return model
