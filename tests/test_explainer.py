"""The whole path from a picture to its maps, against a network run by hand and against itself."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_yolo import CLASS_NAMES, detector, network, pictures
from torch import nn

import detcam
from detcam.cam.capture import Capture, borrowed, observe
from detcam.cam.methods import METHODS
from detcam.errors import CaptureError, InputError, NoGradientError, UnknownNameError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explainer.plan import EVIDENCE
from detcam.explanation import Question
from detcam.targets import TARGETS

STAGES = (4, 6, 8)  # the backbone's at /8, /16 and /32
HEAD_INPUTS = (14, 17, 20)
HEAD = 21


@pytest.fixture(scope="module")
def small() -> Any:
    found = detector()
    found.layers()  # one small forward pass, made once per detector
    return found


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return pictures(3)[2]


@pytest.fixture(scope="module")
def explained(small, photo) -> Any:
    return detcam.explain(small, photo)


def by_hand(found: Any, pixels: np.ndarray, stages: tuple[int, ...], *, direct: bool) -> tuple[Any, dict]:
    """Class logits (N, K) and the stages' outputs, layer after layer, without a hook."""
    outputs: list[torch.Tensor] = []
    captured: dict[int, torch.Tensor] = {}
    x = found.prepare(pixels, None)[0][None]
    for i, layer in enumerate(found.model.model[:-1]):
        if layer.f != -1:
            x = [x if source == -1 else outputs[source] for source in layer.f]
        x = layer(x)
        if i in stages:
            if direct or not captured:
                x = x.detach().requires_grad_()
            captured[i] = x
        outputs.append(x)
    head = found.model.model[-1]
    rows = [tower(outputs[source]).flatten(2) for tower, source in zip(head.cv3, head.f, strict=True)]
    return torch.cat(rows, dim=2)[0].T, captured


def layer_cam_by_hand(logit: torch.Tensor, captured: dict[int, torch.Tensor]) -> list[torch.Tensor]:
    maps = []
    for activations in captured.values():
        (gradient,) = torch.autograd.grad(logit, activations, retain_graph=True, allow_unused=True)
        weighted = torch.zeros(activations.shape[2:])
        for channel in range(activations.shape[1]):
            for row in range(activations.shape[2]):
                for column in range(activations.shape[3]):
                    g = 0.0 if gradient is None else max(float(gradient[0, channel, row, column]), 0.0)
                    weighted[row, column] += g * activations[0, channel, row, column].detach()
        maps.append(weighted.clamp(min=0))
    return maps


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Within a share of the largest value."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(1.0, largest))


def assert_same_maps(one: Any, other: Any) -> None:
    torch.testing.assert_close(one.detections.boxes, other.detections.boxes, rtol=0, atol=1e-3)
    assert one.detections.candidates.tolist() == other.detections.candidates.tolist()
    assert list(one.levels) == list(other.levels)
    for level, maps in one.levels.items():
        assert_near(maps, other.levels[level], tolerance=1e-4)  # a batch is summed in another order
        assert one.involved[level].tolist() == other.involved[level].tolist()
    assert one.target_values == pytest.approx(other.target_values, abs=1e-4)


# Against a network run by hand


@pytest.mark.parametrize("path", ["direct", "total"])
@pytest.mark.parametrize("box", [0, 9])
def test_maps_are_layer_cam_of_the_box_at_the_three_stages(small, photo, path, box):
    explanation = detcam.explain(small, photo, method="layer-cam", layers="backbone", path=path)
    logits, captured = by_hand(small, photo, STAGES, direct=path == "direct")
    candidate, label = (
        int(x[box]) for x in (explanation.detections.candidates, explanation.detections.labels)
    )
    expected = layer_cam_by_hand(logits[candidate, label], captured)
    assert max(float(one.max()) for one in expected) > 0.01
    for maps, one in zip(explanation.levels.values(), expected, strict=True):
        assert_near(maps[box], one)


