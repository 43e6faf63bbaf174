"""What formulas ask for by name, made when it is asked for: about one layer and one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detcam.cam.capture import borrowed
from detcam.cam.methods import Method
from detcam.cam.network_inputs import NetworkInputs
from detcam.cam.replay import replayed
from detcam.cam.rescoring import Progress, ablated_scores, masked_scores
from detcam.cam.targets import Target, check_scalar, picture_of
from detcam.cam.tokens import Unfold
from detcam.errors import InputError


@dataclass(frozen=True, eq=False)
class Rescoring:
    """Scores of changed pictures, one picture of a batch after the other.

    Attributes:
        network: what is run.
        forward: called with the inputs; it calls the network.
        inputs: of all pictures.
        targets: one for each picture.
        batch_size: changed pictures per forward pass; None for `usual_batch_size`.
        progress: wraps the iterable of these passes.
    """

    network: nn.Module
    forward: Callable[..., Any]
    inputs: NetworkInputs
    targets: Sequence[Target]
    batch_size: int | None = None
    progress: Progress | None = None

    def masked(self, maps: Tensor) -> Tensor:
        """(B, C) scores of the pictures seen through each channel of (B, C, h, w) or (B, C, d, h, w)."""
        with borrowed(self.network), torch.no_grad():
            return torch.cat([self._masked(index, one) for index, one in enumerate(maps)])

    def ablated(self, layer: str, unfold: Unfold) -> Tensor:
        """(B, C) scores of the pictures without each channel of a layer."""
        return torch.cat([self._ablated(index, layer, unfold) for index in range(len(self.targets))])

    def _masked(self, index: int, maps: Tensor) -> Tensor:
        leaves, structure = pytree.tree_flatten(self.inputs.one(index).arguments)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def score(pictures: tuple[Tensor, ...]) -> Tensor:
            changed = dict(zip(places, pictures, strict=True))
            seen = [changed.get(place, leaf) for place, leaf in enumerate(leaves)]
            return self._scores(index, pytree.tree_unflatten(seen, structure), len(pictures[0]))

        pictures = tuple(leaves[place] for place in places)
        return masked_scores(pictures, maps, score, self.batch_size, self.progress)

    def _ablated(self, index: int, layer: str, unfold: Unfold) -> Tensor:
        def run(arguments: Any) -> Tensor:
            copies = NetworkInputs(*arguments).batch
            return self._scores(index, arguments, copies)

        with replayed(self.network, layer, run, self.inputs.one(index).arguments) as replay:
            return ablated_scores(replay, unfold, self.batch_size, self.progress)

    def _scores(self, index: int, arguments: Any, copies: int) -> Tensor:
        """(1, k) values of one picture's target in k changed copies of it."""
        output = NetworkInputs(*arguments).called(self.forward)
        rows = [picture_of(output, copy, copies) for copy in range(copies)]
        return torch.stack([check_scalar(self.targets[index](row)) for row in rows])[None]


@dataclass(eq=False)
class Evidence:
    """The inputs of the formulas for one layer and one batch; attributes are named as in `INPUTS`.

    Attributes:
        activations: (B, C, h, w) feature maps.
        gradients: likewise, of the targets' sum; zeros where none are asked for.
        scores: (B,) the targets' values.
        rescored: name of `INPUTS` -> how to get it.
    """

    activations: Tensor
    gradients: Tensor
    scores: Tensor
    rescored: Mapping[str, Callable[[], Tensor]]

    def of(self, method: Method) -> dict[str, Tensor]:
        """What a method needs.

        Raises:
            InputError: it needs what only a detector has.
        """
        own = {"activations": self.activations, "gradients": self.gradients, "scores": self.scores}
        own["seeds"] = torch.arange(len(self.activations))
        method.check_given((*own, *self.rescored), "network without boxes")
        return {name: own[name] if name in own else self.rescored[name]() for name in method.needs}


def class_weights(network: nn.Module, channels: int, targets: Sequence[Target]) -> Tensor:
    """(B, C) the rows of the last linear layer, or 1×1 convolution, for each target's class.

    Zhou et al. 2016, arXiv:1512.04150: the layer in front of global average pooling and that classifier.

    Raises:
        InputError: the network does not end in such a layer, or a target is about no class.
    """
    linear = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    weight = linear[-1].weight.detach().float().flatten(1) if linear else torch.zeros(0, 0)
    if weight.shape[1] != channels:
        raise InputError(
            f"method 'cam' needs a classifier that reads the {channels} channels of the layer, averaged; the "
            f"last linear layer here takes {weight.shape[1]}: choose the layer in front of it, or 'grad-cam'"
        )
    return torch.stack([weight[_class_of(target)] for target in targets])


def _class_of(target: Target) -> int:
    class_id = getattr(target, "class_id", None)
    if class_id is None:
        raise InputError("method 'cam' explains a class: give its id as the target")
    return int(class_id)
