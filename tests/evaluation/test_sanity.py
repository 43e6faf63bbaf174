"""What changes in a sanity check, and that nothing else does."""

import pytest
import torch
from small_yolo import detector, pictures

import detcam
from detcam.evaluation import EvaluateOptions, Evaluator, Way
from detcam.evaluation.sanity import PARTS, another, runner_up, shuffled
from detcam.structures import Detections


def detections(candidates, labels):
    count = len(candidates)
    return Detections(
        boxes=torch.zeros(count, 4),
        scores=torch.linspace(1, 0.5, count),
        labels=torch.tensor(labels),
        candidates=torch.tensor(candidates),
    )


def test_the_runner_up_is_the_second_best_class():
    probabilities = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.3, 0.5]])
    # The box's own class is left out even where it is not the best: 0.6 beats 0.3.
    assert runner_up(detections([4, 9], [1, 2]), probabilities).labels.tolist() == [2, 0]


def test_with_one_class_there_is_no_other():
    assert runner_up(detections([4], [0]), torch.tensor([[0.9]])).labels.tolist() == [0]


def test_another_box_is_the_best_one_that_is_not_the_box_itself():
    found = detections([4, 9, 2], [0, 1, 1])
    assert another(found[[0, 2]], found).candidates.tolist() == [9, 4]
    assert another(found[[0]], found[[0]]).candidates.tolist() == [4]


@pytest.mark.parametrize("variant", PARTS)
def test_shuffling_moves_the_weights_of_these_parts_only_and_keeps_their_values(variant):
    small = detector()
    before = {name: one.clone() for name, one in small.model.named_parameters()}
    changed = shuffled(small, PARTS[variant], seed=0)
    part_of = {layer.name: layer.part for layer in small.layers()}
    moved = set()
    for name, one in changed.model.named_parameters():
        torch.testing.assert_close(one.flatten().sort().values, before[name].flatten().sort().values)
        if not torch.equal(one, before[name]):
            moved.add(part_of.get(".".join(name.split(".")[:2]), "head"))
    assert moved == set(PARTS[variant])
    assert all(torch.equal(one, before[name]) for name, one in small.model.named_parameters())


def test_a_map_is_compared_with_itself_after_each_change(scene):
    picture, truth = scene
    ways = [
        Way("layer-cam", "backbone", "direct", "class-logit"),
        Way("gaussian-in-box", "backbone", "direct", "class-logit"),
    ]
    options = EvaluateOptions(metrics=("spearman",), max_boxes=4)
    rows = Evaluator(detector(), ways, options).measure(picture, truth).rows
    assert {row.variant for row in rows} == {"another class", "another box", *PARTS}

    def likeness(method, variant):
        return [row.value for row in rows if row.way.startswith(method) and row.variant == variant]

    # A drawn Gaussian knows neither class nor weights, and it is another box's only by its place.
    for variant in ("another class", *PARTS):
        assert likeness("gaussian-in-box", variant) == pytest.approx([1] * 4)
    assert min(likeness("gaussian-in-box", "another box")) < 0.9
    assert max(likeness("layer-cam", "all weights")) < 0.9


def test_the_detector_is_as_it_was(scene):
    small = detector()
    maps = detcam.explain(small, pictures(3)[2]).merged
    Evaluator(
        small,
        [Way("layer-cam", "head", "direct", "class-logit")],
        EvaluateOptions(metrics=("spearman", "deletion"), max_boxes=1),
    ).measure(*scene)
    assert torch.equal(detcam.explain(small, pictures(3)[2]).merged, maps)
