"""Where pytorch-grad-cam departs from the papers, from its documentation or from what its name says.

Each test shows the departure and that ours is without it. docs/parity.md lists them under the same names.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not here: run `make parity`")

import pytorch_grad_cam
import torch
from both_sides import (
    TOLERANCE,
    Zeros,
    difference,
    gradients_and_activations,
    in_their_scale,
    our_maps,
    scaled,
    their_maps,
)
from parity_networks import case, pictures
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputTarget,
    SemanticSegmentationTarget,
)
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import nn
from torch.nn import functional

from detcam.cam import MaskedClass, ablation_cam, activation_maps, eigen_cam, guided_backprop, x_grad_cam

pytestmark = pytest.mark.parity


class Layers(nn.Module):
    """Two convolutions and a linear layer on their mean; the activation may be in place."""

    def __init__(self, activation=functional.relu, classes=3):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.linear = nn.Linear(6, classes)
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.first(x))
        x = self.activation(self.second(x))
        return self.linear(x.mean(dim=(2, 3)))


class Activated(Layers):
    """The same with the activation as a module, and so as a layer that ends in zeros."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        x = functional.relu(self.first(x))
        return self.linear(self.relu(self.second(x)).mean(dim=(2, 3)))


def _category(model, inputs, index=0):
    return int(model(inputs)[index].argmax())


# --- XGrad-CAM ---


def test_xgrad_cam_adds_its_epsilon_whatever_the_unit_of_the_activations_is():
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]]])
    gradients = torch.tensor([[[[0.0, 0.0], [0.0, 4.0]], [[-2.0, 0.0], [0.0, 0.0]]]])
    cam = pytorch_grad_cam.XGradCAM(nn.Linear(1, 1), [])

    def theirs(unit):
        weighted = cam.get_cam_image(None, None, None, (unit * activations).numpy(), gradients.numpy())
        return in_their_scale([torch.from_numpy(weighted) / unit], (2, 2))

    small = x_grad_cam(1e-7 * activations, gradients) / 1e-7
    assert torch.allclose(small, x_grad_cam(activations, gradients))
    # Weights 16/10 and -2/1: [[1.6 - 2, 3.2], [4.8, 6.4]]. 1e-7 more than ΣA = 1e-7·(10, 1): 16/11, -1,
    assert theirs(1) == pytest.approx(np.array([[[0, 0.5], [0.75, 1]]]), abs=1e-4)
    # [[5/11, 32/11], [48/11, 64/11]], less the smallest, by the largest: 27/59 and 43/59.
    assert theirs(1e-7) == pytest.approx(np.array([[[0, 27 / 59], [43 / 59, 1]]]), abs=1e-4)
    assert np.abs(theirs(1e-7) - theirs(1)).max() > 0.03


# --- Principal components ---


def test_the_sign_of_their_components_is_the_solvers():
    """The same channels in another order: the same scene, for any formula that sums over channels."""
    activations = (
        pictures(1, 8, 8).relu().repeat(1, 4, 1, 1) * torch.rand(12, generator=_seeded())[:, None, None]
    )
    ours = eigen_cam(activations)
    signs = set()
    for seed in range(12):
        order = torch.randperm(12, generator=_seeded(seed))
        theirs = torch.from_numpy(get_2d_projection(activations[:, order].numpy()))
        sign = int(torch.sign((theirs * ours).sum()))
        assert torch.allclose(sign * theirs, ours, atol=1e-5 * float(ours.abs().max()))
        assert torch.allclose(eigen_cam(activations[:, order]), ours, atol=1e-5 * float(ours.abs().max()))
        signs.add(sign)
    assert -1 in signs


def test_their_components_take_nan_for_zero():
    activations = pictures(1, 4, 4)
    activations[0, 0, 0, 0] = float("nan")
    assert np.isfinite(get_2d_projection(activations.numpy())).all()
    with pytest.raises(ValueError, match="NaN"):
        eigen_cam(activations)


# --- Ablation-CAM ---


def test_ablation_cam_of_a_negative_score_shows_what_speaks_against_it():
    model, inputs = Activated(), pictures(1, 16, 16)
    category = int(model(inputs)[0].argmin())
    assert model(inputs)[0, category] < 0
    theirs = their_maps("ablation-cam", model, ["relu"], inputs, [ClassifierOutputTarget(category)])

    def ours(target):
        return scaled(activation_maps(model, inputs, target, layers="relu", method="ablation-cam"))

    assert difference(ours(lambda scores: -scores[category]), theirs) <= TOLERANCE
    assert difference(ours(category), theirs) > 0.5


