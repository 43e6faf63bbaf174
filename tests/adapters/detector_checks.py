"""What the tests of several families ask of a detector."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters import DetectOptions, Detector
from detcam.cam.capture import borrowed, capture
from detcam.structures import Detections, RawPrediction

BOX_PIXELS = 1e-3
SCORE = 1e-4


def ultralytics_release() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.import_module("ultralytics").__version__.split(".")[:3])


def noise(height: int = 97, width: int = 61, seed: int = 0) -> np.ndarray:
    """Noise of two grains, (H, W, 3) uint8; prime sides, so that a swapped H/W cannot hide."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    fine = generator.integers(0, 64, (height, width, 3))
    grown = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return ((grown * 3 + fine * 4) // 4).clip(0, 255).astype(np.uint8)


def calibrate(model: nn.Module, side: int = 64) -> None:
    """Statistics as if trained, so that activations of a random network neither vanish nor explode."""
    pictures = np.stack([noise(side, side, seed) for seed in range(8)])
    pictures[::2, :, : side // 4] = 114  # a letterbox
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the passes
            # Where SiLU is nearly straight: deep random networks otherwise blow up every rounding.
            module.weight.data.fill_(0.5)
            module.bias.data.fill_(1.0)
    with torch.no_grad():
        for _ in range(2):
            model(batch)
    model.eval()


def predicted(detector: Detector, pixels: np.ndarray, imgsz: Any = None) -> tuple[RawPrediction, Any]:
    """What a detector predicts for one picture, without a graph, and how the picture was prepared."""
    tensor, geometry = detector.prepare(pixels, imgsz)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    return raw, geometry


def clear_threshold(scores: Tensor, share: float = 0.5) -> float:
    """A threshold about this share up the scores, in the widest gap nearby, where rounding moves nothing."""
    ordered = scores.flatten().sort().values
    middle, reach = int(len(ordered) * share), max(len(ordered) // 10, 1)
    nearby = ordered[max(middle - reach, 0) : middle + reach + 1]
    gap = nearby.diff().argmax()
    return float(nearby[gap] + nearby[gap + 1]) / 2


def assert_same(found: Detections, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    """Each detection is one of the vendor's: label, score, box. Ties may be swapped."""
    assert len(found) == len(boxes) > 0
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    differs = (found.scores[:, None] - scores).abs() / SCORE
    differs = differs.maximum(1e9 * (found.labels[:, None] != labels))
    differs = differs.maximum((found.boxes[:, None] - boxes).abs().amax(dim=2) / BOX_PIXELS)
    assert differs.amin(dim=1).max() <= 1, f"{differs.amin(dim=1).max():.3g} times the tolerance"
    assert differs.amin(dim=0).max() <= 1


def gradients_of_best(detector: Detector, pixels: np.ndarray, imgsz: Any, layer_set: str) -> dict[str, float]:
    """Largest gradient of the best detection's score, layer by layer of a set."""
    names = [layer.name for layer in detector.layers() if layer.member_of == layer_set]
    tensor, geometry = detector.prepare(pixels, imgsz)
    with capture(detector.model, {name: detector.model.get_submodule(name) for name in names}) as caught:
        (raw,) = detector.forward(tensor[None])
        best = detector.detect(raw, geometry, DetectOptions(conf=0))
        logits = raw.class_logits[best.candidates[0]]
        gradients = caught.gradients(raw.scoring.unsaturated(logits, None, int(best.labels[0])))
    return {name: 0.0 if one is None else float(one.abs().max()) for name, one in gradients.items()}


def assert_batch_equals_single(detector: Detector, imgsz: Any) -> None:
    tensors = [detector.prepare(noise(seed=seed), imgsz)[0] for seed in range(2)]
    with borrowed(detector.model), torch.no_grad():
        together = detector.forward(torch.stack(tensors))
        alone = [detector.forward(tensor[None])[0] for tensor in tensors]
    for one, other in zip(together, alone, strict=True):
        indices = torch.arange(len(one.class_logits))
        torch.testing.assert_close(one.class_logits, other.class_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.boxes(indices), other.boxes(indices), rtol=0, atol=1e-2)
        assert [one.locate(i) for i in indices.tolist()] == [other.locate(i) for i in indices.tolist()]
    logits = [raw.class_logits for raw in alone]
    assert logits[0].shape != logits[1].shape or not torch.allclose(*logits)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Fails if the block leaves modes, hooks, attributes or a bit of the weights other than it found them."""
    before, alive = _state(model), [dict(vars(module)) for module in model.modules()]
    yield
    assert alive
    after = _state(model)
    assert [key for key in before if after.get(key) != before[key]] == []
    assert list(after) == list(before)


def _state(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            hooks = list(value) if "_hooks" in key and isinstance(value, dict) else None
            found[f"{name}: {key}"] = (value if key == "training" else id(value), hooks)
        for key, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                bits = tensor.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes()
                found[f"{name}.{key}"] = (id(tensor), tensor.requires_grad, tensor.grad is None, bits)
    return found