def test_the_default_is_element_wise_at_the_finest_evidence_layer_with_total_gradients(small, photo):
    """The map that measured best, docs/evidence.md: Σ_c relu(g·A) at stride 4, all that follows included."""
    explanation = detcam.explain(small, photo)
    assert explanation.question == Question("grad-cam-elementwise", "class-logit", "logit", "total", "finest")
    assert [layer.module for layer in explanation.layers] == ["model.2", "model.4", "model.6", "model.8"]
    logits, captured = by_hand(small, photo, (2, *STAGES), direct=False)
    for box in (0, 9):
        candidate, label = (
            int(x[box]) for x in (explanation.detections.candidates, explanation.detections.labels)
        )
        (gradient,) = torch.autograd.grad(logits[candidate, label], captured[2], retain_graph=True)
        expected = (gradient * captured[2]).clamp(min=0).sum(dim=1)[0].detach()
        assert_near(explanation.merged[box], expected)


@pytest.mark.parametrize(
    ("options", "layers", "path"),
    [
        ({"method": "layer-cam"}, ["P2", "P3", "P4", "P5"], "total"),
        ({"method": "grad-cam"}, ["P3", "P4", "P5"], "direct"),
        ({"layers": "head"}, ["P3", "P4", "P5"], "direct"),
        ({"method": "grad-cam", "layers": "evidence"}, ["P2", "P3", "P4", "P5"], "total"),
        ({"path": "direct"}, ["P2", "P3", "P4", "P5"], "direct"),
    ],
)
def test_layers_and_path_follow_from_each_other_and_the_method(small, photo, options, layers, path):
    explanation = detcam.explain(small, photo, max_boxes=1, **options)
    assert list(explanation.levels) == layers
    assert explanation.question.path == path


def test_direct_and_total_gradients_differ_before_the_last_stage(small, photo):
    direct, total = (detcam.explain(small, photo, path=path) for path in ("direct", "total"))
    assert not torch.allclose(direct.levels["P3"], total.levels["P3"])
    assert_near(direct.levels["P5"], total.levels["P5"])  # nothing captured lies behind it


def test_target_values_are_the_logits_of_the_boxes(small, photo, explained):
    logits, _ = by_hand(small, photo, STAGES, direct=True)
    rows = explained.detections
    expected = logits[rows.candidates, rows.labels].tolist()
    assert explained.target_values == pytest.approx(expected, abs=1e-5)
    assert torch.tensor(expected).sigmoid().tolist() == pytest.approx(rows.scores.tolist(), abs=1e-6)


def test_deciding_level_is_where_the_candidate_lies(explained):
    # 97x61 at 96 pixels is a 64x96 input: 8·12 cells at /8, then 4·6 at /16, then 2·3 at /32.
    names = ["P3" if c < 96 else "P4" if c < 120 else "P5" for c in explained.detections.candidates.tolist()]
    assert list(explained.deciding) == names
    assert len(set(names)) > 1


def test_a_probability_is_differentiated_through_its_sigmoid(small, photo, explained):
    probability = detcam.explain(small, photo, target="probability")
    score = float(explained.detections.scores[5])
    assert_near(probability.levels["P4"][5], explained.levels["P4"][5] * score * (1 - score))


def test_boxes_for_the_box_control_are_those_of_the_picture_on_the_grid(small):
    # 96x96 into 96x96: cells of 8 pixels, no padding, so the control's sum is the box's area / 64.
    square = pictures(1, 96, 96)[0]
    explanation = detcam.explain(small, square, method="box")
    for box, (x1, y1, x2, y2) in enumerate(explanation.detections.boxes.tolist()):
        area = float(explanation.levels["P3"][box].sum()) * 64
        assert area == pytest.approx((x2 - x1) * (y2 - y1), rel=1e-3)


