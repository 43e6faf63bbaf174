"""Slightly changed views of the input, over which maps are averaged to smooth them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detcam.cam.network_inputs import NetworkInputs, is_picture
from detcam.cam.targets import Target, mirrored


@dataclass(frozen=True)
class View:
    """One of them.

    Attributes:
        is_mirrored: left and right change places.
        brightness: what the input's values are multiplied with.
    """

    is_mirrored: bool = False
    brightness: float = 1.0

    def inputs(self, inputs: NetworkInputs) -> NetworkInputs:
        """The input as this view shows it; what is no picture stays as it is."""

        def seen(tensor: Tensor) -> Tensor:
            if not is_picture(tensor):
                return tensor
            return (tensor.flip(-1) if self.is_mirrored else tensor) * self.brightness

        return inputs.map(seen)

    def target(self, target: Target) -> Target:
        """The target of the picture in this view."""
        return mirrored(target) if self.is_mirrored else target

    def restored(self, maps: Tensor) -> Tensor:
        """Maps (B, h, w) of this view as maps of the picture."""
        return maps.flip(-1) if self.is_mirrored else maps


PLAIN = View()
SMOOTHING_VIEWS = tuple(View(flip, brightness) for flip in (False, True) for brightness in (1.0, 0.9, 1.1))
"""The views of pytorch-grad-cam's `aug_smooth`, the plain one first; there, targets are not mirrored."""
