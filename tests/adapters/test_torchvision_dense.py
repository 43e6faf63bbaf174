"""RetinaNet, FCOS and SSD of torchvision: their own detections, box for box."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision.models import detection, vgg
from torchvision_models import LEAST_SIZES, as_input, assert_same, enlivened, noise, predicted, small

import detcam
from detcam.adapters import DetectOptions
from detcam.adapters.suppression import Pairs
from detcam.adapters.torchvision_dense import FCOSDetector
from detcam.cam.capture import capture
from detcam.errors import CaptureError
from detcam.targets import BoxEdge

KINDS = ["retinanet", "fcos", "ssd"]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return small(request.param)


@pytest.fixture(scope="module")
def ssd300():
    # Without VGG's classifier, which SSD throws away: it alone takes seconds to fill.
    with pytest.MonkeyPatch.context() as patch:
        features = vgg.make_layers(vgg.cfgs["D"])
        patch.setattr(detection.ssd, "vgg16", lambda **_: SimpleNamespace(features=features))
        torch.manual_seed(0)
        model = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4)
    return enlivened(model.eval())


def forward(detector, pixels, layers=(), path="total"):
    """Input geometry, raw prediction and capture of one picture."""
    tensor, geometry = detector.prepare(pixels, None)
    modules = {name: detector.model.get_submodule(name) for name in layers}
    with capture(detector.model, modules, path) as caught:
        (raw,) = detector.forward(tensor[None])
    return geometry, raw, caught


def detected(detector, pixels, **options):
    geometry, raw, _ = forward(detector, pixels)
    options = {"conf": detector.model.score_thresh, "max_det": 1000} | options
    return detector.detect(raw, geometry, DetectOptions(**options))


# --- the model's own detections -------------------------------------------------------------------


def test_detections_in_a_long_picture_are_the_models_own(model):
    expected = predicted(model, noise(31, 211))[0]
    assert len(expected["scores"]) > 20
    assert_same(detected(detcam.wrap(model), noise(31, 211)), expected)


@pytest.mark.parametrize(
    "builder",
    [
        "retinanet_resnet50_fpn",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
        "ssdlite320_mobilenet_v3_large",
    ],
)
def test_detections_of_torchvisions_builders_are_their_own(builder):
    torch.manual_seed(0)
    options = {} if builder.startswith("ssd") else LEAST_SIZES
    build = getattr(detection, builder)
    model = enlivened(build(weights=None, weights_backbone=None, num_classes=4, **options).eval())
    expected = predicted(model, noise())[0]
    assert len(expected["scores"]) > 20
    assert_same(detected(detcam.wrap(model), noise()), expected)


def test_detections_of_ssd300_are_its_own(ssd300):
    expected = predicted(ssd300, noise())[0]
    assert len(expected["scores"]) > 20
    assert_same(detected(detcam.wrap(ssd300), noise()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_best_of_each_group_are_suppressed(kind):
    model = small(kind, topk_candidates=7, detections_per_img=1000)
    expected = predicted(model, noise())[0]
    assert_same(detected(detcam.wrap(model), noise()), expected)
    model.topk_candidates = 8
    assert len(predicted(model, noise())[0]["scores"]) > len(expected["scores"])


def test_the_groups_of_a_pyramid_are_its_levels():
    detector = detcam.wrap(small("fcos"))
    _, raw, _ = forward(detector, noise())
    first, second = (level.rows for level in raw.levels[:2])
    candidates = torch.tensor([0, first - 1, first, first + second - 1, first + second])
    pairs = Pairs(candidates, torch.ones_like(candidates), torch.ones(5))
    assert detector._groups(raw, pairs).tolist() == [0, 0, 1, 1, 2]


def test_a_threshold_below_the_models_own_lowers_it(model):
    model = copy.deepcopy(model)
    model.detections_per_img = model.topk_candidates = 10_000
    usual = len(predicted(model, noise())[0]["scores"])
    lower = copy.deepcopy(model)
    lower.score_thresh = model.score_thresh / 2
    found = detected(detcam.wrap(model), noise(), conf=lower.score_thresh, max_det=10_000)
    assert len(found) > usual
    assert_same(found, predicted(lower, noise())[0])


def test_a_higher_threshold_filters(model):
    expected = predicted(model, noise())[0]
    middle = float(expected["scores"].median())
    rows = expected["scores"] > middle
    assert 5 < rows.sum() < len(rows)
    found = detected(detcam.wrap(model), noise(), conf=middle)
    assert_same(found, {name: values[rows] for name, values in expected.items()})


def test_a_given_overlap_takes_the_place_of_the_models_own(model):
    other = copy.deepcopy(model)
    other.nms_thresh = 0.2
    assert_same(detected(detcam.wrap(model), noise(), iou=0.2), predicted(other, noise())[0])


def test_only_wanted_classes_are_detected(model):
    found = detected(detcam.wrap(model), noise(), classes=(2,))
    assert set(found.labels.tolist()) == {2}
    _, raw, _ = forward(detcam.wrap(model), noise())
    assert found.best_score == pytest.approx(float(raw.scores()[:, 2].max()))


def test_max_det_keeps_the_best(model):
    expected = predicted(model, noise())[0]
    found = detected(detcam.wrap(model), noise(), max_det=3)
    assert_same(found, {name: values[:3] for name, values in expected.items()})


def test_nothing_found_is_no_error(model):
    found = detected(detcam.wrap(model), noise(), conf=1.0)
    assert len(found) == 0
    assert 0 < found.best_score <= 1


def test_an_untrained_background_column_is_never_detected():
    model = small("retinanet")
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.view(9, 4)[:, 0] = 5
    assert 0 in predicted(model, noise())[0]["labels"]
    found = detected(detcam.wrap(model), noise())
    assert len(found)
    assert 0 not in found.labels


def test_who_names_column_0_of_a_sigmoid_head_gets_it():
    model = small("fcos")
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias[0] = 2
    expected = predicted(model, noise())[0]
    assert 0 in expected["labels"]
    detector = detcam.wrap(model, names=("ant", "bee", "cat", "dog"))
    assert detector.class_names == {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
    assert_same(detected(detector, noise()), expected)


# --- candidates -----------------------------------------------------------------------------------


def test_the_models_own_score_depends_on_our_candidate_alone(model):
    """grad(score, logits) of the model's own forward is not zero in one row: the candidate's."""
    seen = []
    hook = model.head.register_forward_hook(lambda _m, _i, output: seen.append(output["cls_logits"]))
    own = model([as_input(noise())])[0]
    hook.remove()
    found = detected(detcam.wrap(model), noise())
    for i in (0, 5, len(found) - 1):
        (gradient,) = torch.autograd.grad(own["scores"][i], seen[0], retain_graph=True)
        assert gradient[0].abs().amax(dim=1).nonzero().flatten().tolist() == [found.candidates[i]]
        assert gradient[0, found.candidates[i]].argmax() == found.labels[i]


def test_a_candidate_sits_in_the_cell_its_anchor_stands_in(model):
    """Level by level, row by row, cell by cell: checked against the model's own anchors."""
    detector = detcam.wrap(model)
    anchors = []
    hook = model.anchor_generator.register_forward_hook(lambda _m, _i, output: anchors.append(output[0]))
    geometry, raw, _ = forward(detector, noise())
    hook.remove()
    assert len(anchors[0]) == len(raw.class_logits) == sum(level.rows for level in raw.levels)
    centres = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2
    for candidate in range(0, len(centres), 29):
        level, row, column, anchor = raw.locate(candidate)
        assert anchor < level.anchors
        height, width = (side // cells for side, cells in zip(geometry.input_size, level.grid, strict=True))
        offset = 0.5 if isinstance(model, torchvision.models.detection.ssd.SSD) else 0.0
        x, y = centres[candidate].tolist()
        assert x == pytest.approx((column + offset) * width, abs=0.51)
        assert y == pytest.approx((row + offset) * height, abs=0.51)


def test_candidates_of_one_cell_are_its_anchors():
    _, raw, _ = forward(detcam.wrap(small("ssd")), noise())
    assert [level.anchors for level in raw.levels] == [4, 6, 4]
    assert [level.grid for level in raw.levels] == [(12, 12), (6, 6), (3, 3)]
    assert raw.locate(4 * 144 + 6 * 7 + 5)[1:] == (1, 1, 5)


# --- gradients and layers -------------------------------------------------------------------------


def test_an_edge_of_the_box_can_be_explained(model):
    detector = detcam.wrap(model)
    layers = [layer.name for layer in detector.layers() if layer.member_of == "backbone"]
    geometry, raw, caught = forward(detector, noise(), layers)
    found = detector.detect(raw, geometry, DetectOptions(conf=0.3))[:1]
    candidate, label = int(found.candidates), int(found.labels)
    moving = []
    for edge, value in zip(("x1", "y1", "x2", "y2"), raw.boxes(found.candidates)[0].tolist(), strict=True):
        target = BoxEdge(candidate, label, edge)(raw)
        assert target.item() == value
        gradients = caught.gradients(target).values()
        moving.append(any(one is not None and bool(one.any()) for one in gradients))
    # FCOS cuts distances at 0: such an edge depends on nothing.
    assert any(moving) if isinstance(detector, FCOSDetector) else all(moving)


def test_a_box_depends_on_its_own_head_input_alone():
    detector = detcam.wrap(small("retinanet"))
    feeders = [layer.name for layer in detector.layers() if layer.member_of == "head"]
    assert feeders == [
        "backbone.fpn.layer_blocks.2",
        "backbone.fpn.layer_blocks.1",
        "backbone.fpn.layer_blocks.0",
        "backbone.fpn.extra_blocks.p6",
        "backbone.fpn.extra_blocks.p7",
    ]
    _, raw, caught = forward(detector, noise(), feeders, path="direct")
    first_of_p5 = raw.levels[0].rows + raw.levels[1].rows
    assert raw.locate(first_of_p5)[0].name == "P5"
    gradients = caught.gradients(raw.class_logits[first_of_p5, 1])
    assert [name for name, one in gradients.items() if one is not None and one.any()] == feeders[:1]


def test_layers_of_a_pyramid_have_their_sets():
    sets = {}
    for layer in detcam.wrap(small("fcos")).layers():
        sets.setdefault(layer.member_of, []).append((layer.name, layer.stride))
    assert sets["backbone"] == [(f"backbone.body.layer{i}", 2 ** (i + 1)) for i in (2, 3, 4)]
    assert sets["neck"] == [(f"backbone.fpn.inner_blocks.{i}", 8 * 2**i) for i in (2, 1, 0)]
    assert ("backbone.body.layer1", 4) in sets[None]
    assert ("backbone.body.conv1", 2) in sets[None]


def test_layers_of_ssd_are_what_its_head_reads():
    sets = {}
    for layer in detcam.wrap(small("ssd")).layers():
        sets.setdefault(layer.member_of, []).append((layer.name, layer.stride))
    assert sets["head"] == [("backbone.features.0", 8), ("backbone.features.1", 16), ("backbone.extra.0", 32)]
    assert sets["backbone"] == [("backbone.features.0.3", 8), ("backbone.features.1.1", 16)]
    assert "neck" not in sets


def test_ssd300s_first_level_is_fed_by_conv4_3(ssd300):
    detector = detcam.wrap(ssd300)
    assert detector.strides == (8, 16, 32, 64, 100, 300)  # its own `steps`
    members = {(layer.member_of, layer.stride): layer.name for layer in detector.layers() if layer.member_of}
    assert members["head", 8] == "backbone.features"
    assert members["backbone", 8] == "backbone.features.22"
    assert [members["head", s] for s in (16, 32, 64, 100, 300)] == [f"backbone.extra.{i}" for i in range(5)]
    assert members["backbone", 16] == "backbone.extra.0.7"


# --- the model is a guest's coat ------------------------------------------------------------------


def coat(model):
    return [
        [(name, id(one), one.requires_grad, one.clone()) for name, one in model.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        [(name, id(value)) for name, value in vars(model.anchor_generator).items()],
        torch.get_rng_state().tolist(),
    ]


def same_coat(before, after):
    assert [one[:3] for one in before[0]] == [one[:3] for one in after[0]]
    assert all(torch.equal(a[3], b[3]) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


def test_the_model_is_left_as_it_was_after_an_exception(monkeypatch):
    model = small("retinanet")
    detector = detcam.wrap(model)
    before = coat(model)

    def broken(*_):
        model.anchor_generator.cell_anchors = None
        raise ZeroDivisionError

    monkeypatch.setattr(model.head, "forward", broken)
    with pytest.raises(ZeroDivisionError):
        forward(detector, noise(), ["backbone.body.layer2"])
    monkeypatch.undo()
    same_coat(before, coat(model))


def test_weights_that_are_no_numbers_are_told():
    model = small("fcos")
    detector = detcam.wrap(model)
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight[0] = torch.nan
    with pytest.raises(CaptureError, match="NaN or infinity: check its weights"):
        forward(detector, noise())