def test_the_cell_control_peaks_at_the_deciding_cell(explained, small, photo):
    control = detcam.explain(small, photo, method="cell-blob")
    for box, candidate in enumerate(control.detections.candidates.tolist()):
        if control.deciding[box] == "P3":
            assert int(control.levels["P3"][box].argmax()) == candidate


def test_the_random_control_differs_from_box_to_box_and_not_from_run_to_run(small, photo):
    one, other = (detcam.explain(small, photo, method="random").levels["P3"] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


# One picture, several, in batches


def test_explaining_twice_gives_the_very_same_maps(small, photo, explained):
    again = detcam.explain(small, photo)
    for level, maps in explained.levels.items():
        assert torch.equal(maps, again.levels[level])
    assert torch.equal(explained.heatmap, again.heatmap)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_list_is_explained_like_its_pictures_one_by_one(small, batch):
    several = pictures(4)
    for one, picture in zip(detcam.explain(small, several, batch=batch), several, strict=True):
        assert_same_maps(one, detcam.explain(small, picture))


def test_pictures_of_mixed_sizes_keep_their_order(small):
    wide, tall = pictures(3), pictures(2, 97, 61, seed=3)
    mixed = [wide[0], tall[0], wide[1], wide[2], tall[1]]
    found = detcam.explain(small, mixed, batch=3)
    assert [len(one.picture.pixels) for one in found] == [61, 97, 61, 61, 97]
    for one, picture in zip(found, mixed, strict=True):
        assert np.array_equal(one.picture.pixels, picture)
        assert_same_maps(one, detcam.explain(small, picture))


def test_a_batch_may_hold_pictures_with_different_numbers_of_boxes(small):
    several = pictures(6)
    found = detcam.explain(small, several, batch=6, conf=0.6, max_boxes=300)
    counts = [len(one) for one in found]
    assert 0 in counts
    assert len(set(counts)) > 2
    for one, picture in zip(found, several, strict=True):
        assert_same_maps(one, detcam.explain(small, picture, conf=0.6, max_boxes=300))


def test_a_map_that_knows_no_box_is_the_same_for_all_boxes_and_no_other_picture(small):
    several = pictures(4)
    for one, picture in zip(
        detcam.explain(small, several, method="eigen-cam", batch=4), several, strict=True
    ):
        assert_same_maps(one, detcam.explain(small, picture, method="eigen-cam"))
        for maps in one.levels.values():
            assert all(torch.equal(maps[0], other) for other in maps)


def test_an_empty_list_gives_an_empty_list(small):
    assert detcam.explain(small, []) == []


def test_a_tuple_of_one_picture_gives_a_list(small, photo):
    assert len(detcam.explain(small, (photo,), max_boxes=1)) == 1


def test_path_pil_numpy_and_tensor_give_the_same_maps(small, photo, explained, tmp_path):
    file = tmp_path / "noise.png"
    Image.fromarray(photo).save(file)
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    for image in (file, str(file), Image.fromarray(photo), tensor, tensor[None].float() / 255):
        other = detcam.explain(small, image)
        for level, maps in explained.levels.items():
            assert torch.equal(maps, other.levels[level])


# What becomes of the network


def test_one_forward_pass_a_picture_whatever_is_asked(small, photo, monkeypatch):
    calls = []
    forward = small.model.forward
    monkeypatch.setattr(small.model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    detcam.explain(small, photo, layers="model.2,model.4,model.6,model.8,model.14", max_boxes=20)
    assert len(calls) == 1
    detcam.explain(small, pictures(4), batch=4)
    assert len(calls) == 2
    detcam.explain(small, pictures(3), batch=1, method="eigen-cam")
    assert len(calls) == 5


def counted_backward_passes(monkeypatch) -> list[int]:
    calls: list[int] = []
    gradients = Capture.gradients
    monkeypatch.setattr(Capture, "gradients", lambda *a: calls.append(1) or gradients(*a))
    monkeypatch.setattr(torch.Tensor, "backward", lambda *a, **k: pytest.fail("backward() was called"))
    return calls


def test_a_batch_takes_as_many_backward_passes_as_its_fullest_picture_has_boxes(small, monkeypatch):
    calls = counted_backward_passes(monkeypatch)
    found = detcam.explain(small, pictures(4), batch=4)
    assert len(calls) == max(len(one) for one in found)


ANSWERABLE = [name for name, method in METHODS.items() if set(method.needs) <= set(EVIDENCE)]


def test_every_method_but_one_that_reads_a_linear_layer_can_be_had_from_a_detector():
    assert set(METHODS) - set(ANSWERABLE) == {"cam"}


def test_a_method_that_needs_what_detectors_lack_says_so(small):
    with pytest.raises(InputError, match=r"'cam' needs class_weights, .*, which a detector does not give"):
        rehearsal(small, method="cam")


@pytest.mark.parametrize("method", [name for name in ANSWERABLE if METHODS[name].uses_gradients is False])
def test_a_method_without_gradients_makes_no_backward_pass(small, photo, monkeypatch, method):
    calls = counted_backward_passes(monkeypatch)
    few = {"masks": 4} if METHODS[method].rescores == "sampled" else {}
    explanation = detcam.explain(small, photo, method=method, **few)
    # Where a channel stands in what a layer gives is told by a gradient of its own; the network has none.
    assert not calls or method == "ablation-cam"
    assert all(flags.all() for flags in explanation.involved.values())


def state_of(model: torch.nn.Module) -> list[Any]:
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in model.modules()
    ]
    weights = [(id(p), p.requires_grad, p.grad, p._version) for p in model.parameters()]
    return [modules, weights, sorted(vars(model.model[-1])), torch.get_rng_state().tolist()]


@pytest.mark.parametrize(
    "asked", [{}, {"path": "total"}, {"method": "random"}, {"conf": 0.9999999}, {"layers": "model.21.dfl"}]
)
def test_the_network_is_given_back_as_it_was(photo, asked):
    live = network()
    live.train()
    live.model[3].eval()
    wrapped = detcam.wrap(live)
    before = state_of(live)
    try:
        detcam.explain(wrapped, photo, **asked)
    except CaptureError:
        assert "layers" in asked
    assert state_of(live) == before


def test_tensors_alive_do_not_grow_from_call_to_call(small, photo):
    def alive() -> int:
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    def ask() -> None:
        explanation = detcam.explain(small, photo, imgsz=64, max_boxes=2, keep_features=True)
        explanation.heatmap  # noqa: B018  # cached with the explanation, and gone with it
        with pytest.raises(NoGradientError):
            detcam.explain(small, photo, imgsz=64, max_boxes=2, layers="model.21.cv2.0")

    ask()
    gc.collect()
    gc.disable()  # what only the collector would free, a graph in a cycle, is a leak on a GPU
    try:
        before = alive()
        for _ in range(30):
            ask()
        assert alive() <= before
    finally:
        gc.enable()


def test_nothing_of_the_graph_is_kept(small, photo):
    explanation = detcam.explain(small, photo, keep_features=True)
    kept = [*explanation.levels.values(), *explanation.features.values(), explanation.detections.boxes]
    assert not any(one.requires_grad for one in kept)


# What is found and what of it is explained


def test_more_boxes_than_wanted_are_cut_and_said(small, photo):
    everything = detcam.explain(small, photo, max_boxes=300)
    cut = detcam.explain(small, photo, max_boxes=3)
    assert len(everything) > 3 == len(cut)
    assert cut.found == len(everything)
    assert cut.detections.scores.tolist() == everything.detections.scores[:3].tolist()
    assert cut.warnings == [f"{cut.found} detections, the best 3 explained: raise max_boxes for more"]
    assert everything.warnings == []


def test_scores_descend(explained):
    scores = explained.detections.scores.tolist()
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        ([1], {1}),
        (["dog"], {1}),
        (["1"], {1}),
        (["dog", 2], {1, 2}),
        ("fire hydrant", {2}),
        (0, {0}),
        (None, {0, 1, 2}),
    ],
)
def test_classes_are_chosen_by_id_and_name(small, photo, wanted, labels):
    explanation = detcam.explain(small, photo, classes=wanted, max_boxes=300)
    assert set(explanation.detections.labels.tolist()) == labels


