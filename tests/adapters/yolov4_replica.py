"""bubbliiiing's two networks once more, in float64, and thin state dicts of random weights in its layout."""

import numpy as np
import torch
import torch.nn.functional as F

ANCHORS = [(12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401)]
TINY_ANCHORS = [(10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319)]


class Weights(dict):
    """A state dict that is filled name by name."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low, high, *shape):
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def block(self, name, channels, filters, size=1):
        bound = (5 / (channels * size * size)) ** 0.5
        self[f"{name}.conv.weight"] = self.uniform(-bound, bound, filters, channels, size, size)
        self[f"{name}.bn.weight"] = self.uniform(0.7, 1.3, filters)
        self[f"{name}.bn.bias"] = self.uniform(-0.3, 0.3, filters)
        self[f"{name}.bn.running_mean"] = self.uniform(-0.3, 0.3, filters)
        self[f"{name}.bn.running_var"] = self.uniform(0.5, 1.5, filters)
        self[f"{name}.bn.num_batches_tracked"] = torch.tensor(5)

    def chain(self, name, channels, *widths):
        for i, (filters, size) in enumerate(zip(widths, [1, 3, 1, 3, 1], strict=False)):
            self.block(f"{name}.{i}", channels, filters, size)
            channels = filters

    def head(self, name, channels, filters, classes):
        self.block(f"{name}.0", channels, filters, 3)
        self[f"{name}.1.weight"] = self.uniform(-0.3, 0.3, 3 * (5 + classes), filters, 1, 1)
        self[f"{name}.1.bias"] = self.uniform(-1, 1, 3 * (5 + classes))


def full_weights(classes, w=2, seed=0, depths=(1, 2, 1, 1, 1)):
    """YOLOv4 with stages of w·(2, 4, 8, 16, 32) channels."""
    found = Weights(seed)
    found.block("backbone.conv1", 3, w, 3)
    for i, depth in enumerate(depths):
        name, filters = f"backbone.stages.{i}", w * 2 ** (i + 1)
        inner = filters if i == 0 else filters // 2
        found.block(f"{name}.downsample_conv", filters // 2, filters, 3)
        found.block(f"{name}.split_conv0", filters, inner)
        found.block(f"{name}.split_conv1", filters, inner)
        for j in range(depth):
            hidden = filters // 2
            found.block(f"{name}.blocks_conv.{j}.block.0", inner, hidden)
            found.block(f"{name}.blocks_conv.{j}.block.1", hidden, inner, 3)
        found.block(f"{name}.blocks_conv.{depth}", inner, inner)
        found.block(f"{name}.concat_conv", 2 * inner, filters)
    found.chain("conv1", 32 * w, 16 * w, 32 * w, 16 * w)
    found.chain("conv2", 64 * w, 16 * w, 32 * w, 16 * w)
    found.block("upsample1.upsample.0", 16 * w, 8 * w)
    found.block("conv_for_P4", 16 * w, 8 * w)
    found.block("upsample2.upsample.0", 8 * w, 4 * w)
    found.block("conv_for_P3", 8 * w, 4 * w)
    found.block("down_sample1", 4 * w, 8 * w, 3)
    found.block("down_sample2", 8 * w, 16 * w, 3)
    for i, width in ((1, 8 * w), (2, 4 * w), (3, 8 * w), (4, 16 * w)):
        found.chain(f"make_five_conv{i}", 2 * width, width, 2 * width, width, 2 * width, width)
    for i, width in ((3, 4 * w), (2, 8 * w), (1, 16 * w)):
        found.head(f"yolo_head{i}", width, 2 * width, classes)
    return dict(found)


def tiny_weights(classes, w=4, seed=0):
    """YOLOv4-tiny with stages of w·(2, 4, 8, 16) channels."""
    found = Weights(seed)
    found.block("backbone.conv1", 3, w, 3)
    found.block("backbone.conv2", w, 2 * w, 3)
    for i, filters in ((1, 2 * w), (2, 4 * w), (3, 8 * w)):
        name = f"backbone.resblock_body{i}"
        found.block(f"{name}.conv1", filters, filters, 3)
        found.block(f"{name}.conv2", filters // 2, filters // 2, 3)
        found.block(f"{name}.conv3", filters // 2, filters // 2, 3)
        found.block(f"{name}.conv4", filters, filters)
    found.block("backbone.conv3", 16 * w, 16 * w, 3)
    found.block("conv_for_P5", 16 * w, 8 * w)
    found.block("upsample.upsample.0", 8 * w, 4 * w)
    found.head("yolo_headP5", 8 * w, 16 * w, classes)
    found.head("yolo_headP4", 12 * w, 8 * w, classes)
    return dict(found)


class Replica:
    """Raw maps of a state dict, coarsest first, float64, and what is made of them."""

    def __init__(self, weights):
        self.weights = {name: tensor.double() for name, tensor in weights.items()}

    def maps(self, x):
        return (self._full if "yolo_head1.1.weight" in self.weights else self._tiny)(x.double())

    def candidates(self, picture):
        """Boxes (N, 4) in input pixels and scores (N, K) of a picture (3, H, W), finest level first."""
        maps = self.maps(picture[None])[::-1]
        masks = [[0, 1, 2], [3, 4, 5], [6, 7, 8]] if len(maps) == 3 else [[1, 2, 3], [3, 4, 5]]
        anchors = ANCHORS if len(maps) == 3 else TINY_ANCHORS
        boxes, scores = [], []
        for raw, mask in zip(maps, masks, strict=True):
            step = picture.shape[1] / raw.shape[2]
            for place, anchor in enumerate(mask):
                values = raw[0].numpy().reshape(3, -1, *raw.shape[2:])[place]
                sigmoid = 1 / (1 + np.exp(-values))
                for row, column in np.ndindex(*raw.shape[2:]):
                    cx, cy = (column + sigmoid[0, row, column]) * step, (row + sigmoid[1, row, column]) * step
                    w, h = np.exp(values[2:4, row, column]) * anchors[anchor]
                    boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                    scores.append(sigmoid[4, row, column] * sigmoid[5:, row, column])
        return np.array(boxes), np.array(scores)

    def _block(self, name, x, stride=1, mish=False):
        w = self.weights
        x = F.conv2d(x, w[f"{name}.conv.weight"], None, stride, w[f"{name}.conv.weight"].shape[2] // 2)
        mean, var, gamma, beta = (
            w[f"{name}.bn.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * gamma + beta
        return x * torch.tanh(torch.log1p(x.exp())) if mish else torch.where(x > 0, x, 0.1 * x)

    def _chain(self, name, x):
        for i in range(5):
            if f"{name}.{i}.conv.weight" in self.weights:
                x = self._block(f"{name}.{i}", x)
        return x

    def _head(self, name, x):
        x = self._block(f"{name}.0", x)
        return F.conv2d(x, self.weights[f"{name}.1.weight"], self.weights[f"{name}.1.bias"])

    def _up(self, name, x):
        return self._block(f"{name}.upsample.0", x).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def _stage(self, name, x):
        x = self._block(f"{name}.downsample_conv", x, 2, mish=True)
        inner, j = self._block(f"{name}.split_conv1", x, mish=True), 0
        while f"{name}.blocks_conv.{j}.block.0.conv.weight" in self.weights:
            first = self._block(f"{name}.blocks_conv.{j}.block.0", inner, mish=True)
            inner = inner + self._block(f"{name}.blocks_conv.{j}.block.1", first, mish=True)
            j += 1
        inner = self._block(f"{name}.blocks_conv.{j}", inner, mish=True)
        side = self._block(f"{name}.split_conv0", x, mish=True)
        return self._block(f"{name}.concat_conv", torch.cat([inner, side], 1), mish=True)

    def _full(self, x):
        stages = [self._block("backbone.conv1", x, mish=True)]
        for i in range(5):
            stages.append(self._stage(f"backbone.stages.{i}", stages[-1]))
        p5 = self._chain("conv1", stages[5])
        pools = []
        for size in (13, 9, 5):
            filled = F.pad(p5, (size // 2,) * 4, value=-torch.inf)
            pools.append(filled.unfold(2, size, 1).unfold(3, size, 1).amax(dim=(4, 5)))
        p5 = self._chain("conv2", torch.cat([*pools, p5], 1))
        p4 = torch.cat([self._block("conv_for_P4", stages[4]), self._up("upsample1", p5)], 1)
        p4 = self._chain("make_five_conv1", p4)
        p3 = torch.cat([self._block("conv_for_P3", stages[3]), self._up("upsample2", p4)], 1)
        p3 = self._chain("make_five_conv2", p3)
        p4 = self._chain("make_five_conv3", torch.cat([self._block("down_sample1", p3, 2), p4], 1))
        p5 = self._chain("make_five_conv4", torch.cat([self._block("down_sample2", p4, 2), p5], 1))
        return [self._head(f"yolo_head{i}", p) for i, p in ((1, p5), (2, p4), (3, p3))]

    def _tiny(self, x):
        x = self._block("backbone.conv2", self._block("backbone.conv1", x, 2), 2)
        for i in (1, 2, 3):
            name = f"backbone.resblock_body{i}"
            x = self._block(f"{name}.conv1", x)
            inner = self._block(f"{name}.conv2", x[:, x.shape[1] // 2 :])
            joined = torch.cat([self._block(f"{name}.conv3", inner), inner], 1)
            feature = self._block(f"{name}.conv4", joined)
            x = torch.cat([x, feature], 1).unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
        p5 = self._block("conv_for_P5", self._block("backbone.conv3", x))
        p4 = torch.cat([self._up("upsample", p5), feature], 1)
        return [self._head("yolo_headP5", p5), self._head("yolo_headP4", p4)]
