"""Explanations in TensorBoard's files, read back by TensorBoard."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from detcam.errors import UnknownNameError
from detcam.explanation import MERGED
from detcam.integrations.tensorboard import add_explanation

pytest.importorskip("tensorboard", reason="no tensorboard: pip install tensorboard")


def test_the_overlay_of_each_level_is_an_image_at_its_step(tmp_path, explained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "events") as writer:
        add_explanation(writer, "street", explained, 7, levels=("P3", MERGED))
        add_explanation(writer, "street", explained, 8, scale="fixed:1")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert sorted(events.Tags()["images"]) == ["street/P3", "street/merged"]
    (fine,) = events.Images("street/P3")
    first, second = events.Images("street/merged")
    assert (fine.step, first.step, second.step) == (7, 7, 8)
    for image, drawn in (
        (fine, explained.overlay(level="P3")),
        (first, explained.overlay()),
        (second, explained.overlay(scale="fixed:1")),
    ):
        assert np.array_equal(np.array(Image.open(io.BytesIO(image.encoded_image_string))), drawn)
    with pytest.raises(UnknownNameError, match="no level 'P9'"):
        add_explanation(writer, "street", explained, 7, levels=("P9",))
