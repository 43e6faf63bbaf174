"""Catching activations and gradients inside a network that belongs to somebody else.

The only file that registers hooks. Everything is a context manager: on the way out, after success and
after any failure, the network is exactly what it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detcam.cam.sparse_backward import SparseBackward
from detcam.cam.turns import RANDOM_STATE, turn_with
from detcam.errors import CaptureError, NoGradientError

GradientPath = Literal["direct", "total"]
"""`direct`: captured layers are joint leaves of one graph. `total`: through deeper captured layers too."""


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Lend out a model for forward passes: evaluating, frozen, in float32, on ordinary tensors.

    Parameters in half precision, of inference mode or with a graph of their own are replaced by float32
    copies for the time being, so that gradients neither underflow nor fail. An inference mode or autocast
    of the caller is left. On exit the model holds the very same parameter objects, flags and values as
    before, and the global random state is what it was. Another thread that wants the same model waits.
    """
    with ExitStack() as stack:
        stack.enter_context(turn_with(model))
        devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
        stack.enter_context(torch.inference_mode(False))
        for kind in {device.type for device in devices}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        cuda = [device for device in devices if device.type == "cuda"]
        stack.enter_context(RANDOM_STATE.kept([torch.device("cpu"), *cuda]))
        stack.enter_context(_ordinary_tensors(model))
        stack.enter_context(_frozen(model))
        stack.enter_context(_evaluating(model))
        yield


@dataclass(eq=False)
class Capture:
    """The captured layers of one forward pass.

    Attributes:
        layers: names of the layers that were to be captured.
        activations: layer name -> output, (B, C, h, w) or whatever the layer gives, live in the graph.
    """

    layers: tuple[str, ...]
    activations: dict[str, Tensor] = field(default_factory=dict)

    def check_all_ran(self) -> None:
        """Check that every layer gave its output.

        Raises:
            CaptureError: one did not run.
        """
        for name in self.layers:
            if not any(key == name or key.startswith((f"{name}#", f"{name}[")) for key in self.activations):
                raise CaptureError(f"layer {name!r} did not run in the forward pass: choose another layer")

    def gradients(self, score: Tensor) -> dict[str, Tensor | None]:
        """Gradient of a scalar with respect to every captured layer.

        Args:
            score: 0-dim tensor of the graph. With several pictures in the batch, the sum of one score
                each: pictures do not mix, so every slice of the result belongs to its own picture.

        Returns:
            Layer name -> gradient, float32, shaped like the activations; None where `score` does not
            depend on the layer, and for some that are zero everywhere (see `SparseBackward`).

        Raises:
            NoGradientError: `score` is connected to none of the layers.
            CaptureError: `score` is no scalar, or a layer never ran.
        """
        self.check_all_ran()
        if score.ndim != 0:
            raise CaptureError(
                f"a target must give a 0-dim tensor, got shape {tuple(score.shape)}: index or sum it"
            )
        if not score.requires_grad:
            raise NoGradientError(
                f"the target is not connected to the layers {', '.join(self.activations)}: they lie behind "
                f"it, or the model detaches what it computes"
            )
        found = torch.autograd.grad(
            score, list(self.activations.values()), retain_graph=True, allow_unused=True
        )
        return {
            name: None if gradient is None else gradient.float()
            for name, gradient in zip(self.activations, found, strict=True)
        }


@contextmanager
def capture(
    model: nn.Module, layers: Mapping[str, nn.Module], path: GradientPath = "direct"
) -> Iterator[Capture]:
    """Catch the outputs of `layers` in the forward passes made inside the `with` block.

    What lies before the earliest captured layer runs without a graph: a captured output that no other
    captured layer feeds becomes a leaf. With `direct` every captured output becomes a leaf, so that the
    gradients of several layers add up without counting anything twice.

    Args:
        model: the network; borrowed (see `borrowed`) for the time of the block.
        layers: name -> module of `model`. A module that runs several times, or gives several tensors, makes
            as many layers: "head#0", "head#1", "backbone[0]", "backbone[pool]"; such a name asks for that
            one alone.
        path: which of the two gradients of several layers to build the graph for.

    Raises:
        CaptureError: a layer gave no float tensor of three or more dimensions.
    """
    caught = Capture(tuple(layers))
    with borrowed(model), _sound_batch_norm(model), ExitStack() as stack:
        for name, module in layers.items():
            catcher = _Catcher(name, caught.activations, cut_always=path == "direct")
            stack.callback(module.register_forward_hook(catcher).remove)
        with torch.enable_grad(), SparseBackward():
            yield caught


