"""Guided gradients worked out by hand, as loops, and however an activation is called."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from guests_coat import unchanged
from torch import Tensor, nn

from detcam.cam.guided import guided_activations, guided_backprop, guided_grad_cam
from detcam.errors import CaptureError, InputError, NoGradientError, ShapeError


class TroubleError(Exception):
    """What a module of the network raises in these tests."""


class Pencil(nn.Module):
    """x = (x1, x2); h = (x1 + x2, -x1, 2·x1 + 3·x2); y = 3·f(h1) + 5·f(h2) - 4·f(h3)."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(3, 1, 1, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 1], [-1, 0], [2, 3]])[:, :, None, None]
        self.last.weight.data = torch.tensor([[3.0, 5, -4]])[:, :, None, None]
        self.activation = activation

    def forward(self, x):
        return self.last(self.activation(self.first(x))).flatten(1)


# h = (1, -2, 1)
X = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1)


# --- Pencil ---


@pytest.mark.parametrize("in_place", [False, True])
def test_only_what_is_positive_on_both_ways_counts(in_place, assert_close):
    # Gradients at f(h): (3, 5, -4). h2 < 0 and -4 < 0 drop out: 3·(1, 1). The plain gradient:
    # 3·(1, 1) - 4·(2, 3) = (-5, -9).
    model = Pencil(nn.ReLU(inplace=in_place))
    assert_close(guided_backprop(model, X, 0).flatten(), [3, 3])
    x = X.clone().requires_grad_()
    assert_close(torch.autograd.grad(model(x).sum(), x)[0].flatten(), [-5, -9])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_smooth_activation_keeps_its_own_slope(in_place, assert_close):
    # SiLU'(1) = σ + σ(1 - σ), σ = 1/(1 + 1/e)
    sigma = 1 / (1 + math.exp(-1))
    slope = sigma + sigma * (1 - sigma)
    found = guided_backprop(Pencil(nn.SiLU(inplace=in_place)), X, 0)
    assert_close(found.flatten(), [3 * slope, 3 * slope])


def test_a_leaky_activation_hands_nothing_back_where_what_came_in_is_negative(assert_close):
    assert_close(guided_backprop(Pencil(nn.LeakyReLU(0.5, inplace=True)), X, 0).flatten(), [3, 3])


# --- Replica: convolutions and rectifiers as loops over numbers, float64 ---


def convolve(x, weights):
    """(C, n, n) and (K, C, 3, 3) -> (K, n - 2, n - 2), as nested lists of numbers."""
    side = len(x[0]) - 2
    return [
        [
            [
                sum(
                    kernel[c][i][j] * x[c][row + i][column + j]
                    for c in range(len(x))
                    for i in range(3)
                    for j in range(3)
                )
                for column in range(side)
            ]
            for row in range(side)
        ]
        for kernel in weights
    ]


def convolve_back(gradient, weights, side):
    channels = len(weights[0])
    back = [[[0.0] * side for _ in range(side)] for _ in range(channels)]
    for kernel, one in zip(weights, gradient, strict=True):
        for row, line in enumerate(one):
            for column, g in enumerate(line):
                for c in range(channels):
                    for i in range(3):
                        for j in range(3):
                            back[c][row + i][column + j] += kernel[c][i][j] * g
    return back


def each(function, *nested):
    if isinstance(nested[0], list):
        return [each(function, *inner) for inner in zip(*nested, strict=True)]
    return function(*nested)


def loops(x, first, second, weights):
    """The guided gradient of Σ weights ⊙ relu(second * relu(first * x))."""
    h1 = convolve(x, first)
    h2 = convolve(each(lambda h: max(h, 0.0), h1), second)

    def guide(gradient, h):
        return max(gradient, 0.0) if h > 0 else 0.0

    gradient = convolve_back(each(guide, weights, h2), second, len(h1[0]))
    return convolve_back(each(guide, gradient, h1), first, len(x[0]))


@pytest.mark.parametrize("seed", range(3))
def test_two_convolutions_give_the_papers_rule_written_as_loops(seed, assert_close):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 3, bias=False), nn.ReLU()
    )
    x, weights = torch.randn(1, 2, 7, 7), torch.randn(3, 3, 3)
    expected = loops(
        x[0].double().tolist(),
        model[0].weight.double().tolist(),
        model[2].weight.double().tolist(),
        weights.double().tolist(),
    )
    found = guided_backprop(model, x, lambda output: (output * weights).sum())
    assert_close(found[0], torch.tensor(expected))
    plain = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((model(plain) * weights).sum(), plain)
    assert not torch.allclose(found, gradient, rtol=0.1)


# --- However an activation is called ---


def discarded(function):
    """Called for what it writes: its result is thrown away."""

    def call(x):
        function(x)
        return x

    return call


