"""The guest's coat: whatever happens to a borrowed network, afterwards it is what it was before."""

import copy
from collections import deque

import pytest
import torch
from guests_coat import unchanged
from torch import nn

from detcam.cam.capture import borrowed, capture

LAYERS = ("stem", "norm", "middle", "draws", "last")


class TroubleError(Exception):
    """What a module of the network raises in these tests."""


class Draws(nn.Module):
    """Uses up random numbers, as stochastic layers do."""

    def forward(self, x):
        return x + 0 * torch.rand_like(x)


class Guest(nn.Module):
    """A small network with mixed flags, stored gradients, frozen weights, buffers, hooks and tied weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.middle, self.draws, self.last = nn.Conv2d(4, 4, 1), Draws(), nn.Conv2d(4, 4, 1)
        self.last.weight = self.middle.weight
        self.register_buffer("count", torch.arange(3))
        self.register_buffer("scale", torch.ones(2, dtype=torch.float16))
        self.register_buffer("nothing", None)

    def forward(self, x):
        for name in LAYERS:
            x = getattr(self, name)(x)
        return x * self.scale[0]


def put_marks_on(model):
    """What only its owner could know about it: mixed flags, gradients, own hooks."""
    model.train()
    model.middle.eval()
    model.norm.eval()
    model.stem.weight.requires_grad_(False)
    model.middle.bias.requires_grad_(False)
    if not model.last.bias.is_inference():
        model.last.bias.grad = torch.full_like(model.last.bias, 0.5)
    model.own_calls = deque()
    model.middle.register_forward_hook(lambda *_: model.own_calls.append("middle"))
    model.stem.register_forward_pre_hook(lambda *_: model.own_calls.append("stem"))
    return model


def plain():
    return put_marks_on(Guest())


def half():
    return put_marks_on(Guest().half())


def bfloat16():
    return put_marks_on(Guest().bfloat16())


def made_under_inference_mode():
    with torch.inference_mode():
        model = Guest()
    return put_marks_on(model)


def with_computed_weights():
    model = put_marks_on(Guest())
    stem = nn.Conv2d(3, 4, 3)
    # As ultralytics 8.3.0 fuses: a parameter that was written into has a graph of its own.
    model.stem.weight.copy_(2 * stem.weight)
    assert not model.stem.weight.is_leaf
    return model


GUESTS = [plain, half, bfloat16, made_under_inference_mode, with_computed_weights]


def layers_of(model):
    return {name: getattr(model, name) for name in ("stem", "middle")}


def picture():
    return torch.linspace(-1, 1, 2 * 3 * 7 * 5).reshape(2, 3, 7, 5)


@pytest.mark.parametrize("path", ["direct", "total"])
@pytest.mark.parametrize("make", GUESTS)
def test_success_leaves_the_network_as_it_was(make, path):
    model = make()
    with unchanged(model), capture(model, layers_of(model), path) as caught:
        caught.gradients(model(picture()).sum())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("make", GUESTS)
def test_a_layer_that_raises_leaves_the_network_as_it_was(make, layer):
    model = make()

    def fail(*_):
        raise TroubleError

    getattr(model, layer).register_forward_hook(fail)
    with unchanged(model), pytest.raises(TroubleError), capture(model, layers_of(model)):
        model(picture())


@pytest.mark.parametrize("trouble", [TroubleError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("make", GUESTS)
def test_an_interrupted_block_leaves_the_network_as_it_was(make, trouble):
    model = make()

    def interrupted():
        model(picture())
        raise trouble

    with unchanged(model), pytest.raises(trouble), capture(model, layers_of(model)):
        interrupted()


@pytest.mark.parametrize("make", GUESTS)
def test_a_layer_that_cannot_be_hooked_leaves_the_network_as_it_was(make):
    model = make()
    with unchanged(model), pytest.raises(AttributeError), capture(model, {**layers_of(model), "none": None}):
        pass


@pytest.mark.parametrize("make", GUESTS)
@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.enable_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
)
def test_the_callers_mode_neither_matters_nor_changes(make, mode, assert_close):
    model, x = make(), picture()
    with capture(model, layers_of(model), "total") as caught:
        expected = caught.gradients(model(x).sum())
    with mode(), unchanged(model):
        inside = picture()  # under inference_mode an inference tensor
        with capture(model, layers_of(model), "total") as caught:
            found = caught.gradients(model(inside).sum())
        activations = dict(caught.activations)
    for name, gradient in expected.items():
        assert activations[name].dtype == torch.float32
        assert not activations[name].is_inference()
        assert torch.equal(found[name], gradient)


def test_autocast_is_off_for_a_network_without_parameters():
    model = nn.Module()
    model.register_buffer("weight", torch.eye(2) / 3)
    with torch.autocast("cpu", torch.bfloat16), borrowed(model):
        assert (torch.eye(2) @ model.weight).dtype == torch.float32


@pytest.mark.parametrize("make", [half, bfloat16])
def test_half_precision_weights_are_computed_with_in_float32(make):
    model = make()
    reference = copy.deepcopy(model).float().eval()
    with capture(model, layers_of(model), "total") as caught:
        found = caught.gradients(model(picture()).sum())
    with capture(reference, layers_of(reference), "total") as caught:
        expected = caught.gradients(reference(picture()).sum())
    for name in expected:
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("make", [half, made_under_inference_mode])
def test_tied_weights_stay_tied(make):
    model = make()
    with borrowed(model):
        assert model.last.weight is model.middle.weight
        assert model.last.weight.dtype == torch.float32
        assert not model.last.weight.is_inference()


def test_float32_weights_are_not_copied():
    model = plain()
    address = model.stem.weight.data_ptr()
    with borrowed(model):
        assert model.stem.weight.data_ptr() == address


def test_integer_buffers_stay_integers():
    model = half()
    with borrowed(model):
        assert model.count.dtype == torch.int64
        assert model.scale.dtype == torch.float32


def test_batch_norm_uses_and_keeps_its_running_statistics(assert_close):
    model = plain()
    model.norm.train()
    with capture(model, {"norm": model.norm}) as caught:
        model(picture())
        one, both = caught.activations["norm"][:1], caught.activations["norm"]
    with capture(model, {"norm": model.norm}) as caught:
        model(picture()[:1])
    assert_close(one.detach(), caught.activations["norm"].detach())
    assert len(both) == 2
    assert int(model.norm.num_batches_tracked) == 0
    assert model.norm.training


class Starts(nn.Module):
    """A network like ultralytics' `YOLO` object, whose `train` and `eval` do something else."""

    def train(self, mode=True):
        raise TroubleError("training started")

    def forward(self, x):
        return x


def test_an_overridden_train_or_eval_is_never_called():
    model = Starts()
    with borrowed(model):
        assert model.training is False
    assert model.training is True


def test_the_owners_hooks_run_while_the_network_is_borrowed():
    model = plain()
    with capture(model, layers_of(model)):
        model(picture())
    assert list(model.own_calls) == ["stem", "middle"]


def test_the_random_state_moves_on_inside_but_not_outside():
    model = plain()
    before = torch.get_rng_state()
    with capture(model, layers_of(model)):
        model(picture())
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_can_be_borrowed_again_while_they_are_borrowed():
    model = half()
    with unchanged(model), borrowed(model), capture(model, layers_of(model)) as caught:
        caught.gradients(model(picture()).sum())
