"""METHODS: every CAM formula by name. One entry here is what makes a method exist."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from detcam.cam.controls import box_control, cell_blob_control, gaussian_in_box_control, random_control
from detcam.cam.eigen_methods import eigen_cam, eigen_grad_cam, first_components
from detcam.cam.gradient_methods import (
    grad_cam,
    grad_cam_elementwise,
    grad_cam_elementwise_terms,
    grad_cam_plus_plus,
    grad_cam_plus_plus_terms,
    grad_cam_terms,
    hires_cam,
    hires_cam_terms,
    layer_cam,
    layer_cam_terms,
    ss_grad_cam,
    ss_grad_cam_plus_plus,
    ss_grad_cam_plus_plus_terms,
    ss_grad_cam_terms,
    x_grad_cam,
    x_grad_cam_terms,
)
from detcam.cam.random_masks import visibility_slopes
from detcam.cam.score_methods import (
    ablation_cam,
    ablation_cam_terms,
    class_activation_map,
    class_activation_terms,
    score_cam,
    score_cam_terms,
)
from detcam.errors import InputError, UnknownNameError

# What a formula may ask for by naming a parameter. For B explained boxes and one layer:
INPUTS = {
    "activations": "(B, C, h, w), the layer's output",
    "gradients": "(B, C, h, w), of each box's score",
    "boxes": "(B, 4), xyxy in cells of the layer's grid",
    "cells": "(B, 4), the cell that decided, likewise",
    "seeds": "(B,) int64",
    "scores": "(B,), what is explained",
    "masked_scores": "(B, C), the score of the picture under each channel",
    "ablated_scores": "(B, C), the score without each channel",
    "sampled_masks": "(B, N, h, w), what N random masks of the input let through",
    "sampled_scores": "(B, N), how much of a detection is found under each of them",
    "class_weights": "(B, C), the explained class's row of a final linear layer",
}

# What says nothing of what is explained.
AGNOSTIC = {"activations", "seeds"}


@dataclass(frozen=True)
class Method:
    """A CAM formula under its name.

    Attributes:
        name: how users call it, such as "layer-cam".
        compute: tensors named in `INPUTS` -> raw float32 maps (B, h, w).
        summary: what it draws, in one line.
        source: the paper, or who published it.
        is_control: a map that knows nothing of the network, there to be beaten.
        weigh: the same tensors -> weighted activations (B, C, h, w), whose sum over channels `compute`
            draws; None where the formula is no such sum.
        is_by_cell: whether a cell of the map is made of that cell's activations and gradients alone, and is 0
            where these gradients are.
    """

    name: str
    compute: Callable[..., Tensor]
    summary: str
    source: str
    is_control: bool = field(default=False, kw_only=True)
    weigh: Callable[..., Tensor] | None = field(default=None, kw_only=True)
    is_by_cell: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in self.needs:
            if name not in INPUTS:
                raise UnknownNameError(f"input (asked for by method {self.name!r})", name, INPUTS)

    @property
    def needs(self) -> tuple[str, ...]:
        """The inputs to call `compute`, `weigh` and `smoothed` with, by name: the formula's parameters."""
        return tuple(inspect.signature(self.compute).parameters)

    @property
    def uses_gradients(self) -> bool:
        """Whether a backward pass is needed."""
        return "gradients" in self.needs

    @property
    def rescores(self) -> Literal["masked", "ablated", "sampled"] | None:
        """What is scored anew: for every channel the masked picture, or the network without the channel.

        "sampled": the picture under random masks, which knows no layers.
        """
        if "masked_scores" in self.needs:
            return "masked"
        if "sampled_scores" in self.needs:
            return "sampled"
        return "ablated" if "ablated_scores" in self.needs else None

    @property
    def is_sampled(self) -> bool:
        """Whether random masks of the picture are scored: no layer is looked at."""
        return self.rescores == "sampled"

    @property
    def is_class_agnostic(self) -> bool:
        """Whether the formula sees nothing of what is explained: no score, gradient, box or cell."""
        return AGNOSTIC.issuperset(self.needs)

    def check_given(self, available: Collection[str], what: str = "detector") -> None:
        """Check that everything the formula asks for can be had.

        Args:
            available: names of `INPUTS`.
            what: what does not give the others, for the text.

        Raises:
            InputError: something cannot; the text says what it is.
        """
        for name in self.needs:
            if name not in available:
                raise InputError(
                    f"method {self.name!r} needs {name}, {INPUTS[name]}, which a {what} does not give: "
                    "choose another method"
                )

    def smoothed(self, **inputs: Tensor) -> Tensor:
        """The first principal component of the weighted activations instead of their sum.

        Centred; its sign is that of `eigen_methods`. pytorch-grad-cam's `eigen_smooth`, where the sign is
        whatever its solver gives.

        Args:
            inputs: what the formula `needs`.

        Returns:
            Raw map (B, h, w), float32, signed: its cells sum to 0.

        Raises:
            InputError: the formula is no weighted sum, or a value is not finite.
        """
        if self.weigh is None:
            able = ", ".join(name for name, method in METHODS.items() if method.weigh is not None)
            raise InputError(f"method {self.name!r} weighs no channels, nothing to smooth: choose of {able}")
        return first_components(self.weigh(**inputs))