def test_ablation_cam_divides_by_a_score_of_zero():
    model, inputs = Activated(), pictures(1, 16, 16)
    with torch.no_grad():
        model.linear.bias -= model(inputs)[0]
        model.linear.bias -= model(inputs)[0]  # what rounding left over
    target = ClassifierOutputTarget(0)
    assert model(inputs)[0, 0] == 0
    with np.errstate(all="ignore"):
        theirs = their_maps("ablation-cam", model, ["relu"], inputs, [target])
    assert not np.isfinite(theirs).all()
    activations, scores = model.first(inputs).detach(), torch.zeros(1)
    assert ablation_cam(activations, scores, torch.randn(1, 6, generator=_seeded())).isfinite().all()


def test_ablation_cam_takes_minus_ten_million_for_absent_unless_the_smallest_value_is_zero():
    model, inputs = Layers(lambda x: functional.leaky_relu(x, 0.1)), pictures(1, 16, 16)
    target = ClassifierOutputTarget(_category(model, inputs))
    found = activation_maps(model, inputs, target, layers="second", method="ablation-cam")

    def theirs(**options):
        return their_maps("ablation-cam", model, ["second"], inputs, [target], **options)

    assert difference(scaled(found), theirs(ablation_layer=Zeros())) <= TOLERANCE
    assert difference(scaled(found), theirs()) > 0.1


def test_ablation_cam_takes_another_value_for_each_place_in_its_batch():
    """The second of a batch gets the minimum of values among which is the first one's, minus ten million."""
    layer = pytorch_grad_cam.AblationLayer()
    layer.indices = np.arange(3)
    layer.activations = torch.full((3, 3, 1, 1), 0.5)
    values = layer(None).diagonal()[0, 0]
    assert values.tolist() == pytest.approx([-1e7, -2e7, -3e7], rel=1e-6)


def test_ablation_cam_of_tokens_takes_the_class_token_away_too():
    """With zeros for absent, as in the paper, so that nothing else differs."""

    class AllTokens(pytorch_grad_cam.AblationLayerVit):
        def __call__(self, _x):
            output = self.activations
            for copy in range(len(output)):
                output[copy, :, self.indices[copy]] = 0
            return output

    one = case("vit")
    theirs = their_maps(
        "ablation-cam",
        one.model,
        [one.scored_layer],
        one.inputs,
        one.targets,
        reshape=one.reshape,
        ablation_layer=AllTokens(),
    )
    assert difference(scaled(our_maps(one, "ablation-cam")), theirs) > 0.01


def test_ablation_cam_pairs_layers_by_the_order_in_which_they_run():
    """Asked for the later layer first, it weighs each layer's activations with the other's weights."""
    one = case("resnet18")
    inputs, targets = one.inputs[:1], one.targets[:1]

    def theirs(layers):
        return their_maps("ablation-cam", one.model, layers, inputs, targets)

    def ours(layers):
        return scaled(activation_maps(one.model, inputs, targets, layers=layers, method="ablation-cam"))

    as_they_run, reverse = ["layer1.0", "layer1.1"], ["layer1.1", "layer1.0"]
    assert difference(theirs(as_they_run), ours(as_they_run)) <= TOLERANCE
    assert difference(ours(reverse), ours(as_they_run)) <= TOLERANCE
    assert difference(theirs(reverse), theirs(as_they_run)) > 0.01


def test_ablation_cam_leaves_its_layer_in_the_model_when_a_target_fails():
    model, inputs = Activated(), pictures(1, 16, 16)
    calls = []

    def fails_later(scores):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError
        return scores[0]

    with pytest.raises(RuntimeError):
        their_maps("ablation-cam", model, ["relu"], inputs, [fails_later])
    assert isinstance(model.relu, pytorch_grad_cam.AblationLayer)

    model = Activated()
    calls.clear()
    with pytest.raises(RuntimeError):
        activation_maps(model, inputs, fails_later, layers="relu", method="ablation-cam")
    assert isinstance(model.relu, nn.ReLU)


# --- Score-CAM ---


def test_score_cam_spreads_masks_from_corner_to_corner():
    """Their masks lie over other pixels than the map that is drawn; the authors' code aligns both alike."""
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1] = 1
    theirs = nn.UpsamplingBilinear2d(size=(32, 32))(mask)
    drawn = functional.interpolate(mask, (32, 32), mode="bilinear")
    columns = torch.arange(32.0)
    centres = [float((one[0, 0, 0] * columns).sum() / one[0, 0, 0].sum()) for one in (theirs, drawn)]
    assert centres == pytest.approx([31 / 3, 11.5], abs=0.1)  # the second of 4 columns of 8 pixels: 8 to 15


# --- What is read in the network ---


