"""How far a prediction's gradient reaches at each layer: what a map taken there can show at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import Detector, device_of
from detcam.cam.capture import GradientPath, capture

Windows = dict[str, dict[str, tuple[int, int]]]
"""Layer name -> head level -> (h, w) cells that one of its predictions' gradients spans."""


def gradient_windows(
    detector: Detector, names: list[str], path: GradientPath, imgsz: int | None = None
) -> Windows:
    """Probe the window of the gradient of one prediction per level, in the middle of the input.

    Args:
        detector: whose layers to probe, on a picture of seeded noise.
        names: dotted names of layers that give feature maps, captured together.
        path: "total", or "direct" with the named layers as joint leaves.
        imgsz: side of the input; None for the detector's own.

    Raises:
        CaptureError: a layer gave no feature map.
    """
    modules: dict[str, nn.Module] = {name: detector.model.get_submodule(name) for name in names}
    side = _input_side(detector, imgsz)
    noise = torch.randint(
        0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    tensor, _ = detector.prepare(noise.numpy(), side)
    windows: Windows = {name: {} for name in names}
    with capture(detector.model, modules, path) as caught:
        (raw,) = detector.forward(tensor[None].to(device_of(detector.model)))
        for level, candidate in raw.central_candidates().items():
            gradients = caught.gradients(raw.class_logits[candidate].sum())
            for name, gradient in gradients.items():
                layer = name.partition("#")[0]  # one that runs several times: its runs are out#0, out#1 …
                height, width = (0, 0) if gradient is None else _extent(gradient[0])
                known = windows[layer].get(level, (0, 0))
                windows[layer][level] = (max(height, known[0]), max(width, known[1]))
    return windows


def _input_side(detector: Detector, imgsz: int | None) -> int:
    """The side of the square input that `imgsz` asks for: the network's strides must divide it."""
    side = imgsz or detector.imgsz
    _, geometry = detector.prepare(np.zeros((side, side, 3), np.uint8), side)
    return geometry.input_size[0]


def _extent(gradient: Tensor) -> tuple[int, int]:
    """Rows and columns from the first to the last cell of (C, h, w) that is not exactly zero."""
    touched = gradient.abs().amax(dim=0) > 0
    rows, columns = touched.any(dim=1).nonzero().flatten(), touched.any(dim=0).nonzero().flatten()
    if not len(rows):
        return 0, 0
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def describe_layers(detector: Detector, imgsz: int | None = None) -> list[dict[str, Any]]:
    """A row per layer: name, kind, part, stage, set, level, stride, shape at `imgsz`, parameters, windows.

    `weights` is the shape of the layer's own weights, "16×3×3×3" for outputs, inputs, height and width, and
    None for a layer that has several or none; `parameters` counts all of them.

    Raises:
        CaptureError: a layer gave no feature map.
    """
    side = _input_side(detector, imgsz)
    table = [layer for layer in detector.layers() if layer.stride]
    total = gradient_windows(detector, [layer.name for layer in table], "total", side)
    direct: Windows = {}
    for members in {layer.member_of: None for layer in table if layer.member_of}:
        names = [layer.name for layer in table if layer.member_of == members]
        direct |= gradient_windows(detector, names, "direct", side)
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "part": layer.part,
            "stage": layer.stage,
            "set": layer.member_of,
            "level": layer.level,
            "stride": layer.stride,
            "shape": f"{layer.channels}×{side // layer.stride}×{side // layer.stride}"
            if layer.stride
            else None,
            **_parameters(detector.model.get_submodule(layer.name)),
            "direct": _windows_text(direct.get(layer.name)),
            "total": _windows_text(total.get(layer.name)),
        }
        for layer in table
    ]


def _parameters(module: nn.Module) -> dict[str, Any]:
    """Shape of the weights, if there is one tensor of them, and the count of all parameters."""
    tensors = list(module.parameters())
    weights = [tuple(tensor.shape) for tensor in tensors if tensor.ndim > 1]
    return {
        "weights": "×".join(map(str, weights[0])) if len(weights) == 1 else None,
        "parameters": sum(tensor.numel() for tensor in tensors),
    }


def _windows_text(windows: dict[str, tuple[int, int]] | None) -> str | None:
    if windows is None:
        return None
    return " ".join(f"{level}:{h}×{w}" if h else f"{level}:-" for level, (h, w) in windows.items())
