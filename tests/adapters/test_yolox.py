"""YOLOX: a network built from the tensors of a checkpoint, its boxes, and detections of the real one."""

import math

import cv2
import numpy as np
import pytest
import torch
from anchor_free_replicas import (
    assert_untouched,
    boxes_from_offsets,
    greedy,
    outputs_of,
    picture,
    rows,
    snapshot,
)
from safetensors.torch import save_file
from torch import nn
from yolox_replica import STRIDES, replica, state_dict
from yolox_replica import calibrated as calibrated_network

import detcam
from detcam.adapters import DetectOptions, yolox
from detcam.adapters.yolox_network import YoloxNetwork
from detcam.cam.capture import borrowed
from detcam.errors import CaptureError, CheckpointError, InputError, UnsupportedModelError
from detcam.images import read_picture
from detcam.targets import ClassLogit


@pytest.fixture
def saved(tmp_path):
    def save(tensors, name="yolox.pth", **beside):
        path = tmp_path / name
        torch.save({"model": tensors, **beside}, path)
        return path

    return save


@pytest.fixture(scope="module")
def calibrated():
    return calibrated_network()


def predicted(detector, pixels, imgsz=160):
    tensor, geometry = detector.prepare(pixels, imgsz)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    return raw, geometry, tensor


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"separable": True, "classes": 80},
        {"folded": True, "classes": 1},
        {"separable": True, "folded": True, "base": 6, "classes": 7},
        {"depth": 2, "classes": 2},
    ],
    ids=str,
)
def test_network_built_from_a_file_equals_a_float64_replica(saved, shape):
    tensors = state_dict(**shape)
    detector = detcam.load(saved(tensors), device="cpu")
    batch = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
    regs, objs, classes = replica(tensors, batch)
    with borrowed(detector.model), torch.no_grad():
        raws = detector.forward(batch)
    for b, raw in enumerate(raws):
        torch.testing.assert_close(
            raw.class_logits.double(), rows([m[b] for m in classes]), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            raw.objectness_logits.double(), rows([m[b] for m in objs])[:, 0], rtol=1e-4, atol=1e-4
        )
        boxes = boxes_from_offsets([m[b] for m in regs], STRIDES)
        torch.testing.assert_close(raw.boxes(torch.arange(len(boxes))).double(), boxes, rtol=1e-4, atol=1e-3)


def test_box_is_cell_corner_plus_offset_and_exponential_size():
    # Column 2, row 1, stride 8: centre ((2 + .25)·8, (1 - .5)·8) = (18, 4), size (2·8, 3·8) = (16, 24).
    values = torch.tensor([[0.25, -0.5, math.log(2), math.log(3)]])
    box = yolox.boxes_from_offsets(values, torch.tensor([[2.5, 1.5]]), torch.tensor([[8.0]]))
    torch.testing.assert_close(box, torch.tensor([[10.0, -8.0, 26.0, 16.0]]))


def test_score_is_objectness_times_class_and_is_explained_by_its_logarithm(calibrated):
    raw, _, _ = predicted(detcam.wrap(calibrated), picture())
    expected = raw.class_logits.sigmoid() * raw.objectness_logits.sigmoid()[:, None]
    torch.testing.assert_close(raw.scores(), expected)
    torch.testing.assert_close(ClassLogit(17, 2)(raw), expected[17, 2].log())


def test_picture_lies_at_the_top_left_as_bgr_from_0_to_255(calibrated):
    pixels = picture(61, 97)  # fits 160 by its width: 160/97 -> (int(100.6), 160)
    tensor, _ = detcam.wrap(calibrated).prepare(pixels, 160)
    inside = cv2.resize(pixels[..., ::-1], (160, 100), interpolation=cv2.INTER_LINEAR)
    expected = np.full((160, 160, 3), 114, np.uint8)
    expected[:100] = inside
    assert torch.equal(tensor, torch.from_numpy(expected).permute(2, 0, 1).float())


def test_detections_equal_greedy_suppression_across_classes(calibrated):
    detector = detcam.wrap(calibrated)
    raw, geometry, _ = predicted(detector, picture())
    boxes = raw.boxes(torch.arange(len(raw.class_logits)))
    kept = greedy(boxes, raw.scores(), 0.25, 0.45, by_class=False)
    found = detector.detect(raw, geometry, DetectOptions())
    assert found.candidates.tolist() == kept
    assert 3 <= len(kept) < len(greedy(boxes, raw.scores(), 0.25, 0.45, by_class=True))
    limit = torch.tensor([160.0, 96.0, 160.0, 96.0])  # the picture fills the input's width: scale 1
    torch.testing.assert_close(found.boxes, boxes[kept].clamp(min=0).minimum(limit))