def test_an_operation_in_place_behind_the_layer_changes_their_activations_but_not_their_gradients():
    """On the CPU, where `.cpu().detach()` is the network's own memory. DenseNet ends like that."""
    inputs = pictures(1, 16, 16)
    plain, in_place = Layers(), Layers(lambda x: functional.relu(x, inplace=True))
    target = ClassifierOutputTarget(_category(plain, inputs))

    def theirs(model):
        return their_maps("grad-cam", model, ["second"], inputs, [target])

    def ours(model):
        return scaled(activation_maps(model, inputs, target, layers="second"))

    assert difference(ours(plain), theirs(plain)) <= TOLERANCE
    assert difference(ours(in_place), ours(plain)) <= TOLERANCE
    assert difference(theirs(in_place), theirs(plain)) > 0.01
    activations, gradients = gradients_and_activations(plain, "second", inputs, [target])
    mixed = (gradients.mean(dim=(2, 3), keepdim=True) * activations.relu()).sum(dim=1)
    assert difference(in_their_scale([mixed], (16, 16)), theirs(in_place)) <= TOLERANCE


def test_the_last_layer_of_densenet_is_read_behind_its_relu():
    one = case("densenet121")
    theirs = their_maps("grad-cam", one.model, ["features.norm5"], one.inputs, one.targets)
    ours = scaled(activation_maps(one.model, one.inputs, one.targets, layers="features.norm5"))
    assert difference(ours, theirs) > 0.01


class SharedHead(nn.Module):
    """A head that runs on two levels, as RetinaNet's does; the score is that of the second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        fine = self.stem(x)
        coarse = functional.avg_pool2d(fine, 2)
        self.head(fine)
        return self.head(coarse).relu().mean(dim=(2, 3))


def test_of_a_layer_that_runs_twice_theirs_pairs_the_first_output_with_whatever_gradient_comes_first():
    model, inputs = SharedHead(), pictures(1, 16, 16)
    target = ClassifierOutputTarget(_category(model, inputs))
    with pytest.raises(ValueError, match="broadcast"):
        their_maps("layer-cam", model, ["head"], inputs, [target])
    found = activation_maps(model, inputs, target, layers="head", method="layer-cam")
    assert found.reached["head#0"].tolist() == [False]
    assert found.maps["head#1"].max() > 0


def test_fewer_targets_than_pictures_leave_maps_of_zeros():
    model, inputs = Layers(), pictures(2, 16, 16)
    theirs = their_maps("hires-cam", model, ["first"], inputs, [ClassifierOutputTarget(0)])
    assert theirs[0].max() > 0.9
    assert theirs[1].max() == 0
    with pytest.raises(ValueError, match="one for each of the 2 pictures"):
        activation_maps(model, inputs, [0], layers="first")


def test_frozen_weights_leave_them_without_gradients():
    model, inputs = Layers().requires_grad_(False), pictures(1, 16, 16)
    with pytest.raises(RuntimeError, match="does not require grad"):
        their_maps("grad-cam", model, ["second"], inputs, [ClassifierOutputTarget(0)])
    assert activation_maps(model, inputs, 0, layers="second", method="layer-cam").maps["second"].max() > 0


def test_half_precision_is_beyond_numpy():
    model, inputs = Layers().bfloat16(), pictures(1, 16, 16).bfloat16()
    with pytest.raises(TypeError, match="BFloat16"):
        their_maps("grad-cam", model, ["second"], inputs, [ClassifierOutputTarget(0)])
    assert activation_maps(model, inputs, 0, layers="second", method="layer-cam").maps["second"].max() > 0


def test_their_reshape_for_faster_rcnn_drops_signs():
    level = torch.tensor([[[[-2.0, 1.0], [1.0, 1.0]]]])
    stacked = fasterrcnn_reshape_transform({"0": level, "pool": level})
    assert torch.equal(stacked, level.abs().repeat(1, 2, 1, 1))


def test_theirs_leaves_the_model_evaluating_and_with_gradients():
    inputs = pictures(1, 16, 16)
    model = Layers().train()
    activation_maps(model, inputs, 0, layers="second", method="layer-cam")
    assert model.training
    assert model.first.weight.grad is None
    their_maps("layer-cam", model, ["second"], inputs, [ClassifierOutputTarget(0)])
    assert not model.training
    assert model.first.weight.grad is not None


# --- Scaling, merging and smoothing ---


def test_their_layers_are_stretched_to_one_before_they_are_merged():
    """A layer with a thousandth of the evidence counts as much as the other. Ours adds raw maps."""
    inputs, target = pictures(1, 16, 16), ClassifierOutputTarget(0)

    class TwoBranches(nn.Module):
        def __init__(self, share):
            super().__init__()
            torch.manual_seed(1)
            self.strong, self.weak = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(3, 4, 3, 1, 1)
            self.share = share

        def forward(self, x):
            strong, weak = (branch(x).relu().mean(dim=(1, 2, 3)) for branch in (self.strong, self.weak))
            return (strong + self.share * weak)[:, None]

    def theirs(share):
        return their_maps("hires-cam", TwoBranches(share), ["strong", "weak"], inputs, [target])

    def ours(share):
        found = activation_maps(
            TwoBranches(share), inputs, target, layers=["strong", "weak"], method="hires-cam"
        )
        return found.heatmaps().numpy()

    assert difference(theirs(1), theirs(1e-3)) < 0.02
    assert np.abs(ours(1) / ours(1).max() - ours(1e-3) / ours(1e-3).max()).max() > 0.3


class PerPixel(nn.Module):
    """Two classes for each pixel, each seen by itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.classify = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.classify(self.features(x).abs())


