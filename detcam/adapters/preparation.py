"""From a picture to a network's input, one class per way that detectors prepare it.

Each gives a float32 tensor (3, H, W) on the wanted device and the geometry that leads back. They follow the
vendors pixel by pixel, so that boxes equal the vendors' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detcam.geometry import Letterbox

Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""(H, W, 3) uint8 and the wanted (H, W) -> the resized picture, uint8."""


class Preparation(Protocol):
    """A vendor's way from a picture to the network's input."""

    def __call__(
        self, pixels: np.ndarray, imgsz: int | tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Letterbox]:
        """The input (3, H, W) of a picture (H, W, 3) uint8 RGB.

        Args:
            pixels: the picture.
            imgsz: side of the square, or (H, W), that the input fits into or fills; rounded up to what
                the network takes.
            device: where the input goes.
        """
        ...


@dataclass(frozen=True)
class LetterboxedRectangle:
    """YOLOv5 to v10 and ultralytics: the smallest grey-padded rectangle, RGB 0..1.

    Attributes:
        stride: the sides are multiples of it.
    """

    stride: int

    def __call__(
        self, pixels: np.ndarray, imgsz: int | tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Letterbox]:
        """See `Preparation`."""
        geometry = Letterbox.fit(_size(pixels), rounded_up(imgsz, self.stride), self.stride)
        return _planes(geometry.apply(pixels), device) / 255, geometry


@dataclass(frozen=True)
class Stretched:
    """Darknet and the YOLOv4 of bubbliiiing: the whole input filled, proportions not kept, RGB 0..1.

    Attributes:
        stride: the sides are multiples of it.
        resize: how pixels are made: `bilinear_cv2` or `bicubic_pillow`.
    """

    stride: int
    resize: Resize

    def __call__(
        self, pixels: np.ndarray, imgsz: int | tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Letterbox]:
        """See `Preparation`."""
        geometry = Letterbox.stretch(_size(pixels), rounded_up(imgsz, self.stride))
        return _planes(self.resize(pixels, geometry.input_size), device) / 255, geometry


@dataclass(frozen=True)
class PaddedBehind:
    """YOLOX: the picture at the top left of the full input, grey right of and below it, BGR 0..255.

    Attributes:
        stride: the sides are multiples of it.
    """

    stride: int

    def __call__(
        self, pixels: np.ndarray, imgsz: int | tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Letterbox]:
        """See `Preparation`."""
        (height, width), limit = _size(pixels), rounded_up(imgsz, self.stride)
        ratio = min(limit[0] / height, limit[1] / width)
        # Cut, not rounded, as the vendor does.
        resized = (max(int(height * ratio), 1), max(int(width * ratio), 1))
        geometry = Letterbox((height, width), resized, pad=(0, 0), input_size=limit)
        return _planes(geometry.apply(pixels), device).flip(0).contiguous(), geometry


def rounded_up(imgsz: int | tuple[int, int], stride: int) -> tuple[int, int]:
    """(H, W) of the input, each side the next multiple of `stride`, at least one stride."""
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    return (max(math.ceil(height / stride), 1) * stride, max(math.ceil(width / stride), 1) * stride)


def bilinear_cv2(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (H, W) as OpenCV does bilinearly: without smoothing when shrinking."""
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def bicubic_pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (H, W) as Pillow does bicubically: smoothing when shrinking."""
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _size(pixels: np.ndarray) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _planes(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Pixels (H, W, 3) uint8 as float32 (3, H, W) in 0..255."""
    return torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1).float()