@contextmanager
def observe(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Note the last outputs of `modules`, unchanged, in the order in which these finished.

    Of the forward passes made inside the `with` block.
    """
    outputs: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.pop(name, None)
            outputs[name] = output

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(note(name)).remove)
        yield outputs


@contextmanager
def reconnected(parent: nn.Module, branches: Sequence[nn.Module]) -> Iterator[None]:
    """Undo the `detach()` between the inputs of `parent` and the inputs of `branches` inside it.

    Some heads feed a branch with detached copies of their own inputs, even in evaluation: outputs still
    say `requires_grad`, but no gradient comes back. A branch input that is a detached view of an input
    of `parent` (same memory, same layout) is replaced by that input; values do not change.
    """
    live: dict[tuple[Any, ...], Tensor] = {}

    def remember(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        live.update((_layout(tensor), tensor) for tensor in _tensors(inputs) if tensor.requires_grad)

    def replace(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            live.get(_layout(value), value)
            if isinstance(value, Tensor) and not value.requires_grad
            else value
            for value in inputs
        )

    with ExitStack() as stack:
        stack.callback(live.clear)
        stack.callback(parent.register_forward_pre_hook(remember).remove)
        for branch in branches:
            stack.callback(branch.register_forward_pre_hook(replace).remove)
        yield


class _Catcher:
    """Notes what a module gives, under the names of the layers that were asked for.

    A layer's plain name stands for all that it gives. Where that is several tensors, they are told apart as
    "backbone[0]", "backbone[pool]"; and where it runs several times, as "head#0", "head#1".
    """

    def __init__(self, name: str, activations: dict[str, Tensor], *, cut_always: bool) -> None:
        self._name, self._call, self._place = parts_of(name)
        self._activations, self._cut_always = activations, cut_always
        self._calls = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        call, self._calls = self._calls, self._calls + 1
        if self._call not in (None, call):
            return None
        leaves, structure = pytree.tree_flatten_with_path(output)
        places = [place_of(path) for path, leaf in leaves if is_map(leaf)]
        if not places:
            raise CaptureError(
                f"layer {self._name!r} gave {_describe(output)}, "
                "no (B, C, h, w) feature maps or (B, N, C) tokens"
            )
        if self._place is not None and self._place not in places:
            raise CaptureError(
                f"layer {self._name!r} gave nothing at [{self._place}]: choose of {', '.join(places)}"
            )
        replaced = [
            self._catch(leaf, call, place_of(path) if len(places) > 1 else self._place)
            if is_map(leaf) and self._place in (None, place_of(path))
            else leaf
            for path, leaf in leaves
        ]
        return pytree.tree_unflatten(replaced, structure)

    def _catch(self, output: Tensor, call: int, place: str | None) -> Tensor:
        is_cut = self._cut_always or not output.requires_grad
        # The network may write into the layer's input, which some layers hand on as their output, and the
        # next operation into what it is given (in-place activations do): both get another copy than ours.
        caught = output.detach().clone().requires_grad_() if is_cut else output.clone()
        self._activations[self._key(call, place)] = caught
        return caught.clone()

    def _key(self, call: int, place: str | None) -> str:
        suffix = "" if place is None else f"[{place}]"
        if self._call is None and call == 0:
            return f"{self._name}{suffix}"
        if call == 1 and f"{self._name}{suffix}" in self._activations:
            self._activations[f"{self._name}#0{suffix}"] = self._activations.pop(f"{self._name}{suffix}")
        return f"{self._name}#{call}{suffix}"


def module_name(layer: str) -> str:
    """The module that a layer's name such as "head#1[pool]" stands for: "head"."""
    return parts_of(layer)[0]


def parts_of(name: str) -> tuple[str, int | None, str | None]:
    """Module, call and place of "head#1[pool]"; None where the name leaves them open."""
    found = re.fullmatch(r"(.*?)(?:#(\d+))?(?:\[(.*)\])?", name, re.DOTALL)
    module, call, place = found.groups() if found else (name, None, None)
    return module, None if call is None else int(call), place


def place_of(path: tuple[Any, ...]) -> str:
    """Where a tensor stands in nested outputs: "pool", "0.1"."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def is_map(value: object) -> bool:
    """Whether something may be feature maps or tokens: floating-point numbers in three or more dimensions."""
    return isinstance(value, Tensor) and value.ndim >= 3 and value.is_floating_point()


def _straightened(gradient: Tensor | None) -> Tensor | None:
    """A gradient in plain memory order; none where nothing comes back."""
    return None if gradient is None else gradient.contiguous()


@contextmanager
def _sound_batch_norm(model: nn.Module) -> Iterator[None]:
    """Hand batch normalisation its gradients in plain memory order.

    On the CPU (torch 2.14) its backward pass in evaluation mode silently mixes up the channels of a single
    picture's gradient that comes in transposed, as it does from the area attention of YOLO12.
    """

    def straighten(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(_straightened)  # type: ignore[no-untyped-call]

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                stack.callback(module.register_forward_hook(straighten).remove)
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # The flag is set directly: `eval()` is overridden in the wild, even to start a training.
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _ordinary_tensors(model: nn.Module) -> Iterator[None]:
    originals: list[tuple[dict[str, Any], str, Tensor]] = []
    copies: dict[int, Tensor] = {}  # tied weights stay tied
    try:
        for module in model.modules():
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in stores:
                for name, tensor in tensors.items():
                    if tensor is not None and _needs_copy(tensor):
                        originals.append((tensors, name, tensor))
                        copies.setdefault(id(tensor), _float32_copy(tensor))
                        tensors[name] = copies[id(tensor)]
        yield
    finally:
        for tensors, name, tensor in originals:
            tensors[name] = tensor


def _needs_copy(tensor: Tensor) -> bool:
    # Weights that were computed, as some releases of ultralytics leave them when they fuse, cannot be frozen.
    return tensor.is_inference() or not tensor.is_leaf or tensor.dtype in (torch.float16, torch.bfloat16)


def _float32_copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    copy = copy.float() if copy.dtype in (torch.float16, torch.bfloat16) else copy
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)} and type {output.dtype}"
    return f"a {type(output).__name__}"
