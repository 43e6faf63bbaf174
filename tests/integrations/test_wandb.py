"""Explanations in Weights & Biases, offline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_yolo import CLASS_NAMES

from detcam.errors import UnknownNameError
from detcam.explanation import MERGED, Scale, Style, lay_maps
from detcam.integrations.wandb import to_image

wandb = pytest.importorskip("wandb", reason="no wandb: pip install wandb")


@pytest.fixture
def offline(at_home):
    """A run that stays on this machine, in a folder of its own."""
    with wandb.init(project="detcam", mode="offline", dir=at_home) as run:
        assert Path(run.dir).is_relative_to(at_home)
        yield run


def pixels_of(image) -> np.ndarray:
    return np.array(image.image.convert("RGB"))


def test_the_picture_has_its_maps_and_no_boxes_burnt_in(explained):
    image = to_image(explained, scale="image")
    tops = Scale("image").tops(explained, MERGED)
    drawn = lay_maps(explained.picture.pixels, explained.merged, tops, explained.geometry, Style())
    assert np.array_equal(pixels_of(image), drawn)
    fine = to_image(explained, level="P3", colormap="viridis")
    assert not np.array_equal(pixels_of(fine), drawn)


def test_logged_boxes_are_the_detections(explained, offline):
    image = to_image(explained)
    offline.log({"street": image})
    logged = image.to_json(offline)
    assert logged["caption"] == "layer-cam of class-logit, merged"
    (boxes,) = Path(offline.dir).rglob("*boxes2D*/*.json")
    stored = json.loads(boxes.read_text())
    assert stored["class_labels"] == {
        str(label): CLASS_NAMES[label] for label in set(explained.detections.labels.tolist())
    }
    for box, one in enumerate(stored["box_data"]):
        assert list(one["position"].values()) == pytest.approx(explained.detections.boxes[box].tolist())
        assert list(one["position"]) == ["minX", "minY", "maxX", "maxY"]
        assert one["domain"] == "pixel"
        assert one["class_id"] == int(explained.detections.labels[box])
        assert one["box_caption"] == explained.label(box)
        assert one["scores"]["score"] == pytest.approx(float(explained.detections.scores[box]))


def test_the_logged_mask_is_where_half_of_the_evidence_lies(explained, offline):
    one = explained[0]
    image = to_image(one)
    offline.log({"street": image})
    (path,) = Path(offline.dir).rglob("*mask*/*.png")
    mask = np.array(Image.open(path))
    assert mask.shape == one.heatmap.shape
    assert set(np.unique(mask)) == {0, 1}
    heatmap = one.heatmap.clamp(min=0).numpy()
    # The strongest pixels, and no more than it takes.
    assert heatmap[mask == 1].min() >= heatmap[mask == 0].max()
    held = heatmap[mask == 1].sum() / heatmap.sum()
    assert 0.5 <= held < 0.5 + 4 * heatmap.max() / heatmap.sum()


def test_where_classes_meet_the_stronger_one_is_in_the_mask(explained, offline):
    detections = replace(explained.detections, labels=torch.tensor([2, 0, 0]))
    both = replace(explained, detections=detections)
    offline.log({"street": to_image(both)})
    (path,) = Path(offline.dir).rglob("*mask*/*.png")
    mask = np.array(Image.open(path))
    shares = []
    for label in (0, 2):
        heatmap = both.of_class(label).heatmap.clamp(min=0).numpy().astype(float)
        descending = np.sort(heatmap.ravel())[::-1]
        needed = descending[np.searchsorted(descending.cumsum(), descending.sum() / 2)]
        shares.append(heatmap / needed)
    strongest = np.max(shares, axis=0)
    assert set(np.unique(mask)) == {0, 1, 2}
    for number, share in enumerate(shares, start=1):
        assert (share[mask == number] > 0.9999).all()
        assert (share[mask == number] > 0.9999 * strongest[mask == number]).all()
    assert (strongest[mask == 0] < 1.0001).all()


def test_a_picture_without_boxes_is_only_the_picture(explained, offline):
    nothing = explained.of_class(99)
    image = to_image(nothing)
    offline.log({"street": image})
    assert np.array_equal(pixels_of(image), explained.picture.pixels)
    assert not list(Path(offline.dir).rglob("*mask*/*.png"))


def test_an_unknown_level_or_scale_is_one_line(explained):
    with pytest.raises(UnknownNameError, match="no level 'P9'"):
        to_image(explained, level="P9")
    with pytest.raises(UnknownNameError, match="no scale 'bx'"):
        to_image(explained, scale="bx")