def test_aug_smooth_asks_the_mirrored_picture_about_pixels_that_are_not_mirrored():
    model, inputs = PerPixel(), torch.ones(1, 3, 4, 16)
    mask = np.zeros((4, 16), np.float32)
    mask[:, 2] = 1
    theirs = their_maps(
        "grad-cam-elementwise",
        model,
        ["features"],
        inputs,
        [SemanticSegmentationTarget(0, mask)],
        aug_smooth=True,
    )
    assert np.flatnonzero(theirs[0, 0] > 0.1).tolist() == [2, 13]
    ours = activation_maps(
        model,
        inputs,
        MaskedClass(0, mask),
        layers="features",
        method="grad-cam-elementwise",
        aug_smooth=True,
    ).heatmaps()
    assert np.flatnonzero(ours[0, 0] > 0).tolist() == [2]


def test_aug_smooth_averages_views_that_have_each_been_stretched_to_one():
    one = case("resnet18")
    views = [(flip, brightness) for flip in (False, True) for brightness in (0.9, 1, 1.1)]

    def view(flip, brightness):
        inputs = (one.inputs.flip(-1) if flip else one.inputs) * brightness
        found = activation_maps(one.model, inputs, one.targets, layers=one.layer, method="layer-cam")
        maps = {name: one.flip(-1) if flip else one for name, one in found.maps.items()}
        return maps[one.layer], found.input_size

    each = [view(*one) for one in views]
    stretched = np.mean([in_their_scale([maps], size) for maps, size in each], axis=0)
    raw = in_their_scale([torch.stack([maps for maps, _ in each]).mean(dim=0)], each[0][1])
    theirs = their_maps("layer-cam", one.model, [one.layer], one.inputs, one.targets, aug_smooth=True)
    found = activation_maps(
        one.model, one.inputs, one.targets, layers=one.layer, method="layer-cam", aug_smooth=True
    )
    assert (
        difference(stretched, theirs) <= 1e-3
    )  # their mirrored maps were enlarged before they were mirrored
    assert difference(raw, scaled(found)) <= TOLERANCE
    assert difference(scaled(found), theirs) > 1e-3


def test_eigen_smooth_is_ignored_by_their_components_and_refused_by_ours():
    one = case("resnet18")
    plain, smooth = (
        their_maps("eigen-cam", one.model, [one.layer], one.inputs, one.targets, eigen_smooth=smoothed)
        for smoothed in (False, True)
    )
    assert difference(plain, smooth) == 0
    with pytest.raises(ValueError, match="nothing to smooth"):
        activation_maps(
            one.model, one.inputs, one.targets, layers=one.layer, method="eigen-cam", eigen_smooth=True
        )


# --- Guided backpropagation ---


def test_their_guided_backprop_misses_activations_that_are_functions():
    model, inputs = Layers(), pictures(1, 16, 16)
    theirs = pytorch_grad_cam.GuidedBackpropReLUModel(model)(inputs.clone(), 0)
    leaf = inputs.clone().requires_grad_()
    model(leaf)[0, 0].backward()
    assert theirs == pytest.approx(leaf.grad[0].permute(1, 2, 0).numpy(), abs=1e-6)  # the plain gradient
    ours = guided_backprop(model, inputs, 0)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() > 0.1 * np.abs(theirs).max()


def test_their_guided_backprop_adds_up_over_calls():
    model, inputs = Activated(), pictures(1, 16, 16)
    guided, picture = pytorch_grad_cam.GuidedBackpropReLUModel(model), inputs.clone()
    once = guided(picture, 0).copy()
    assert guided(picture, 0) == pytest.approx(2 * once)
    ours = guided_backprop(model, inputs, 0)
    assert torch.equal(guided_backprop(model, inputs, 0), ours)


def test_their_guided_backprop_knows_one_picture():
    model, inputs = Activated(), pictures(2, 16, 16)
    assert pytorch_grad_cam.GuidedBackpropReLUModel(model)(inputs.clone(), 0).shape == (16, 16, 3)
    assert guided_backprop(model, inputs, 0).shape == inputs.shape


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)
