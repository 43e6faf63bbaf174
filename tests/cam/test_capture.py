"""Pencil networks whose gradients are worked out by hand, and in-place operations that lie in wait."""

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pencil_networks import Chain, Times, W, X, grid
from torch import nn
from torch.utils import _pytree as pytree

from detcam.cam.capture import capture
from detcam.errors import CaptureError, NoGradientError


def gradients_of(model, layers, x=X, path="direct", weights=W):
    with capture(model, layers, path) as caught:
        return caught.gradients((weights * model(x)).sum())


def test_direct_gradients_leave_out_the_path_through_deeper_layers(assert_close):
    model = Chain()
    found = gradients_of(model, {"a": model.a, "b": model.b})
    assert_close(found["a"], grid([6, -24], [0, 9]))  # W ⊙ B
    assert_close(found["b"], grid([2, -8], [0, 3]))  # W ⊙ A


def test_total_gradients_run_through_deeper_layers_too(assert_close):
    model = Chain()
    found = gradients_of(model, {"a": model.a, "b": model.b}, path="total")
    assert_close(found["a"], grid([12, -48], [0, 18]))  # W ⊙ B + 3 · W ⊙ A
    assert_close(found["b"], grid([2, -8], [0, 3]))


@pytest.mark.parametrize("path", ["direct", "total"])
def test_a_single_layer_has_one_gradient_whatever_the_path(path, assert_close):
    model = Chain()
    found = gradients_of(model, {"a": model.a}, path=path)
    assert_close(found["a"], grid([12, -48], [0, 18]))


def test_layers_may_be_asked_for_in_any_order(assert_close):
    model = Chain()
    found = gradients_of(model, {"b": model.b, "a": model.a})
    assert_close(found["a"], grid([6, -24], [0, 9]))
    assert_close(found["b"], grid([2, -8], [0, 3]))


@pytest.mark.parametrize("path", ["direct", "total"])
def test_one_forward_pass_serves_any_number_of_scores(path):
    model = Chain()
    with capture(model, {"a": model.a, "b": model.b}, path) as caught:
        result = model(X)
        for score in result.flatten():
            caught.gradients(score)
    assert model.forwards == 1


@pytest.mark.parametrize("path", ["direct", "total"])
def test_nothing_before_the_earliest_captured_layer_has_a_graph(path):
    model = Chain()
    with capture(model, {"a": model.a, "b": model.b}, path) as caught:
        model(X)
    assert model.stem.had_graph is False
    assert caught.activations["a"].is_leaf
    assert caught.activations["a"].grad_fn is None
    assert caught.activations["b"].is_leaf == (path == "direct")


def test_weights_are_constants_of_the_graph():
    model = Chain()
    with capture(model, {"b": model.b}) as caught:
        score = model(X).sum()
        assert not any(parameter.requires_grad for parameter in model.parameters())
        caught.gradients(score)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("path", ["direct", "total"])
def test_capturing_changes_neither_the_layers_nor_the_result(path):
    model = Chain()
    with torch.no_grad():
        a = model.a(model.stem(X))
        b, result = model.b(a), model(X)
    with capture(model, {"a": model.a, "b": model.b}, path) as caught:
        seen = model(X)
    assert torch.equal(seen, result)
    assert torch.equal(caught.activations["a"], a)
    assert torch.equal(caught.activations["b"], b)


def test_pictures_of_a_batch_do_not_mix():
    model = Chain()
    layers = {"a": model.a, "b": model.b}
    pictures = [X, X.flip(-1) + 1, -2 * X]
    alone = [gradients_of(model, layers, x) for x in pictures]
    together = gradients_of(model, layers, torch.cat(pictures))
    for name in layers:
        assert torch.equal(together[name], torch.cat([found[name] for found in alone]))


# --- what is computed in place ------------------------------------------------------------------------