METHODS: dict[str, Method] = {
    "grad-cam": Method(
        "grad-cam",
        grad_cam,
        "channels weighted by their mean gradient",
        "Selvaraju 2017, arXiv:1610.02391",
        weigh=grad_cam_terms,
    ),
    "grad-cam++": Method(
        "grad-cam++",
        grad_cam_plus_plus,
        "channels weighted by a weighted sum of their positive gradients",
        "Chattopadhay 2018, arXiv:1710.11063",
        weigh=grad_cam_plus_plus_terms,
    ),
    "xgrad-cam": Method(
        "xgrad-cam",
        x_grad_cam,
        "channels weighted by their gradients' mean, cells counting by activation",
        "Fu 2020, arXiv:2008.02312",
        weigh=x_grad_cam_terms,
    ),
    "hires-cam": Method(
        "hires-cam",
        hires_cam,
        "gradient times activation, cell by cell (ODAM)",
        "Draelos 2020, arXiv:2011.08891; Zhao, ICLR 2023",
        weigh=hires_cam_terms,
        is_by_cell=True,
    ),
    "layer-cam": Method(
        "layer-cam",
        layer_cam,
        "positive gradient times activation, cell by cell",
        "Jiang 2021, doi:10.1109/TIP.2021.3089943",
        weigh=layer_cam_terms,
        is_by_cell=True,
    ),
    "grad-cam-elementwise": Method(
        "grad-cam-elementwise",
        grad_cam_elementwise,
        "positive part of gradient times activation, cell by cell",
        "pytorch-grad-cam, no paper",
        weigh=grad_cam_elementwise_terms,
        is_by_cell=True,
    ),
    "ss-grad-cam": Method(
        "ss-grad-cam",
        ss_grad_cam,
        "Grad-CAM gated by each channel's gradient magnitude",
        "Yamauchi 2022, doi:10.1109/ICIP46576.2022.9897350",
        weigh=ss_grad_cam_terms,
    ),
    "ss-grad-cam++": Method(
        "ss-grad-cam++",
        ss_grad_cam_plus_plus,
        "Grad-CAM++ gated by each channel's gradient magnitude",
        "Yamauchi 2024, CVPR Workshops pp. 8164-8168",
        weigh=ss_grad_cam_plus_plus_terms,
    ),
    "cam": Method(
        "cam",
        class_activation_map,
        "channels weighted by the final linear layer's row of the class",
        "Zhou 2016, arXiv:1512.04150",
        weigh=class_activation_terms,
    ),
    "score-cam": Method(
        "score-cam",
        score_cam,
        "channels weighted by the score of the picture under each",
        "Wang 2020, arXiv:1910.01279",
        weigh=score_cam_terms,
    ),
    "ablation-cam": Method(
        "ablation-cam",
        ablation_cam,
        "channels weighted by what the score loses without each",
        "Desai 2020, WACV pp. 972-980",
        weigh=ablation_cam_terms,
    ),
    "d-rise": Method(
        "d-rise",
        visibility_slopes,
        "how much more of the detection is found where random masks show the input; no layers",
        "Petsiuk 2021, arXiv:2006.03204",
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