def test_detections_heed_the_options(calibrated):
    detector = detcam.wrap(calibrated)
    raw, geometry, _ = predicted(detector, picture())
    looser = detector.detect(raw, geometry, DetectOptions(iou=0.9))
    assert len(looser) > len(detector.detect(raw, geometry, DetectOptions()))
    assert len(detector.detect(raw, geometry, DetectOptions(max_det=2))) == 2
    only = detector.detect(raw, geometry, DetectOptions(classes=(1,)))
    assert set(only.labels.tolist()) == {1}


def test_candidate_is_the_cell_it_says(calibrated):
    # Input 160×160: 20² cells at /8, then 10² at /16. Candidate 400 + 3·10 + 7 is row 3, column 7 of P4.
    raw, _, tensor = predicted(detcam.wrap(calibrated), picture())
    level, row, column, anchor = raw.locate(437)
    assert (level.name, level.stride, row, column, anchor) == ("P4", 16, 3, 7, 0)
    (logits,) = outputs_of(calibrated, [calibrated.head.cls_preds[1]], tensor[None])
    torch.testing.assert_close(raw.class_logits[437], logits[0, :, 3, 7])


def test_layers_are_the_stages_of_csp_darknet_the_neck_and_the_head_inputs(calibrated):
    layers = {layer.name: layer for layer in detcam.wrap(calibrated).layers()}
    stages = [layers[f"backbone.backbone.{name}"] for name in ("stem", "dark2", "dark3", "dark4", "dark5")]
    assert [(layer.stride, layer.channels) for layer in stages] == [
        (2, 8), (4, 16), (8, 32), (16, 64), (32, 128)
    ]  # fmt: skip
    assert [layer.member_of for layer in stages] == [None, None, "backbone", "backbone", "backbone"]
    for members, names in {
        "neck": ["C3_p3.m", "C3_n3.m", "C3_n4.m"],
        "head": ["C3_p3", "C3_n3", "C3_n4"],
    }.items():
        found = [layer for layer in layers.values() if layer.member_of == members]
        assert [layer.name for layer in found] == [f"backbone.{name}" for name in names]
        assert [layer.stride for layer in found] == STRIDES


@pytest.mark.parametrize("layers", ["backbone", "neck", "head"])
def test_every_box_can_be_explained_at_every_set(calibrated, layers):
    explanation = detcam.explain(detcam.wrap(calibrated), picture(), imgsz=160, layers=layers)
    involved = torch.stack(list(explanation.involved.values()))
    assert len(explanation.detections) >= 3
    assert involved.any(dim=0).all()  # a finer head input never depends on coarser ones
    assert involved.all() or layers != "backbone"


def test_live_model_is_left_as_it_was(calibrated):
    class Vendor(YoloxNetwork):
        """As Megvii's, the head remembers the grids of its last forward pass."""

        def forward(self, batch):
            levels = super().forward(batch)
            self.head.hw = [level[0].shape[2:] for level in levels]
            if batch.shape[2] == 32:
                raise RuntimeError("too small")
            return levels

    model = Vendor(state_dict())
    model.load_state_dict(calibrated.state_dict())
    model.head.strides = STRIDES
    detector = detcam.wrap(nn.DataParallel(model))
    before = snapshot(model)
    detcam.explain(detector, picture(), imgsz=160)
    with pytest.raises(RuntimeError, match="too small"):
        detcam.explain(detector, picture(), imgsz=32)
    assert_untouched(model, before)


@pytest.mark.parametrize(("base", "side"), [(16, 416), (24, 416), (32, 640)])
def test_input_is_416_pixels_up_to_tiny_and_640_beyond(saved, base, side):
    assert detcam.load(saved(state_dict(base=base)), device="cpu").imgsz == side


def test_classes_are_counted_in_the_head_and_named_by_the_user(saved):
    path = saved(state_dict(classes=2))
    assert detcam.load(path, device="cpu").class_names == {0: "0", 1: "1"}
    assert detcam.load(path, device="cpu", names=("cat", "dog")).class_names == {0: "cat", 1: "dog"}
    with pytest.raises(InputError, match="3 names were given for the 2 classes"):
        detcam.load(path, device="cpu", names=("a", "b", "c"))
    with pytest.raises(InputError, match="--num-classes says 80, but the weights of the head score 2"):
        detcam.load(path, device="cpu", num_classes=80)


