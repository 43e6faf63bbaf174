"""What goes into a network, however many tensors that is, and the network under its wrappers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detcam.errors import InputError, ShapeError


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """Arguments of one forward pass.

    Attributes:
        args: positional ones.
        kwargs: keyword ones.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Any) -> NetworkInputs:
        """From a tensor, a tuple of arguments, a dict of keyword arguments, or arguments already.

        Raises:
            InputError: it is none of these, or there is no tensor in it.
        """
        if isinstance(inputs, NetworkInputs):
            found = inputs
        elif isinstance(inputs, Tensor):
            found = cls((inputs,))
        elif isinstance(inputs, tuple | list):
            found = cls(tuple(inputs))
        elif isinstance(inputs, Mapping):
            found = cls(kwargs=dict(inputs))
        else:
            raise InputError(
                f"inputs are a tensor, a tuple of arguments, a dict of keyword arguments or NetworkInputs, "
                f"got a {type(inputs).__name__}"
            )
        if not found.tensors:
            raise InputError("there is no tensor among the inputs")
        return found

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, as a tree."""
        return self.args, dict(self.kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, however deep they lie."""
        return [one for one in pytree.tree_leaves(self.arguments) if isinstance(one, Tensor)]

    @property
    def pictures(self) -> list[Tensor]:
        """Those that are pictures or volumes: (B, C, H, W) or (B, C, D, H, W)."""
        return [tensor for tensor in self.tensors if is_picture(tensor)]

    @property
    def batch(self) -> int:
        """Pictures, B: the length of the first picture tensor."""
        return int(self._first.shape[0])

    @property
    def input_size(self) -> tuple[int, ...]:
        """(H, W) of the first picture tensor, or (D, H, W)."""
        return tuple(self._first.shape[2:])

    def map(self, function: Callable[[Tensor], Tensor]) -> NetworkInputs:
        """The same arguments with another tensor for each tensor."""

        def changed(leaf: Any) -> Any:
            return function(leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = pytree.tree_map(changed, self.arguments)
        return NetworkInputs(args, kwargs)

    def prepared(self, model: nn.Module) -> NetworkInputs:
        """On the model's device, detached from any graph, in float32, or float64 where the model is."""
        parameters = list(model.parameters())
        device = parameters[0].device if parameters else self._first.device
        is_double = any(parameter.dtype == torch.float64 for parameter in parameters)
        dtype = torch.float64 if is_double else torch.float32

        def ready(tensor: Tensor) -> Tensor:
            with torch.inference_mode(False):
                plain = tensor.clone() if tensor.is_inference() else tensor.detach()
                return plain.to(device, dtype) if plain.is_floating_point() else plain.to(device)

        return self.map(ready)

    def one(self, index: int) -> NetworkInputs:
        """The arguments of one picture, as a batch of one; tensors of another length are kept whole."""
        batch = self.batch
        return self.map(
            lambda tensor: tensor[index : index + 1] if tensor.ndim and len(tensor) == batch else tensor
        )

    def called(self, function: Callable[..., Any]) -> Any:
        """What a function makes of the arguments."""
        return function(*self.args, **self.kwargs)

    @property
    def _first(self) -> Tensor:
        pictures = self.pictures
        if not pictures:
            shapes = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in self.tensors)
            is_whole = any(tensor.ndim in (4, 5) for tensor in self.tensors)
            advice = (
                "whole numbers have no gradient; scale them as in training, such as picture.float() / 255"
                if is_whole
                else "a single picture needs a batch dimension, picture[None]"
            )
            raise ShapeError(
                "no input is a batch of pictures (B, C, H, W) or volumes (B, C, D, H, W) of floating-point "
                f"numbers, got {shapes}: {advice}"
            )
        if len(pictures[0]) == 0:
            raise ShapeError(f"there are no pictures in the batch: {tuple(pictures[0].shape)}")
        return pictures[0]


def is_picture(tensor: Tensor) -> bool:
    """Whether a tensor is (B, C, H, W) or (B, C, D, H, W) of floating-point numbers."""
    return tensor.ndim in (4, 5) and tensor.is_floating_point()


def unwrapped(model: nn.Module) -> nn.Module:
    """The network in data-parallel (`module`) and compiled (`_orig_mod`) wrappers.

    Raises:
        InputError: it is TorchScript, into which nothing can look.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and "Parallel" in type(model).__name__:
            inner = getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            if isinstance(model, torch.jit.ScriptModule):
                raise InputError(
                    "the network is TorchScript, scripted or traced, whose layers cannot be looked into: "
                    "give the nn.Module that it was made of"
                )
            return model
        model = inner
