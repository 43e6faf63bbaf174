"""Guided backpropagation: gradients that count only where they speak for the target, at every activation.

Springenberg et al. 2014, arXiv:1412.6806. The network is not changed: the activation functions are caught
when they are called, whether as modules or as functions, in place or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from detcam.cam.capture import capture
from detcam.cam.layers import Layers
from detcam.cam.network import activation_maps
from detcam.cam.network_inputs import NetworkInputs, unwrapped
from detcam.cam.targets import Target, check_scalar, picture_of, targets_for
from detcam.cam.tokens import Cells, TokenGrid
from detcam.errors import CaptureError, NoGradientError

WITH_SWITCH: frozenset[Any] = frozenset(
    {
        functional.relu,
        functional.relu6,
        functional.hardtanh,  # what nn.ReLU6 calls; a rectifier only where it begins at 0
        functional.leaky_relu,
        functional.rrelu,
        functional.elu,
        functional.celu,
        functional.selu,
        functional.silu,
        functional.mish,
        functional.hardswish,
    }
)
"""Activation functions with `inplace=`."""

OUT_OF_PLACE: frozenset[Any] = frozenset(
    {torch.relu, Tensor.relu, functional.gelu, torch.prelu, Tensor.prelu, torch.celu, torch.selu, torch.rrelu}
)

IN_PLACE: dict[Any, Any] = {
    torch.relu_: torch.relu,
    Tensor.relu_: torch.relu,
    torch.celu_: torch.celu,
    torch.selu_: torch.selu,
    torch.rrelu_: torch.rrelu,
    functional.leaky_relu_: functional.leaky_relu,
    functional.elu_: functional.elu,
    functional.hardtanh_: functional.hardtanh,
}
"""Activation functions that write into their argument, and what computes the same beside it."""


@contextmanager
def guided_activations() -> Iterator[Guide]:
    """Let activation functions called in the `with` block hand back guided gradients; values do not change.

    Where a gradient g comes back to an activation f with input x, relu(g)·f'(x)·[x > 0] goes on. For ReLU
    that is the paper's rule.

    Differs from the paper: it knows ReLU only. Leaky ReLU, ELU, PReLU and the smooth ones (SiLU, Mish, GELU,
    Hardswish) keep their own slope f'(x) where x > 0, and hand nothing back elsewhere.

    Activations that are written out (`x.clamp(min=0)`, `x * x.sigmoid()`), compiled or in TorchScript are not
    seen. In-place ones are computed beside their argument, which then takes the values.
    """
    with Guide() as guide:
        yield guide


class Guide(TorchFunctionMode):
    """Catches activation functions.

    Attributes:
        seen: how many calls were guided.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        activation = _activation(func, args, kwargs)
        if activation is None:
            return func(*args, **kwargs)
        self.seen += 1
        function, is_in_place = activation
        entering = args[0] if args else kwargs["input"]
        if not torch.is_grad_enabled() or not entering.requires_grad:
            return func(*args, **kwargs)
        # An activation may remember what came in, which must not be written into after that.
        activated = function(entering.clone() if is_in_place else entering)
        guided = _Guided.apply(activated, entering)
        return entering.copy_(guided) if is_in_place else guided


class _Guided(torch.autograd.Function):
    """What an activation gave, with a gradient that only goes on where it and what came in are positive."""

    @staticmethod
    def forward(ctx: Any, activated: Tensor, entering: Tensor) -> Tensor:
        ctx.save_for_backward(entering > 0)
        return activated.clone()  # not a view of it, which no later operation could write into

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (is_positive,) = ctx.saved_tensors
        return gradient.clamp(min=0) * is_positive, None


def _activation(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[[Tensor], Tensor], bool] | None:
    """What an activation function makes of its argument, and whether in place; None for other functions."""
    if func in WITH_SWITCH:
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        options = {name: value for name, value in given.arguments.items() if name not in ("input", "inplace")}
        if options.get("min_val", 0) != 0:
            return None
        return lambda entering: func(entering, **options), bool(given.arguments["inplace"])
    if func not in OUT_OF_PLACE and func not in IN_PLACE:
        return None
    function = IN_PLACE.get(func, func)
    named = {name: value for name, value in kwargs.items() if name != "input"}
    if function is functional.hardtanh and (args[1:2] or [named.get("min_val", -1)])[0] != 0:
        return None
    return lambda entering: function(entering, *args[1:], **named), func in IN_PLACE


