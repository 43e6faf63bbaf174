"""Which layers of a network to look at: by module, by name, by pattern, or found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detcam.cam.capture import module_name, observe
from detcam.cam.tokens import InputFrame
from detcam.errors import CaptureError, InputError, UnknownNameError

SHARES_ADD_UP = 1e-3
"""By how much shares of attention may miss their sum of 1."""

Layers = str | nn.Module | Sequence[str | nn.Module]
"""A module, a dotted name, a pattern such as "layer*.0", a key of `FOUND`, or several of these."""

Probe = Callable[[], tuple[Any, Tensor]]
"""Runs the network once and gives its output and the score that is explained."""


def select_layers(model: nn.Module, layers: Layers, frame: InputFrame, probe: Probe) -> dict[str, nn.Module]:
    """Name -> module of the layers asked for, in the order asked.

    Args:
        model: the network.
        layers: which ones.
        frame: the input that they are to lie over.
        probe: called at most once for each key of `FOUND`, inside a borrowed model.

    Raises:
        UnknownNameError: no such layer; the closest are offered.
        InputError: a module is not part of the model, or none is named.
    """
    wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    found: dict[str, nn.Module] = {}
    for one in wanted:
        if isinstance(one, nn.Module):
            found |= _by_module(model, one)
        elif not isinstance(one, str):
            raise InputError(f"a layer is a module, a name or a pattern, got a {type(one).__name__}")
        elif one in FOUND:
            found |= FOUND[one](model, frame, probe)
        else:
            found |= named_layers(model, one)
    if not found:
        raise InputError(f"no layers given: name layers, patterns, or one of {', '.join(FOUND)}")
    return found


def named_layers(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """Name -> module of a dotted name, or of all that a pattern with `*`, `?` and `[…]` matches.

    A name may go on with "#1" for the second time that the layer runs, and "[pool]" for one of several
    outputs.

    Raises:
        UnknownNameError: nothing matches; the closest are offered.
    """
    modules, name = _inner(model), _without_wrappers(model, name)
    known_as = dict(model.named_modules(remove_duplicate=False))
    for known in (name, module_name(name)):
        if known and known in known_as:
            return {name: known_as[known]}
    matching = {known: module for known, module in modules.items() if fnmatchcase(known, name)}
    if not matching:
        raise UnknownNameError("layer", name, [*FOUND, *modules])
    return matching


def last_layer(model: nn.Module, frame: InputFrame, probe: Probe) -> dict[str, nn.Module]:
    """The last layer whose output is a grid of several cells that the score depends on.

    For a convolutional classifier that is the last one before pooling. For a vision transformer whose head
    reads the class token it is the norm before the last attention: behind it other tokens count no more.

    Raises:
        CaptureError: there is none.
    """
    *_, name = _reached_layers(model, frame, probe)
    return {name: model.get_submodule(name)}


def stages(model: nn.Module, frame: InputFrame, probe: Probe) -> dict[str, nn.Module]:
    """The last layer at each stride whose output the score depends on, finest stride first.

    Inside a block that changes the stride, the first layers still work at the one before: they end no stage.
    What changes it more than once is no block but holds stages itself.

    Raises:
        CaptureError: there is none.
    """
    strides = _reached_layers(model, frame, probe)
    order = list(strides)
    last: dict[int, str] = {}
    for position, name in enumerate(order):
        inside = [other for other in order[:position] if other.startswith(f"{name}.")]
        before = order[order.index(inside[0]) - 1] if inside and order.index(inside[0]) else None
        if before is not None:
            came_in = strides[before]
            is_block = len({*(strides[one] for one in inside), strides[name]} - {came_in}) == 1
            if is_block and last.get(came_in) in inside:
                last[came_in] = before
        last[strides[name]] = name
    return {last[stride]: model.get_submodule(last[stride]) for stride in sorted(last)}


def _reached_layers(model: nn.Module, frame: InputFrame, probe: Probe) -> dict[str, int]:
    """Name -> stride of every layer that gives a grid of several cells the score depends on, as they finish.

    Maps with as many channels as a dense output has, which are that output itself, are left out, and what is
    inside an attention: shares and projections.
    """
    with observe(_inner(model)) as seen:
        output, score = probe()
    dense = {t.shape[1] for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.ndim >= 4}
    maps = {name: one for name, one in seen.items() if isinstance(one, Tensor) and one.requires_grad}
    if not maps or not score.requires_grad:
        raise CaptureError("the target is not connected to any layer: the network detaches what it computes")
    gradients = torch.autograd.grad(score, list(maps.values()), allow_unused=True)
    strides = {}
    for (name, one), gradient in zip(maps.items(), gradients, strict=True):
        layout = frame.layout_if_any(one)
        if gradient is None or layout is None or (one.ndim >= 4 and one.shape[1] in dense):
            continue
        if _is_attention(one) or _is_projection(model.get_submodule(name), one):
            continue
        reached = layout(gradient).abs().amax(dim=(0, 1)) > 0
        if int(reached.sum()) > 1:
            strides[name] = round(frame.input_size[-1] / reached.shape[-1])
    if not strides:
        raise CaptureError("no layer gives a grid of cells that the target depends on: name layers")
    return strides


def _is_attention(output: Tensor) -> bool:
    """Whether a layer gives (B, heads, N, N) shares of attention, which look like feature maps."""
    is_square = output.ndim == 4 and output.shape[2] == output.shape[3]
    return is_square and bool((output >= 0).all() and (output.sum(dim=-1) - 1).abs().max() < SHARES_ADD_UP)


def _is_projection(module: nn.Module, output: Tensor) -> bool:
    """Whether a layer gives tokens for use inside a block, such as queries, keys and values in one."""
    return isinstance(module, nn.Linear) and output.ndim == 3


def shift_of(model: nn.Module, name: str) -> int:
    """By how many cells the windows that a layer works in are shifted: `shift_size` of what it stands in."""
    parts = module_name(name).split(".")
    for end in range(len(parts), 0, -1):
        shift = getattr(model.get_submodule(".".join(parts[:end])), "shift_size", None)
        if shift is not None:
            return int(shift if isinstance(shift, int) else shift[0])
    return 0


def _without_wrappers(model: nn.Module, name: str) -> str:
    """The name without what data-parallel and compiled wrappers, which are off by now, put in front."""
    first, dot, rest = name.partition(".")
    is_wrapper = first in ("module", "_orig_mod") and dot and first not in dict(model.named_children())
    return _without_wrappers(model, rest) if is_wrapper else name


def _by_module(model: nn.Module, wanted: nn.Module) -> dict[str, nn.Module]:
    for name, module in model.named_modules():
        if module is wanted and name:
            return {name: module}
    raise InputError(f"the layer {type(wanted).__name__} is not part of this {type(model).__name__}")


def _inner(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if name}


FOUND: dict[str, Callable[[nn.Module, InputFrame, Probe], dict[str, nn.Module]]] = {
    "last": last_layer,
    "stages": stages,
}
"""Ways to find layers, by the name to ask for them."""
