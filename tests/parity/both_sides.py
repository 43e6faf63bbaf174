"""One question put to both libraries, and the answers on one scale: theirs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
from parity_networks import Case
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

from detcam.cam import ActivationMaps, activation_maps

TOLERANCE = 1e-4

THEIRS: dict[str, type] = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "hires-cam": pytorch_grad_cam.HiResCAM,
    "grad-cam-elementwise": pytorch_grad_cam.GradCAMElementWise,
    "grad-cam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgrad-cam": pytorch_grad_cam.XGradCAM,
    "layer-cam": pytorch_grad_cam.LayerCAM,
    "eigen-cam": pytorch_grad_cam.EigenCAM,
    "eigen-grad-cam": pytorch_grad_cam.EigenGradCAM,
    "score-cam": pytorch_grad_cam.ScoreCAM,
    "ablation-cam": pytorch_grad_cam.AblationCAM,
}
"""Every method that both have."""

COMPONENTS = {"eigen-cam", "eigen-grad-cam"}
SCORING = {"score-cam", "ablation-cam"}


class Zeros(pytorch_grad_cam.AblationLayer):
    """Sets ablated channels to zero whatever the layer's values are, as the paper does."""

    def __call__(self, _x: Tensor) -> Tensor:
        output = self.activations
        for copy in range(len(output)):
            output[copy, self.indices[copy]] = 0
        return output


class ZerosOfLast(pytorch_grad_cam.AblationLayerVit):
    """The same where channels come last: (n, h, w, C), or (n, 1 + N, C) behind a class token."""

    def __call__(self, _x: Tensor) -> Tensor:
        output = self.activations
        first = 1 if output.ndim == 3 else 0
        for copy in range(len(output)):
            output[copy, first:, ..., self.indices[copy]] = 0
        return output


def their_maps(
    method: str,
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor,
    targets: Sequence[Callable[[Any], Tensor]] | None,
    *,
    reshape: Callable[[Tensor], Tensor] | None = None,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    **options: Any,
) -> np.ndarray:
    """(B, H, W) in 0..1."""
    modules = [model.get_submodule(layer) for layer in layers]
    with THEIRS[method](model, modules, reshape_transform=reshape, **options) as cam:
        return cam(inputs.clone(), targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth)


def in_their_scale(maps: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
    """Raw maps of layers, (B, h, w) each, as theirs scales, enlarges and merges its own."""
    layers = [scale_cam_image(np.maximum(one.numpy(), 0), size[::-1]) for one in maps]
    return scale_cam_image(np.mean(layers, axis=0))


def scaled(found: ActivationMaps) -> np.ndarray:
    return in_their_scale(list(found.maps.values()), found.input_size)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, of values in 0..1."""
    assert ours.shape == theirs.shape
    assert np.isfinite(theirs).all()
    return float(np.abs(ours - theirs).max())


def difference_up_to_sign(found: ActivationMaps, theirs: np.ndarray) -> tuple[float, int]:
    """The largest difference, and in how many pictures theirs needed another sign than ours in a layer."""
    largest, flipped = 0.0, 0
    for picture, their_map in enumerate(theirs):
        candidates = []
        for signs in itertools.product((1, -1), repeat=len(found.maps)):
            maps = [
                sign * one[picture : picture + 1]
                for sign, one in zip(signs, found.maps.values(), strict=True)
            ]
            one = in_their_scale(maps, found.input_size)[0]
            candidates.append((float(np.abs(one - their_map).max()), signs.count(-1)))
        best, minus = min(candidates)
        largest, flipped = max(largest, best), flipped + bool(minus)
    return largest, flipped


def our_maps(case: Case, method: str, factor: float = 1.0) -> ActivationMaps:
    """Of the case's layer for that method; `factor` puts the targets in another unit."""
    return activation_maps(
        case.model,
        case.inputs,
        [times(factor, target) for target in case.targets],
        layers=case.scored_layer if method in SCORING else case.layer,
        method=method,
        forward=case.forward,
    )


def times(factor: float, target: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The same target in another unit; some of theirs give a tensor of one number, ours are 0-dim."""
    return lambda output: factor * target(output).sum()


def gradients_and_activations(
    model: nn.Module, layer: str, inputs: Tensor, targets: Sequence[Callable[[Any], Tensor]]
) -> tuple[Tensor, Tensor]:
    """A layer's output and the targets' gradient there, by plain means."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[0].clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    output = model(inputs)
    handle.remove()
    score = sum(target(row) for target, row in zip(targets, output, strict=True))
    (gradients,) = torch.autograd.grad(score, kept[0])
    return kept[0].detach(), gradients
