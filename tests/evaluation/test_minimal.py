"""How little keeps or kills a detection: the search against a known score, the parts against the network."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import cv2
import jsonschema
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from small_yolo import checkpoint, pictures

import detcam
from detcam.adapters.base import DetectOptions
from detcam.cam.capture import borrowed
from detcam.cli import cli
from detcam.evaluation import minimal_evidence
from detcam.evaluation.minimal import HALVINGS, SHARES, _Search
from detcam.explainer import Explainer, ExplainOptions
from detcam.images import as_picture

WEIGHTS = Path(__file__).parents[2] / "weights"
RANKS = torch.arange(1000).reshape(25, 40)
NOTHING, ALL = torch.zeros(3, 25, 40), torch.ones(3, 25, 40)


def share_shown(batch: torch.Tensor) -> torch.Tensor:
    return batch.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("threshold", [0.003, 0.1, 0.25, 0.5])
def test_the_smallest_part_is_found_as_closely_as_the_halvings_allow(threshold):
    search = _Search(share_shown, RANKS, threshold)
    count, score = search.smallest(NOTHING, ALL, is_wanted_above=True)
    assert score == pytest.approx(count / 1000)
    around = next(place for place, share in enumerate(SHARES) if share >= threshold)
    wide = SHARES[around] - (SHARES[around - 1] if around else 0)
    assert threshold <= score <= threshold + wide / 2**HALVINGS + 0.001
    assert search.forwards <= 1 + len(SHARES) + HALVINGS


def test_what_kills_leaves_less_than_asked_for():
    count, score = _Search(share_shown, RANKS, 0.8).smallest(ALL, NOTHING, is_wanted_above=False)
    assert score < 0.8
    assert count / 1000 == pytest.approx(1 - score)
    assert 200 < count <= 212


def test_a_map_whose_strongest_pixels_do_neither_is_told():
    search = _Search(lambda batch: torch.zeros(len(batch)), RANKS, 0.5)
    assert search.smallest(NOTHING, ALL, is_wanted_above=True) is None
    stubborn = _Search(lambda batch: torch.ones(len(batch)), RANKS, 0.5)
    assert stubborn.smallest(ALL, NOTHING, is_wanted_above=False) is None
    assert search.forwards == stubborn.forwards == 1 + len(SHARES)


def test_what_is_kept_without_any_pixel_needs_none():
    search = _Search(lambda batch: torch.ones(len(batch)), RANKS, 0.5)
    assert search.smallest(NOTHING, ALL, is_wanted_above=True) == (0, 1.0)
    assert search.forwards == 1


def test_parts_do_to_the_network_what_they_say():
    small = detcam.load(WEIGHTS / "shapes.pt", device="cpu")
    explainer = Explainer.of(small, ExplainOptions(max_boxes=3))
    (explanation,) = explainer.explain([as_picture(WEIGHTS / "scene.png")])
    found = minimal_evidence(explainer, explanation)
    assert [one.box for one in found] == [0, 1, 2]
    assert all(one.kills and one.keeps for one in found)
    tensor, geometry = small.prepare(explanation.picture.pixels, None)
    maps = F.interpolate(explanation.merged[None], size=tensor.shape[1:], mode="bilinear")[0]
    for one in found:
        box, label = explanation.detections.boxes[one.box], int(explanation.detections.labels[one.box])

        def left(picture, box=box, label=label):
            with borrowed(small.model), torch.no_grad():
                (raw,) = small.forward(picture[None])
                others = small.detect(raw, geometry, DetectOptions(conf=0.001))
            scores = raw.scores()[others.candidates, label]
            corner = torch.minimum(box[2:], others.boxes[:, 2:]) - torch.maximum(box[:2], others.boxes[:, :2])
            shared = corner.clamp(min=0).prod(dim=1)
            areas = (others.boxes[:, 2:] - others.boxes[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod()
            return float((scores * shared / (areas - shared)).max())

        assert one.score == pytest.approx(left(tensor), abs=1e-3)
        order = maps[one.box].flatten().argsort(descending=True, stable=True)
        gone = tensor.clone().flatten(1)
        gone[:, order[: round(one.kills.share * len(order))]] = 0
        assert one.kills.score == pytest.approx(left(gone.view_as(tensor)), abs=1e-3)
        assert one.kills.score < one.score / 2
        blurred = cv2.GaussianBlur(tensor.permute(1, 2, 0).numpy(), (51, 51), 0)
        there = torch.from_numpy(blurred).permute(2, 0, 1).flatten(1).contiguous()
        shown = order[: round(one.keeps.share * len(order))]
        there[:, shown] = tensor.flatten(1)[:, shown]
        assert one.keeps.score == pytest.approx(left(there.view_as(tensor)), abs=2e-2)  # two ways of blurring
        assert one.keeps.score >= one.score / 2
        assert one.keeps.mask.shape == explanation.picture.pixels.shape[:2]


@pytest.fixture
def explain(tmp_path, monkeypatch):
    """Run `detcam explain --minimal` on a picture in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pictures(3)[2]).save("street.png")

    def run(*more: str):
        said = CliRunner().invoke(
            cli, ["explain", str(checkpoint()), "street.png", "--minimal", *more], obj=[]
        )
        assert said.exit_code == 0, said.output
        return said

    return run


def test_the_command_says_draws_and_stores_it(explain):
    said = explain("--max-boxes", "2")
    folder = Path("runs/explain/run")
    document = json.loads((folder / "street_minimal.json").read_text())
    schema = json.loads(resources.files("detcam").joinpath("schemas/minimal-1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert [one["id"] for one in document["boxes"]] == [0, 1]
    Image.open(folder / "street_minimal.jpg").load()
    assert "of the picture" in said.output or "puts first" in said.output


def test_nothing_detected_has_no_minimal_evidence(explain):
    explain("--conf", "0.999")
    assert not list(Path("runs/explain/run").glob("*minimal*"))
