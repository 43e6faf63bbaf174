"""What the modules of a network gave in one forward pass, so that they need not compute it again.

Kept are the outermost modules that finished before a layer began, and the layer itself. One picture is
recorded, and for the shapes alone two, which tell along which dimension of a tensor the pictures lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detcam.cam.capture import is_map, parts_of, place_of
from detcam.errors import CaptureError

CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device)
"""What a module may give beside tensors and be replayed: the same for any number of pictures."""

Exchange = Callable[[nn.Module, Callable[..., Any]], Callable[..., Any] | None]
"""From a module and its `forward` to another one, or None to leave it."""


@contextmanager
def exchanged_forwards(model: nn.Module, exchange: Exchange) -> Iterator[None]:
    """Put other functions in the place of modules' `forward` for the time of the block."""
    before: list[tuple[dict[str, Any], bool, Any]] = []
    try:
        for module in model.modules():
            # What TorchScript runs does not come by here.
            other = None if isinstance(module, torch.jit.ScriptModule) else exchange(module, module.forward)
            if other is not None:
                # Not by `setattr`, which networks override; some have a `forward` of their own in there.
                own = vars(module)
                before.append((own, "forward" in own, own.get("forward")))
                own["forward"] = other
        yield
    finally:
        for own, had_forward, forward in before:
            if had_forward:
                own["forward"] = forward
            else:
                del own["forward"]


@dataclass(eq=False)
class Stored:
    """A tensor of the recorded pass.

    Attributes:
        value: its numbers, of one picture, when the module handed it on.
        source: the network's own tensor, watched until the pass is over.
        version: of the source, when it was handed on.
        dim: along which pictures lie; None where it is the same for any number.
        is_changed: something writes into it later.
        is_shared: no more than the replayed modules do, the same for every picture.
    """

    value: Tensor
    source: Tensor | None = None
    version: int = 0
    dim: int | None = None
    is_changed: bool = False
    is_shared: bool = True

    @classmethod
    def of(cls, source: Tensor) -> Stored:
        """A tensor as it is now."""
        return cls(source.clone(), source, source._version)

    def spread(self, copies: int) -> Tensor:
        """The tensor for so many copies of the picture: one in memory, unless each is written into."""
        value = self.value.clone() if self.is_changed else self.value
        if self.dim is None or copies == 1:
            return value
        if value.shape[self.dim] != 1:  # windows or heads, of one picture after the other
            return torch.cat([value] * copies, dim=self.dim)
        wide = value.expand(*(copies if dim == self.dim else -1 for dim in range(value.ndim)))
        return wide if self.is_shared else wide.clone()

    def find_writes(self, later_effects: list[Effect]) -> None:
        """Find out who wrote into it, now that the pass is over."""
        if self.source is not None:
            writes = self.source._version - self.version
            replayed = sum(effect.count_writes(self.source) for effect in later_effects)
            self.is_changed, self.is_shared = writes > 0, writes <= replayed


def pictures_dim(one: Tensor, two: Tensor) -> int | None:
    """Along which dimension pictures lie, from one tensor of one picture and one of two.

    Raises:
        CaptureError: it cannot be told.
    """
    if one.shape == two.shape:
        return None
    if one.ndim == two.ndim:
        longer = [dim for dim in range(one.ndim) if one.shape[dim] != two.shape[dim]]
        if len(longer) == 1 and two.shape[longer[0]] == 2 * one.shape[longer[0]]:
            return longer[0]
    raise CaptureError(
        f"a tensor of shape {tuple(one.shape)} for one picture is {tuple(two.shape)} for two pictures"
    )


@dataclass(frozen=True)
class Argument:
    """An output that is one of the arguments, handed on: its number among their leaves."""

    index: int


