"""From the picture to the network's input to a feature grid, and back.

Pixel and cell centres lie at half-integers: the pixel in row r and column c covers [c, c+1] × [r, r+1].
Sizes are (H, W), points and boxes are (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detcam.errors import InputError


@dataclass(frozen=True)
class Letterbox:
    """Resizes a picture, and pads it with grey or crops it to the network's input.

    Attributes:
        image_size: (H, W) of the picture.
        resized: (H, W) of the whole picture in input pixels.
        pad: (left, top) grey pixels before it; negative for pixels cut off.
        input_size: (H, W) of the network's input.
    """

    image_size: tuple[int, int]
    resized: tuple[int, int]
    pad: tuple[int, int]
    input_size: tuple[int, int]

    @classmethod
    def fit(cls, image_size: tuple[int, int], limit: tuple[int, int], stride: int) -> Letterbox:
        """The smallest letterbox inside `limit` whose sides are multiples of `stride`, picture centred.

        Args:
            image_size: (H, W) of the picture.
            limit: (H, W) the input may not pass; multiples of `stride`.
            stride: the network's largest stride.

        Raises:
            InputError: `limit` is no multiple of `stride`.
        """
        if any(side % stride or side < stride for side in limit):
            raise InputError(f"input size {limit} must be multiples of the stride {stride}")
        ratio = min(limit[0] / image_size[0], limit[1] / image_size[1])
        height, width = (max(round(side * ratio), 1) for side in image_size)
        # Half the remainder goes before the picture; an odd pixel goes behind it.
        spare_h, spare_w = (limit[0] - height) % stride, (limit[1] - width) % stride
        return cls(
            image_size=image_size,
            resized=(height, width),
            pad=(spare_w // 2, spare_h // 2),
            input_size=(height + spare_h, width + spare_w),
        )

    @classmethod
    def stretch(cls, image_size: tuple[int, int], input_size: tuple[int, int]) -> Letterbox:
        """The whole input filled, proportions not kept, nothing padded."""
        return cls(image_size, resized=input_size, pad=(0, 0), input_size=input_size)

    @classmethod
    def centre_crop(cls, image_size: tuple[int, int], side: int) -> Letterbox:
        """The middle of the picture, as large a square as fits, in a square input; proportions kept.

        Sides and offsets are those of torchvision's `Resize` and `CenterCrop`.
        """
        shorter = min(image_size)
        height, width = (int(side * length / shorter) for length in image_size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        return cls(image_size, resized=(height, width), pad=(-left, -top), input_size=(side, side))

    @property
    def ratio(self) -> tuple[float, float]:
        """Input pixels per picture pixel, (x, y)."""
        return self.resized[1] / self.image_size[1], self.resized[0] / self.image_size[0]

    def apply(self, pixels: np.ndarray, *, padding: int = 114) -> np.ndarray:
        """The network's input, (H, W, 3) uint8, of a picture (H, W, 3) uint8, resized bilinearly.

        Args:
            pixels: the picture.
            padding: grey value around it, 0..255.

        Raises:
            InputError: the picture has another size than this letterbox was made for.
        """
        if pixels.shape[:2] != self.image_size:
            raise InputError(f"a letterbox for {self.image_size} pixels was given {pixels.shape[:2]}")
        height, width = self.resized
        if self.resized != self.image_size:
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        return self.place(pixels, padding=padding)

    def place(self, resized: np.ndarray, *, padding: int = 114) -> np.ndarray:
        """The network's input, (H, W, 3) uint8, of a picture that was resized already."""
        canvas = np.full((*self.input_size, 3), padding, dtype=np.uint8)
        left, top = self.pad
        seen = resized[max(-top, 0) :, max(-left, 0) :][: self.input_size[0], : self.input_size[1]]
        left, top = max(left, 0), max(top, 0)
        canvas[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        return canvas

    def points_to_image(self, points: Tensor) -> Tensor:
        """Points (..., 2) in input pixels -> picture pixels, not clipped."""
        return (points - points.new_tensor(self.pad)) / points.new_tensor(self.ratio)

    def points_to_input(self, points: Tensor) -> Tensor:
        """Points (..., 2) in picture pixels -> input pixels."""
        return points * points.new_tensor(self.ratio) + points.new_tensor(self.pad)

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (M, 4) xyxy in input pixels -> picture pixels, clipped to the picture."""
        height, width = self.image_size
        corners = self.points_to_image(boxes.reshape(-1, 2, 2))
        return corners.clamp(min=0).minimum(corners.new_tensor([width, height])).reshape(-1, 4)

    def boxes_to_input(self, boxes: Tensor) -> Tensor:
        """Boxes (M, 4) xyxy in picture pixels -> input pixels."""
        return self.points_to_input(boxes.reshape(-1, 2, 2)).reshape(-1, 4)

    def boxes_to_grid(self, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Boxes (M, 4) xyxy in input pixels -> cells of a (h, w) grid that covers the input."""
        cells_per_pixel = boxes.new_tensor([grid[1] / self.input_size[1], grid[0] / self.input_size[0]])
        return (boxes.reshape(-1, 2, 2) * cells_per_pixel).reshape(-1, 4)

    def maps_to_image(self, maps: Tensor) -> Tensor:
        """Maps (M, h, w) on a grid that covers the input -> (M, H, W) on the picture, bilinear.

        The padding's part is cut off; what the input does not show is 0. Values are those of the grid:
        nothing is rescaled.
        """
        height, width = self.image_size
        rows = self._sampling(height, self.ratio[1], self.pad[1], self.input_size[0], maps)
        columns = self._sampling(width, self.ratio[0], self.pad[0], self.input_size[1], maps)
        where = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        # The same points for every map: maps travel as channels of one picture.
        sampled = F.grid_sample(
            maps[None], where[None], mode="bilinear", padding_mode="border", align_corners=False
        )
        if min(self.pad) >= 0:
            return sampled[0]
        return sampled[0] * ((rows.abs() <= 1)[:, None] & (columns.abs() <= 1))

    def _sampling(self, size: int, ratio: float, pad: int, input_side: int, like: Tensor) -> Tensor:
        """Centres of picture pixels along one side, in grid_sample's -1..1 (the input's two edges)."""
        centres = torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
        return (centres * ratio + pad) / input_side * 2 - 1
