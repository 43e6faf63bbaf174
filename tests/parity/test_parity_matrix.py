"""That library's own test matrix, asked of both, with values compared.

The matrix: 12 methods × two networks × batch and shape × target × eigen_smooth; there, only shapes are
checked. At its sizes, 32 and 40 pixels, the last layers have one or two cells, and min-max makes zeros of a
map of one cell whatever it was: larger inputs stand beside them. Weights are seeded, not downloaded.
Layers come in the order in which they run: in another, their Ablation-CAM mixes them up (a departure).
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not here: run `make parity`")

import torch
import torchvision
from both_sides import (
    COMPONENTS,
    THEIRS,
    TOLERANCE,
    difference,
    difference_up_to_sign,
    in_their_scale,
    scaled,
    their_maps,
    times,
)
from parity_networks import pictures, warmed
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from detcam.cam import METHODS, activation_maps

pytestmark = pytest.mark.parity

NETWORKS = {
    "resnet18": (torchvision.models.resnet18, ["layer4.0", "layer4.1"]),
    "vgg11": (torchvision.models.vgg11, ["features.20"]),
}
SHAPES = [(2, 32, 32), (1, 40, 32), (1, 64, 96)]  # batch, height, width
METHODS_OF_THE_MATRIX = [
    "score-cam",
    "ablation-cam",
    "grad-cam",
    "grad-cam++",
    "xgrad-cam",
    "eigen-cam",
    "eigen-grad-cam",
    "layer-cam",
]
"""Of its twelve: ScoreCAM stands there twice; FullGrad, KPCA-CAM and SegEigenCAM are not ours."""

LOUD = 1e4  # a unit in which the 1e-6 of their Grad-CAM++ is nothing


@functools.cache
def _network(name):
    torch.manual_seed(0)
    model = warmed(NETWORKS[name][0](num_classes=200))
    if name == "vgg11":  # three quarters of its time, and nothing of its maps
        model.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Linear(64, 200)).eval()
    return model


@pytest.mark.parametrize("eigen_smooth", [True, False])
@pytest.mark.parametrize("category", [None, 100])
@pytest.mark.parametrize(("batch", "height", "width"), SHAPES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS_OF_THE_MATRIX)
def test_their_matrix_gives_their_values(
    method, network, batch, height, width, category, eigen_smooth, monkeypatch, measured
):
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size=size, mode="bilinear"))
    model, inputs = _network(network), pictures(batch, height, width)
    layers = NETWORKS[network][1]
    with torch.no_grad():
        outputs = model(inputs)
    targets = None if category is None else [ClassifierOutputTarget(category)] * batch
    ours = targets or [ClassifierOutputTarget(int(one.argmax())) for one in outputs]
    if method == "grad-cam++":
        targets = ours = [times(LOUD, target) for target in ours]
    if method == "ablation-cam":  # theirs explains the opposite of a negative score: a departure
        ours = [times(float(target(one).sign()), target) for target, one in zip(ours, outputs, strict=True)]
    smooth = eigen_smooth and METHODS[method].weigh is not None  # theirs ignores it of components
    found = activation_maps(model, inputs, ours, layers=layers, method=method, eigen_smooth=smooth)
    if _layers_cancel(found):
        layers = layers[-1:]
        found = activation_maps(model, inputs, ours, layers=layers, method=method, eigen_smooth=smooth)
    theirs = their_maps(method, model, layers, inputs, targets, eigen_smooth=eigen_smooth)
    if smooth or method in COMPONENTS:
        largest, _ = difference_up_to_sign(found, theirs)
    else:
        largest = difference(scaled(found), theirs)
    row = f"{method}, eigen_smooth" if smooth else method
    measured(row, f"{network} {height}×{width}, {category}", f"{largest:.0e}")
    assert largest <= TOLERANCE


def _layers_cancel(found):
    """Whether two layers of two cells, stretched to 0..1 and 1..0, leave a mean that is rounding alone."""
    layers = [in_their_scale([one], found.input_size) for one in found.maps.values()]
    ranges = np.ptp(np.mean(layers, axis=0), axis=(1, 2))
    return len(layers) > 1 and bool(((ranges > 0) & (ranges < 1e-3)).any())


def test_every_method_of_the_matrix_is_compared_elsewhere_too():
    assert set(METHODS_OF_THE_MATRIX) < set(THEIRS)