PRELU = torch.tensor([0.3])
SPELLINGS = {
    "nn.ReLU": (nn.ReLU(), F.relu),
    "nn.ReLU in place": (nn.ReLU(inplace=True), F.relu),
    "F.relu": (F.relu, F.relu),
    "F.relu(x, True)": (lambda x: F.relu(x, True), F.relu),
    "F.relu(input=x, inplace=True)": (lambda x: F.relu(input=x, inplace=True), F.relu),
    "F.relu_": (F.relu_, F.relu),
    "torch.relu": (torch.relu, F.relu),
    "torch.relu_": (torch.relu_, F.relu),
    "x.relu": (lambda x: x.relu(), F.relu),
    "x.relu_": (lambda x: x.relu_(), F.relu),
    "x.relu_, result thrown away": (discarded(Tensor.relu_), F.relu),
    "F.relu in place, result thrown away": (discarded(lambda x: F.relu(x, inplace=True)), F.relu),
    "a view, in place": (
        discarded(lambda x: x[:, 1:].relu_()), lambda x: torch.cat([x[:, :1], F.relu(x[:, 1:])], dim=1)
    ),
    "nn.ReLU6": (nn.ReLU6(inplace=True), F.relu6),
    "F.relu6": (F.relu6, F.relu6),
    "F.hardtanh_ from 0": (lambda x: F.hardtanh_(x, 0.0, 6.0), F.relu6),
    "nn.LeakyReLU": (nn.LeakyReLU(0.2, inplace=True), lambda x: F.leaky_relu(x, 0.2)),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "F.prelu": (lambda x: F.prelu(x, PRELU), lambda x: F.prelu(x, PRELU)),
    "nn.SiLU": (nn.SiLU(inplace=True), F.silu),
    "nn.SiLU, result thrown away": (discarded(nn.SiLU(inplace=True)), F.silu),
    "F.silu": (F.silu, F.silu),
    "nn.Mish": (nn.Mish(inplace=True), F.mish),
    "nn.GELU": (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "F.gelu": (F.gelu, F.gelu),
    "nn.ELU": (nn.ELU(0.7, inplace=True), lambda x: F.elu(x, 0.7)),
    "F.elu_": (lambda x: F.elu_(x, 0.7), lambda x: F.elu(x, 0.7)),
    "nn.CELU": (nn.CELU(0.7, inplace=True), lambda x: F.celu(x, 0.7)),
    "nn.SELU": (nn.SELU(inplace=True), F.selu),
    "torch.selu_": (torch.selu_, F.selu),
    "nn.RReLU": (nn.RReLU(inplace=True).eval(), F.rrelu),
    "nn.Hardswish": (nn.Hardswish(inplace=True), F.hardswish),
}  # fmt: skip


def around(spelling):
    """A network around an activation: 3·x in, weights of both signs out."""
    x = 3 * torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    leaf = x.clone().requires_grad_()
    output = spelling(3 * leaf)
    return leaf, output, weights


@pytest.mark.parametrize("name", SPELLINGS)
def test_however_it_is_called_values_stay_and_gradients_are_guided(name, assert_close):
    spelling, plain = SPELLINGS[name]
    with guided_activations() as guide:
        leaf, output, weights = around(spelling)
    assert guide.seen == 1
    reference, expected, _ = around(plain)
    assert torch.equal(output, expected)
    (found,) = torch.autograd.grad((weights * output).sum(), leaf)
    is_guided = torch.ones_like(weights, dtype=torch.bool)
    if name.startswith("a view"):
        is_guided[:, :1] = False
    (slope,) = torch.autograd.grad(expected.sum(), reference)  # f'(3x)·3
    guided = weights.clamp(min=0) * slope * (reference > 0)
    assert_close(found, torch.where(is_guided, guided, weights * slope).detach())


@pytest.mark.parametrize("function", [torch.sigmoid, F.hardtanh, F.hardtanh_, F.softplus, nn.Hardtanh(-2, 2)])
def test_what_is_no_rectifier_is_left_alone(function, assert_close):
    with guided_activations() as guide:
        leaf, output, weights = around(function)
    assert guide.seen == 0
    reference, expected, _ = around(function)
    for one, other in ((leaf, output), (reference, expected)):
        one.gradient = torch.autograd.grad((weights * other).sum(), one)[0]
    assert torch.equal(leaf.gradient, reference.gradient)


def test_what_has_no_gradient_anyway_is_computed_as_it_is():
    x = torch.tensor([-1.0, 2.0])
    with guided_activations() as guide:
        y = F.relu_(x)
    assert y is x
    assert x.tolist() == [0, 2]
    assert guide.seen == 1


def test_what_follows_may_write_into_a_guided_result(assert_close):
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    with guided_activations():
        y = F.relu(x)
        y += 1
        y.mul_(2)
    assert_close(y.detach(), [2, 6])
    assert_close(torch.autograd.grad(y.sum(), x)[0], [0, 2])


def test_afterwards_activations_are_what_they_were(assert_close):
    x = torch.tensor([1.0, 2.0], requires_grad=True)

    def fail(y):
        raise TroubleError

    with pytest.raises(TroubleError), guided_activations():
        fail(F.relu(x))
    assert_close(torch.autograd.grad(-F.relu(x).sum(), x)[0], [-1, -1])


# --- Networks ---


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.layer = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm, self.silu, self.end = nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x, factor=1.0, *, night=None):
        x = F.relu_(self.stem(x))
        if night is not None:
            x = x + night
        return self.end(self.silu(self.norm(self.layer(x))).mean(dim=(2, 3)) * factor)


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 9, 7, generator=torch.Generator().manual_seed(2))


