"""One file per detector family: the only place that knows a vendor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from detcam.adapters.base import DetectOptions, Detector, device_of
from detcam.adapters.ultralytics import Branch, UltralyticsDetector
from detcam.errors import InputError, UnsupportedModelError

__all__ = ["ADAPTERS", "DetectOptions", "Detector", "UltralyticsDetector", "device_of", "load", "wrap"]

ADAPTERS = {"ultralytics": UltralyticsDetector}


def wrap(model: nn.Module, *, branch: Branch | None = None) -> Detector:
    """A detector around a live model; the model is not copied, and never changed beyond a call.

    Args:
        model: an ultralytics `YOLO` object or its network, also inside `DataParallel`.
        branch: of a head with two, "one2many" or "one2one"; None follows the model.

    Raises:
        UnsupportedModelError: no adapter understands it.
    """
    for candidate in _inside(model):
        for adapter in ADAPTERS.values():
            if adapter.recognises(candidate):
                return adapter(candidate, branch)
    raise UnsupportedModelError(
        f"no adapter understands a {type(model).__name__}: it reads models of {', '.join(ADAPTERS)}"
    )


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    branch: Branch | None = None,
    allow_globals: Sequence[str] = (),
    unsafe: bool = False,
) -> Detector:
    """A detector from a checkpoint. Nothing in the file runs, nothing is downloaded or installed.

    Args:
        path: a `.pt` file of the ultralytics package.
        device: "cpu", "cuda:1", "1" …; None takes the first GPU if there is one.
        branch: as in `wrap`.
        allow_globals: dotted names in the file that may be imported and run, such as "lab.blocks.CBAM".
        unsafe: run whatever the file says. For files you made yourself.

    Raises:
        CheckpointError: the file cannot be read, or holds no detector.
        UnsafeCheckpointError: the file would have to run code that nobody allowed.
        InputError: no such device.
    """
    place = _device(device)
    detector = ADAPTERS["ultralytics"].load(path, branch=branch, allow_globals=allow_globals, unsafe=unsafe)
    detector.model.to(place)
    return detector


def _inside(model: nn.Module) -> Iterator[nn.Module]:
    """The model and what it wraps, outermost first."""
    inner: object = model
    while isinstance(inner, nn.Module):
        yield inner
        inner = getattr(inner, "module", None) or getattr(inner, "model", None)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    name = f"cuda:{device}" if str(device).isdigit() else str(device)
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"no device {str(device)!r} here: {str(error).splitlines()[0]}. Try --device cpu"
        ) from error
    return torch.device(name)
