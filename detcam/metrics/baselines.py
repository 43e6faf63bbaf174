"""Baselines: what a picture's pixels become when they are taken away. A picture is RGB in 0..1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detcam.errors import InputError
from detcam.metrics.smoothing import gaussian_blur


@dataclass(frozen=True)
class Baseline:
    """A picture without its content.

    Attributes:
        kind: "constant" one value everywhere, "blur" the picture's own Gaussian blur, "noise" independent
            uniform numbers 0 <= x < 1, another for each channel.
        value: of a constant, 0..1.
        kernel: of a blur, an odd number of pixels.
        sigma: of a blur, in pixels.
        seed: of noise; the same on every device, and the global random state is not touched.
    """

    kind: Literal["constant", "blur", "noise"]
    value: float = 0.0
    kernel: int = 0
    sigma: float = 0.0
    seed: int = 0

    def of(self, picture: Tensor) -> Tensor:
        """The baseline of a picture (C, H, W): same shape, dtype and device.

        Raises:
            InputError: an unknown kind, or a blur without an odd kernel and a positive sigma.
        """
        if self.kind == "constant":
            return torch.full_like(picture, self.value)
        if self.kind == "blur":
            return gaussian_blur(picture, self.kernel, self.sigma)
        if self.kind == "noise":
            generator = torch.Generator("cpu").manual_seed(self.seed)
            return torch.rand(picture.shape, generator=generator, dtype=torch.float32).to(picture)
        raise InputError(f"no baseline {self.kind!r}: choose constant, blur or noise")


ZEROS = Baseline("constant", 0.0)
GREY = Baseline("constant", 0.5)
NOISE = Baseline("noise")
BLUR_51 = Baseline("blur", kernel=51, sigma=8.0)
"""`cv2.GaussianBlur(image, (51, 51), 0)`: OpenCV makes sigma of the kernel, .3·((51 - 1)/2 - 1) + .8 = 8."""
BLUR_11 = Baseline("blur", kernel=11, sigma=5.0)
