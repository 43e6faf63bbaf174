"""A run in FiftyOne. Samples need no database, so that these tests start none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from small_yolo import checkpoint, detector, pictures

import detcam
from detcam.cli import cli
from detcam.errors import InputError
from detcam.explanation import Explanation
from detcam.integrations.fiftyone import to_samples

fo = pytest.importorskip("fiftyone", reason="no fiftyone: pip install fiftyone, in an environment of its own")


def write_run(folder: Path, *options: str) -> list[Explanation]:
    """A run over two pictures and a file that is none; what is found in the two."""
    paths = []
    for number, pixels in enumerate(pictures(2)):
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    (folder / "broken.png").write_bytes(b"no picture")
    words = ["explain", checkpoint(), *paths, folder / "broken.png", "--max-boxes", 2, "--project", folder]
    said = CliRunner().invoke(cli, [*map(str, words), *options])
    assert said.exit_code == 3, said.output  # some failed
    return detcam.explain(detector(), paths, max_boxes=2)


def test_samples_have_detections_and_their_heatmaps(tmp_path):
    explanations = write_run(tmp_path, "--save", "maps")
    samples = to_samples(tmp_path / "run")
    assert [Path(sample.filepath).name for sample in samples] == ["0.png", "1.png"]
    for sample, explanation in zip(samples, explanations, strict=True):
        assert len(sample["detections"].detections) == len(explanation) == 2
        for box, one in enumerate(sample["detections"].detections):
            assert f"{one.label} {one.confidence:.2f}" == explanation.label(box)
            assert one["level"] == explanation.deciding[box]
            left, top, width, height = one.bounding_box
            corners = [left * 97, top * 61, (left + width) * 97, (top + height) * 61]
            assert corners == pytest.approx(explanation.detections.boxes[box].tolist(), abs=1e-3)
            heatmap = sample[one["heatmap"]]
            assert (one["heatmap"], list(heatmap.range)) == (f"map_b{box:03d}", [0, 65535])
            codes = heatmap.get_map()  # read by FiftyOne itself
            assert codes.dtype == np.uint16
            values = explanation[box].heatmap.numpy()
            span = values.max() - values.min()
            np.testing.assert_allclose(values.min() + codes / 65535 * span, values, atol=span / 10_000)


def test_pictures_may_have_been_moved(tmp_path):
    write_run(tmp_path, "--save", "maps")
    (tmp_path / "moved").mkdir()
    for name in ("0.png", "1.png"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    with pytest.raises(InputError, match=r"0\.png is not there"):
        to_samples(tmp_path / "run")
    (first, _) = to_samples(tmp_path / "run", images=tmp_path / "moved")
    assert os.path.samefile(first.filepath, tmp_path / "moved" / "0.png")


def test_a_run_without_maps_is_one_line(tmp_path):
    write_run(tmp_path)
    with pytest.raises(InputError, match="has 2 boxes and 0 maps in the run: explain with --save maps"):
        to_samples(tmp_path / "run")
