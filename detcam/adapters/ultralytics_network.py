"""What all adapters of the ultralytics package share: a network as a row of layers with a head at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import nn

from detcam.adapters.base import LoadOptions
from detcam.adapters.stages import described_backbone, measured_layers, with_sets
from detcam.adapters.ultralytics_checkpoint import load_ultralytics
from detcam.checkpoints import CheckpointFile, ModelFile
from detcam.errors import UnsupportedModelError
from detcam.structures import Layer, LayerSet, Origin

_USUAL_SIZE = 640


def load_network(file: ModelFile, options: LoadOptions) -> tuple[nn.Module, Origin]:
    """The network in a `.pt` file and where it came from; nothing in the file runs unless it is allowed to.

    Raises:
        CheckpointError: the file cannot be read, or holds no network.
        UnsafeCheckpointError: the file would have to run code that nobody allowed.
    """
    model, checkpoint = load_ultralytics(
        cast(CheckpointFile, file.checkpoint), allow_globals=options.allow_globals, unsafe=options.unsafe
    )
    return model, Origin(str(file.path), file.sha256, checkpoint.trust, checkpoint.allowed_globals)


def names_head(file: ModelFile, *kinds: str) -> bool:
    """Whether a file names one of these head classes of the vendor; nothing in it runs."""
    return any(
        name.startswith("ultralytics.nn.modules.") and name.rpartition(".")[2] in kinds
        for name in file.globals
    )


def head_of(model: nn.Module) -> nn.Module | None:
    """The last layer of a network of this vendor, or None for any other model."""
    layers = getattr(model, "model", None)
    return layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None


def is_kind(module: nn.Module | None, *kinds: str) -> bool:
    """Whether a module's class, or one it inherits from, has one of these names."""
    return any(kind.__name__ in kinds for kind in type(module).__mro__)


def classes_of_tower(tower: Iterable[nn.Module]) -> int:
    """Classes that a head's tower scores: the output channels of its last convolution, alike at every level.

    Raises:
        UnsupportedModelError: there is no such convolution, or the levels differ.
    """
    last = [[m.out_channels for m in level.modules() if isinstance(m, nn.Conv2d)][-1:] for level in tower]
    counts = sorted({channels for level in last for channels in level})
    if len(counts) != 1 or not all(last):
        raise UnsupportedModelError(
            f"the levels of the head score different numbers of classes: {counts}"
            if counts
            else "the head's towers hold no convolution that would say how many classes there are"
        )
    return counts[0]


def own_names(model: nn.Module) -> dict[int, str]:
    """Class id -> name as the model has them; it may keep them as a list."""
    names = getattr(model, "names", None) or {}
    return dict(enumerate(names)) if isinstance(names, list | tuple) else dict(names)


def trained_size(model: nn.Module) -> int:
    """Side of the square the model was trained at, in pixels; 640 if it says none."""
    arguments = getattr(model, "args", None)
    if not isinstance(arguments, dict):
        arguments = vars(arguments) if hasattr(arguments, "__dict__") else {}
    said = arguments.get("imgsz")
    sides = said if isinstance(said, list | tuple) else [said]
    return max(sides) if sides and all(type(side) is int and side > 0 for side in sides) else _USUAL_SIZE


def input_channels(model: nn.Module) -> int:
    """Channels of the picture the network takes."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return first.in_channels


def top_level_layers(
    model: nn.Module, feeders: Sequence[str], side: int, forward: Callable[[], object]
) -> list[Layer]:
    """Every layer in front of the head, with the set it belongs to, measured in one forward pass.

    Args:
        model: the network.
        feeders: names of the layers whose outputs the head reads; their strides are the head's.
        side: of the square input that `forward` feeds, in pixels.
        forward: runs the model once.
    """
    blocks, parts = blocks_and_parts(model)
    layers = measured_layers(model, blocks, parts, side, forward)
    return with_sets(layers, feeders, strides_of(layers, feeders))


def blocks_and_parts(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, LayerSet]]:
    """Dotted name -> module, and name -> part, of every layer in front of the head, in order.

    Raises:
        UnsupportedModelError: the model lacks its description.
    """
    backbone = described_backbone(model)
    blocks = {f"model.{i}": block for i, block in enumerate(list(cast(Any, model).model)[:-1])}
    return blocks, {name: "backbone" if i < backbone else "neck" for i, name in enumerate(blocks)}


def strides_of(layers: Sequence[Layer], names: Sequence[str]) -> tuple[int, ...]:
    """Strides of the layers with these names, in the order of the names."""
    strides = {layer.name: layer.stride for layer in layers}
    return tuple(stride for name in names if (stride := strides[name]) is not None)
