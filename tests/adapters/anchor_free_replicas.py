"""What anchor-free detectors compute, once more: in float64, cell by cell, as plainly as it can be said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def picture(height: int = 96, width: int = 160, seed: int = 0) -> np.ndarray:
    """Noise of two grains, (H, W, 3) uint8."""
    generator = np.random.default_rng(seed)
    grains = []
    for grain in (29, 7):
        tiles = generator.integers(0, 256, (-(-height // grain), -(-width // grain), 3))
        grains.append(tiles.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width])
    return (sum(grains) // 2).astype(np.uint8)


def settle(model: nn.Module, batch: Tensor) -> None:
    """Statistics as if trained on `batch`, so that signals neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.4, 0.6)
            nn.init.uniform_(module.bias, 0.2, 1.0)
    model.train()
    with torch.no_grad():
        model(batch)
    model.eval()


def spread(convolutions: Any, bias: float, scale: float = 3.0) -> None:
    """Last convolutions whose outputs vary: some candidates score, most do not."""
    for convolution in convolutions:
        nn.init.normal_(convolution.weight, std=scale / convolution.in_channels**0.5)
        nn.init.constant_(convolution.bias, bias)


def boxes_from_distances(maps: list[Tensor], strides: list[int], bins: int) -> Tensor:
    """Boxes (N, 4) xyxy of one picture's maps (4·bins, h, w): centre minus and plus expected distances."""
    boxes = []
    for values, stride in zip(maps, strides, strict=True):
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                cell = values[:, row, column].double().tolist()
                left, top, right, bottom = (
                    expected(cell[edge * bins : (edge + 1) * bins]) for edge in range(4)
                )
                x, y = column + 0.5, row + 0.5
                boxes.append([stride * v for v in (x - left, y - top, x + right, y + bottom)])
    return torch.tensor(boxes, dtype=torch.float64)


def expected(logits: list[float]) -> float:
    """Mean of 0, 1, 2 … under the softmax of the logits; a single value is itself."""
    if len(logits) == 1:
        return logits[0]
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return sum(i * weight for i, weight in enumerate(weights)) / sum(weights)


def boxes_from_offsets(maps: list[Tensor], strides: list[int]) -> Tensor:
    """YOLOX: boxes (N, 4) xyxy of one picture's maps (4, h, w)."""
    boxes = []
    for values, stride in zip(maps, strides, strict=True):
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                tx, ty, tw, th = values[:, row, column].double().tolist()
                x, y, w, h = (column + tx) * stride, (row + ty) * stride, math.exp(tw), math.exp(th)
                boxes.append([x - w * stride / 2, y - h * stride / 2, x + w * stride / 2, y + h * stride / 2])
    return torch.tensor(boxes, dtype=torch.float64)


def rows(maps: list[Tensor]) -> Tensor:
    """One picture's maps (C, h, w) as candidates (N, C), level by level, row by row."""
    return torch.cat([m.permute(1, 2, 0).reshape(-1, m.shape[0]) for m in maps])


def greedy(boxes: Tensor, scores: Tensor, conf: float, iou: float, *, by_class: bool) -> list[int]:
    """Candidates that survive: best first, each drops what overlaps it by more than `iou`."""
    best, labels = scores.max(dim=1)
    order = [i for i in best.argsort(descending=True).tolist() if best[i] > conf]
    kept: list[int] = []
    for i in order:
        rivals = [k for k in kept if not by_class or labels[k] == labels[i]]
        if all(overlap(boxes[k].tolist(), boxes[i].tolist()) <= iou for k in rivals):
            kept.append(i)
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union; 0 of boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union else 0.0


def outputs_of(model: nn.Module, modules: list[nn.Module], batch: Tensor) -> list[Tensor]:
    """What some modules give in a forward pass of the model."""
    found: dict[int, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, i=i: found.__setitem__(i, out.clone()))
        for i, module in enumerate(modules)
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return [found[i] for i in range(len(modules))]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that an explanation must leave as it was."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "grads": [parameter.grad for parameter in model.parameters()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "attributes": [
            {name: id(value) for name, value in vars(module).items()} for module in model.modules()
        ],
        "hooks": sum(len(module._forward_hooks) for module in model.modules()),
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    states = before.pop("state"), after.pop("state")
    assert list(states[0]) == list(states[1])
    assert all(map(torch.equal, states[0].values(), states[1].values()))
    assert before == after
