"""CAM formulas that take the first principal component of a layer.

A principal component has no sign of its own. Rule of this house: a map correlates positively with the
mean over channels of what it was computed from, so bright means "more activation". Where the two do not
correlate (|cosine| <= 1e-6, two opposed channels for instance), the map's largest cell is positive; of
several as large (to 1e-6), the first in reading order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detcam.cam.gradient_methods import hires_cam_terms
from detcam.cam.inputs import feature_maps_float32
from detcam.errors import InputError

# Relative difference below which two numbers are told apart only by rounding.
TIE = 1e-6

WITHOUT_FLOAT64 = ("mps",)
"""Device types that cannot compute in float64."""


def eigen_cam(activations: Tensor) -> Tensor:
    """EigenCAM: the first principal component of the activations. It knows no target: class-agnostic.

    X·v, X the (h·w, C) activations minus each channel's mean, v the leading eigenvector of XᵀX.
    Muhammad & Yeasin 2020, arXiv:2008.00299.

    Differs from the paper: X is centred, as a principal component asks; the paper projects raw A.
    The sign is fixed: bright means more activation. Where two components are equally strong, the choice
    between them is the eigensolver's.

    Args:
        activations: layer output A, (B, C, h, w).

    Returns:
        Raw map (B, h, w), float32, in units of A, signed: its cells sum to 0. Zero where nothing
        varies, as on a grid of one cell.

    Raises:
        ShapeError: not (B, C, h, w).
        InputError: a value is not finite.
    """
    (activations,) = feature_maps_float32(activations=activations)
    return first_components(activations)


def eigen_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """EigenGradCAM: the first principal component of gradient times activation.

    `eigen_cam` of g⊙A, with the same centring and rule of sign. No paper: pytorch-grad-cam's
    EigenGradCAM.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w), float32, in units of S, signed: its cells sum to 0.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
        InputError: a value is not finite.
    """
    return first_components(hires_cam_terms(activations, gradients))


def first_components(features: Tensor) -> Tensor:
    """The first principal component of each row's features over its cells: centred, sign fixed.

    On Apple's GPU, which has no float64, the components are found on the CPU.

    Args:
        features: (B, C, h, w), float32.

    Returns:
        Signed map (B, h, w), float32, on the same device, in units of the features.

    Raises:
        InputError: a value is not finite.
    """
    if not features.isfinite().all():
        raise InputError("activations or gradients have NaN or infinite values: no principal component")
    maps = features.new_empty((features.shape[0], *features.shape[2:]))
    # One row at a time, so that a batch needs no more memory than its largest row.
    for index, row in enumerate(features):
        cells = _wide(row.flatten(start_dim=1).T)
        cells = cells - cells.mean(dim=0)
        scores = _leading_scores(cells)
        maps[index] = (_sign(scores, cells.mean(dim=1)) * scores).reshape(maps.shape[1:]).to(maps)
    return maps


def _wide(tensor: Tensor) -> Tensor:
    """In float64, as products that square the range of the values need it, wherever there is float64."""
    device = torch.device("cpu") if tensor.device.type in WITHOUT_FLOAT64 else tensor.device
    return tensor.to(device, torch.float64)


def _leading_scores(cells: Tensor) -> Tensor:
    """Centred (n, C) -> (n,): each cell along the first principal component, of either sign.

    The eigenvectors of the smaller of XᵀX (C, C) and XXᵀ (n, n): the same component as an SVD of X,
    whose cost grows with the larger side.
    """
    eigenvalues: Tensor
    eigenvectors: Tensor
    n, channels = cells.shape
    if channels <= n:
        _, eigenvectors = torch.linalg.eigh(cells.T @ cells)
        return cells @ eigenvectors[:, -1]
    eigenvalues, eigenvectors = torch.linalg.eigh(cells @ cells.T)
    return eigenvectors[:, -1] * eigenvalues[-1].clamp(min=0).sqrt()


def _sign(scores: Tensor, mean: Tensor) -> int:
    """1 or -1: what to multiply `scores` with, by the rule at the top of this file."""
    witness = scores @ mean
    if witness.abs() <= TIE * scores.norm() * mean.norm():
        is_peak = scores.abs() >= (1 - TIE) * scores.abs().max()
        witness = scores[is_peak][0]
    return 1 if witness >= 0 else -1