def test_an_unknown_class_is_refused_with_the_closest(small, photo):
    with pytest.raises(UnknownNameError, match=r"no class 'fire hidrant'\. Closest: 'fire hydrant'"):
        detcam.explain(small, photo, classes=["fire hidrant"])


def test_a_class_id_out_of_range_is_refused(small, photo):
    with pytest.raises(InputError, match="no class 3: this model has 3 classes, 0 to 2"):
        detcam.explain(small, photo, classes=[3])


def test_nothing_detected_is_an_answer_with_the_best_score(small, photo):
    empty = detcam.explain(small, photo, layers="backbone", conf=0.999, keep_features=True)
    assert len(empty) == empty.found == 0
    found = detcam.explain(small, photo)
    assert empty.detections.best_score == pytest.approx(float(found.detections.scores[0]))
    assert {level: maps.shape for level, maps in empty.levels.items()} == {
        "P3": (0, 8, 12),
        "P4": (0, 4, 6),
        "P5": (0, 2, 3),
    }
    assert empty.target_values == empty.deciding == ()


def test_nothing_detected_draws_the_picture_and_no_heat(small, photo):
    empty = detcam.explain(small, photo, conf=0.999)
    assert empty.heatmap.shape == (61, 97)
    assert not empty.heatmap.any()
    assert np.array_equal(empty.overlay()[:61, :97], photo)