def test_training_checkpoints_halves_prefixes_and_safetensors_are_read(saved, tmp_path):
    tensors = state_dict()
    halves = {f"module.{name}": t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    trained = detcam.load(saved(halves, optimizer={"state": {0: {"step": 3}}}, start_epoch=300), device="cpu")
    save_file(tensors, tmp_path / "yolox.safetensors")
    plain = detcam.load(tmp_path / "yolox.safetensors", device="cpu")
    for name, expected in tensors.items():
        assert torch.equal(plain.model.state_dict()[name], expected)
        torch.testing.assert_close(trained.model.state_dict()[name], expected, rtol=1e-3, atol=1e-3)
    assert trained.origin.trust == plain.origin.trust == "safe"
    assert trained.origin.path.endswith("yolox.pth")
    assert all(parameter.dtype == torch.float32 for parameter in trained.model.parameters())


def without(name):
    return lambda tensors: tensors.pop(name)


def changed(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without("backbone.C3_n3.conv2.conv.weight"), "lacks 'backbone.C3_n3.conv2.conv.weight'"),
        (without("backbone.lateral_conv0.bn.running_var"), "running_var"),
        (changed("head.cls_preds.1.weight", lambda t: t[:2]), "cls_preds.1.bias"),
        (changed("backbone.bu_conv2.conv.weight", lambda t: t[:, :5]), "no whole YOLOX"),
        (changed("head.stems.0.conv.weight", lambda t: t[0, 0]), "no whole YOLOX"),
        (changed("head.reg_preds.2.bias", lambda t: t * math.nan), "NaN.*head.reg_preds.2.bias"),
        (lambda tensors: tensors.update({"head.extra": torch.zeros(1)}), "head.extra"),
    ],
)
def test_broken_file_is_refused_with_the_place(saved, spoil, told):
    tensors = state_dict()
    spoil(tensors)
    with pytest.raises(CheckpointError, match=told) as caught:
        detcam.load(saved(tensors), device="cpu")
    assert "\n" not in str(caught.value)


def test_levels_that_disagree_about_the_classes_are_refused(saved):
    tensors = state_dict()
    for part in ("weight", "bias"):
        tensors[f"head.cls_preds.2.{part}"] = tensors[f"head.cls_preds.2.{part}"][:2]
    detector = detcam.load(saved(tensors), device="cpu")
    with pytest.raises(CaptureError, match=r"head\.cls_preds\.2 gave .*, not \(B, 3, h, w\)"):
        predicted(detector, picture())


def test_numbers_that_are_none_are_told(calibrated):
    model = YoloxNetwork(state_dict())
    nn.init.constant_(model.head.obj_preds[1].bias, math.inf)
    with pytest.raises(CaptureError, match="NaN or infinity"):
        predicted(detcam.wrap(model), picture())


def test_other_necks_are_not_taken_for_yolox():
    model = YoloxNetwork(state_dict())
    del model.backbone.C3_n4
    assert not yolox.recognises(model)
    with pytest.raises(UnsupportedModelError, match="no adapter understands"):
        detcam.wrap(model)


def test_a_state_dict_of_something_else_is_not_read(saved):
    tensors = {name: t for name, t in state_dict().items() if "obj_preds" not in name}
    with pytest.raises(CheckpointError, match="weights without a model"):
        detcam.load(saved(tensors), device="cpu")


def test_real_nano_finds_the_bus_and_three_persons(assets):
    import ultralytics

    bus = read_picture(f"{ultralytics.__path__[0]}/assets/bus.jpg").pixels
    detector = detcam.load(assets / "weights" / "yolox_nano.pth", device="cpu")
    assert (detector.imgsz, len(detector.class_names)) == (416, 80)
    raw, geometry, _ = predicted(detector, bus, 416)
    found = detector.detect(raw, geometry, DetectOptions(conf=0.5))
    assert found.labels.tolist() == [5, 0, 0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.91, 0.85, 0.81, 0.69]), rtol=0, atol=5e-3)
    # As Megvii's own demo gives them.
    expected = [[13.1, 231.1, 801.3, 735.1], [50.4, 394.2, 214.5, 898.4],
                [219.3, 402.6, 347.1, 855.5], [685.8, 450.6, 810.0, 874.2]]  # fmt: skip
    torch.testing.assert_close(found.boxes, torch.tensor(expected), rtol=0, atol=0.06)