class InPlace(nn.Module):
    """conv -> SiLU in place -> conv -> add in place -> ReLU in place, as loaded checkpoints have it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.silu, self.relu, self.end = nn.SiLU(inplace=True), nn.ReLU(inplace=True), nn.Identity()

    def forward(self, x):
        x = self.silu(self.first(x))
        return self.end(self.relu(self.second(x).add_(1))) * x


def replica(model, x, cut):
    """The same sums out of place, in float64; `cut` names the layer whose output is the leaf."""
    weights = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    kept = {}

    def mark(name, value):
        kept[name] = value.detach().requires_grad_() if name == cut else value
        return kept[name]

    x = mark("first", F.conv2d(x.double(), weights["first.weight"], weights["first.bias"], padding=1))
    x = mark("silu", x / (1 + (-x).exp()))
    y = mark("second", F.conv2d(x, weights["second.weight"], weights["second.bias"], padding=1))
    y = mark("relu", torch.where(y > -1, y + 1, 0.0 * y))
    return kept, mark("end", y) * x


@pytest.fixture
def in_place():
    torch.manual_seed(7)
    return InPlace().eval(), torch.randn(2, 2, 7, 5), torch.randn(2, 3, 7, 5)


@pytest.mark.parametrize("path", ["direct", "total"])
@pytest.mark.parametrize("name", ["first", "silu", "second", "relu", "end"])
def test_the_next_operation_in_place_spoils_neither_activation_nor_gradient(
    in_place, name, path, assert_close
):
    model, x, weights = in_place
    kept, result = replica(model, x, cut=name)
    expected = torch.autograd.grad((weights * result).sum(), kept[name])[0]
    with capture(model, {name: getattr(model, name)}, path) as caught:
        found = caught.gradients((weights * model(x)).sum())
    assert_close(caught.activations[name].detach(), kept[name].float())
    assert_close(found[name], expected.float())


def test_every_layer_of_an_in_place_network_can_be_captured_at_once(in_place, assert_close):
    model, x, weights = in_place
    names = ["first", "silu", "second", "relu"]
    with capture(model, {name: getattr(model, name) for name in names}, "total") as caught:
        found = caught.gradients((weights * model(x)).sum())
    kept, result = replica(model, x, cut="first")
    expected = torch.autograd.grad((weights * result).sum(), [kept[name] for name in names])
    for name, gradient in zip(names, expected, strict=True):
        assert_close(caught.activations[name].detach(), kept[name].float())
        assert_close(found[name], gradient.float())


class PassesOn(nn.Module):
    """The captured layer gives back its very input, which is then written into: y = x before, x + 5 after."""

    def __init__(self):
        super().__init__()
        self.stem, self.same = Times(2), nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        y = self.same(x)
        x.add_(5)
        return y * y


@pytest.mark.parametrize("layers", [["same"], ["stem", "same"]])
@pytest.mark.parametrize("path", ["direct", "total"])
def test_a_later_write_into_the_layers_input_does_not_reach_what_was_captured(layers, path, assert_close):
    model = PassesOn()
    with capture(model, {name: getattr(model, name) for name in layers}, path) as caught:
        found = caught.gradients((W * model(X)).sum())
    assert_close(caught.activations["same"].detach(), grid([2, -4], [0, 6]))  # 2x
    assert_close(found["same"], grid([4, -16], [0, 6]))  # 2 · W ⊙ 2x


class Transposes(nn.Module):
    """Batch normalisation y = 3x, 5x channel by channel, then a weighted sum over the transposed cells."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = Times(1), nn.BatchNorm2d(2, eps=0)
        self.norm.weight.data.copy_(torch.tensor([3.0, 5.0]))
        self.norm.eval()

    def forward(self, x, weights):
        cells = self.norm(self.stem(x)).flatten(2).transpose(1, 2)  # (B, h·w, C)
        areas = cells.reshape(-1, 2, 2)  # attention within areas of two cells
        return (areas * weights.transpose(1, 2)).sum()


