"""Running a network again from one layer on, with other activations there.

What ran before the layer is not computed again: a module that finished before it gives what it gave in a
recorded pass, as one picture in memory seen k times. Modules that contain the layer run their own code, so
the network may be wired in any way. `forward` is exchanged on the modules for the time of a run; no hooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detcam.cam.capture import borrowed
from detcam.cam.recording import Recorder, Script, Stored, exchanged_forwards, pictures_dim, script_of
from detcam.cam.turns import FAST_TRANSFORMERS
from detcam.errors import CaptureError, ShapeError

TOLERANCE = 1e-3
"""Share of the largest score by which a replayed pass may differ from a full one: rounding, no more."""

Run = Callable[[Any], Tensor]
"""From inputs for k pictures to (T, k): the scores of T targets in each."""


@dataclass(frozen=True, eq=False)
class Replay:
    """A network that can be run again from one layer on, as long as it is borrowed.

    Attributes:
        model: the network.
        run: calls it and scores what it gives.
        script: what its modules give instead of computing it.
        scores: (T, 1), of the pass that was recorded.
    """

    model: nn.Module
    run: Run
    script: Script
    scores: Tensor

    def output(self, copies: int = 1) -> Tensor:
        """What the layer gave, for so many copies of the picture and as the layer gives it."""
        return self.script.output.spread(copies)

    def __call__(self, output: Tensor, copies: int) -> Tensor:
        """Run the network with another output of the layer, which it may write into.

        Args:
            output: shaped as `output(copies)`.
            copies: pictures in it, k.

        Returns:
            (T, k) scores.

        Raises:
            ShapeError: the output, or what `run` gives, has another shape.
        """
        expected = tuple(self.output(copies).shape)
        if tuple(output.shape) != expected:
            raise ShapeError(f"the layer gives {expected} for {copies} pictures, got {tuple(output.shape)}")
        calls: Counter[nn.Module] = Counter()

        def exchange(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any] | None:
            effects = self.script.effects.get(module)
            if effects is None:
                return None

            def replayed_forward(*args: Any, **kwargs: Any) -> Any:
                effect = effects[calls[module]] if calls[module] < len(effects) else None
                calls[module] += 1
                if effect is None:
                    return forward(*args, **kwargs)
                return effect.replay((args, kwargs), copies, output)

            return replayed_forward

        with exchanged_forwards(self.model, exchange):
            return _checked(self.run(self.script.spread_inputs(copies)), copies)


@contextmanager
def replayed(model: nn.Module, layer: str, run: Run, inputs: Any) -> Iterator[Replay]:
    """Record a pass of one picture and make it possible to go on from a layer, inside the `with` block.

    Takes a forward pass of one picture and two of two, which tell where in each tensor the pictures lie and
    check that a replayed pass scores what a full one does.

    Args:
        model: the network; borrowed (see `borrowed`) for the time of the block, and without gradients.
        layer: dotted name of a module, or, as `capture` names them, "head#1" for its second call and
            "backbone[pool]" for one of its tensors.
        run: from inputs for k pictures to (T, k) scores; it must call the network.
        inputs: of one picture, tensors as deep in lists, tuples and dicts as you like. Those whose first
            dimension is 1 are repeated for each picture; one that must not be belongs into `run`.

    Raises:
        CaptureError: the layer did not run, or replaying does not give what the full network gives.
        ShapeError: `run` does not give (T, k).
    """
    with borrowed(model), torch.no_grad(), _in_single_steps():
        stored = pytree.tree_map(_stored_input, inputs)
        one = Recorder(layer)
        scores = _checked(_recorded(model, one, run, pytree.tree_map(_own_input, stored)), 1)
        first_output = one.output.value
        two = Recorder(layer, changed=lambda both: with_gaps(both, first_output))
        twice = pytree.tree_map(lambda leaf: _several(leaf, 2), stored)
        expected = _checked(_recorded(model, two, run, twice), 2)
        replay = Replay(model, run, script_of(one, two, stored), scores)
        _check(replay, expected, layer)
        yield replay


def with_gaps(two: Tensor, one: Tensor) -> Tensor:
    """A copy of a tensor of two pictures with every other number of the second picture set to zero.

    Args:
        two: of two pictures.
        one: the same of one picture.
    """
    two = two.clone()
    dim = pictures_dim(one, two)
    if dim is not None:
        second = two.narrow(dim, one.shape[dim], one.shape[dim])
        second.mul_(torch.arange(second.numel(), device=two.device).remainder(2).view(second.shape))
    return two


def _recorded(model: nn.Module, recorder: Recorder, run: Run, inputs: Any) -> Tensor:
    layer = model.get_submodule(recorder.module)

    def exchange(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def recorded_forward(*args: Any, **kwargs: Any) -> Any:
            return recorder.record(module, forward, (args, kwargs), is_layer=module is layer)

        return recorded_forward

    with exchanged_forwards(model, exchange):
        return run(inputs)


def _check(replay: Replay, expected: Tensor, layer: str) -> None:
    """Check that a replayed pass scores what the full one did with the same change at the layer.

    Raises:
        CaptureError: it does not.
    """
    sentence = f"the network cannot be run from layer {layer!r} on: "
    if not _alike(expected[:, :1], replay.scores):
        raise CaptureError(f"{sentence}a picture's score depends on the others in its batch")
    try:
        found = replay(with_gaps(replay.output(2), replay.output()), 2)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise CaptureError(f"{sentence}{error}") from error
    if not _alike(found, expected):
        raise CaptureError(f"{sentence}replaying what lies before it does not give what computing it gives")


def _alike(found: Tensor, expected: Tensor) -> bool:
    largest = expected.nan_to_num().abs().amax() if expected.numel() else 0
    return torch.allclose(found, expected, rtol=0, atol=float(TOLERANCE * largest), equal_nan=True)


def _checked(scores: Tensor, copies: int) -> Tensor:
    if scores.ndim != 2 or scores.shape[1] != copies:
        raise ShapeError(f"scores of {copies} pictures must be (T, {copies}), got {tuple(scores.shape)}")
    return scores


def _stored_input(leaf: Any) -> Any:
    """A copy to keep, and one that the network may write into."""
    if not isinstance(leaf, Tensor):
        return leaf
    stored = Stored.of(leaf.detach())
    stored.source, stored.version = stored.value.clone(), 0
    stored.dim = 0 if leaf.ndim and leaf.shape[0] == 1 else None
    return stored


def _own_input(leaf: Any) -> Any:
    return leaf.source if isinstance(leaf, Stored) else leaf


def _several(leaf: Any, copies: int) -> Any:
    return leaf.spread(copies).clone() if isinstance(leaf, Stored) else leaf


@contextmanager
def _in_single_steps() -> Iterator[None]:
    """Have torch's transformer layers call the modules inside them, instead of one kernel for all."""
    with FAST_TRANSFORMERS.kept(["enabled"]):
        torch.backends.mha.set_fastpath_enabled(False)
        yield
