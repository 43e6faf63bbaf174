"""Layers by the names people ask for: sets and stages of a described network, dotted names, patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import nn

from detcam.cam.layers import named_layers
from detcam.errors import InputError, UnknownNameError
from detcam.structures import Layer, LayerSet, stage_names

EVIDENCE, STAGES = "evidence", "stages"
_SETS = (EVIDENCE, STAGES, *get_args(LayerSet))
_FINEST_EVIDENCE = 4  # stride; finer layers hold edges of everything, whatever the network makes of them


def chosen_layers(
    model: nn.Module, table: Sequence[Layer], layers: str | Sequence[str]
) -> dict[str, nn.Module]:
    """Dotted name -> module of the layers asked for, each once.

    Args:
        model: the network.
        table: what is known of its layers; empty for a network that nobody described.
        layers: "evidence" (the backbone's stages from stride 4 on), "stages" (those and what is finer, the
            stem), "backbone", "neck" or "head" (one layer at each of the head's strides), dotted names,
            patterns such as "model.*.cv1", in which a star stands for anything, dots too, or several of
            these, with commas between them or in a sequence.

    Raises:
        UnknownNameError: no such layer; the closest are offered.
        InputError: no layer is named, or the network has none in that set.
    """
    wanted = layers.split(",") if isinstance(layers, str) else list(layers)
    found: dict[str, nn.Module] = {}
    for one in (name.strip() for name in wanted):
        found |= _set_members(model, table, one) if one in _SETS else _named(model, table, one)
    if not found:
        raise InputError(f"no layers given: name layers, patterns, or one of {', '.join(_SETS)}")
    return found


def _set_members(model: nn.Module, table: Sequence[Layer], wanted: str) -> dict[str, nn.Module]:
    strides = {layer.name: layer.stride or 0 for layer in table}
    names = {
        STAGES: stage_names(table),
        EVIDENCE: [name for name in stage_names(table) if strides[name] >= _FINEST_EVIDENCE],
    }.get(wanted, [layer.name for layer in table if layer.member_of == wanted])
    if not names:
        raise InputError(
            f"this {type(model).__name__} has no layers in the set {wanted!r}: name layers instead"
        )
    return {name: model.get_submodule(name) for name in names}


def _named(model: nn.Module, table: Sequence[Layer], name: str) -> dict[str, nn.Module]:
    try:
        return named_layers(model, name)
    except UnknownNameError:
        inner = (known for known, _ in model.named_modules() if known)
        known = [*_SETS, *(layer.name for layer in table), *inner]
        raise UnknownNameError("layer", name, known, "List all: detcam layers MODEL") from None
