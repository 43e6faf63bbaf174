"""One suite over METRICS: named, described, bounded, finite or undefined."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import detcam.metrics
from detcam.errors import UnknownNameError
from detcam.metrics import INPUTS, METRICS, PRESETS, Metric, faithfulness, get_metric
from detcam.metrics.localisation import energy_in_box

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def everything(seed: int) -> dict[str, object]:
    """All inputs for three maps of one picture, the last map empty."""
    generator = torch.Generator().manual_seed(seed)
    maps, others = torch.randn(2, 3, 11, 13, generator=generator)
    maps[2] = 0
    masks = torch.rand(3, 11, 13, generator=generator) > 0.6
    boxes = torch.tensor([[1.0, 2.0, 6.0, 9.0], [0.0, 0.0, 13.0, 4.0], [7.0, 3.0, 12.5, 10.0]])
    picture = torch.rand(3, 11, 13, generator=generator)
    curves = faithfulness(
        picture, maps, lambda p: p.mean(dim=(1, 2, 3)), PRESETS["d-close"].with_steps(4).divided()
    )
    given = {"maps": maps, "others": others, "masks": masks, "boxes": boxes, "faithfulness": curves}
    return given | {"object_boxes": boxes, "object_masks": masks, "explained": torch.arange(3)}


def test_the_suite_gives_every_input_there_is():
    assert everything(0).keys() == INPUTS.keys()


@every_metric
@pytest.mark.parametrize("seed", range(3))
def test_a_metric_is_within_its_bounds_and_undefined_for_an_empty_map(metric, seed):
    given = everything(seed)
    found = metric.compute(**{name: given[name] for name in metric.needs})
    assert (found.shape, found.dtype) == ((3,), torch.float64)
    assert found.isnan().tolist() == [False, False, True]
    low, high = metric.bounds
    assert ((found[:2] >= low) & (found[:2] <= high)).all()
    assert torch.equal(found[:2], metric.compute(**{name: given[name] for name in metric.needs})[:2])


@every_metric
def test_inputs_are_left_as_they_were(metric):
    given, kept = everything(0), everything(0)
    metric.compute(**{name: given[name] for name in metric.needs})
    for name in metric.needs:
        if name != "faithfulness":
            assert torch.equal(given[name], kept[name])


@every_metric
def test_a_metric_is_named_described_and_on_the_page(metric):
    assert METRICS[metric.name] is metric
    assert get_metric(metric.name) is metric
    assert metric.summary[0].islower() or metric.summary.startswith("IoU")
    assert "arXiv:" in metric.source
    assert metric.compute.__doc__
    assert f"`{metric.name}`" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_on_the_page(preset):
    assert f"`{preset}`" in PAGE.read_text(encoding="utf-8")


def test_which_way_is_better_is_said_for_each():
    lower = {name for name, metric in METRICS.items() if metric.better == "lower"}
    similarities = {"spearman", "spearman-abs", "ssim"}
    assert lower == {"compactness", "odi", "odi-in-masks", "deletion"} | similarities


def test_only_faithfulness_asks_the_network():
    asking = {name for name, metric in METRICS.items() if metric.asks_the_network}
    assert asking == {"deletion", "insertion", "overall"}


def test_needs_are_the_functions_parameters():
    assert METRICS["energy-in-box"].needs == ("maps", "boxes")
    assert METRICS["odi"].needs == ("maps", "object_boxes", "explained")
    assert METRICS["vea"].needs == ("maps", "masks")


def test_a_new_metric_is_one_function_and_one_entry():
    made = Metric("mine", energy_in_box, "a test", "tests")
    assert (made.better, made.bounds, made.needs) == ("higher", (0.0, 1.0), ("maps", "boxes"))
    with pytest.raises(UnknownNameError, match=r"input .asked for by metric 'mine'. 'box'"):
        Metric("mine", lambda maps, box: maps, "a test", "tests")


def test_an_unknown_metric_is_refused_with_the_closest():
    with pytest.raises(UnknownNameError, match=r"no metric 'insertions'. Closest: 'insertion'"):
        get_metric("insertions")


def test_infinite_bounds_are_only_where_a_value_has_none():
    unbounded = {name for name, metric in METRICS.items() if math.inf in metric.bounds}
    assert unbounded == {"compactness", "deletion", "insertion", "overall"}


def test_what_the_room_offers_exists():
    for name in detcam.metrics.__all__:
        assert hasattr(detcam.metrics, name), name