@pytest.mark.parametrize("batch", [1, 2])
def test_batch_normalisation_gets_its_gradient_right_behind_a_transposition(batch, assert_close):
    # torch 2.14 on a CPU, left alone, mixes up the channels for a batch of 1.
    model = Transposes()
    weights = torch.arange(batch * 8.0).reshape(batch * 2, 2, 2)  # [area, channel, cell]
    with capture(model, {"stem": model.stem}) as caught:
        score = model(torch.ones(batch, 2, 2, 2), weights)
        found = caught.gradients(score)["stem"]
    # The first area is the upper row of the grid, [[0, 1], [2, 3]] of [channel, cell]; the second the lower.
    assert_close(found[0], [[[0, 3], [12, 15]], [[10, 15], [30, 35]]])


# --- what has no gradient -----------------------------------------------------------------------------


class Branches(nn.Module):
    """Two branches side by side: left = 2x, right = 3x, and a layer that comes after both."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.behind, self.idle = Times(2), Times(3), Times(1), Times(1)

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        self.behind(left + right)
        return left, right


@pytest.mark.parametrize("path", ["direct", "total"])
def test_parallel_branches_have_their_own_gradients(path, assert_close):
    model = Branches()
    with capture(model, {"left": model.left, "right": model.right}, path) as caught:
        left, right = model(X)
        found = caught.gradients((W * left * right).sum())
    assert_close(found["left"], W * 3 * X)
    assert_close(found["right"], W * 2 * X)


@pytest.mark.parametrize("path", ["direct", "total"])
def test_a_layer_that_takes_no_part_has_no_gradient(path, assert_close):
    model = Branches()
    with capture(model, {"left": model.left, "right": model.right}, path) as caught:
        _, right = model(X)
        found = caught.gradients((W * right).sum())
    assert found["left"] is None
    assert_close(found["right"], W)


def test_a_target_in_front_of_every_layer_is_refused():
    model = Branches()
    with capture(model, {"behind": model.behind}) as caught:
        left, _ = model(X)
        with pytest.raises(NoGradientError, match="layers behind"):
            caught.gradients(left.sum())


def test_a_target_beside_every_layer_has_no_gradient():
    model = Branches()
    with capture(model, {"left": model.left}) as caught:
        model(X)
        other = torch.ones((), requires_grad=True) * 2
        assert caught.gradients(other) == {"left": None}


def test_a_target_that_is_no_single_number_is_refused():
    model = Chain()
    with capture(model, {"a": model.a}) as caught:
        result = model(X)
        with pytest.raises(CaptureError, match=r"\(1, 1, 2, 2\)"):
            caught.gradients(result)


def test_a_layer_that_never_ran_is_named_when_gradients_are_asked_for():
    model = Branches()
    with capture(model, {"left": model.left, "idle": model.idle}) as caught:
        left, _ = model(X)
        with pytest.raises(CaptureError, match="'idle' did not run"):
            caught.gradients(left.sum())


# --- layers that cannot be captured -------------------------------------------------------------------


class Gives(nn.Module):
    """A network whose one layer gives whatever `make` makes of the input."""

    def __init__(self, make, times=1):
        super().__init__()
        self.layer, self.times = nn.Module(), times
        self.layer.forward = make

    def forward(self, x):
        return [self.layer(x) for _ in range(self.times)]


@pytest.mark.parametrize("path", ["direct", "total"])
def test_a_layer_that_runs_several_times_makes_as_many_layers(path, assert_close):
    model = Gives(lambda x: 2 * x, times=3)
    with capture(model, {"layer": model.layer}, path) as caught:
        one, two, three = model(X)
        gradients = caught.gradients((one + 10 * two * three).sum())
    assert set(caught.activations) == {"layer#0", "layer#1", "layer#2"}
    assert_close(gradients["layer#0"], torch.ones_like(X))
    assert_close(gradients["layer#1"], 10 * 2 * X)
    assert_close(gradients["layer#2"], 10 * 2 * X)


def test_one_run_of_a_layer_can_be_asked_for_alone(assert_close):
    model = Gives(lambda x: 2 * x, times=3)
    with capture(model, {"layer#1": model.layer}) as caught:
        one, two, _ = model(X)
        gradients = caught.gradients((one + 10 * two).sum())
    assert not one.requires_grad
    assert list(gradients) == ["layer#1"]
    assert_close(gradients["layer#1"], torch.full_like(X, 10))


def test_a_run_that_never_comes_is_named():
    model = Gives(lambda x: 2 * x, times=2)
    with capture(model, {"layer#2": model.layer}) as caught:
        model(X)
        with pytest.raises(CaptureError, match="'layer#2' did not run"):
            caught.check_all_ran()


class Features(NamedTuple):
    fine: torch.Tensor
    coarse: torch.Tensor


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: (x, 3 * x), ["layer[0]", "layer[1]"]),
        (lambda x: [x, (3 * x, None)], ["layer[0]", "layer[1.0]"]),
        (lambda x: {"0": x, "pool": 3 * x, "size": (2, 2)}, ["layer[0]", "layer[pool]"]),
        (lambda x: OrderedDict(a=x, b=3 * x), ["layer[a]", "layer[b]"]),
        (lambda x: Features(x, 3 * x), ["layer[fine]", "layer[coarse]"]),
    ],
)
@pytest.mark.parametrize("path", ["direct", "total"])
def test_every_tensor_of_nested_outputs_is_captured_and_they_keep_their_form(make, names, path, assert_close):
    model = Gives(make)
    with capture(model, {"layer": model.layer}, path) as caught:
        (output,) = model(X)
        first, second = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        gradients = caught.gradients((first + 7 * second).sum())
    assert type(output) is type(make(X))
    assert list(caught.activations) == names
    assert_close(caught.activations[names[1]], 3 * X)
    assert_close(gradients[names[0]], torch.ones_like(X))
    assert_close(gradients[names[1]], torch.full_like(X, 7))


def test_one_of_nested_outputs_can_be_asked_for_alone(assert_close):
    model = Gives(lambda x: {"0": x, "pool": 3 * x})
    with capture(model, {"layer[pool]": model.layer}) as caught:
        (output,) = model(X)
        gradients = caught.gradients((output["0"] + 7 * output["pool"]).sum())
    assert list(gradients) == ["layer[pool]"]
    assert_close(gradients["layer[pool]"], torch.full_like(X, 7))


def test_a_single_tensor_among_other_things_has_the_layers_own_name(assert_close):
    model = Gives(lambda x: (x, None, 3))
    with capture(model, {"layer": model.layer}) as caught:
        ((first, *rest),) = model(X)
        caught.gradients(first.sum())
    assert list(caught.activations) == ["layer"]
    assert rest == [None, 3]


def test_an_output_that_is_not_there_is_told_with_those_that_are():
    model = Gives(lambda x: {"0": x, "pool": x})
    with (
        pytest.raises(CaptureError, match=r"nothing at \[top\]: choose of 0, pool"),
        capture(model, {"layer[top]": model.layer}),
    ):
        model(X)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda x: (x.flatten(), 3), "a tuple"),
        (lambda x: {"out": x > 0}, "a dict"),
        (lambda x: None, "a NoneType"),
        (lambda x: x[0, 0], r"shape \(2, 2\)"),
        (lambda x: x.flatten(), r"shape \(4,\)"),
        (lambda x: x.int(), "type torch.int32"),
        (lambda x: x > 0, "type torch.bool"),
        (lambda x: x + 0j, "type torch.complex64"),
    ],
)
def test_a_layer_that_gives_no_feature_map_is_refused(make, complaint):
    model = Gives(make)
    with pytest.raises(CaptureError, match=complaint), capture(model, {"layer": model.layer}):
        model(X)
