"""Faster, Mask and Keypoint R-CNN of torchvision: their own detections, box for box."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision_models import LEAST_SIZES, as_input, assert_same, enlivened, noise, predicted, small

import detcam
from detcam.adapters import DetectOptions, torchvision_regions
from detcam.cam.capture import capture
from detcam.errors import CaptureError, InputError, UnsupportedModelError
from detcam.targets import BoxEdge
from detcam.windows import describe_layers

KINDS = ["regions", "one-map"]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return small(request.param)


@pytest.fixture(scope="module")
def pyramid():
    return small("regions")


def forward(detector, pixels, layers=(), path="total"):
    tensor, geometry = detector.prepare(pixels, None)
    modules = {name: detector.model.get_submodule(name) for name in layers}
    with capture(detector.model, modules, path) as caught:
        (raw,) = detector.forward(tensor[None])
    return geometry, raw, caught


def detected(detector, pixels, **options):
    geometry, raw, _ = forward(detector, pixels)
    options = {"conf": detector.model.roi_heads.score_thresh, "max_det": 1000} | options
    return detector.detect(raw, geometry, DetectOptions(**options))


def own_logits(model, pixels):
    """The model's own detections and the logits (R, K) they come from, in one graph."""
    seen = []
    hook = model.roi_heads.box_predictor.register_forward_hook(lambda _m, _i, output: seen.append(output[0]))
    own = model([as_input(pixels)])[0]
    hook.remove()
    return own, seen[0]


# --- the model's own detections -------------------------------------------------------------------


def test_detections_in_a_long_picture_are_the_models_own(model):
    expected = predicted(model, noise(31, 211))[0]
    assert len(expected["scores"]) > 10
    assert_same(detected(detcam.wrap(model), noise(31, 211)), expected)


@pytest.mark.parametrize(
    "builder",
    [
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_v2",
        "keypointrcnn_resnet50_fpn",
    ],
)
def test_detections_of_torchvisions_builders_are_their_own(builder):
    torch.manual_seed(0)
    few = {"rpn_post_nms_top_n_test": 20, "rpn_score_thresh": 0.0, "box_detections_per_img": 3}
    build = getattr(detection, builder)
    model = build(weights=None, weights_backbone=None, num_classes=4, **LEAST_SIZES, **few).eval()
    model = enlivened(model)
    expected = predicted(model, noise())[0]
    assert len(expected["scores"]) == 3
    assert_same(detected(detcam.wrap(model), noise()), expected)


@pytest.mark.parametrize("classes", [2, 3, 8, 91])
def test_any_number_of_classes_is_read(classes):
    model = small("one-map", classes)
    model.roi_heads.score_thresh = 0.5 / classes
    detector = detcam.wrap(model)
    assert detector.columns == classes
    assert list(detector.class_names) == list(range(1, classes))
    expected = predicted(model, noise())[0]
    assert len(expected["scores"]) > 10
    assert_same(detected(detector, noise()), expected)


