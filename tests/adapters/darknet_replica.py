"""Darknet once more, in float64 and as plain sums, and descriptions to try it on."""

import numpy as np
import torch
import torch.nn.functional as F


def sections_of(cfg):
    """[(kind, {key: text})] of a description."""
    found = []
    for line in cfg.replace(" ", "").splitlines():
        if line.startswith("["):
            found.append((line[1:-1], {}))
        elif line and line[0] not in "#;":
            key, value = line.split("=")
            found[-1][1][key] = value
    return found


class Replica:
    """Weights of a description, drawn or read, in the file's order; and what Darknet computes of them."""

    def __init__(self, cfg, data=None, seed=0):
        (_, net), *self.sections = sections_of(cfg)
        self.height, self.width = int(net["height"]), int(net["width"])
        self.rng = np.random.default_rng(seed)
        self.source = None if data is None else np.frombuffer(data, "<f4", offset=20).astype(np.float64)
        self.used, self.parts, self.weights = 0, [], []
        channels = []
        for index, (kind, options) in enumerate(self.sections):
            before = channels[-1] if channels else 3
            if kind == "convolutional":
                before = self._convolution(options, before)
            elif kind == "route":
                groups = int(options.get("groups", 1))
                before = sum(channels[i] // groups for i in self._references(options["layers"], index))
            channels.append(before)
        assert self.source is None or self.used == len(self.source)

    def file(self, version=(0, 2, 5)):
        """The bytes of a .weights file."""
        wide = version[0] * 10 + version[1] >= 2
        header = np.array(version, "<i4").tobytes() + np.array([7], "<i8" if wide else "<i4").tobytes()
        return header + np.concatenate(self.parts).astype("<f4").tobytes()

    def _take(self, count, low, high):
        if self.source is not None:
            values = self.source[self.used : self.used + count]
        else:
            values = self.rng.uniform(low, high, count).astype("<f4").astype(np.float64)
        self.used += count
        self.parts.append(values)
        return torch.from_numpy(np.array(values))

    def _convolution(self, options, channels):
        filters, size = int(options["filters"]), int(options["size"])
        inputs = channels // int(options.get("groups", 1))
        own = {}
        if int(options.get("batch_normalize", 0)):
            own["beta"], own["gamma"] = self._take(filters, -0.3, 0.3), self._take(filters, 0.7, 1.3)
            own["mean"], own["var"] = self._take(filters, -0.3, 0.3), self._take(filters, 0.5, 1.5)
        else:
            own["bias"] = self._take(filters, -1, 1)
        bound = (5 / (inputs * size * size)) ** 0.5
        count = filters * inputs * size * size
        own["weight"] = self._take(count, -bound, bound).reshape(filters, inputs, size, size)
        self.weights.append(own)
        return filters

    @staticmethod
    def _references(text, index):
        return [int(part) if int(part) >= 0 else index + int(part) for part in text.split(",")]

    def maps(self, pictures):
        """Raw maps before each yolo layer, unactivated, float64, by layer index of the yolo layer."""
        outputs, found, weights = [], {}, iter(self.weights)
        x, raw = pictures.double(), None
        for index, (kind, options) in enumerate(self.sections):
            if kind == "convolutional":
                raw = _convolve(x, next(weights), options)
                x = _activate(raw, options["activation"])
            elif kind == "maxpool":
                x = _pool(x, int(options["size"]), int(options["stride"]))
            elif kind == "upsample":
                times = int(options["stride"])
                x = x.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
            elif kind == "route":
                groups, group = int(options.get("groups", 1)), int(options.get("group_id", 0))
                parts = [outputs[i] for i in self._references(options["layers"], index)]
                widths = [part.shape[1] // groups for part in parts]
                x = torch.cat(
                    [p[:, w * group : w * (group + 1)] for p, w in zip(parts, widths, strict=True)], dim=1
                )
            elif kind == "shortcut":
                (source,) = self._references(options["from"], index)
                x = _activate(x + outputs[source], options["activation"])
            elif kind == "yolo":
                found[index] = raw
            outputs.append(x)
        return found

    def candidates(self, picture):
        """Boxes (N, 4), objectness (N,) and scores (N, K), of one picture (3, H, W), finest level first."""
        levels = []
        for index, raw in self.maps(picture[None]).items():
            levels.append((raw.shape[2], _decoded(raw[0].numpy(), self.sections[index][1], self)))
        levels.sort(key=lambda level: -level[0])
        return [np.concatenate(parts) for parts in zip(*(level for _, level in levels), strict=True)]


def _convolve(x, own, options):
    size, groups = int(options["size"]), int(options.get("groups", 1))
    padding = size // 2 if int(options.get("pad", 0)) else int(options.get("padding", 0))
    x = F.conv2d(x, own["weight"], own.get("bias"), int(options["stride"]), padding, 1, groups)
    if "beta" not in own:
        return x
    beta, gamma, mean, var = (own[k][:, None, None] for k in ("beta", "gamma", "mean", "var"))
    return (x - mean) / (var + 1e-5).sqrt() * gamma + beta


def _activate(x, name):
    return {
        "linear": lambda: x,
        "leaky": lambda: torch.where(x > 0, x, 0.1 * x),
        "mish": lambda: x * torch.tanh(torch.log1p(x.exp())),
        "logistic": lambda: 1 / (1 + (-x).exp()),
        "swish": lambda: x / (1 + (-x).exp()),
    }[name]()


def _pool(x, size, stride):
    """Windows start half the padding before the map; what lies outside is skipped."""
    height, width = x.shape[2:]
    start = -((size - 1) // 2)
    rows = []
    for top in range(start, start + ((height - 1) // stride + 1) * stride, stride):
        row = []
        for left in range(start, start + ((width - 1) // stride + 1) * stride, stride):
            window = x[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
            row.append(window.amax(dim=(2, 3)))
        rows.append(torch.stack(row, dim=2))
    return torch.stack(rows, dim=2)


def _decoded(raw, options, net):
    """One level by loops over anchors, in Darknet's own words: relative sizes, then pixels."""
    numbers = [float(value) for value in options["anchors"].split(",")]
    scale = float(options.get("scale_x_y", 1))
    boxes, objectness, scores = [], [], []
    mask = [int(value) for value in options["mask"].split(",")]
    for place, anchor in enumerate(mask):
        values = raw.reshape(len(mask), -1, *raw.shape[1:])[place]
        h, w = values.shape[1:]
        sigmoid = 1 / (1 + np.exp(-values))
        for row in range(h):
            for column in range(w):
                s, t = sigmoid[:, row, column], values[:, row, column]
                cx = (column + s[0] * scale - 0.5 * (scale - 1)) / w
                cy = (row + s[1] * scale - 0.5 * (scale - 1)) / h
                if int(options.get("new_coords", 0)):
                    bw, bh = 4 * s[2] ** 2, 4 * s[3] ** 2
                else:
                    bw, bh = np.exp(t[2]), np.exp(t[3])
                bw, bh = bw * numbers[2 * anchor] / net.width, bh * numbers[2 * anchor + 1] / net.height
                corners = np.array([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2])
                boxes.append(corners * [net.width, net.height, net.width, net.height])
                objectness.append(s[4])
                scores.append(s[4] * s[5:])
    return np.array(boxes), np.array(objectness), np.array(scores)


def suppressed(boxes, scores, conf, iou):
    """Indices and labels that are kept: best class of each box, greedily, class by class, best first."""
    labels, best = scores.argmax(1), scores.max(1)
    kept = []
    for i in np.argsort(-best, kind="stable"):
        if best[i] > conf and all(labels[i] != labels[j] or overlap(boxes[i], boxes[j]) <= iou for j in kept):
            kept.append(i)
    return kept, labels[kept]


def overlap(a, b):
    wide = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return wide * high / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high)


def conv(filters, size=1, stride=1, activation="leaky", norm=1, **more):
    """The text of a convolutional section."""
    options = {"batch_normalize": norm, "filters": filters, "size": size, "stride": stride, "pad": 1, **more}
    lines = [f"{key}={value}" for key, value in options.items()]
    return "\n".join(["[convolutional]", *lines, f"activation={activation}", ""])


def section(kind, **options):
    """The text of any section."""
    return "\n".join([f"[{kind}]", *(f"{key}={value}" for key, value in options.items()), ""])


def net(height, width):
    return section("net", width=width, height=height, channels=3)


def yolo(mask, classes, **more):
    anchors = "6,8, 12,9, 16,20,  30,24, 20,40, 50,30,  60,60, 40,80, 90,70"
    return section("yolo", mask=mask, anchors=anchors, classes=classes, num=9, **more)


def _stage(w):
    """A stage of CSPDarknet53 with one residual block: ten layers."""
    block = [
        conv(w, 1, 1, "mish"),
        conv(w, 3, 1, "mish"),
        section("shortcut", **{"from": -3}, activation="linear"),
    ]
    split = [conv(w, 1, 1, "mish"), section("route", layers=-2), conv(w, 1, 1, "mish")]
    joined = [conv(w, 1, 1, "mish"), section("route", layers="-1,-7"), conv(2 * w, 1, 1, "mish")]
    return "".join([conv(2 * w, 3, 2, "mish"), *split, *block, *joined])


def yolov4(classes=2, height=64, width=96, w=2):
    """YOLOv4's structure, thin: CSPDarknet53 (stages end at layers 10 … 50), pyramid, path aggregation."""
    last = 3 * (5 + classes)

    def head(filters, mask, scale):
        final = conv(last, 1, 1, "linear", norm=0)
        return conv(filters, 3) + final + yolo(mask, classes, scale_x_y=scale)

    def pool(size):
        return section("maxpool", size=size, stride=1)

    parts = [net(height, width), conv(2 * w, 3, 1, "mish")]
    parts += [_stage(w * 2**i) for i in range(5)]  # layers 1 to 50
    parts += [conv(8 * w), conv(16 * w, 3), conv(8 * w)]  # 51 to 53
    parts += [pool(5), section("route", layers=-2), pool(9), section("route", layers=-4), pool(13)]
    parts += [section("route", layers="-1,-3,-5,-6"), conv(8 * w)]  # 59, 60
    parts += [conv(4 * w), section("upsample", stride=2), section("route", layers=40), conv(4 * w)]
    parts += [section("route", layers="-1,-3"), conv(4 * w)]  # 65, 66
    parts += [conv(2 * w), section("upsample", stride=2), section("route", layers=30), conv(2 * w)]
    parts += [section("route", layers="-1,-3"), conv(2 * w), head(4 * w, "0,1,2", 1.2)]  # 71 to 75
    parts += [section("route", layers=-4), conv(4 * w, 3, 2), section("route", layers="-1,66")]
    parts += [conv(4 * w), head(8 * w, "3,4,5", 1.1)]  # 79 to 82
    parts += [section("route", layers=-4), conv(8 * w, 3, 2), section("route", layers="-1,60")]
    parts += [conv(8 * w), head(16 * w, "6,7,8", 1.05)]  # 86 to 89
    return "".join(parts)


def yolov4_tiny(classes=1, height=64, width=64, w=4):
    """YOLOv4-tiny's structure, thin: grouped routes, pooling, two levels, the coarser one first."""

    def stage(w):
        route = section("route", layers=-1, groups=2, group_id=1)
        inner = [route, conv(w // 2, 3), conv(w // 2, 3), section("route", layers="-1,-2"), conv(w)]
        joined = [section("route", layers="-6,-1"), section("maxpool", size=2, stride=2)]
        return "".join([conv(w, 3), *inner, *joined])

    last = conv(3 * (5 + classes), 1, 1, "linear", norm=0)
    parts = [net(height, width), conv(w // 2, 3, 2), conv(w, 3, 2), stage(w), stage(2 * w), stage(4 * w)]
    parts += [conv(8 * w, 3), conv(4 * w), conv(8 * w, 3), last, yolo("3,4,5", classes, scale_x_y=1.05)]
    parts += [section("route", layers=-4), conv(2 * w), section("upsample", stride=2)]
    parts += [section("route", layers="-1,23"), conv(4 * w, 3), last, yolo("1,2,3", classes, scale_x_y=1.05)]
    return "".join(parts)
    # layers: 2 to 9, 10 to 17 and 18 to 25 are stages, 26 the last of the backbone, 30 and 37 yolo


def squared(classes=3, height=64, width=32):
    """One level whose network activates its own map: `new_coords` of Scaled-YOLOv4."""
    parts = [net(height, width), *(conv(4, 3, 2, "swish") for _ in range(4))]
    parts += [conv(3 * (5 + classes), 1, 1, "logistic", norm=0)]
    return "".join([*parts, yolo("0,1,2", classes, scale_x_y=2.0, new_coords=1)])
