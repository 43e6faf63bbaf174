"""CAM formulas that weigh activations with gradients.

A (B, C, h, w) is a layer's output, g = dS/dA the gradient of the explained score S; a map depends on
its own row only. relu(x) = max(x, 0); Σ_c sums over channels, Σ_hw and mean over the cells of a channel.
No gradient gives a map of zeros in every formula.

Every map is relu(Σ_c terms_c): beside each formula stand its terms, (B, C, h, w), from which a smoothed map
is made, too (`Method.smoothed`).
"""

from __future__ import annotations

from torch import Tensor

from detcam.cam.inputs import feature_maps_float32, positive_sum

# A sum smaller than this share of what it sums is float32 rounding, no number to divide by.
CANCELLED = 1e-6

_CELLS = (-2, -1)


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient, summed, negatives dropped.

    relu(Σ_c mean(g_c)·A_c). Selvaraju et al. 2017, arXiv:1610.02391, eqs. 1-2.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of S. Not rescaled: `render` does that.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(grad_cam_terms(activations, gradients))


def grad_cam_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `grad_cam` sums over channels, (B, C, h, w): mean(g_c)·A_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return _mean_gradients(gradients) * activations


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++: channels weighted by a sum of their positive gradients, each with its own share α.

    relu(Σ_c w_c·A_c), w_c = Σ_hw α·relu(g), α = g² / (2g² + (Σ_hw A)·g³). The sum over A is taken
    before g³ multiplies it. Chattopadhay et al. 2018, arXiv:1710.11063, eq. 19 (Y = exp S).

    Differs from the paper: the factor exp(S), one number for the whole map, is left out, so the map
    is on no scale of S. α is computed as 1 / (2 + (Σ_hw A)·g), the same fraction without g³, which
    underflows for gradients under 1e-15. Where the denominator is 0 (g = 0, or Σ_hw A = -2/g), α is 0.
    The paper presumes A >= 0; after SiLU a negative Σ_hw A can make α large or negative.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32. It is not proportional to S or to the gradients.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(grad_cam_plus_plus_terms(activations, gradients))


def grad_cam_plus_plus_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `grad_cam_plus_plus` sums over channels, (B, C, h, w): w_c·A_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return _plus_plus_weights(activations, gradients) * activations


def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM: channels weighted by their gradients' mean, each cell counting by its activation.

    relu(Σ_c w_c·A_c), w_c = Σ_hw(g_c·A_c) / Σ_hw A_c. Fu et al., BMVC 2020, arXiv:2008.02312; the relu
    is that of the authors' code.

    Differs from the paper: a channel whose activations cancel, |Σ A_c| <= 1e-6·Σ|A_c|, has no weight
    (w_c = 0). The authors add 1e-6 to Σ A_c, which changes every weight of a layer with small values.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of S.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(x_grad_cam_terms(activations, gradients))


def x_grad_cam_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `x_grad_cam` sums over channels, (B, C, h, w): w_c·A_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    total = activations.sum(dim=_CELLS, keepdim=True)
    is_cancelled = total.abs() <= CANCELLED * activations.abs().sum(dim=_CELLS, keepdim=True)
    weights = (gradients * activations).sum(dim=_CELLS, keepdim=True) / total
    return weights.masked_fill(is_cancelled, 0) * activations


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiResCAM: every cell weighted by its own gradient, summed over channels, negatives dropped.

    relu(Σ_c g_c⊙A_c). Draelos & Carin 2020, arXiv:2011.08891. The same map, of the level that predicted
    the box, is ODAM (Zhao & Chan, ICLR 2023).

    Differs from the paper: HiResCAM keeps the negative cells; the relu is ODAM's.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of S.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(hires_cam_terms(activations, gradients))


def hires_cam_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `hires_cam` sums over channels, (B, C, h, w): g_c⊙A_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return gradients * activations


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM: every cell weighted by its own gradient where that is positive, negatives dropped.

    relu(Σ_c relu(g_c)⊙A_c). Jiang et al., IEEE TIP 2021, doi:10.1109/TIP.2021.3089943.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of S.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(layer_cam_terms(activations, gradients))


def layer_cam_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `layer_cam` sums over channels, (B, C, h, w): relu(g_c)⊙A_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return gradients.clamp(min=0) * activations


def grad_cam_elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    """Element-wise Grad-CAM: the positive products of gradient and activation, summed over channels.

    Σ_c relu(g_c⊙A_c). No paper: pytorch-grad-cam's GradCAMElementWise. Unlike in HiResCAM, channels
    that speak against the box do not cancel those that speak for it.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of S.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(grad_cam_elementwise_terms(activations, gradients))


def grad_cam_elementwise_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `grad_cam_elementwise` sums over channels, (B, C, h, w): relu(g_c⊙A_c)."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return (gradients * activations).clamp(min=0)


def ss_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """SSGrad-CAM: Grad-CAM whose channels count only where their gradient is large.

    relu(Σ_c mean(g_c)·A_c⊙S_c), S_c = |g_c| / max_hw|g_c|. Yamauchi & Ishikawa, ICIP 2022,
    doi:10.1109/ICIP46576.2022.9897350. A channel without gradient has S_c = 0.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of S.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(ss_grad_cam_terms(activations, gradients))


def ss_grad_cam_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `ss_grad_cam` sums over channels, (B, C, h, w): mean(g_c)·A_c⊙S_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return _mean_gradients(gradients) * activations * _space_maps(gradients)


def ss_grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """SSGrad-CAM++: Grad-CAM++ whose channels count only where their gradient is large.

    relu(Σ_c w_c·A_c⊙S_c), w_c as in `grad_cam_plus_plus` (with its departures), S_c as in `ss_grad_cam`.
    Yamauchi, CVPR Workshops 2024, pp. 8164-8168.

    Differs from the paper: Σ_hw A in α runs over the whole grid, as in Grad-CAM++; the paper extends
    it to detectors with a mask of the instance's cells.

    Args:
        activations: layer output A, (B, C, h, w).
        gradients: dS/dA of the target score S, same shape.

    Returns:
        Raw map (B, h, w) >= 0, float32. It is not proportional to S or to the gradients.

    Raises:
        ShapeError: not (B, C, h, w), or the two shapes differ.
    """
    return positive_sum(ss_grad_cam_plus_plus_terms(activations, gradients))


def ss_grad_cam_plus_plus_terms(activations: Tensor, gradients: Tensor) -> Tensor:
    """What `ss_grad_cam_plus_plus` sums over channels, (B, C, h, w): w_c·A_c⊙S_c."""
    activations, gradients = feature_maps_float32(activations=activations, gradients=gradients)
    return _plus_plus_weights(activations, gradients) * activations * _space_maps(gradients)


def _mean_gradients(gradients: Tensor) -> Tensor:
    """Grad-CAM's weights, (B, C, 1, 1)."""
    return gradients.mean(dim=_CELLS, keepdim=True)


def _plus_plus_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++'s weights, (B, C, 1, 1)."""
    denominator = 2 + activations.sum(dim=_CELLS, keepdim=True) * gradients
    alpha = denominator.reciprocal().masked_fill(denominator == 0, 0)
    return (alpha * gradients.clamp(min=0)).sum(dim=_CELLS, keepdim=True)


def _space_maps(gradients: Tensor) -> Tensor:
    """SSGrad-CAM's gates S, (B, C, h, w) in 0..1: 1 at each channel's largest gradient."""
    magnitude = gradients.abs()
    peak = magnitude.amax(dim=_CELLS, keepdim=True)
    return (magnitude / peak).masked_fill(peak == 0, 0)