def guided_backprop(
    model: nn.Module,
    inputs: Any,
    target: Target | int | Sequence[Target | int] | None = None,
    *,
    forward: Callable[..., Any] | None = None,
) -> Tensor:
    """Guided backpropagation: the gradient of a target at the input, guided at every activation.

    Springenberg et al. 2014, arXiv:1412.6806; see `guided_activations` for what differs.

    Args:
        model: any network; it is left as it was.
        inputs: as `activation_maps` takes them.
        target: what is explained of each picture, as in `activation_maps`.
        forward: called with the inputs instead of the model.

    Returns:
        (B, C, H, W) as the first picture tensor among the inputs, float32, signed.

    Raises:
        InputError: a target or input cannot be used.
        ShapeError: a target is no single number.
        CaptureError: the network calls no activation function that can be guided.
        NoGradientError: no gradient comes back to a picture, or one that is not finite.
    """
    network = unwrapped(model)
    given = NetworkInputs.of(inputs).prepared(network)
    targets = targets_for(target, given.batch)
    picture = given.pictures[0]
    with capture(network, {}):
        leaf = picture.clone().requires_grad_()
        # The network may write into what it is given.
        arguments = given.map(lambda tensor: leaf.clone() if tensor is picture else tensor)
        with guided_activations() as guide:
            output = arguments.called(forward or network)
        if not guide.seen:
            raise CaptureError(
                "the network calls no activation function such as ReLU or SiLU: there is nothing to be guided"
            )
        scores = [
            check_scalar(one(picture_of(output, index, len(targets)))) for index, one in enumerate(targets)
        ]
        return _gradient(torch.stack(scores).sum(), leaf)


def guided_grad_cam(
    model: nn.Module,
    inputs: Any,
    target: Target | int | Sequence[Target | int] | None = None,
    *,
    layers: Layers = "last",
    forward: Callable[..., Any] | None = None,
    grid: Cells | TokenGrid | None = None,
) -> Tensor:
    """Guided Grad-CAM: guided backpropagation times the upsampled Grad-CAM of a layer.

    Selvaraju et al. 2017, arXiv:1610.02391, section 3.2. Of several layers, the maps' sum.

    Args:
        model: any network; it is left as it was.
        inputs: as `activation_maps` takes them.
        target: what is explained of each picture, as in `activation_maps`.
        layers: as in `activation_maps`.
        forward: called with the inputs instead of the model.
        grid: as in `activation_maps`.

    Returns:
        (B, C, H, W), float32, signed.

    Raises:
        InputError: something asked for does not exist or cannot be used.
        ShapeError: a target is no single number, or a layer's grid cannot be told.
        CaptureError: the network did not give what was to be captured, or nothing to be guided.
        NoGradientError: a picture's target depends on none of the layers, or not on the input.
    """
    maps = activation_maps(
        model, inputs, target, layers=layers, method="grad-cam", forward=forward, grid=grid
    )
    guided = guided_backprop(model, inputs, target, forward=forward)
    return guided * maps.heatmaps(tuple(guided.shape[2:]))[:, None]


def _gradient(score: Tensor, leaf: Tensor) -> Tensor:
    """The score's gradient.

    Raises:
        NoGradientError: a picture has none, or one that is not finite.
    """
    if not score.requires_grad:
        raise NoGradientError(
            "the target does not depend on the input, or the model detaches what it computes"
        )
    (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True)
    gradient = torch.zeros_like(leaf) if gradient is None else gradient
    for number, one in enumerate(gradient.detach()):
        if not one.isfinite().all() or not one.any():
            what = "zero, nothing speaks for its target" if one.isfinite().all() else "not finite"
            raise NoGradientError(f"the guided gradient of picture {number} is {what}: choose another target")
    return gradient.float()
