"""METHODS: every CAM formula by name. One entry here is what makes a method exist."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from detcam.cam.controls import box_control, cell_blob_control, gaussian_in_box_control, random_control
from detcam.cam.eigen_methods import eigen_cam, eigen_grad_cam
from detcam.cam.gradient_methods import (
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    ss_grad_cam,
    ss_grad_cam_plus_plus,
    x_grad_cam,
)
from detcam.errors import UnknownNameError

# What a formula may ask for by naming a parameter. For B explained boxes and one layer:
INPUTS = (
    "activations",  # (B, C, h, w), the layer's output
    "gradients",  # (B, C, h, w), of each box's score
    "boxes",  # (B, 4), xyxy in cells of the layer's grid
    "cells",  # (B, 4), the cell that decided, likewise
    "seeds",  # (B,) int64
)


@dataclass(frozen=True)
class Method:
    """A CAM formula under its name.

    Attributes:
        name: how users call it, such as "layer-cam".
        compute: tensors named in `INPUTS` -> raw float32 maps (B, h, w).
        summary: what it draws, in one line.
        source: the paper, or who published it.
        is_control: a map that knows nothing of the network, there to be beaten.
    """

    name: str
    compute: Callable[..., Tensor]
    summary: str
    source: str
    is_control: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in self.needs:
            if name not in INPUTS:
                raise UnknownNameError(f"input (asked for by method {self.name!r})", name, INPUTS)

    @property
    def needs(self) -> tuple[str, ...]:
        """The inputs to call `compute` with, by name: its parameters."""
        return tuple(inspect.signature(self.compute).parameters)

    @property
    def uses_gradients(self) -> bool:
        """Whether a backward pass is needed."""
        return "gradients" in self.needs

    @property
    def is_class_agnostic(self) -> bool:
        """Whether the formula sees nothing of what is explained: no gradient, box or cell."""
        return {"gradients", "boxes", "cells"}.isdisjoint(self.needs)


METHODS: dict[str, Method] = {
    "grad-cam": Method(
        "grad-cam", grad_cam, "channels weighted by their mean gradient", "Selvaraju 2017, arXiv:1610.02391"
    ),
    "grad-cam++": Method(
        "grad-cam++",
        grad_cam_plus_plus,
        "channels weighted by a weighted sum of their positive gradients",
        "Chattopadhay 2018, arXiv:1710.11063",
    ),
    "xgrad-cam": Method(
        "xgrad-cam",
        x_grad_cam,
        "channels weighted by their gradients' mean, cells counting by activation",
        "Fu 2020, arXiv:2008.02312",
    ),
    "hires-cam": Method(
        "hires-cam",
        hires_cam,
        "gradient times activation, cell by cell (ODAM)",
        "Draelos 2020, arXiv:2011.08891; Zhao, ICLR 2023",
    ),
    "layer-cam": Method(
        "layer-cam",
        layer_cam,
        "positive gradient times activation, cell by cell",
        "Jiang 2021, doi:10.1109/TIP.2021.3089943",
    ),
    "grad-cam-elementwise": Method(
        "grad-cam-elementwise",
        grad_cam_elementwise,
        "positive part of gradient times activation, cell by cell",
        "pytorch-grad-cam, no paper",
    ),
    "ss-grad-cam": Method(
        "ss-grad-cam",
        ss_grad_cam,
        "Grad-CAM gated by each channel's gradient magnitude",
        "Yamauchi 2022, doi:10.1109/ICIP46576.2022.9897350",
    ),
    "ss-grad-cam++": Method(
        "ss-grad-cam++",
        ss_grad_cam_plus_plus,
        "Grad-CAM++ gated by each channel's gradient magnitude",
        "Yamauchi 2024, CVPR Workshops pp. 8164-8168",
    ),
    "eigen-cam": Method(
        "eigen-cam",
        eigen_cam,
        "first principal component of the activations, class-agnostic",
        "Muhammad 2020, arXiv:2008.00299",
    ),
    "eigen-grad-cam": Method(
        "eigen-grad-cam",
        eigen_grad_cam,
        "first principal component of gradient times activation",
        "pytorch-grad-cam, no paper",
    ),
    "random": Method(
        "random", random_control, "control: uniform noise from a seed", "detcam", is_control=True
    ),
    "box": Method("box", box_control, "control: the box, filled", "detcam", is_control=True),
    "gaussian-in-box": Method(
        "gaussian-in-box",
        gaussian_in_box_control,
        "control: a Gaussian the size of the box",
        "detcam",
        is_control=True,
    ),
    "cell-blob": Method(
        "cell-blob",
        cell_blob_control,
        "control: a Gaussian on the cell that decided",
        "detcam",
        is_control=True,
    ),
}

ALIASES: dict[str, str] = {"odam": "hires-cam"}


def get_method(name: str) -> Method:
    """Look a method up by its name or alias.

    Raises:
        UnknownNameError: there is none; the text has the closest names.
    """
    try:
        return METHODS[ALIASES.get(name, name)]
    except KeyError:
        known = [*METHODS, *ALIASES]
        raise UnknownNameError("method", name, known, "List all: detcam methods") from None
