"""The vendor's network is a guest: unchanged by a call, and explained alike whatever came before it."""

import copy

import pytest
import torch
from guests_coat import unchanged
from vendor_zoo import DUAL, FAMILIES, picture, release

from detcam.adapters import DetectOptions, LoadOptions, UltralyticsDetector, wrap
from detcam.cam.capture import capture
from detcam.errors import CaptureError, InputError

SAMPLE = ["yolov8n", "yolov8n-seg", "yolov8n-pose", "yolo11n-obb", "yolov10n", "yolo26n", "yolo26n-obb"]


class TroubleError(Exception):
    """What a module of the network raises in these tests."""


def explained(model, imgsz, branch=None):
    """Detections, all scores, and gradients of the first detection's logit at the backbone's stages."""
    detector = wrap(model, branch=branch)
    named = dict(detector.model.named_modules())
    layers = {layer.name: named[layer.name] for layer in detector.layers() if layer.member_of == "backbone"}
    tensor, geometry = detector.prepare(picture(), imgsz)
    with capture(detector.model, layers, "total") as caught:
        (raw,) = detector.forward(tensor[None])
        found = detector.detect(raw, geometry, DetectOptions(0.2))
        gradients = caught.gradients(raw.class_logits[found.candidates[0], found.labels[0]])
        return found, raw.scores().detach(), gradients


def assert_alike(one, other, tolerance):
    """Same detections, scores and gradients, the latter relative to the largest of their layer."""
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=tolerance)
    assert one[0].candidates[0] == other[0].candidates[0]
    torch.testing.assert_close(one[0].boxes[0], other[0].boxes[0], rtol=0, atol=100 * tolerance)
    for name, gradient in one[2].items():
        largest = float(gradient.abs().max())
        assert largest > 0
        torch.testing.assert_close(other[2][name], gradient, rtol=0, atol=10 * tolerance * largest)


SAME, ROUNDED = 1e-6, 1e-4  # the very same sums; sums in another order, as fused weights give


# --- before = after -----------------------------------------------------------------------------------


def with_mixed_marks(model):
    """Flags, gradients, a hook and a cache of another picture that only an owner could have put there."""
    model.train()
    model.model[3].eval()
    parameters = list(model.parameters())
    for parameter in parameters[::3]:
        parameter.requires_grad_(not parameter.requires_grad)
    parameters[4].requires_grad_(True)
    parameters[4].grad = torch.ones_like(parameters[4])
    model.model[2].register_forward_hook(lambda *_: None)
    model.model[-1].shape = torch.Size((1, 64, 5, 7))
    return model


@pytest.mark.compat
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", SAMPLE)
def test_an_explanation_leaves_the_network_as_it_was(zoo, family, half):
    example = zoo(family)
    model = with_mixed_marks(copy.deepcopy(example.model))
    model = model.half() if half else model
    for branch in ("one2many", "one2one") if family in DUAL else (None,):
        with unchanged(model):
            explained(model, example.imgsz, branch)


@pytest.mark.compat
@pytest.mark.parametrize(
    "place", ["model.0", "model.2.cv1.act", "model.12", "head", "cv2.1", "cv3.0.0", "dfl"]
)
@pytest.mark.parametrize("family", ["yolov8n", "yolov10n", "yolo11n-obb"])
def test_a_module_that_raises_leaves_the_network_as_it_was(zoo, family, place):
    example = zoo(family)
    model = with_mixed_marks(copy.deepcopy(example.model))
    head = model.model[-1]
    broken = head if place == "head" else (model if place.startswith("model") else head).get_submodule(place)

    def fail(*_):
        raise TroubleError

    broken.register_forward_hook(fail)
    detector = UltralyticsDetector(model)
    tensor, _ = detector.prepare(picture(), example.imgsz)
    layers = {"model.4": model.model[4], "model.6": model.model[6]}
    with unchanged(model), pytest.raises(TroubleError), capture(model, layers):
        detector.forward(tensor[None])
    with unchanged(model), pytest.raises(TroubleError):
        detector.layers()


@pytest.mark.compat
def test_predict_gives_the_same_after_an_explanation(zoo):
    example = zoo("yolov8n")
    yolo = example.yolo()
    explained(yolo, example.imgsz)
    bgr = picture()[..., ::-1].copy()
    after = yolo.predict(bgr, imgsz=example.imgsz, verbose=False, device="cpu")[0]
    explained(yolo, 128)  # another grid: its anchors must not stay behind
    again = yolo.predict(bgr, imgsz=example.imgsz, verbose=False, device="cpu")[0]
    untouched = example.yolo().predict(bgr, imgsz=example.imgsz, verbose=False, device="cpu")[0]
    assert torch.equal(after.boxes.data, untouched.boxes.data)
    assert torch.equal(again.boxes.data, untouched.boxes.data)