@dataclass(eq=False)
class Effect:
    """What one call of a module did.

    Attributes:
        outputs: leaves of what it gave.
        structure: how they are nested.
        writes: number of an argument's leaf -> what it held afterwards.
        written: the tensors behind `writes`, with how often they were written into.
        replaced: which output is the layer's; None in the other modules.
    """

    outputs: list[Stored | Argument | Any]
    structure: pytree.TreeSpec
    writes: dict[int, Stored]
    written: list[tuple[Tensor, int]]
    replaced: int | None = None

    @property
    def stored(self) -> list[Stored]:
        """All tensors of it."""
        return [*(one for one in self.outputs if isinstance(one, Stored)), *self.writes.values()]

    def replay(self, arguments: Any, copies: int, activations: Tensor) -> Any:
        """Do the same to the arguments, and give the same, for so many pictures."""
        leaves = pytree.tree_leaves(arguments)
        for index, stored in self.writes.items():
            _write(leaves[index], stored.spread(copies))
        outputs = [_given(one, leaves, copies) for one in self.outputs]
        if self.replaced is not None:
            outputs[self.replaced] = activations
        return pytree.tree_unflatten(outputs, self.structure)

    def count_writes(self, tensor: Tensor) -> int:
        """How often it wrote into the memory of a tensor."""
        memory = tensor.untyped_storage()._cdata
        times = [times for one, times in self.written if one.untyped_storage()._cdata == memory]
        return max(times, default=0)

    def settle(self, two: Effect) -> bool:
        """Learn from the same call for two pictures where pictures lie; False where that cannot be told."""
        if self.structure != two.structure or list(self.writes) != list(two.writes):
            return False
        for one, other in zip(self.outputs, two.outputs, strict=True):
            if type(one) is not type(other) or (not isinstance(one, Stored) and one != other):
                return False
        try:
            for stored, other in zip(self.stored, two.stored, strict=True):
                stored.dim = pictures_dim(stored.value, other.value)
        except CaptureError:
            return False
        return True


def _given(output: Stored | Argument | Any, arguments: list[Any], copies: int) -> Any:
    if isinstance(output, Argument):
        return arguments[output.index]
    return output.spread(copies) if isinstance(output, Stored) else output


def _write(target: Tensor, value: Tensor) -> None:
    for dim in range(target.ndim):
        if target.shape[dim] > 1 and target.stride(dim) == 0:  # one picture in memory, seen several times
            target = target.narrow(dim, 0, 1)
            value = value.narrow(dim, 0, 1) if value.shape[dim] > 1 else value
    target.copy_(value)


@dataclass(eq=False)
class _Call:
    """A module's call, with the calls inside it as long as they may have to be replayed one by one."""

    module: nn.Module | None = None
    inner: list[_Call] = field(default_factory=list)
    effect: Effect | None = None
    is_watched: bool = False  # somebody's hooks wait for modules in it

    def visible(self) -> Iterator[_Call]:
        """The calls that come by when those with an effect are not computed again."""
        for call in self.inner:
            yield call
            if call.effect is None:
                yield from call.visible()

    @property
    def effects(self) -> list[Effect]:
        return [call.effect for call in self.visible() if call.effect is not None]


class Recorder:
    """Listens to one forward pass.

    Args:
        layer: as `capture` names layers.
        changed: what the network is to go on with instead of the layer's output.
    """

    def __init__(self, layer: str, changed: Callable[[Tensor], Tensor] | None = None) -> None:
        self.layer = layer
        self.module, self._call_number, self._place = parts_of(layer)
        self._changed = changed
        self._runs = 0
        self._path = [_Call()]
        self._layer_effect: Effect | None = None

    @property
    def root(self) -> _Call:
        """Holds all calls."""
        return self._path[0]

    @property
    def output(self) -> Stored:
        """The layer's output.

        Raises:
            CaptureError: the layer did not run.
        """
        effect = self._layer_effect
        if effect is None or effect.replaced is None:
            raise CaptureError(f"layer {self.layer!r} did not run in the forward pass: choose another layer")
        stored = effect.outputs[effect.replaced]
        assert isinstance(stored, Stored)
        return stored

    def record(
        self, module: nn.Module, forward: Callable[..., Any], arguments: tuple[Any, Any], *, is_layer: bool
    ) -> Any:
        """Call `forward` with the arguments, positional ones and by name, and note what it did."""
        args, kwargs = arguments
        is_layer = is_layer and self._is_meant()
        call = _Call(module, is_watched=bool(module._forward_hooks or module._forward_pre_hooks))
        self._path[-1].inner.append(call)
        leaves = pytree.tree_leaves(arguments)
        versions = [leaf._version if isinstance(leaf, Tensor) else 0 for leaf in leaves]
        had_begun = self._layer_effect is not None
        self._path.append(call)
        try:
            output = forward(*args, **kwargs)
        finally:
            self._path.pop()
        if is_layer:
            self._layer_effect = call.effect = _effect(leaves, versions, output)
            call.inner.clear()
            return self._of_layer(call.effect, output)
        is_around = not had_begun and self._layer_effect is not None
        if not had_begun and not is_around:
            self._close(call, leaves, versions, output)
        return output

    def _is_meant(self) -> bool:
        number, self._runs = self._runs, self._runs + 1
        if self._call_number is None and number == 1:
            raise CaptureError(
                f"layer {self.layer!r} ran more than once: name one call, such as '{self.layer}#0'"
            )
        return self._call_number in (None, number)

    def _close(self, call: _Call, leaves: list[Any], versions: list[int], output: Any) -> None:
        is_watched_inside = any(one.is_watched for one in call.inner)
        if not is_watched_inside:
            call.effect = _effect(leaves, versions, output)
        if call.effect is not None:
            call.inner.clear()
        call.is_watched = call.is_watched or is_watched_inside

    def _of_layer(self, effect: Effect | None, output: Any) -> Any:
        leaves, structure = pytree.tree_flatten_with_path(output)
        places = {place_of(path): number for number, (path, leaf) in enumerate(leaves) if is_map(leaf)}
        chosen = [number for place, number in places.items() if self._place in (None, place)]
        if effect is None or len(chosen) != 1:
            raise CaptureError(
                f"layer {self.layer!r} gave {len(places)} feature maps, one is wanted: "
                f"name one of {', '.join(f'[{place}]' for place in places) or 'another layer'}"
            )
        (effect.replaced,) = chosen
        plain = [leaf for _, leaf in leaves]
        effect.outputs[effect.replaced] = Stored.of(plain[effect.replaced])
        if self._changed is not None:
            plain[effect.replaced] = self._changed(plain[effect.replaced])
        return pytree.tree_unflatten(plain, structure)


