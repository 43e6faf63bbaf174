"""Single-layer maps of every method that both have, on every kind of network: equal to 1e-4."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not here: run `make parity`")

import torch
from both_sides import (
    COMPONENTS,
    SCORING,
    THEIRS,
    TOLERANCE,
    Zeros,
    ZerosOfLast,
    difference,
    difference_up_to_sign,
    gradients_and_activations,
    in_their_scale,
    our_maps,
    scaled,
    their_maps,
    times,
)
from parity_networks import CASES, case
from pytorch_grad_cam import GuidedBackpropReLUModel
from torch import nn

from detcam.cam import guided_backprop

pytestmark = pytest.mark.parity

ALIKE = [one for one in THEIRS if one not in COMPONENTS | SCORING | {"grad-cam++"}]
EPSILON_SHOWS = {("xgrad-cam", "deeplabv3_mobilenet")}
"""Channels that cancel but for a rest, beside which the 1e-7 that theirs adds counts: see the replicas."""

LOUD = 1e4
"""A target in this unit has gradients beside which 1e-6 is nothing."""


def _theirs(one, method, *, targets=None, **options):
    layer = one.scored_layer if method in SCORING else one.layer
    targets = one.targets if targets is None else targets
    layer = _layer_in_wrapped(one, layer)
    return their_maps(method, one.wrapped, [layer], one.inputs, targets, reshape=one.reshape, **options)


def _layer_in_wrapped(one, layer):
    """A module's name in what theirs explains."""
    return {module: name for name, module in one.wrapped.named_modules()}[one.model.get_submodule(layer)]


@pytest.mark.parametrize("network", CASES)
@pytest.mark.parametrize("method", ALIKE)
def test_maps_are_equal(method, network, measured):
    one = case(network)
    found = difference(scaled(our_maps(one, method)), _theirs(one, method))
    measured(method, network, _alike_or_not(found))
    if (method, network) not in EPSILON_SHOWS:
        assert found <= TOLERANCE


# The paper presumes A >= 0. Where layers are signed, α has poles, which turn rounding into differences.
@pytest.mark.parametrize("network", [one for one in CASES if one not in ("vit", "swin_t")])
def test_grad_cam_plus_plus_is_equal_where_gradients_are_large(network, measured):
    one = case(network)
    loud = [times(LOUD, target) for target in one.targets]
    theirs = _theirs(one, "grad-cam++", targets=loud)
    found = difference(scaled(our_maps(one, "grad-cam++", LOUD)), theirs)
    measured("grad-cam++, target × 10⁴", network, f"{found:.0e}")
    assert found <= TOLERANCE


def _plus_plus_weights(activations, gradients, epsilon):
    cubed = activations.sum(dim=(2, 3), keepdim=True) * gradients**3
    alpha = gradients**2 / (2 * gradients**2 + cubed + epsilon)
    return (alpha.where(gradients != 0, 0) * gradients.clamp(min=0)).sum(dim=(2, 3), keepdim=True)


def _x_weights(activations, gradients, epsilon):
    total = activations.sum(dim=(2, 3), keepdim=True) + epsilon
    weights = (gradients * activations).sum(dim=(2, 3), keepdim=True) / total
    return weights.where(total != 0, 0)  # a dead channel


@pytest.mark.parametrize("network", CASES)
@pytest.mark.parametrize(
    ("method", "weights", "epsilon"),
    [("grad-cam++", _plus_plus_weights, 1e-6), ("xgrad-cam", _x_weights, 1e-7)],
)
def test_ours_is_the_formula_in_float64_and_theirs_the_formula_with_its_epsilon(
    method, weights, epsilon, network, measured
):
    one = case(network)
    found = gradients_and_activations(one.wrapped, _layer_in_wrapped(one, one.layer), one.inputs, one.targets)
    activations, gradients = (one.reshape(t).double() if one.reshape else t.double() for t in found)

    def replica(added):
        summed = (weights(activations, gradients, added) * activations).sum(dim=1)
        return in_their_scale([summed], tuple(one.inputs.shape[2:]))

    theirs = _theirs(one, method)
    assert difference(scaled(our_maps(one, method)), replica(0)) <= TOLERANCE
    assert difference(theirs, replica(epsilon)) <= TOLERANCE
    if method == "grad-cam++":
        measured("grad-cam++ as it is", network, _alike_or_not(difference(theirs, replica(0))))


@pytest.mark.parametrize("network", CASES)
@pytest.mark.parametrize("method", sorted(COMPONENTS))
def test_components_are_equal_up_to_the_sign(method, network, measured):
    one = case(network)
    found, flipped = difference_up_to_sign(our_maps(one, method), _theirs(one, method))
    signs = f", {flipped} of {len(one.inputs)} flipped" if flipped else ""
    measured(method, network, f"{found:.0e}{signs}")
    assert found <= TOLERANCE


@pytest.mark.parametrize("network", CASES)
def test_score_cam_is_equal_with_the_masks_on_our_grid(network, measured, monkeypatch):
    one = case(network)
    ours = scaled(our_maps(one, "score-cam"))
    as_it_is = difference(ours, _theirs(one, "score-cam"))
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size=size, mode="bilinear"))
    found = difference(ours, _theirs(one, "score-cam"))
    measured("score-cam, masks upsampled alike", network, f"{found:.0e}")
    measured("score-cam as it is", network, _alike_or_not(as_it_is))
    assert found <= TOLERANCE


@pytest.mark.parametrize("network", CASES)
def test_ablation_cam_is_equal_where_ablated_means_zero(network, measured):
    one = case(network)
    ours = scaled(our_maps(one, "ablation-cam"))
    layer = Zeros() if one.reshape is None else ZerosOfLast()
    found = difference(ours, _theirs(one, "ablation-cam", ablation_layer=layer))
    measured("ablation-cam, ablated to zero", network, f"{found:.0e}")
    assert found <= TOLERANCE
    as_it_is = _theirs(one, "ablation-cam", ablation_layer=type(layer).__mro__[1]())
    measured("ablation-cam as it is", network, _alike_or_not(difference(ours, as_it_is)))
    if one.has_zeros:
        assert difference(ours, as_it_is) <= TOLERANCE


def _alike_or_not(found):
    return f"{found:.0e}" if found <= TOLERANCE else f"**{found:.0e}**"


@pytest.mark.parametrize("network", CASES)
def test_heatmaps_need_none_of_their_scaling(network):
    """Min-max of ours is theirs: `cv2.resize` and `interpolate` agree about where cells lie."""
    one = case(network)
    ours = our_maps(one, "layer-cam").heatmaps()
    lowest, highest = ours.amin(dim=(1, 2), keepdim=True), ours.amax(dim=(1, 2), keepdim=True)
    found = difference(((ours - lowest) / (highest - lowest)).numpy(), _theirs(one, "layer-cam"))
    assert found <= TOLERANCE


RELU_ONLY = ["resnet18", "resnet50", "vgg11"]


@pytest.mark.parametrize("network", RELU_ONLY)
def test_guided_backprop_is_equal_on_networks_of_relu_modules(network, measured):
    one = case(network)
    category = one.targets[0].category
    ours = guided_backprop(one.model, one.inputs[:1], category)[0].permute(1, 2, 0).numpy()
    theirs = GuidedBackpropReLUModel(copy.deepcopy(one.model))(one.inputs[:1].clone(), category)
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    measured("guided-backprop", network, f"{found:.0e}")
    assert torch.isfinite(torch.from_numpy(theirs)).all()
    assert found <= TOLERANCE