def test_features_are_the_stages_outputs(small, photo):
    explanation = detcam.explain(small, photo, layers="backbone", keep_features=True)
    _, captured = by_hand(small, photo, STAGES, direct=True)
    for kept, activations in zip(explanation.features.values(), captured.values(), strict=True):
        assert_near(kept, activations[0].detach())


def test_features_in_a_batch_are_each_pictures_own(small):
    several = pictures(3)
    for one, picture in zip(
        detcam.explain(small, several, keep_features=True, batch=3), several, strict=True
    ):
        alone = detcam.explain(small, picture, keep_features=True)
        for level, activations in one.features.items():
            assert_near(activations, alone.features[level])


def test_features_are_not_kept_unasked(explained):
    assert explained.features is None


# Layers


def test_layer_sets_are_one_layer_a_level(small, photo):
    for layers, modules in {"backbone": STAGES, "neck": (11,), "head": HEAD_INPUTS}.items():
        explanation = detcam.explain(small, photo, layers=layers, max_boxes=1)
        if layers != "neck":
            assert [layer.module for layer in explanation.layers] == [f"model.{i}" for i in modules]
            assert [layer.level for layer in explanation.layers] == ["P3", "P4", "P5"]
        assert {layer.member_of for layer in explanation.layers} == {layers}


def test_levels_come_finest_first_whatever_the_order_asked(small, photo):
    # Nor the order they run in: 8, then 11, then 14.
    explanation = detcam.explain(small, photo, layers=("model.8", "model.14", "model.11"), max_boxes=1)
    assert [(x.level, x.stride, x.grid) for x in explanation.layers] == [
        ("P3", 8, (8, 12)),
        ("P4", 16, (4, 6)),
        ("P5", 32, (2, 3)),
    ]
    assert list(explanation.levels) == ["P3", "P4", "P5"]


