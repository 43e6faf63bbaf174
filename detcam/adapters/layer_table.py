"""The layers of a network that nobody described: what runs, at which stride, and where the backbone ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from detcam.adapters.stages import measured_layers
from detcam.cam.capture import observe
from detcam.structures import Layer, LayerSet, with_stages


@dataclass(frozen=True)
class LayerRules:
    """What is known about the parts.

    Attributes:
        strides: of the head's levels.
        backbone: dotted names of the modules that are the backbone; () for all until a stride gets smaller.
        head_modules: dotted names of the modules that are the head; () if that is not known.
    """

    strides: tuple[int, ...]
    backbone: tuple[str, ...] = ()
    head_modules: tuple[str, ...] = ()


def layer_table(model: nn.Module, rules: LayerRules, side: int, run: Callable[[], object]) -> list[Layer]:
    """Every module with weights that ran, in the order in which they were done, in parts and sets.

    The backbone is what runs until a stride gets smaller again: that is where features are first upsampled,
    or fine ones taken up again. What follows is the neck; named head modules are the head. The backbone's set
    is its last layer at each of the head's strides. The head's set, the last of the neck at each stride, and
    the neck's, the ones before those, are marked only if the head's modules are named: without, the head's
    own convolutions could not be told from the neck.

    Args:
        model: borrowed for the pass.
        rules: what is known.
        side: of the square input that `run` feeds, in pixels.
        run: runs the model once.
    """
    modules = {name: m for name, m in model.named_modules() if name and any(True for _ in m.parameters())}
    order: list[str] = []

    def forward() -> None:
        with observe(modules) as seen:
            run()
        order.extend(seen)

    unsorted: dict[str, LayerSet] = dict.fromkeys(modules, "backbone")
    measured = {layer.name: layer for layer in measured_layers(model, modules, unsorted, side, forward)}
    layers = _in_parts([measured[name] for name in order], rules)
    members = _members(layers, rules, _inside_blocks(layers, modules))
    return with_stages([replace(layer, member_of=members.get(layer.name)) for layer in layers])


def _in_parts(layers: Sequence[Layer], rules: LayerRules) -> list[Layer]:
    parted, deepest, has_turned = [], 0, False
    for layer in layers:
        part: LayerSet = "head"
        if not _is_in(layer.name, rules.head_modules):
            # Coarser than the head ever is: a pooled vector of an attention, no stage.
            if layer.stride is not None and layer.stride <= max(rules.strides):
                has_turned = has_turned or layer.stride < deepest
                deepest = max(deepest, layer.stride)
            is_backbone = _is_in(layer.name, rules.backbone) if rules.backbone else not has_turned
            part = "backbone" if is_backbone else "neck"
        parted.append(replace(layer, part=part))
    return parted


def _is_in(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _inside_blocks(layers: Sequence[Layer], modules: dict[str, nn.Module]) -> set[str]:
    """Layers inside a block that changes the stride: not what the block's stage gives.

    A plain sequence is no block: its members are stages of their own.
    """
    strides = {layer.name: layer.stride for layer in layers if layer.stride is not None}
    inside = set()
    for name, stride in strides.items():
        parts = name.split(".")
        around = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        if any(strides.get(a, stride) != stride and type(modules[a]) is not nn.Sequential for a in around):
            inside.add(name)
    return inside


def _members(layers: Sequence[Layer], rules: LayerRules, inside: set[str]) -> dict[str, LayerSet]:
    members: dict[str, LayerSet] = {}
    for stride in rules.strides:
        backbone = _last(layers, "backbone", stride, inside)
        if backbone is not None:
            members[backbone.name] = "backbone"
        feeder = _last(layers, "neck", stride, inside) if rules.head_modules else None
        if feeder is not None:
            members[feeder.name] = "head"
            before = [layer for layer in layers if not _is_in(layer.name, [feeder.name])]
            neck = _last(before, "neck", stride, inside)
            if neck is not None:
                members[neck.name] = "neck"
    return members


def _last(layers: Sequence[Layer], part: LayerSet, stride: int, inside: set[str]) -> Layer | None:
    """The last layer of a part at a stride; if all are inside blocks, the last of the outermost of them."""
    found = [layer for layer in layers if (layer.part, layer.stride) == (part, stride)]
    free = [layer for layer in found if layer.name not in inside]
    if not free and found:
        outermost = min(layer.name.count(".") for layer in found)
        free = [layer for layer in found if layer.name.count(".") == outermost]
    return free[-1] if free else None