def _effect(arguments: list[Any], versions: list[int], output: Any) -> Effect | None:
    """What a call did, or None where it gave something that is neither a tensor nor a constant."""
    outputs, structure = pytree.tree_flatten(output)
    if not all(isinstance(one, Tensor) or type(one) in CONSTANTS for one in outputs):
        return None
    numbers = {id(leaf): index for index, leaf in enumerate(arguments) if isinstance(leaf, Tensor)}
    written = {
        index: leaf
        for index, (leaf, version) in enumerate(zip(arguments, versions, strict=True))
        if isinstance(leaf, Tensor) and leaf._version != version
    }
    return Effect(
        outputs=[
            one
            if not isinstance(one, Tensor)
            else Argument(numbers[id(one)])
            if id(one) in numbers
            else Stored.of(one)
            for one in outputs
        ],
        structure=structure,
        writes={index: Stored(leaf.clone()) for index, leaf in written.items()},
        written=[(leaf, leaf._version - versions[index]) for index, leaf in written.items()],
    )


@dataclass(eq=False)
class Script:
    """What each module is to give, call by call, instead of computing it.

    Attributes:
        effects: module -> for each of its calls the effect, or None where it has to be computed.
        output: the layer's.
        inputs: of one picture, tensors as `Stored`.
    """

    effects: dict[nn.Module, list[Effect | None]]
    output: Stored
    inputs: Any

    def spread_inputs(self, copies: int) -> Any:
        """The inputs for so many copies of the picture."""

        def spread(leaf: Any) -> Any:
            return leaf.spread(copies) if isinstance(leaf, Stored) else leaf

        return pytree.tree_map(spread, self.inputs)


def script_of(one: Recorder, two: Recorder, inputs: Any) -> Script:
    """What passes of one and of two pictures say about any number of them.

    Args:
        one: the pass of one picture.
        two: the pass of two.
        inputs: of the pass of one, tensors as `Stored`.

    Raises:
        CaptureError: the network does other things for two pictures than for one.
    """
    calls, others = ([call for call in recorder.root.visible() if call.effect] for recorder in (one, two))
    if [call.module for call in calls] != [call.module for call in others]:
        raise CaptureError("the network calls other modules for two pictures than for one")
    for call, other in zip(calls, others, strict=True):
        assert call.effect is not None
        assert other.effect is not None
        if not call.effect.settle(other.effect):
            if call.effect.replaced is not None:
                raise CaptureError(f"layer {one.layer!r} gives other things for two pictures than for one")
            call.effect = None  # to be computed each time
    if one.output.dim is None:
        raise CaptureError(f"what layer {one.layer!r} gives is the same for any number of pictures")
    _find_writes(one.root.effects, [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Stored)])
    effects: dict[nn.Module, list[Effect | None]] = {}
    for call in one.root.visible():
        assert call.module is not None
        effects.setdefault(call.module, []).append(call.effect)
    return Script({module: calls for module, calls in effects.items() if any(calls)}, one.output, inputs)


def _find_writes(effects: list[Effect], inputs: list[Stored]) -> None:
    """For every tensor that was handed on; afterwards, nothing of the network's own is held."""
    for stored in inputs:
        stored.find_writes(effects)
    for number, effect in enumerate(effects):
        for stored in effect.stored:
            stored.find_writes(effects[number + 1 :])
    for effect in effects:
        effect.written.clear()
    for stored in [*inputs, *(stored for effect in effects for stored in effect.stored)]:
        stored.source = None
