"""A run in FiftyOne. Samples need no database, so that these tests start none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_yolo import detector, pictures

from detcam.errors import InputError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explanation import SaveOptions
from detcam.integrations.fiftyone import to_samples
from detcam.outputs import RunFolder
from detcam.render import read_map_png
from detcam.runner import run, write_manifest

fo = pytest.importorskip("fiftyone", reason="no fiftyone: pip install fiftyone, in an environment of its own")


def write_run(folder: Path, extras: tuple[str, ...]) -> list:
    paths = []
    for number, pixels in enumerate(pictures(2)):
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    (folder / "broken.png").write_bytes(b"no picture")
    explainer = Explainer.of(detector(), ExplainOptions(max_boxes=2))
    out, options = RunFolder.create(folder, "run", exist_ok=False), SaveOptions(extras=extras)
    write_manifest(out, explainer, options, ["detcam", "explain"])
    return list(run(explainer, [*paths, folder / "broken.png"], out, options))


def test_samples_have_detections_and_their_heatmaps(tmp_path):
    rows = write_run(tmp_path, ("maps",))
    samples = to_samples(tmp_path / "run")
    assert [Path(sample.filepath).name for sample in samples] == ["0.png", "1.png"]
    for sample, row in zip(samples, rows, strict=False):
        explanation = row.explanation
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
            np.testing.assert_allclose(values.min() + codes / 65535 * span, values, atol=span / 60_000)
            np.testing.assert_allclose(read_map_png(heatmap.map_path), values, atol=span / 60_000)


def test_pictures_may_have_been_moved(tmp_path):
    write_run(tmp_path, ("maps",))
    (tmp_path / "moved").mkdir()
    for name in ("0.png", "1.png"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    with pytest.raises(InputError, match=r"0\.png is not there"):
        to_samples(tmp_path / "run")
    (first, _) = to_samples(tmp_path / "run", images=tmp_path / "moved")
    assert os.path.samefile(first.filepath, tmp_path / "moved" / "0.png")


def test_a_run_without_maps_is_one_line(tmp_path):
    write_run(tmp_path, ())
    with pytest.raises(InputError, match="has 2 boxes and 0 maps in the run: explain with --save maps"):
        to_samples(tmp_path / "run")
