"""What the examples' networks learn, within seconds: coloured shapes on a noisy ground, drawn as needed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (215, 45, 40), "green": (50, 165, 60), "blue": (45, 85, 215), "yellow": (225, 195, 45)}
GREY = (150, 150, 150)

Figure = tuple[str, str]
"""(colour, shape), such as ("red", "circle"); the colour "grey" is one, too."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture and where its figures are.

    Attributes:
        picture: (H, W, 3) float32 RGB, 0..1.
        masks: (M, H, W) bool, one for each figure.
        boxes: (M, 4) xyxy pixels.
    """

    picture: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray


def ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """Muted bumps at three scales, (side, side, 3) float32 RGB in 0..255, without noise."""
    canvas = np.full((side, side, 3), rng.uniform(85, 160), np.float32)
    for cells, strength in ((3, 14), (7, 9), (16, 6)):
        grey, tint = (rng.standard_normal((cells, cells, n), np.float32) for n in (1, 3))
        bumps = 0.9 * grey + 0.25 * tint
        canvas += strength * cv2.resize(bumps, (side, side), interpolation=cv2.INTER_CUBIC)
    return canvas


def draw(
    rng: np.random.Generator,
    side: int,
    figures: Sequence[Figure],
    radii: tuple[float, float] = (0.12, 0.2),
    noise: float = 6.0,
) -> Drawn:
    """A picture of figures that do not meet; `radii` are shares of the side, the noise is in grey levels."""
    canvas, masks = ground(rng, side), None
    while masks is None:
        masks = _placed(rng, side, [shape for _, shape in figures], radii)
    for (colour, _), mask in zip(figures, masks, strict=True):
        paint = np.array(COLOURS.get(colour, GREY), np.float32) * rng.uniform(0.8, 1.1)
        canvas[mask] = paint + rng.uniform(-10, 10, 3)
    canvas += noise * rng.standard_normal(canvas.shape, np.float32)
    kept = np.array(masks, bool).reshape(-1, side, side)
    return Drawn((canvas / 255).clip(0, 1).astype(np.float32), kept, np.array([_box(one) for one in kept]))


def stacked(pictures: Iterable[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) as a batch (B, 3, H, W)."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).contiguous()


def teach(
    network: nn.Module, loss: Callable[[], Tensor], steps: int, learning_rate: float = 3e-3
) -> nn.Module:
    """Train on the loss of what `loss()` picks in each step, then evaluate; the rate rises and falls."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.15)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def block(before: int, after: int, stride: int = 2) -> nn.Sequential:
    """Convolution, normalisation, SiLU: what the examples' convolutional networks are made of."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU())


def _placed(
    rng: np.random.Generator, side: int, shapes: Sequence[str], radii: tuple[float, float]
) -> list[np.ndarray] | None:
    """Masks that do not meet; None where there was no room left for the next one."""
    masks, taken = [], np.zeros((side, side), bool)
    for shape in shapes:
        tries = (_mask(rng, side, shape, radii) for _ in range(40))
        mask = next((one for one in tries if not (one & taken).any()), None)
        if mask is None:
            return None
        taken |= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool)
        masks.append(mask)
    return masks


def _mask(rng: np.random.Generator, side: int, shape: str, radii: tuple[float, float]) -> np.ndarray:
    radius = rng.uniform(*radii) * side
    x, y = rng.uniform(radius + 1, side - radius - 1, 2)
    mask = np.zeros((side, side), np.uint8)
    if shape == "circle":
        cv2.circle(mask, (round(x), round(y)), round(radius), 1, -1)
        return mask.astype(bool)
    corners = {"square": 4, "triangle": 3}[shape]
    angles = np.radians(rng.uniform(-20, 20)) + 2 * np.pi * (np.arange(corners) + 0.5) / corners + np.pi / 2
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * 1.15 + (x, y)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
