"""An ONNX Runtime session explained: the very maps of the network it was exported from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_yolo import CLASS_NAMES, SIDE, network, pictures

import detcam


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Any:
    """Of a small YOLOv8, (B, 3, 96, 96) -> (B, 4 + K, N)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export(path)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def export(path: Path) -> None:
    model = network()
    model.model[-1].export, model.model[-1].format = True, "onnx"  # the head gives one tensor
    names = {"input_names": ["images"], "output_names": ["found"], "dynamic_axes": {"images": {0: "count"}}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, torch.zeros(1, 3, SIDE, SIDE), str(path), dynamo=False, **names)


def detected_by(session: Any) -> Callable[[list[np.ndarray]], list[Any]]:
    """As docs/blackbox.md has it."""

    def detect(several: list[np.ndarray]) -> list[Any]:
        batch = np.stack(several).transpose(0, 3, 1, 2).astype(np.float32) / 255
        (found,) = session.run(None, {"images": batch})
        x, y, wide, high = found[:, :4].transpose(1, 0, 2)
        boxes = np.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], axis=2)
        return list(zip(boxes, found[:, 4:].transpose(0, 2, 1), strict=True))

    return detect


def found_by(model: Any) -> Callable[[list[np.ndarray]], list[Any]]:
    """The network itself, asked like a session."""
    wrapped = detcam.wrap(model)

    def detect(several: list[np.ndarray]) -> list[Any]:
        batch = torch.stack([wrapped.prepare(one, None)[0] for one in several])
        with torch.no_grad():
            raws = wrapped.forward(batch)
        return [(raw.boxes(torch.arange(len(raw.class_logits))), raw.class_probabilities()) for raw in raws]

    return detect


def test_a_session_gives_the_maps_of_the_network_that_it_was_exported_from(session):
    asked = {"class_names": list(CLASS_NAMES.values()), "masks": 24, "max_boxes": 3}
    picture = pictures(1, SIDE, SIDE)[0]
    found, expected = (
        detcam.d_rise(detect, picture, **asked) for detect in (detected_by(session), found_by(network()))
    )
    assert [found.label(i) for i in range(3)] == [expected.label(i) for i in range(3)]
    torch.testing.assert_close(found.detections.boxes, expected.detections.boxes, rtol=0, atol=0.01)
    maps = expected.levels["input"]
    torch.testing.assert_close(found.levels["input"], maps, rtol=0, atol=1e-3 * float(maps.abs().max()))