def test_pictures_of_a_batch_have_targets_of_their_own(assert_close):
    model, batch = Classifier(), pictures(3)
    together = guided_backprop(model, batch, [2, lambda scores: scores[0] - scores[1], 3])
    assert together.shape == batch.shape
    assert together.dtype == torch.float32
    assert (together > 0).any()
    assert (together < 0).any()
    assert_close(together[0:1], guided_backprop(model, batch[:1], 2))
    assert_close(together[1:2], guided_backprop(model, batch[1:2], lambda scores: scores[0] - scores[1]))
    assert not torch.allclose(together[2:], guided_backprop(model, batch[2:], 2))


def test_inputs_may_be_a_tuple_or_go_by_name(assert_close):
    model, batch = Classifier(), pictures()
    assert_close(
        guided_backprop(model, (batch, torch.tensor(2.0)), 1), 2 * guided_backprop(model, {"x": batch}, 1)
    )
    night = torch.randn(2, 6, 9, 7)
    with_night = guided_backprop(model, {"x": batch, "night": night}, 1)
    assert not torch.allclose(with_night, guided_backprop(model, batch, 1))


def test_the_input_is_read_not_written():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.Flatten(1))
    batch = pictures()
    before = batch.clone()
    model[1].weight.data.abs_()
    assert guided_backprop(model, batch, torch.sum).any()
    assert torch.equal(batch, before)
    assert not batch.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode, assert_close):
    model = Classifier()
    expected = guided_backprop(model, pictures(), 1)
    with mode():
        assert_close(guided_backprop(model, pictures(), 1).clone(), expected)


def test_success_and_failure_leave_the_network_as_it_was():
    model = Classifier().train()
    batch = pictures()

    def fail(_scores):
        raise TroubleError

    with unchanged(model):
        guided_backprop(model, batch, 1)
        guided_grad_cam(model, batch, 1, layers="layer")
        with pytest.raises(TroubleError):
            guided_backprop(model, batch, fail)
    model.end.forward = fail
    with unchanged(model), pytest.raises(TroubleError):
        guided_backprop(model, batch, 1)
    x = torch.tensor([1.0], requires_grad=True)
    assert torch.autograd.grad(-F.relu(x), x)[0] == -1


@pytest.mark.parametrize("targets", [[0], [0, 1, 2], []])
def test_one_target_for_each_picture_no_more_and_no_less(targets):
    with pytest.raises(InputError, match=f"2 pictures; got {len(targets)} targets"):
        guided_backprop(Classifier(), pictures(), targets)


def test_a_target_that_is_no_single_number_is_refused():
    with pytest.raises(ShapeError, match="0-dim"):
        guided_backprop(Classifier(), pictures(), lambda scores: scores)


def test_a_network_without_activations_is_refused():
    with pytest.raises(CaptureError, match="no activation function"):
        guided_backprop(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Tanh(), nn.Flatten()), pictures(), 0)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        (lambda scores: scores.detach().sum(), "does not depend on the input"),
        (
            lambda scores: 0 * scores.sum(),
            "guided gradient of picture 0 is zero, nothing speaks for its target",
        ),
        (lambda scores: scores.sum() * math.inf, "guided gradient of picture 0 is not finite"),
        (lambda scores: torch.zeros((), requires_grad=True) * 1, "guided gradient of picture 0 is zero"),
    ],
)
def test_no_gradient_is_an_error_in_a_sentence(target, what):
    with pytest.raises(NoGradientError, match=what):
        guided_backprop(Classifier(), pictures(), target)


def test_guided_grad_cam_is_the_product_with_the_upsampled_grad_cam(assert_close):
    model, batch = Classifier().eval(), pictures()
    kept = []
    handle = model.layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    scores = model(batch)[:, 1]
    handle.remove()
    activations = kept[0]
    with torch.no_grad():
        activations_before = model.layer(model.stem(batch).relu())
    (gradients,) = torch.autograd.grad(scores.sum(), activations)
    heatmap = (gradients.mean(dim=(2, 3), keepdim=True) * activations_before).sum(dim=1, keepdim=True).relu()
    assert heatmap.any()
    upsampled = F.interpolate(heatmap, (9, 7), mode="bilinear", align_corners=False)
    expected = (guided_backprop(model, batch, 1) * upsampled).detach()
    assert_close(guided_grad_cam(model, batch, 1, layers="layer"), expected)