# --- whatever was done to the network before ----------------------------------------------------------


@pytest.mark.compat
@pytest.mark.parametrize("family", SAMPLE)
def test_a_network_that_predicted_before_is_explained_alike(zoo, family):
    example = zoo(family)
    yolo = example.yolo()
    yolo.predict(picture()[..., ::-1].copy(), imgsz=example.imgsz, verbose=False, device="cpu")
    assert_alike(explained(example.model, example.imgsz), explained(yolo, example.imgsz), ROUNDED)


@pytest.mark.compat
@pytest.mark.parametrize("family", sorted({*SAMPLE, "yolov6n", "yolov9t", "yolo12n"}))
def test_a_fused_network_is_explained_alike(zoo, family):
    example = zoo(family)
    model = copy.deepcopy(example.model)
    model.fuse(verbose=False)
    assert_alike(explained(example.model, example.imgsz), explained(model, example.imgsz), ROUNDED)


@pytest.mark.compat
@pytest.mark.parametrize("family", SAMPLE)
def test_a_network_in_half_precision_is_explained_as_in_float32(zoo, family):
    # The file holds half-precision weights: nothing is lost on the way there and back.
    example = zoo(family)
    model = copy.deepcopy(example.model).half()
    assert_alike(explained(example.model, example.imgsz), explained(model, example.imgsz), SAME)


@pytest.mark.compat
@pytest.mark.parametrize("family", SAMPLE)
def test_an_explanation_inside_inference_mode_is_the_same(zoo, family):
    example = zoo(family)
    with torch.inference_mode():
        inside = explained(example.model, example.imgsz)
    assert_alike(explained(example.model, example.imgsz), inside, SAME)


@pytest.mark.compat
@pytest.mark.parametrize("family", SAMPLE)
def test_a_network_that_ran_in_inference_mode_is_explained_alike(zoo, family):
    example = zoo(family)
    model = copy.deepcopy(example.model).eval()
    model.model[-1].shape = None
    with torch.inference_mode():
        model(torch.zeros(1, 3, 96, 160))
    assert model.model[-1].strides.is_inference()  # no graph may save them
    assert_alike(explained(example.model, example.imgsz), explained(model, example.imgsz), SAME)


@pytest.mark.compat
def test_a_network_in_training_mode_is_explained_as_in_evaluation(zoo):
    example = zoo("yolov10n")
    model = copy.deepcopy(example.model).train()
    one2one = explained(example.model, example.imgsz, "one2one")
    assert_alike(one2one, explained(model, example.imgsz, "one2one"), SAME)


@pytest.mark.compat
def test_an_exported_head_is_explained_alike(zoo):
    example = zoo("yolov8n")
    model = copy.deepcopy(example.model)
    model.model[-1].export, model.model[-1].format = True, "onnx"
    assert_alike(explained(example.model, example.imgsz), explained(model, example.imgsz), SAME)


@pytest.mark.compat
@pytest.mark.parametrize("family", [family for family in FAMILIES if family in DUAL])
def test_the_branch_that_fusing_removed_is_refused(zoo, family):
    if release() < (8, 4, 0):
        pytest.skip("ultralytics before 8.4 keeps both branches")
    model = copy.deepcopy(zoo(family).model)
    own = UltralyticsDetector(model).branch
    model.fuse(verbose=False)
    assert UltralyticsDetector(model).branch == own
    other = "one2one" if own == "one2many" else "one2many"
    with pytest.raises(InputError, match=f"has no {other} branch"):
        UltralyticsDetector(model, LoadOptions(branch=other))


# --- networks that give no numbers --------------------------------------------------------------------


@pytest.mark.compat
@pytest.mark.parametrize("tower", ["cv2", "cv3", "cv4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_reported_and_the_network_given_back(zoo, tower, value):
    example = zoo("yolov8n-obb")
    model = with_mixed_marks(copy.deepcopy(example.model))
    getattr(model.model[-1], tower)[1][-1].bias.data[0] = value
    detector = UltralyticsDetector(model)
    tensor, _ = detector.prepare(picture(), example.imgsz)
    with unchanged(model), pytest.raises(CaptureError, match="NaN or infinity"), capture(model, {}):
        detector.forward(tensor[None])
