"""Boxes as given, the layers that hold all evidence, and how levels become one map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_yolo import detector, pictures

import detcam
from detcam.errors import InputError, UnknownNameError
from detcam.explainer import Explainer, ExplainOptions
from detcam.images import Picture


@pytest.fixture(scope="module")
def picture() -> Picture:
    return Picture(pictures(3)[2])


@pytest.fixture(scope="module")
def explained(picture) -> Any:
    return detcam.explain(detector(), picture)


def explainer(**options: Any) -> Explainer:
    return Explainer.of(detector(), ExplainOptions(**options))


# Boxes as given


@pytest.mark.parametrize("method", ["layer-cam", "cell-blob", "eigen-cam", "ablation-cam"])
def test_given_boxes_have_the_maps_that_detected_ones_have(picture, method):
    detected = detcam.explain(detector(), picture, method=method, layers="model.8")
    rows = [2, 0]
    given = explainer(method=method, layers="model.8").explain_boxes(picture, detected.detections[rows])
    assert given.detections.candidates.tolist() == detected.detections.candidates[rows].tolist()
    torch.testing.assert_close(given.merged, detected.merged[rows], rtol=1e-4, atol=1e-5)


def test_more_boxes_than_max_boxes_are_explained_if_they_are_given(picture, explained):
    given = explainer(max_boxes=1).explain_boxes(picture, explained.detections)
    assert len(given) == len(explained) > 1


def test_another_class_of_a_given_box_is_another_question(picture, explained):
    box = explained.detections[[0]]
    other = replace(box, labels=(box.labels + 1) % 3)
    given = explainer().explain_boxes(picture, other)
    assert given.target_values[0] < explained.target_values[0]
    assert not torch.allclose(given.merged, explained.merged[:1])


def test_random_masks_explain_given_boxes_too(picture, explained):
    given = explainer(method="d-rise", masks=8).explain_boxes(picture, explained.detections[[1]])
    alone = detcam.explain(detector(), picture, method="d-rise", masks=8)
    torch.testing.assert_close(given.merged[0], alone.merged[1])


@pytest.mark.parametrize(("field", "text"), [("candidates", "candidate 99999"), ("labels", "class 99999")])
def test_what_does_not_exist_in_the_prediction_is_refused(picture, explained, field, text):
    box = replace(explained.detections[[0]], **{field: torch.tensor([99999])})
    with pytest.raises(InputError, match=text):
        explainer().explain_boxes(picture, box)


# Layers and levels


def test_evidence_is_the_stages_from_stride_four_on(picture):
    found = detcam.explain(detector(), picture, layers="evidence", max_boxes=1)
    assert {layer.level: layer.module for layer in found.layers} == {
        "P2": "model.2",
        "P3": "model.4",
        "P4": "model.6",
        "P5": "model.8",
    }


def summed(explanation: Any) -> torch.Tensor:
    """The levels on the finest grid, added up."""
    grid = max(maps.shape[1:] for maps in explanation.levels.values())
    return sum(
        F.interpolate(maps[None], size=grid, mode="bilinear")[0] for maps in explanation.levels.values()
    )


def test_total_gradients_of_the_backbone_are_drawn_by_the_finest_level(picture):
    found = detcam.explain(detector(), picture, layers="evidence", path="total")
    assert found.question.merge == "finest"
    assert torch.equal(found.merged, found.levels["P2"])


@pytest.mark.parametrize(
    "asked",
    [
        {"path": "direct"},  # levels add up
        {"path": "total", "layers": "head"},  # not all evidence passes through one of them
        {"path": "total", "layers": ("model.4", "model.20")},
        {"path": "total", "method": "eigen-cam"},  # no evidence to be counted twice
        {"path": "total", "merge": "sum"},
    ],
)
def test_elsewhere_levels_are_added_up(picture, asked):
    found = detcam.explain(detector(), picture, **asked)
    assert found.question.merge == "sum"
    torch.testing.assert_close(found.merged, summed(found))


def test_the_finest_level_alone_on_request(picture):
    found = detcam.explain(detector(), picture, layers="backbone", merge="finest")
    assert torch.equal(found.merged, found.levels["P3"])


def test_a_way_of_merging_that_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match="finest"):
        ExplainOptions(merge="finer")  # type: ignore[arg-type]
