"""Heads of ultralytics whose classes are prompts: YOLO-World and YOLOE."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detector_checks import (
    assert_batch_equals_single,
    assert_same,
    calibrate,
    clear_threshold,
    gradients_of_best,
    noise,
    predicted,
    ultralytics_release,
    untouched,
)

import detcam
from detcam.adapters import DetectOptions, LoadOptions, UltralyticsDetector
from detcam.cam.capture import borrowed
from detcam.errors import CaptureError, InputError, UnsupportedModelError

IMGSZ = 96
FAMILIES = ["world", "worldv2", "yoloe", "yoloe-26"]
BRANCHES = [(family, "one2many") for family in FAMILIES] + [("yoloe-26", "one2one")]

_BACKBONE = [
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "Conv", [12, 3, 2]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "C2f", [16, True]],  # 3: /8
    [-1, 1, "Conv", [24, 3, 2]],
    [-1, 1, "C2f", [24, True]],  # 5: /16
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "SPPF", [32, 5]],  # 7: /32
]


def architecture(family):
    """YOLO-World and YOLOE in small, layer by layer like the vendor's."""
    is_world = family.startswith("world")

    def block(channels):
        return [-1, 1, "C2fAttn", [channels, channels // 2, 1]] if is_world else [-1, 1, "C2f", [channels]]

    # The first YOLO-World also lets the picture speak to the prompts.
    attention = [[[13, 10, 7], 1, "ImagePoolingAttn", [16]]] if family == "world" else []
    first = 14 + len(attention)
    head = [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 5], 1, "Concat", [1]],
        block(32),  # 10
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        block(16),  # 13: P3
        *attention,
        [13, 1, "Conv", [16, 3, 2]],
        [[-1, 10], 1, "Concat", [1]],
        block(32),  # P4
        [-1, 1, "Conv", [24, 3, 2]],
        [[-1, 7], 1, "Concat", [1]],
        block(48),  # P5
        [
            [13, first + 2, first + 5],
            1,
            "WorldDetect" if is_world else "YOLOEDetect",
            ["nc", 512, family != "world"],
        ],
    ]
    more = {"end2end": True, "reg_max": 1} if family == "yoloe-26" else {}
    return {"nc": 80, "backbone": _BACKBONE, "head": head, **more}


def build(family):
    from ultralytics.nn import tasks

    kind = getattr(tasks, "WorldModel" if family.startswith("world") else "YOLOEModel", None)
    if kind is None or (family == "yoloe-26" and ultralytics_release() < (8, 4, 0)):
        pytest.skip("this ultralytics has no such network")
    return kind(architecture(family), verbose=False)


def set_prompts(model, count, seed=0):
    """What `set_classes` does, with directions drawn at random in the place of text embeddings."""
    generator = torch.Generator().manual_seed(seed)
    prompts = F.normalize(torch.randn(1, count, 512, generator=generator), dim=-1)
    setattr(model, "txt_feats" if hasattr(model, "txt_feats") else "pe", prompts)
    model.model[-1].nc = count
    model.names = {index: f"prompt {index}" for index in range(count)}


def network(family, count=3):
    return _network(family, count)


@functools.cache
def _network(family, count):
    import ultralytics.nn.tasks  # noqa: F401  # draws random numbers when it is first imported

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(family)
        set_prompts(model, count)
        calibrate(model, IMGSZ)
        head = model.model[-1]
        for prefix in ("", "one2one_"):
            for boxes, contrast in zip(
                getattr(head, f"{prefix}cv2", None) or (),
                getattr(head, f"{prefix}cv4", None) or (),
                strict=False,
            ):
                contrast.bias.data.fill_(-2.0)
                contrast.logit_scale.data.fill_(2.5 if family == "world" else 0.5)
                # About two cells from the centre to each edge.
                boxes[-1].weight.data.mul_(0.2)
                falling = -0.5 * torch.arange(head.reg_max).repeat(4)
                boxes[-1].bias.data.copy_(torch.full((4,), 2.0) if head.reg_max == 1 else falling)
    model.args = {"imgsz": IMGSZ, "task": "detect"}
    model.task = "detect"
    return model