def test_two_layers_of_one_stride_are_told_apart_by_name(small, photo):
    explanation = detcam.explain(small, photo, layers="model.3, model.4,model.6", max_boxes=1)
    assert list(explanation.levels) == ["P3:model.3", "P3:model.4", "P4"]
    assert [x.member_of for x in explanation.layers] == [None, "backbone", "backbone"]


def test_a_layer_inside_a_block_can_be_asked_for(small, photo):
    explanation = detcam.explain(small, photo, layers=["model.4.cv2"], max_boxes=1)
    whole = detcam.explain(small, photo, layers=["model.4"], max_boxes=1)
    assert_near(explanation.levels["P3"], whole.levels["P3"])  # a C2f ends in its cv2


def test_an_unknown_layer_is_refused_with_close_names(small, photo):
    with pytest.raises(
        UnknownNameError, match=r"no layer 'model\.33'\. Closest: .*'model\.3'.*detcam layers"
    ):
        detcam.explain(small, photo, layers="model.4,model.33")
    with pytest.raises(UnknownNameError, match="Closest: 'backbone'"):
        detcam.explain(small, photo, layers="bacbone")


@pytest.mark.parametrize("layers", ["", [], ()])
def test_no_layer_is_refused(small, photo, layers):
    with pytest.raises(InputError, match="layer"):
        detcam.explain(small, photo, layers=layers)


@pytest.mark.parametrize("method", ["layer-cam", "eigen-cam"])
def test_a_layer_without_a_feature_map_is_refused_by_name(small, photo, method):
    with pytest.raises(CaptureError, match=r"'model\.21\.dfl'"):
        detcam.explain(small, photo, layers="model.21.dfl", method=method)


def test_a_layer_that_does_not_run_is_refused_by_name(small, photo):
    with pytest.raises(CaptureError, match="'model' did not run"):
        detcam.explain(small, photo, layers="model")


def test_at_the_head_only_a_boxs_own_level_takes_part(small, photo):
    explanation = detcam.explain(small, photo, layers="head", max_boxes=300)
    assert set(explanation.deciding) == {"P3", "P4", "P5"}
    for box, own in enumerate(explanation.deciding):
        assert {level for level, flags in explanation.involved.items() if flags[box]} == {own}
        idle = ", ".join(level for level in ("P3", "P4", "P5") if level != own)
        sentence = f"box {box} ({explanation.label(box)}): {idle} takes no part in this target"
        assert sentence in explanation.warnings
        assert [float(x[box]) for x in map(torch.tensor, explanation.shares.values())] == [
            float(level == own) for level in explanation.levels
        ]


def test_with_total_gradients_a_coarse_box_reaches_the_finer_head_inputs(small, photo):
    explanation = detcam.explain(small, photo, layers="head", path="total", max_boxes=300)
    flags = {
        own: [bool(flag[explanation.deciding.index(own)]) for flag in explanation.involved.values()]
        for own in ("P3", "P4", "P5")
    }
    assert flags == {"P3": [True, False, False], "P4": [True, True, False], "P5": [True, True, True]}


def test_levels_take_no_part_in_batches_as_alone(small):
    several = pictures(3)
    for one, picture in zip(detcam.explain(small, several, layers="head", batch=3), several, strict=True):
        assert_same_maps(one, detcam.explain(small, picture, layers="head"))


def test_a_layer_behind_the_target_is_refused_by_name(small, photo):
    assert detcam.explain(small, photo, max_boxes=1).deciding == ("P4",)
    with pytest.raises(NoGradientError, match=r"model\.20"):  # the P5 head input: P4 never sees it
        detcam.explain(small, photo, layers="model.20", max_boxes=1)


def test_a_layer_the_target_does_not_depend_on_is_refused_by_name(small, photo):
    with pytest.raises(NoGradientError, match=r"model\.21\.cv2\.1"):  # box regression, class target
        detcam.explain(small, photo, layers=["model.21.cv2.1"], max_boxes=1)


