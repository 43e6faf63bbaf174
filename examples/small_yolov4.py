"""A thin YOLOv4 as Darknet keeps it, in a `.cfg` and a `.weights` file, and how it learns colours."""

from pathlib import Path

import numpy as np
import torch
from teaching import SHAPES, Drawn, draw, stacked, teach
from torch import Tensor, nn
from torch.nn import functional

import detcam

NAMES = ("red", "blue")
SIDE = 64
ANCHORS = ((6, 6), (9, 9), (12, 12), (15, 15), (18, 18), (21, 21), (25, 25), (30, 30), (36, 36))
HEADER = np.array([0, 2, 5, 0, 0], "<i4").tobytes()  # version, and the pictures seen in eight bytes


class Description:
    """A `.cfg` as it is being written, and random numbers for the `.weights` beside it."""

    def __init__(self, side: int, seed: int) -> None:
        self.text = f"[net]\nwidth={side}\nheight={side}\nchannels=3\n"
        self.numbers: list[np.ndarray] = []
        self.channels: list[int] = []
        self.rng = np.random.default_rng(seed)

    def add(self, kind: str, channels: int, **options: object) -> None:
        """A section, and how many channels its layer gives."""
        self.text += "".join(
            [f"\n[{kind}]\n", *(f"{key.strip('_')}={value}\n" for key, value in options.items())]
        )
        self.channels.append(channels)

    def conv(self, filters: int, size: int = 1, stride: int = 1, activation: str = "leaky") -> None:
        """A convolution with normalisation; "linear" ones, which end in a head, have a bias instead."""
        before = self.channels[-1] if self.channels else 3
        options = {"filters": filters, "size": size, "stride": stride, "pad": 1, "activation": activation}
        if activation == "linear":
            bias = np.zeros((3, filters // 3))
            bias[:, 4] = -4.0  # objects are rare
            self.numbers.append(bias.ravel())
        else:
            options = {"batch_normalize": 1, **options}
            self.numbers.append(np.repeat([0.0, 1.0, 0.0, 1.0], filters))
        spread = np.sqrt(2 / (before * size * size)) * (0.1 if activation == "linear" else 1)
        self.numbers.append(self.rng.normal(0, spread, filters * before * size * size))
        self.add("convolutional", filters, **options)

    def route(self, *layers: int) -> None:
        """What some layers give, one behind the other; negative numbers count back from here."""
        self.add("route", sum(self.channels[one] for one in layers), layers=",".join(map(str, layers)))

    def stage(self, width: int) -> None:
        """A stage of CSPDarknet with one residual block: its channels are split, and joined again."""
        self.conv(2 * width, 3, 2, "mish")
        self.conv(width, 1, 1, "mish")
        self.route(-2)
        self.conv(width, 1, 1, "mish")
        self.conv(width, 1, 1, "mish")
        self.conv(width, 3, 1, "mish")
        self.add("shortcut", width, from_=-3, activation="linear")
        self.conv(width, 1, 1, "mish")
        self.route(-1, -7)
        self.conv(2 * width, 1, 1, "mish")

    def head(self, filters: int, mask: str) -> None:
        """Two convolutions and a `yolo` layer."""
        self.conv(filters, 3)
        self.conv(3 * (5 + len(NAMES)), activation="linear")
        anchors = ", ".join(f"{width},{height}" for width, height in ANCHORS)
        self.add("yolo", self.channels[-1], mask=mask, anchors=anchors, classes=len(NAMES), num=9)


def described(side: int, width: int, seed: int) -> Description:
    """YOLOv4: CSPDarknet, spatial pyramid pooling, and a pyramid that is walked up and down again."""
    net = Description(side, seed)
    net.conv(2 * width, 3, 1, "mish")
    for step in range(5):  # layers 1 to 50: stages end at 10, 20, 30, 40, 50
        net.stage(width * 2**step)
    net.conv(8 * width)
    net.conv(16 * width, 3)
    net.conv(8 * width)  # 53
    for size, back in ((5, -2), (9, -4), (13, 0)):
        net.add("maxpool", net.channels[-1], size=size, stride=1)
        if back:
            net.route(back)
    net.route(-1, -3, -5, -6)
    net.conv(8 * width)  # 60
    for narrow, lateral in ((4 * width, 40), (2 * width, 30)):  # 61 to 66, 67 to 72
        net.conv(narrow)
        net.add("upsample", narrow, stride=2)
        net.route(lateral)
        net.conv(narrow)
        net.route(-1, -3)
        net.conv(narrow)
    net.head(4 * width, "0,1,2")  # 73 to 75
    for narrow, lateral, mask in ((4 * width, 66, "3,4,5"), (8 * width, 60, "6,7,8")):
        net.route(-4)
        net.conv(narrow, 3, 2)
        net.route(-1, lateral)
        net.conv(narrow)
        net.head(2 * narrow, mask)
    return net


def write(folder: Path, *, side: int = SIDE, width: int = 4, seed: int = 0) -> tuple[Path, Path]:
    """Write `yolov4-thin.cfg` and, with random numbers in it, `yolov4-thin.weights`; their paths."""
    net = described(side, width, seed)
    cfg, weights = folder / "yolov4-thin.cfg", folder / "yolov4-thin.weights"
    cfg.write_text(net.text)
    weights.write_bytes(HEADER + np.concatenate(net.numbers).astype("<f4").tobytes())
    return cfg, weights


def save_weights(network: nn.Module, path: Path) -> None:
    """Write what a network has learned as Darknet does: statistics and biases first, then kernels."""
    state = network.state_dict()
    order = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var", "conv.bias", "conv.weight")
    layers = dict.fromkeys(name.rpartition(".")[0].rpartition(".")[0] for name in state)
    names = [f"{layer}.{part}" for layer in layers for part in order if f"{layer}.{part}" in state]
    path.write_bytes(
        HEADER + torch.cat([state[name].flatten() for name in names]).numpy().astype("<f4").tobytes()
    )


# What it learns


def scene(rng: np.random.Generator) -> tuple[Drawn, list[int]]:
    """A picture of two coloured figures of any size, and the figures' classes."""
    classes = rng.integers(0, len(NAMES), 2).tolist()
    return draw(rng, SIDE, [(NAMES[one], str(rng.choice(SHAPES))) for one in classes], (0.06, 0.26)), classes


def learn(network: nn.Module, steps: int, seed: int = 0) -> None:
    """Teach it the figures' colours by YOLOv3's plain loss: one anchor of one level for each figure."""
    rng = np.random.default_rng(seed)
    lessons = [scene(rng) for _ in range(160)]
    pictures = stacked(drawn.picture for drawn, _ in lessons)

    def loss() -> Tensor:
        chosen = rng.integers(0, len(lessons), 8)
        return detection_loss(network(pictures[chosen]), [lessons[one] for one in chosen])

    teach(network, loss, steps, 1e-2)


def detection_loss(outputs: list[Tensor], lessons: list[tuple[Drawn, list[int]]]) -> Tensor:
    """Of raw maps (B, 3·(5 + K), h, w), finest level first."""
    total = torch.zeros(())
    owners = [
        (picture, box, label, int(np.abs(np.array(ANCHORS)[:, 0] - max(box[2:] - box[:2])).argmin()))
        for picture, (drawn, labels) in enumerate(lessons)
        for box, label in zip(drawn.boxes, labels, strict=True)
    ]
    for level, output in enumerate(outputs):
        raw = output.unflatten(1, (3, -1)).movedim(2, -1)  # (B, anchor, h, w, 5 + K)
        stride = SIDE // raw.shape[3]
        wanted = torch.zeros(raw.shape[:-1])
        for picture, box, label, anchor in owners:
            if anchor // 3 != level:
                continue
            x, y = (box[:2] + box[2:]) / 2 / stride
            found = raw[picture, anchor % 3, int(y), int(x)]
            wanted[picture, anchor % 3, int(y), int(x)] = 1
            place = torch.tensor([x % 1, y % 1], dtype=torch.float32)
            size = torch.from_numpy(np.log((box[2:] - box[:2]) / np.array(ANCHORS[anchor]))).float()
            total = total + functional.binary_cross_entropy_with_logits(found[:2], place, reduction="sum")
            total = total + functional.smooth_l1_loss(found[2:4], size, reduction="sum")
            kind = functional.one_hot(torch.tensor(label), len(NAMES)).float()
            total = total + 2 * functional.binary_cross_entropy_with_logits(found[5:], kind, reduction="sum")
        total = total + functional.binary_cross_entropy_with_logits(raw[..., 4], wanted, reduction="sum") * 2
    return total / len(owners)


def taught(folder: Path, steps: int) -> tuple[Path, Path]:
    """Write the two files, teach the network, and write what it has learned; the files' paths."""
    cfg, weights = write(folder)
    detector = detcam.load(weights, device="cpu", cfg=cfg)
    learn(detector.model, steps)
    save_weights(detector.model, weights)
    return cfg, weights
