"""Noting outputs, and giving a detached branch its gradient back."""

import pytest
import torch
from pencil_networks import Chain, Times, W, X
from torch import nn

from detcam.cam.capture import capture, observe, reconnected
from detcam.errors import NoGradientError


def test_observing_notes_outputs_and_changes_none():
    model = Chain()
    outside = model(X)
    with observe({"a": model.a, "b": model.b}) as seen:
        result = model(X)
    assert torch.equal(result, outside)
    assert torch.equal(seen["a"], 2 * X)
    assert torch.equal(seen["b"], 6 * X)
    assert not model.a._forward_hooks


class DetachedHead(nn.Module):
    """Feeds its branch a detached copy of its input, as end-to-end heads of old releases do."""

    def __init__(self, cut=lambda x: x.detach()):
        super().__init__()
        self.stem, self.head = Times(2), nn.Module()
        self.head.branch, self.head.forward = Times(5), lambda xs: [self.head.branch(cut(x)) for x in xs]

    def forward(self, x):
        return self.head([self.stem(x)])[0]


def head_gradient(model, *, reconnect):
    with capture(model, {"stem": model.stem}) as caught:
        if reconnect:
            with reconnected(model.head, [model.head.branch]):
                result = model(X)
        else:
            result = model(X)
        return result, caught.gradients((W * result).sum())["stem"]


def test_a_detached_branch_has_no_gradient():
    with pytest.raises(NoGradientError):
        head_gradient(DetachedHead(), reconnect=False)


def test_a_reconnected_branch_has_its_gradient_and_its_values(assert_close):
    result, gradient = head_gradient(DetachedHead(), reconnect=True)
    assert_close(result.detach(), 10 * X)
    assert_close(gradient, 5 * W)


def test_reconnecting_leaves_an_attached_branch_alone(assert_close):
    received = []
    model = DetachedHead(cut=lambda x: received.append(x) or x)
    with capture(model, {"stem": model.stem}), reconnected(model.head, [model.head.branch]):
        model.head.branch.register_forward_pre_hook(lambda _module, inputs: received.append(inputs[0]))
        model(X)
    assert received[0] is received[1]


@pytest.mark.parametrize(
    "cut", [lambda x: x.detach().clone(), lambda x: x.detach().transpose(2, 3), lambda x: x.detach()[..., :1]]
)
def test_reconnecting_replaces_nothing_but_the_very_same_values(cut):
    model = DetachedHead(cut)
    with pytest.raises(NoGradientError):
        head_gradient(model, reconnect=True)


def test_reconnecting_leaves_no_hooks_after_a_failure():
    model = DetachedHead(cut=lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError), reconnected(model.head, [model.head.branch]):
        model(X)
    assert not model.head._forward_pre_hooks
    assert not model.head.branch._forward_pre_hooks
