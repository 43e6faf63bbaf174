"""YOLOv4 in bubbliiiing's layout: equal to independent arithmetic, counts read from shapes, mistakes told."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from yolov4_replica import Replica, full_weights, tiny_weights

import detcam
from detcam.adapters import yolov4_torch
from detcam.adapters.base import LoadOptions
from detcam.checkpoints import open_model_file
from detcam.errors import CheckpointError, InputError, UnsupportedModelError


@pytest.fixture
def load(tmp_path):
    def from_weights(weights, **options):
        torch.save(weights, tmp_path / "yolo4.pth")
        return yolov4_torch.load(open_model_file(tmp_path / "yolo4.pth"), LoadOptions(**options))

    return from_weights


def picture(height=97, width=61, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def forward(detector, *pictures, imgsz=(64, 96)):
    batch = torch.stack([detector.prepare(one, imgsz)[0] for one in pictures])
    with torch.no_grad():
        return detector.forward(batch)


@pytest.mark.parametrize("classes", [1, 2, 7, 80])
@pytest.mark.parametrize("weights", [full_weights, tiny_weights])
def test_maps_boxes_and_scores_equal_a_float64_replica(load, weights, classes):
    state = weights(classes)
    detector, replica = load(state), Replica(state)
    tensor, _ = detector.prepare(picture(), (64, 96))
    with torch.no_grad():
        for found, expected in zip(detector.model(tensor[None]), replica.maps(tensor[None]), strict=True):
            torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    (raw,) = forward(detector, picture())
    boxes, scores = replica.candidates(tensor)
    assert len(detector.class_names) == classes
    np.testing.assert_allclose(raw.boxes(torch.arange(len(boxes))).numpy(), boxes, atol=1e-3, rtol=1e-5)
    assert np.abs(raw.scores().numpy() - scores).max() <= 1e-5


def test_pyramid_joins_its_windows_in_the_vendors_order(load):
    # 1x13 cells at stride 32: windows of 13, 9 and 5 cells see different things.
    state = full_weights(1)
    tensor = torch.rand(1, 3, 32, 416, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load(state).model(tensor)
    for one, expected in zip(found, Replica(state).maps(tensor), strict=True):
        torch.testing.assert_close(one.double(), expected, atol=1e-4, rtol=1e-4)


def test_one_class_at_416_gives_507_2028_and_8112_candidates_of_18_channels(load):
    detector = load(full_weights(1), num_classes=1)
    (raw,) = forward(detector, picture(), imgsz=None)
    assert [level.rows for level in raw.levels] == [8112, 2028, 507]
    assert [level.grid for level in raw.levels] == [(52, 52), (26, 26), (13, 13)]
    assert raw.class_logits.shape == (8112 + 2028 + 507, 1)
    assert detector.model.yolo_head3[1].out_channels == 18


@pytest.mark.parametrize("weights", [full_weights, tiny_weights])
def test_wrong_number_of_classes_is_told_with_both_numbers(load, weights):
    with pytest.raises(InputError, match="--num-classes says 10, but the weights of the head score 1"):
        load(weights(1), num_classes=10)


def test_names_must_be_as_many_as_the_classes(load):
    with pytest.raises(InputError, match="3 names were given for the 2 classes of the head"):
        load(tiny_weights(2), names=("a", "b", "c"))
    assert load(tiny_weights(2), names=("a", "b")).class_names == {0: "a", 1: "b"}
    assert load(tiny_weights(2)).class_names == {0: "0", 1: "1"}


def test_picture_is_stretched_to_416_by_pillows_bicubic_filter(load):
    tensor, geometry = load(tiny_weights(1)).prepare(picture(), None)
    expected = np.asarray(Image.fromarray(picture()).resize((416, 416), Image.Resampling.BICUBIC))
    assert torch.equal(tensor, torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)
    assert (geometry.input_size, geometry.resized, geometry.pad) == ((416, 416), (416, 416), (0, 0))


def test_users_anchors_are_taken_in_the_order_of_the_vendors_file(load):
    anchors = tuple((float(10 * i + 1), float(10 * i + 5)) for i in range(9))
    own, other = load(full_weights(1)), load(full_weights(1), anchors=anchors)
    # First anchor of P4 is the fourth: default 36x75, now 31x35. 288 candidates lie before it.
    sides = [forward(one, picture())[0].boxes(torch.tensor([288]))[0] for one in (own, other)]
    ratio = (sides[1][2:] - sides[1][:2]) / (sides[0][2:] - sides[0][:2])
    torch.testing.assert_close(ratio, torch.tensor([31 / 36, 35 / 75]), atol=1e-4, rtol=1e-4)


def test_tiny_form_shares_its_fourth_anchor_as_the_vendor_does(load):
    anchors = tuple((float(i + 1), float(i + 1)) for i in range(6))
    detector = load(tiny_weights(1), anchors=anchors)
    sides = {head.stride: [width for width, _ in head.anchors] for head in detector.heads}
    assert sides == {16: [2, 3, 4], 32: [4, 5, 6]}


@pytest.mark.parametrize(("weights", "count"), [(full_weights, 9), (tiny_weights, 6)])
def test_wrong_number_of_anchors_is_told_with_both_numbers(load, weights, count):
    with pytest.raises(InputError, match=f"takes {count} anchors, .*, got 2"):
        load(weights(1), anchors=((1.0, 1.0), (2.0, 2.0)))


def test_head_that_is_no_multiple_of_three_anchors_is_refused(load):
    weights = tiny_weights(1)
    for level in ("P4", "P5"):
        weights[f"yolo_head{level}.1.weight"] = weights[f"yolo_head{level}.1.weight"][:17]
        weights[f"yolo_head{level}.1.bias"] = weights[f"yolo_head{level}.1.bias"][:17]
    with pytest.raises(InputError, match="a head of 17 channels does not hold 3 anchors"):
        load(weights)


def test_levels_that_score_different_numbers_of_classes_are_refused(load):
    weights = tiny_weights(1) | {k: v for k, v in tiny_weights(2).items() if k.startswith("yolo_headP4.1")}
    with pytest.raises(
        InputError, match=r"different numbers of classes: \{'yolo_headP4': 2, 'yolo_headP5': 1\}"
    ):
        load(weights)


def test_stages_of_cspdarknet53_are_named_with_strides_and_channels(load):
    backbone = [layer for layer in load(full_weights(1)).layers() if layer.part == "backbone"]
    assert [(layer.name, layer.stride, layer.channels) for layer in backbone] == [
        ("backbone.conv1", 1, 2),
        ("backbone.stages.0", 2, 4),
        ("backbone.stages.1", 4, 8),
        ("backbone.stages.2", 8, 16),
        ("backbone.stages.3", 16, 32),
        ("backbone.stages.4", 32, 64),
    ]


def test_stages_of_the_tiny_form_are_named_with_strides_and_channels(load):
    backbone = [layer for layer in load(tiny_weights(1)).layers() if layer.part == "backbone"]
    assert [(layer.name, layer.stride, layer.channels) for layer in backbone] == [
        ("backbone.conv1", 2, 4),
        ("backbone.conv2", 4, 8),
        ("backbone.resblock_body1.conv4", 4, 8),
        ("backbone.resblock_body2.conv4", 8, 16),
        ("backbone.resblock_body3.conv4", 16, 32),
        ("backbone.conv3", 32, 64),
    ]


@pytest.mark.parametrize("weights", [full_weights, tiny_weights])
@pytest.mark.parametrize("name", ["backbone", "neck", "head"])
def test_every_set_has_a_layer_for_each_stride(load, weights, name):
    detector = load(weights(1))
    strides = [layer.stride for layer in detector.layers() if layer.member_of == name]
    assert sorted(strides) == list(detector.strides)


def test_file_is_recognised_by_the_command_lines_loader(tmp_path):
    torch.save({"state_dict": {f"module.{k}": v.half() if v.ndim else v for k, v in tiny_weights(2).items()}},
               tmp_path / "ep100.pth")  # fmt: skip
    detector = detcam.load(tmp_path / "ep100.pth", device="cpu", names=("cat", "dog"))
    assert (detector.family, detector.class_names) == ("YOLOv4-tiny (bubbliiiing)", {0: "cat", 1: "dog"})
    assert {p.dtype for p in detector.model.parameters()} == {torch.float32}
    assert (detector.origin.path, detector.origin.trust) == (str(tmp_path / "ep100.pth"), "safe")


def test_other_networks_are_not_recognised():
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 3, 1), "yolo_head1": nn.Conv2d(3, 3, 1)})
    assert not yolov4_torch.recognises(model)
    with pytest.raises(UnsupportedModelError, match="a ModuleDict is no YOLOv4"):
        yolov4_torch.wrap(model, LoadOptions())


@pytest.mark.parametrize("weights", [full_weights, tiny_weights])
def test_missing_tensor_is_named(load, weights):
    state = weights(1)
    del state["backbone.conv1.bn.bias"]
    with pytest.raises(CheckpointError, match=r"does not fit YOLOv4.*Missing key.*backbone\.conv1\.bn\.bias"):
        load(state)
    del state["backbone.conv1.conv.weight"]
    with pytest.raises(
        CheckpointError, match=r"is no whole YOLOv4.*it lacks 'backbone\.conv1\.conv\.weight'"
    ):
        load(state)


def test_tensors_of_a_changed_network_are_refused_in_one_line(load):
    state = tiny_weights(1)
    state["feat1_att.conv.weight"] = torch.zeros(1, 1, 3)
    with pytest.raises(
        CheckpointError, match=r"Unexpected key.*feat1_att.*also one with attention"
    ) as caught:
        load(state)
    assert "\n" not in str(caught.value)


def test_widths_that_do_not_fit_are_refused_in_one_line(load):
    state = tiny_weights(1) | {k: v for k, v in tiny_weights(1, w=8).items() if k.startswith("conv_for_P5")}
    with pytest.raises(CheckpointError, match=r"does not fit YOLOv4-tiny.*128.*channels") as caught:
        load(state)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(load):
    state = tiny_weights(1)
    state["conv_for_P5.bn.bias"][3] = torch.nan
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite weights \(first in 'conv_for_P5\.bn\.bias'\)"
    ):
        load(state)