def test_a_picture_without_gradient_in_a_batch_is_not_hidden_by_its_neighbour(small):
    several = pictures(3)
    assert [detcam.explain(small, one, max_boxes=1).deciding[0] for one in several[:3]].count("P3") < 3
    with pytest.raises(NoGradientError):
        detcam.explain(small, several, layers="model.21.cv3.0", max_boxes=1, batch=3)


def test_a_gradient_of_zero_is_an_error_that_names_target_and_layers(small, photo):
    box = int(detcam.explain(small, photo, max_boxes=1).detections.labels[0])
    with pytest.raises(
        NoGradientError, match=r"'class-difference:\w.*' of box 0 is zero at the layers model"
    ):
        detcam.explain(small, photo, max_boxes=1, target=f"class-difference:{CLASS_NAMES[box]}")


# Methods and targets

TARGETS_ASKED = [
    "class-difference:fire hydrant" if name == "class-difference" else name
    for name in TARGETS
    if name != "objectness"
]


def test_scores_of_masked_pictures_weigh_the_channels(small, photo):
    layers = ["model.2", "model.4"]
    found = detcam.explain(small, photo, method="score-cam", layers=layers, max_boxes=2, batch_size=5)
    assert len(found) == 2
    tensor, _ = small.prepare(photo, None)
    with (
        borrowed(small.model),
        torch.no_grad(),
        observe({n: small.model.get_submodule(n) for n in layers}) as a,
    ):
        small.forward(tensor[None])
        activations = [one[0] for one in a.values()]
    for level, maps in zip(found.levels.values(), activations, strict=True):
        for box, candidate in enumerate(found.detections.candidates.tolist()):
            scores = []
            for channel in maps.double():
                mask = F.interpolate(channel[None, None], tensor.shape[1:], mode="bilinear")[0]
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                with borrowed(small.model), torch.no_grad():
                    (raw,) = small.forward((tensor * mask.float())[None])
                scores.append(raw.class_logits[candidate, found.detections.labels[box]])
            weights = torch.stack(scores).softmax(dim=0)
            expected = (weights[:, None, None] * maps).sum(dim=0).clamp(min=0)
            torch.testing.assert_close(level[box], expected, rtol=1e-3, atol=1e-5)


