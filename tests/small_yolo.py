"""Small seeded detectors that find something in noise, saved and loaded as a user's own would be."""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CLASS_NAMES = {0: "cat", 1: "dog", 2: "fire hydrant"}
SIDE = 96  # pixels: the grids of the three levels are 12, 6 and 3 cells
SCORE = 0.35  # highest class bias, as a score: enough candidates pass 0.25

_folder = tempfile.TemporaryDirectory(prefix="detcam-tests-")  # gone with the process
_ARCHITECTURE: dict[str, Any] = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [12, 3, 2]],
        [-1, 1, "C2f", [12, True]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],  # 4: /8
        [-1, 1, "Conv", [20, 3, 2]],
        [-1, 1, "C2f", [20, True]],  # 6: /16
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "SPPF", [24, 5]],  # 8: /32
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "C2f", [20]],  # 11
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 1, "C2f", [16]],  # 14: P3
        [-1, 1, "Conv", [16, 3, 2]],
        [[-1, 11], 1, "Concat", [1]],
        [-1, 1, "C2f", [20]],  # 17: P4
        [-1, 1, "Conv", [20, 3, 2]],
        [[-1, 8], 1, "Concat", [1]],
        [-1, 1, "C2f", [24]],  # 20: P5
    ],
}


@functools.cache
def checkpoint(head: str = "Detect") -> Path:
    """A `.pt` file as ultralytics writes it; `head` is "Detect" or "OBB"."""
    from ultralytics import YOLO

    path = Path(_folder.name, f"small-{head.lower()}.pt")
    # The object only lends its way of saving: its own network is replaced.
    yolo = YOLO("yolov8n-obb.yaml" if head == "OBB" else "yolov8n.yaml", verbose=False)
    yolo.model = network(head)
    yolo.ckpt = {}  # which 8.3.0 leaves empty and does not save
    yolo.save(path)
    return path


def explained_street(folder: Path) -> Any:
    """A picture with prime sides, stored in a folder, and three boxes found in it, explained."""
    import detcam

    path = folder / "street.png"
    Image.fromarray(pictures(3)[2]).save(path)
    found = detcam.explain(detector(), path, method="layer-cam", layers="backbone", max_boxes=3)
    assert len(found) == 3
    return found


@functools.cache
def detector(head: str = "Detect") -> Any:
    """The same checkpoint, loaded by detcam."""
    import detcam

    return detcam.load(checkpoint(head), device="cpu")


def network(head: str = "Detect") -> Any:
    """The network itself, in memory."""
    from ultralytics.nn.tasks import DetectionModel, OBBModel

    arguments = [[14, 17, 20], 1, head, ["nc", 1] if head == "OBB" else ["nc"]]
    architecture = {**_ARCHITECTURE, "head": [*_ARCHITECTURE["head"], arguments]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (OBBModel if head == "OBB" else DetectionModel)(architecture, ch=3, verbose=False)
        _calibrate(model)
    model.names = dict(CLASS_NAMES)
    model.args = {"imgsz": SIDE, "task": "obb" if head == "OBB" else "detect"}
    return model.eval()


def pictures(count: int, height: int = 61, width: int = 97, seed: int = 0) -> list[np.ndarray]:
    """Noise of two grains, (H, W, 3) uint8; prime sides by default, so that a swapped H/W cannot hide."""
    found = []
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        coarse = generator.integers(0, 256, (math.ceil(height / 16), math.ceil(width / 16), 3))
        fine = generator.integers(0, 64, (height, width, 3))
        grown = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        found.append(((grown * 3 + fine * 4) // 4).clip(0, 255).astype(np.uint8))
    return found


def _calibrate(model: Any) -> None:
    """Statistics and biases as if trained: activations neither vanish nor explode, a few candidates score."""
    noise = torch.from_numpy(np.stack(pictures(8, SIDE, SIDE, seed=1))).permute(0, 3, 1, 2).float() / 255
    model.train()
    with torch.no_grad():
        for _ in range(3):
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None  # the plain mean over the passes
            model(noise)
        for tower in model.model[-1].cv3:
            tower[-1].weight.mul_(3)
            tower[-1].bias.fill_(math.log(SCORE / (1 - SCORE)) - 1.5)
        model.eval()
        while _best_scores(model, noise).max(dim=1).values.min() < SCORE:  # towers of old releases are others
            for tower in model.model[-1].cv3:
                tower[-1].bias.add_(0.5)


def _best_scores(model: Any, pictures: torch.Tensor) -> torch.Tensor:
    """(B, N): each candidate's best class."""
    return model(pictures)[0][:, 4 : 4 + len(CLASS_NAMES)].amax(dim=1)