@functools.cache
def shell():
    """The vendor's object, for its way of predicting."""
    from ultralytics import YOLO

    return YOLO("yolov8n.yaml")


def predict(family, pixels, branch="one2many", count=3, **options):
    yolo = shell()
    yolo.model, yolo.predictor = copy.deepcopy(network(family, count)), None
    if branch == "one2one":
        options["nms"] = False
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    options = {"imgsz": IMGSZ, "iou": 0.7, **options}
    found = yolo.predict(bgr, device="cpu", verbose=False, **options)[0].boxes
    return found.xyxy, found.conf, found.cls


@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_detections_of_prompts_equal_predict(family, branch):
    if branch == "one2one" and ultralytics_release() < (8, 4, 143):
        pytest.skip("this release cannot be told which branch predict takes")
    detector, pixels = UltralyticsDetector(network(family), LoadOptions(branch=branch)), noise(197, 331)
    raw, geometry = predicted(detector, pixels)
    conf = clear_threshold(raw.scores().amax(dim=1), 0.7)
    found = detector.detect(raw, geometry, DetectOptions(conf))
    assert len(found) >= 5
    assert_same(found, *predict(family, pixels, branch, conf=conf))


@pytest.mark.compat
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_head_s_own_scores(family):
    detector = UltralyticsDetector(network(family), LoadOptions(branch="one2many"))
    tensor, _ = detector.prepare(noise(197, 331), None)
    raw, _ = predicted(detector, noise(197, 331))
    with borrowed(detector.model), torch.no_grad():
        output = detector.model(tensor[None])[0]
    if output.shape[1] == 4 + 3:  # decoded: boxes, then a row of scores for each prompt
        torch.testing.assert_close(raw.scores(), output[0, 4:].T, rtol=0, atol=1e-6)
    else:  # a release whose own branch is the other one
        assert output.shape[2] == 6


@pytest.mark.compat
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("family", ["world", "yoloe"])
def test_there_are_as_many_classes_as_prompts(family, count):
    detector = UltralyticsDetector(network(family, count))
    raw, _ = predicted(detector, noise())
    assert raw.class_logits.shape[1] == count
    assert detector.class_names == {index: f"prompt {index}" for index in range(count)}


@pytest.mark.compat
def test_names_of_other_classes_are_not_given_to_prompts():
    model = copy.deepcopy(network("world"))
    model.names = {index: f"coco {index}" for index in range(80)}
    assert UltralyticsDetector(model).class_names == {0: "0", 1: "1", 2: "2"}


@pytest.mark.compat
def test_names_may_be_a_list_as_set_classes_leaves_them():
    model = copy.deepcopy(network("world"))
    model.names = ["cat", "dog", "bird"]
    assert UltralyticsDetector(model).class_names == {0: "cat", 1: "dog", 2: "bird"}


@pytest.mark.compat
@pytest.mark.parametrize("family", ["world", "yoloe"])
def test_prompts_set_after_wrapping_are_told(family):
    model = copy.deepcopy(network(family))
    detector = UltralyticsDetector(model)
    set_prompts(model, 4)
    with pytest.raises(InputError, match=r"now has 4 prompts, it had 3 .* wrap it again"):
        predicted(detector, noise())


@pytest.mark.compat
@pytest.mark.parametrize("none", ["absent", "zero"])
def test_a_yoloe_without_prompts_asks_for_them(none):
    model = copy.deepcopy(network("yoloe"))
    if none == "zero":
        model.pe = torch.zeros(1, 80, 512)
    else:
        del model.pe
    with pytest.raises(InputError, match=r"has no prompts.*set_classes"):
        detcam.wrap(model)


@pytest.mark.compat
def test_a_prompt_free_yoloe_is_refused_with_a_reason():
    model = copy.deepcopy(network("yoloe"))
    model.model[-1].lrpc = torch.nn.ModuleList()
    with pytest.raises(UnsupportedModelError, match="prompt-free YOLOE"):
        detcam.wrap(model)


