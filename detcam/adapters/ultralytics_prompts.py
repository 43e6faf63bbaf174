"""Heads of ultralytics whose classes are prompts: YOLO-World and YOLOE.

Their last convolutions give an embedding for each cell; contrastive heads behind them compare it with the
embeddings of the prompts. The number of classes is the number of prompts, and `names` may lag behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from detcam.adapters.ultralytics_network import is_kind
from detcam.errors import InputError, UnsupportedModelError

_PROMPTS = {"WorldDetect": "txt_feats", "YOLOEDetect": "pe"}


def is_prompted(head: nn.Module) -> bool:
    """Whether the head compares cells with prompts."""
    return is_kind(head, *_PROMPTS)


def prompt_count(model: nn.Module, head: Any) -> int:
    """How many prompts, and so classes, there are.

    Raises:
        InputError: the model has no prompts.
        UnsupportedModelError: the head has its vocabulary built in.
    """
    if hasattr(head, "lrpc"):
        raise UnsupportedModelError(
            "a prompt-free YOLOE head drops most of its cells before it scores them, which is not supported: "
            "take the checkpoint without '-pf' and set prompts"
        )
    if getattr(head, "is_fused", False):
        return int((head.cv3 or head.one2one_cv3)[0][-1].out_channels)  # the prompts are in the weights
    prompts = _prompts(model, head)
    if prompts is None or not prompts.any():
        raise InputError(
            f"this {type(head).__name__} head has no prompts, so no score depends on the picture: "
            "model.set_classes(names, embeddings) before"
        )
    return prompts.shape[1]


def _prompts(model: nn.Module, head: nn.Module) -> Tensor | None:
    name = next(name for kind, name in _PROMPTS.items() if is_kind(head, kind))
    found = getattr(model, name, None)
    return found if isinstance(found, Tensor) else None


@contextmanager
def ordinary_prompts(model: nn.Module) -> Iterator[None]:
    """Lend ordinary copies of prompts that were made in inference mode, of which autograd keeps nothing."""
    originals = {
        name: value
        for name in _PROMPTS.values()
        if isinstance(value := vars(model).get(name), Tensor) and value.is_inference()
    }
    try:
        vars(model).update({name: value.clone() for name, value in originals.items()})
        yield
    finally:
        vars(model).update(originals)