def test_a_region_is_detected_as_several_classes(pyramid):
    detector = detcam.wrap(pyramid)
    found = detected(detector, noise())
    regions = (found.candidates // 3).tolist()
    assert len(set(regions)) < len(regions)
    assert len(set(found.candidates.tolist())) == len(found)


def test_a_threshold_below_the_models_own_lowers_it(model):
    lower = copy.deepcopy(model)
    lower.roi_heads.score_thresh, lower.roi_heads.detections_per_img = 0.01, 10_000
    model = copy.deepcopy(lower)
    model.roi_heads.score_thresh = 0.2
    assert len(predicted(model, noise())[0]["scores"]) < len(predicted(lower, noise())[0]["scores"])
    found = detected(detcam.wrap(model), noise(), conf=0.01, max_det=10_000)
    assert_same(found, predicted(lower, noise())[0])


def test_a_higher_threshold_filters(model):
    expected = predicted(model, noise())[0]
    middle = float(expected["scores"].median())
    rows = expected["scores"] > middle
    assert 0 < rows.sum() < len(rows)
    found = detected(detcam.wrap(model), noise(), conf=middle)
    assert_same(found, {name: values[rows] for name, values in expected.items()})


def test_only_wanted_classes_are_detected(pyramid):
    found = detected(detcam.wrap(pyramid), noise(), classes=(3,))
    assert set(found.labels.tolist()) == {3}
    _, raw, _ = forward(detcam.wrap(pyramid), noise())
    assert found.best_score == pytest.approx(raw.class_logits.softmax(dim=1)[:, 3].max().item())


def test_boxes_pressed_flat_at_the_border_are_removed():
    model = small("one-map")
    predictor = model.roi_heads.box_predictor
    with torch.no_grad():  # far beyond the right border, all of them of class 1
        predictor.bbox_pred.bias.view(4, 4)[1, 0] = 1000.0
    assert 1 not in predicted(model, noise())[0]["labels"]
    assert_same(detected(detcam.wrap(model), noise()), predicted(model, noise())[0])


def test_no_proposals_are_no_error():
    model = small("one-map")
    model.rpn.score_thresh = 1.1
    found = detected(detcam.wrap(model), noise())
    assert (len(found), found.best_score) == (0, 0.0)


# --- candidates -----------------------------------------------------------------------------------


def test_the_models_own_score_depends_on_our_candidates_region_alone(model):
    own, logits = own_logits(model, noise())
    detector = detcam.wrap(model)
    _, raw, _ = forward(detector, noise())
    found = detected(detector, noise())
    for i in (0, 3, len(found) - 1):
        (gradient,) = torch.autograd.grad(own["scores"][i], logits, retain_graph=True)
        (region,) = gradient.abs().amax(dim=1).nonzero().flatten().tolist()
        assert gradient[region].argmax() == found.labels[i]
        assert divmod(int(found.candidates[i]), 3) == (region, found.labels[i] - 1)
        torch.testing.assert_close(raw.class_logits[found.candidates[i]], logits[region])


def test_a_candidate_scores_for_its_own_class_only(pyramid):
    _, raw, _ = forward(detcam.wrap(pyramid), noise())
    scores = raw.scores()
    assert scores.shape == (len(raw.class_logits), 4)
    for candidate in (0, 1, 2, 7):
        assert scores[candidate].nonzero().flatten().tolist() == [candidate % 3 + 1]


def test_of_very_many_classes_a_regions_best_become_candidates(monkeypatch):
    monkeypatch.setattr(torchvision_regions, "_MOST_CLASSES", 3)
    model = small("one-map", 8)
    model.roi_heads.score_thresh = 0.26  # more than three classes of a region cannot pass
    expected = predicted(model, noise())[0]
    assert len(expected["scores"]) > 3
    found = detected(detcam.wrap(model), noise())
    assert_same(found, expected)
    _, logits = own_logits(model, noise())
    _, raw, _ = forward(detcam.wrap(model), noise())
    assert len(raw.class_logits) == 3 * len(logits)


def test_a_candidate_sits_where_its_region_is_pooled(pyramid):
    """Level by the region's size (FPN, eq. 1 with levels 2 to 5), cell by its centre."""
    proposals = []
    hook = pyramid.rpn.register_forward_hook(lambda _m, _i, output: proposals.append(output[0][0]))
    _, raw, _ = forward(detcam.wrap(pyramid), noise())
    hook.remove()
    assert len(raw.class_logits) == 3 * len(proposals[0])
    levels = set()
    for region, (x1, y1, x2, y2) in enumerate(proposals[0].tolist()):
        level, row, column, anchor = raw.locate(3 * region + 1)
        size = ((x2 - x1) * (y2 - y1)) ** 0.5
        assert level.name == f"P{min(max(math.floor(4 + math.log2(size / 224) + 1e-6), 2), 5)}"
        assert (row, column) == (int((y1 + y2) / 2 / level.stride), int((x1 + x2) / 2 / level.stride))
        assert anchor == 0
        levels.add(level.name)
    assert levels >= {"P2", "P3"}


def test_a_candidate_that_does_not_exist_has_no_place(model):
    _, raw, _ = forward(detcam.wrap(model), noise())
    for candidate in (-1, len(raw.class_logits)):
        with pytest.raises(IndexError):
            raw.locate(candidate)


# --- gradients and layers -------------------------------------------------------------------------


def test_an_edge_of_the_box_can_be_explained(pyramid):
    detector = detcam.wrap(pyramid)
    geometry, raw, caught = forward(detector, noise(), ["backbone.body.layer2"])
    found = detector.detect(raw, geometry, DetectOptions(conf=0.05))
    shown = geometry.boxes_to_input(found.boxes)
    (inside,) = (
        ((shown > 0) & (shown < shown.new_tensor(geometry.resized).min())).all(dim=1).nonzero()[0].tolist()
    )
    found, shown = found[[inside]], shown[inside].tolist()
    for edge, value in zip(("x1", "y1", "x2", "y2"), shown, strict=True):
        target = BoxEdge(int(found.candidates), int(found.labels), edge)(raw)
        assert target.item() == pytest.approx(value, abs=1e-3)
        assert caught.gradients(target)["backbone.body.layer2"].any()


def test_the_proposals_are_constants(pyramid):
    seen = []
    hook = pyramid.rpn.register_forward_hook(lambda _m, _i, output: seen.append(output[0][0]))
    _, raw, _ = forward(detcam.wrap(pyramid), noise(), ["backbone.body.layer1"])
    hook.remove()
    assert raw.class_logits.requires_grad
    assert not seen[0].requires_grad


def test_layers_have_the_strides_regions_are_pooled_at(pyramid):
    detector = detcam.wrap(pyramid)
    assert detector.strides == (4, 8, 16, 32)
    sets = {}
    for layer in detector.layers():
        sets.setdefault(layer.member_of, []).append((layer.name, layer.stride))
    assert sets["backbone"] == [(f"backbone.body.layer{i}", 2 ** (i + 1)) for i in (1, 2, 3, 4)]
    assert sets["neck"] == [(f"backbone.fpn.inner_blocks.{i}", 4 * 2**i) for i in (3, 2, 1, 0)]
    assert sets["head"] == [(f"backbone.fpn.layer_blocks.{i}", 4 * 2**i) for i in (3, 2, 1, 0)]


def test_mobilenets_second_map_of_one_stride_feeds_no_region():
    build = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    detector = detcam.wrap(build(weights=None, weights_backbone=None, num_classes=3))
    assert detector.strides == (32,)
    members = {layer.member_of: layer.name for layer in detector.layers() if layer.member_of}
    assert members == {
        "backbone": "backbone.body.16",
        "neck": "backbone.fpn.inner_blocks.0",
        "head": "backbone.fpn.layer_blocks.0",
    }


def test_layers_can_be_listed_with_their_windows(pyramid):
    rows = {row["name"]: row for row in describe_layers(detcam.wrap(pyramid), 64)}
    assert "P2:" in rows["backbone.body.layer1"]["total"]
    assert rows["backbone.fpn.layer_blocks.3"]["set"] == "head"


# --- the model is a guest's coat ------------------------------------------------------------------


def coat(model):
    return [
        [(name, id(one), one.requires_grad) for name, one in model.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        [(name, id(value)) for name, value in vars(model.rpn.anchor_generator).items()],
        [(name, id(value)) for name, value in vars(model.roi_heads.box_roi_pool).items()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_training_is_left_as_it_was(kind):
    model = small(kind).train()
    model.roi_heads.box_roi_pool.scales = model.roi_heads.box_roi_pool.map_levels = None
    before = coat(model)
    assert len(detected(detcam.wrap(model), noise()))
    assert coat(model) == before


def test_the_model_is_left_as_it_was_after_an_exception():
    model = small("regions")
    model.roi_heads.box_roi_pool.scales = model.roi_heads.box_roi_pool.map_levels = None
    detector = detcam.wrap(model)

    class Broken(nn.Module):
        def forward(self, _):
            raise ZeroDivisionError

    model.roi_heads.box_head = Broken()
    before = coat(model)
    with pytest.raises(ZeroDivisionError):
        forward(detector, noise(), ["backbone.body.layer2"])
    assert coat(model) == before


# --- what cannot be used --------------------------------------------------------------------------


def test_weights_that_are_no_numbers_are_told():
    for name in ("backbone.0.weight", "roi_heads.box_predictor.cls_score.weight"):
        model = small("one-map")
        detector = detcam.wrap(model)
        with torch.no_grad():
            model.get_parameter(name).fill_(torch.nan)
        with pytest.raises(CaptureError, match="NaN or infinity: check its weights"):
            forward(detector, noise())


def test_one_box_for_all_classes_is_refused():
    model = small("one-map")
    model.roi_heads.box_predictor.bbox_pred = nn.Linear(32, 4)
    with pytest.raises(CaptureError, match="gave 4 classes and 4 box deltas, not four for each class"):
        forward(detcam.wrap(model), noise())


def test_a_foreign_region_head_is_refused():
    model = small("one-map")
    model.roi_heads.box_roi_pool = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="no adapter understands a FasterRCNN"):
        detcam.wrap(model)


def test_a_wrong_class_count_is_told_with_both_numbers(model):
    with pytest.raises(InputError, match=r"num_classes 3 does not fit: the weights score 4 classes"):
        detcam.wrap(model, num_classes=3)
    assert detcam.wrap(model, num_classes=4).columns == 4


def test_names_go_to_the_classes_behind_the_background(model):
    names = {1: "ant", 2: "bee", 3: "cat"}
    assert detcam.wrap(model, names=("ant", "bee", "cat")).class_names == names
    assert detcam.wrap(model, names=("__background__", "ant", "bee", "cat")).class_names == names
    for wrong in (("ant", "bee"), ("ant", "bee", "cat", "dog")):
        with pytest.raises(InputError, match=f"{len(wrong)} class names for 3 classes"):
            detcam.wrap(model, names=wrong)


@pytest.mark.parametrize("method", ["score-cam", "ablation-cam"])
def test_regions_cannot_be_scored_in_changed_pictures(pyramid, method):
    with pytest.raises(InputError, match="sees other regions in each"):
        detcam.explain(detcam.wrap(pyramid), noise(), method=method, conf=0.01)