def test_scores_without_a_channel_weigh_it(small, photo):
    found = detcam.explain(small, photo, method="ablation-cam", layers="model.4", max_boxes=2)
    layer = small.model.get_submodule("model.4")
    tensor, _ = small.prepare(photo, None)

    def scores(without: int | None) -> list[torch.Tensor]:
        def silence(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            seen.append(output[0].clone())
            if without is not None:
                output = output.clone()
                output[:, without] = 0
            return output

        hook = layer.register_forward_hook(silence)
        with borrowed(small.model), torch.no_grad():
            (raw,) = small.forward(tensor[None])
        hook.remove()
        rows = zip(found.detections.candidates, found.detections.labels, strict=True)
        return [raw.class_logits[candidate, label] for candidate, label in rows]

    seen: list[torch.Tensor] = []
    before = torch.stack(scores(None))
    after = torch.stack([torch.stack(scores(channel)) for channel in range(len(seen[0]))], dim=1)
    weights = (before[:, None] - after) / before.abs()[:, None]
    expected = torch.einsum("tc,chw->thw", weights, seen[0]).clamp(min=0)
    torch.testing.assert_close(found.levels["P3"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ANSWERABLE)
def test_every_method_explains_every_target(small, photo, method):
    has_own_target = METHODS[method].rescores == "sampled"
    few = {"masks": 10} if has_own_target else {}
    for target in ["class-logit"] if has_own_target else TARGETS_ASKED:
        asked = {"method": method, "target": target, "classes": ["dog"], "max_boxes": 2, **few}
        explanation = detcam.explain(small, photo, **asked)
        assert len(explanation) == 2
        assert explanation.question.method == method
        assert explanation.question.target == ("similarity" if has_own_target else target)
        for maps in explanation.levels.values():
            assert maps.isfinite().all()
        assert any(maps.any() for maps in explanation.levels.values())
        assert explanation.heatmap.isfinite().all()


@pytest.mark.parametrize(
    ("target", "unit"), [("class-logit", "logit"), ("probability", "probability"), ("x2", "input pixels")]
)
def test_the_unit_is_the_targets(small, photo, target, unit):
    assert detcam.explain(small, photo, target=target, max_boxes=1).question.unit == unit


def test_an_alias_is_stored_under_the_methods_own_name(small, photo):
    assert detcam.explain(small, photo, method="odam", max_boxes=1).question.method == "hires-cam"


def test_a_detector_without_objectness_refuses_that_target(small, photo):
    with pytest.raises(InputError, match="no objectness"):
        detcam.explain(small, photo, target="objectness")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "grad-cm"}, "no method 'grad-cm'. Closest: 'grad-cam'"),
        ({"target": "class-logits"}, "no target 'class-logits'. Closest: 'class-logit'"),
        ({"target": "class-difference"}, "needs the other class"),
        ({"target": "class-difference:dg"}, "no class 'dg'. Closest: 'dog'"),
        ({"target": "x1:3"}, "takes no argument"),
        ({"path": "directly"}, "no gradient path 'directly'. Closest: 'direct'"),
        ({"conf": -0.1}, "conf must lie in 0..1, got -0.1"),
        ({"conf": float("nan")}, "conf must lie in 0..1, got nan"),
        ({"iou": 1.5}, "iou must lie in 0..1, got 1.5"),
        ({"max_boxes": 0}, "max_boxes must be a whole number of at least 1, got 0"),
        ({"max_boxes": 1.5}, "max_boxes must be a whole number of at least 1, got 1.5"),
        ({"max_det": -1}, "max_det must be a whole number of at least 1, got -1"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"batch": -1}, "batch must be a whole number of at least 1, got -1"),
        ({"imgsz": 0}, "imgsz must be pixels, or (H, W), got 0"),
        ({"imgsz": -32}, "imgsz must be pixels, or (H, W), got -32"),
        ({"imgsz": 64.5}, "imgsz must be pixels, or (H, W), got 64.5"),
        ({"imgsz": (64,)}, "imgsz must be pixels, or (H, W), got (64,)"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(small, photo, asked, message):
    with pytest.raises(InputError, match=re.escape(message)):
        detcam.explain(small, photo, **asked)


@pytest.mark.parametrize(("imgsz", "input_size"), [(64, (64, 64)), (100, (96, 128)), ((64, 96), (64, 96))])
def test_the_input_is_the_smallest_rectangle_in_multiples_of_the_stride(small, photo, imgsz, input_size):
    # 100 becomes 128; 61x97 scaled by 128/97 is 80x128, so 96x128. 64: 40x64, so 64x64.
    explanation = detcam.explain(small, photo, imgsz=imgsz, max_boxes=1)
    assert explanation.geometry.input_size == input_size


# Rehearsal: what fails for every picture fails on none


def rehearsal(small: Any, **options: Any) -> Callable[[], None]:
    return Explainer.of(small, ExplainOptions(**options)).rehearse


@pytest.mark.parametrize(
    "options",
    [{}, {"layers": "head"}, {"layers": "model.20"}, {"method": "random"}, {"target": "y2", "path": "total"}],
)
def test_a_rehearsal_of_what_works_says_nothing(small, options):
    rehearsal(small, **options)()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"layers": "model.21.dfl"}, CaptureError),
        ({"layers": "model"}, CaptureError),
        ({"layers": "model.21.cv2.0"}, NoGradientError),
        ({"target": "objectness"}, InputError),
    ],
)
def test_a_rehearsal_fails_like_the_pictures_would(small, options, error):
    with pytest.raises(error):
        rehearsal(small, **options)()
