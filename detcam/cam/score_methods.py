"""CAM formulas whose weights are no gradients: scores of changed pictures, or the classifier's own weights.

A (B, C, h, w) is a layer's output, y the explained score. Who gives the scores is `rescoring`; here they are
numbers. relu(x) = max(x, 0); Σ_c sums over channels. Beside each formula stand its terms, (B, C, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detcam.cam.inputs import check_rows, feature_maps_float32, positive_sum


def score_cam(activations: Tensor, masked_scores: Tensor) -> Tensor:
    """Score-CAM: channels weighted by what the network scores where they light the picture up.

    relu(Σ_c softmax_c(y_c)·A_c), y_c the score of the picture times the upsampled channel, scaled to 0..1.
    Wang et al. 2020, arXiv:1910.01279. The score of the baseline picture, which the paper subtracts from
    every y_c, drops out of the softmax.

    A channel that is the same everywhere cannot be scaled to 0..1: it has no weight. The paper leaves it
    open; the authors' code skips the channel, too. That code weighs with softmax probabilities of the
    classes as they are; here, as in the paper, y may be any score, and the softmax runs over channels.

    Args:
        activations: layer output A, (B, C, h, w).
        masked_scores: y_c, (B, C), as `rescoring.masked_scores` gives them.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of A: an average of the channels.

    Raises:
        ShapeError: activations not (B, C, h, w), or scores not (B, C).
    """
    return positive_sum(score_cam_terms(activations, masked_scores))


def score_cam_terms(activations: Tensor, masked_scores: Tensor) -> Tensor:
    """What `score_cam` sums over channels, (B, C, h, w): softmax_c(y_c)·A_c."""
    (activations,) = feature_maps_float32(activations=activations)
    check_rows(activations, activations.shape[1:2], masked_scores=masked_scores)
    is_flat = activations.amax(dim=(-2, -1)) == activations.amin(dim=(-2, -1))
    scores = masked_scores.to(activations).masked_fill(is_flat, -torch.inf)
    # Where all channels are flat, the softmax is 0/0.
    return _weighted(scores.softmax(dim=1).masked_fill(is_flat, 0), activations)


def ablation_cam(activations: Tensor, scores: Tensor, ablated_scores: Tensor) -> Tensor:
    """Ablation-CAM: channels weighted by the share of the score that is lost without them.

    relu(Σ_c w_c·A_c), w_c = (y - y_c) / y, y_c the score with channel c set to zero. Desai & Ramaswamy,
    WACV 2020, pp. 972-980.

    Differs from the paper: w_c = (y - y_c) / |y|. The paper presumes y > 0; dividing by a negative logit
    would turn channels that speak for it into such as speak against it. Where y = 0, nothing is divided.

    Args:
        activations: layer output A, (B, C, h, w).
        scores: y, (B,).
        ablated_scores: y_c, (B, C), as `rescoring.ablated_scores` gives them.

    Returns:
        Raw map (B, h, w) >= 0, float32, in units of A (where y = 0, of A times y).

    Raises:
        ShapeError: activations not (B, C, h, w), scores not (B,) or ablated scores not (B, C).
    """
    return positive_sum(ablation_cam_terms(activations, scores, ablated_scores))


def ablation_cam_terms(activations: Tensor, scores: Tensor, ablated_scores: Tensor) -> Tensor:
    """What `ablation_cam` sums over channels, (B, C, h, w): w_c·A_c."""
    (activations,) = feature_maps_float32(activations=activations)
    check_rows(activations, (), scores=scores)
    check_rows(activations, activations.shape[1:2], ablated_scores=ablated_scores)
    scores = scores.to(activations)[:, None]
    lost = scores - ablated_scores.to(activations)
    return _weighted(lost / scores.abs().masked_fill(scores == 0, 1), activations)


def class_activation_map(activations: Tensor, class_weights: Tensor) -> Tensor:
    """Class activation map: channels weighted by what the final linear layer makes of them for the class.

    Σ_c w_c·A_c. Zhou et al. 2016, arXiv:1512.04150, eq. 2. The map's mean and the layer's bias add up to
    the class's score, where global average pooling stands between A and that layer.

    Args:
        activations: output A of the layer in front of the pooling, (B, C, h, w).
        class_weights: w, the explained class's row of the final linear layer, (B, C).

    Returns:
        Raw map (B, h, w), float32, in units of the score, signed: the paper drops no negatives.

    Raises:
        ShapeError: activations not (B, C, h, w), or weights not (B, C).
    """
    return class_activation_terms(activations, class_weights).sum(dim=1)


def class_activation_terms(activations: Tensor, class_weights: Tensor) -> Tensor:
    """What `class_activation_map` sums over channels, (B, C, h, w): w_c·A_c."""
    (activations,) = feature_maps_float32(activations=activations)
    check_rows(activations, activations.shape[1:2], class_weights=class_weights)
    return _weighted(class_weights.to(activations), activations)


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    return weights[:, :, None, None] * activations