@pytest.mark.compat
def test_a_yoloe_with_prompts_fused_into_its_weights_scores_the_same():
    model = copy.deepcopy(network("yoloe"))
    raw, _ = predicted(UltralyticsDetector(model), noise())
    model.model[-1].fuse(model.pe)
    detector = UltralyticsDetector(model)
    fused, _ = predicted(detector, noise())
    assert len(detector.class_names) == 3
    torch.testing.assert_close(fused.class_logits, raw.class_logits, rtol=0, atol=1e-3)


@pytest.mark.compat
@pytest.mark.parametrize(("family", "attribute"), [("world", "txt_feats"), ("yoloe", "pe")])
def test_prompts_made_in_inference_mode_can_be_explained_and_stay(family, attribute):
    model = copy.deepcopy(network(family))
    with torch.inference_mode():
        made = getattr(model, attribute).clone()
    setattr(model, attribute, made)
    reach = gradients_of_best(UltralyticsDetector(model), noise(), None, "backbone")
    assert all(value > 0 for value in reach.values())
    assert getattr(model, attribute) is made


@pytest.mark.compat
@pytest.mark.parametrize("layer_set", ["backbone", "neck", "head"])
@pytest.mark.parametrize(("family", "branch"), BRANCHES)
def test_layers_of_every_set_have_a_gradient(family, branch, layer_set):
    if branch == "one2one" and not hasattr(network(family).model[-1], "one2one_cv4"):
        pytest.skip("this release builds the network without its second branch")
    reach = gradients_of_best(
        UltralyticsDetector(network(family), LoadOptions(branch=branch)), noise(), None, layer_set
    )
    assert len(reach) == 3
    # Between the neck and the head a level only speaks for itself and coarser ones.
    passing = [value > 0 for value in reach.values()]
    assert all(passing) if layer_set == "backbone" else any(passing)


@pytest.mark.compat
@pytest.mark.parametrize("family", ["world", "yoloe"])
def test_a_batch_gives_prompted_heads_what_single_pictures_give(family):
    assert_batch_equals_single(UltralyticsDetector(network(family)), None)


@pytest.mark.compat
@pytest.mark.parametrize("family", ["world", "yoloe"])
def test_a_prompted_network_is_left_as_it_was(family):
    model = network(family)
    with untouched(model):
        gradients_of_best(UltralyticsDetector(model), noise(), 64, "backbone")


@pytest.mark.compat
@pytest.mark.parametrize("family", ["world", "yoloe"])
def test_a_prompted_network_is_left_as_it_was_when_its_weights_are_bad(family):
    model = copy.deepcopy(network(family))
    detector = UltralyticsDetector(model)
    torch.nn.init.constant_(model.model[-1].cv4[0].bias, torch.nan)
    with untouched(model), pytest.raises(CaptureError, match="NaN or infinity"):
        predicted(detector, noise())


@pytest.mark.compat
@pytest.mark.parametrize("family", ["worldv2", "yoloe"])
def test_files_keep_their_prompts(family, tmp_path):
    path = tmp_path / "prompted.pt"
    torch.save({"ema": None, "model": copy.deepcopy(network(family)).half()}, path)
    detector = detcam.load(path, device="cpu")
    assert isinstance(detector, UltralyticsDetector)
    assert list(detector.class_names.values()) == ["prompt 0", "prompt 1", "prompt 2"]
    loaded, _ = predicted(detector, noise())
    live, _ = predicted(UltralyticsDetector(copy.deepcopy(network(family)).half().float()), noise())
    assert torch.equal(loaded.class_logits, live.class_logits)


@pytest.mark.parametrize("family", ["yolov8n-world", "yolov8n-worldv2", "yoloe-11n", "yoloe-26n"])
def test_the_released_networks_are_read(family):
    from ultralytics import YOLO

    model = YOLO(f"{family}.yaml", task="detect").model
    set_prompts(model, 2)
    detector = detcam.wrap(model)
    assert isinstance(detector, UltralyticsDetector)
    assert detector.strides == (8, 16, 32)
    assert len(detector.class_names) == 2
    assert sum(layer.member_of == "backbone" for layer in detector.layers()) == 3
