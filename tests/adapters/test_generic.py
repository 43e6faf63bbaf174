"""A detector nobody knows, explained by what its user says about the head: in a class, or by its tensors."""

import copy
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from detcam import explain
from detcam.adapters import HeadOutput, wrap
from detcam.adapters.base import DetectOptions
from detcam.cam.capture import capture
from detcam.errors import (
    AmbiguousHeadError,
    CaptureError,
    InputError,
    ShapeError,
    UnknownNameError,
    UnsupportedModelError,
)
from detcam.geometry import Letterbox
from detcam.scoring import Softmax
from detcam.structures import Layer


class Block(nn.Module):
    """A residual block whose first convolution still works at the stride before."""

    def __init__(self, channels, out):
        super().__init__()
        self.reduce = nn.Conv2d(channels, out, 1)
        self.stride = nn.Conv2d(out, out, 3, stride=2, padding=1)

    def forward(self, x):
        return self.stride(self.reduce(x).relu()).tanh()


class Gate(nn.Module):
    """Squeeze and excitation: a layer without a stride."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.scale(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class Pond(nn.Module):
    """A made-up detector. A cell gives the classes, then height, width, cy, cx, in its own units."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(Block(8, 8), Block(8, 8))  # /8, /16
        self.gate = Gate(8)
        self.down_path = nn.Conv2d(8, 8, 1)  # top down, to /8
        self.up_path = nn.Conv2d(8, 8, 3, stride=2, padding=1)  # bottom up, to /16
        self.join = nn.Conv2d(16, 8, 1)
        self.out = nn.ModuleDict(
            {"fine": nn.Conv2d(8, classes + 4, 1), "coarse": nn.Conv2d(8, classes + 4, 1)}
        )

    def forward(self, x):
        c3 = self.deep[0](self.stem(x))
        c4 = self.gate(self.deep[1](c3))
        p3 = self.down_path(c3 + nn.functional.interpolate(c4, scale_factor=2.0))
        p4 = self.join(torch.cat([self.up_path(p3), c4], dim=1))
        return {"coarse": self.out["coarse"](p4), "fine": self.out["fine"](p3)}


# What a user writes, quoted in docs/adapters.md.
class PondHead:
    strides = (8, 16)

    def __init__(self, model):
        self.model = model

    def forward(self, batch):
        maps = self.model(batch)
        logits, boxes = [], []
        for stride, name in zip(self.strides, ("fine", "coarse"), strict=True):
            rows = maps[name].flatten(2).transpose(1, 2)
            logits.append(rows[..., :-4])
            boxes.append(self.boxes(rows[..., -4:], maps[name].shape[3], stride))
        return HeadOutput(torch.cat(logits, dim=1), torch.cat(boxes, dim=1))

    def boxes(self, values, columns, stride):
        height, width, cy, cx = values.unbind(-1)
        cell = torch.arange(values.shape[1])
        x, y = (cell % columns + cx) * stride, (cell // columns + cy) * stride
        w, h = width.exp() * 2 * stride, height.exp() * 2 * stride
        return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)


class Maps(nn.Module):
    """The same network with a head as others have it: three anchors; coarse level first."""

    anchors = (
        (10.0, 13.0),
        (16.0, 30.0),
        (33.0, 23.0),
        (30.0, 61.0),
        (62.0, 45.0),
        (59.0, 119.0),
    )  # coarse first

    def __init__(self, channels, pond=None):
        super().__init__()
        self.body = pond or Pond()
        self.fine, self.coarse = nn.Conv2d(7, channels, 1), nn.Conv2d(7, channels, 1)

    def forward(self, x):
        maps = self.body(x)
        return [self.coarse(maps["coarse"]), self.fine(maps["fine"])]


def seeded(model):
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.35)
    return model.eval()


@pytest.fixture
def pond():
    return seeded(Pond())


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)


def candidates(detector, picture, imgsz=96):
    tensor, geometry = detector.prepare(picture, imgsz)
    with capture(detector.model, {}):
        (raw,) = detector.forward(tensor[None])
    return tensor, geometry, raw


def wrapped(pond, **options):
    return wrap(pond, head=PondHead(pond), imgsz=64, **options)


def test_a_user_writes_at_most_30_lines_and_the_docs_quote_them():
    written = inspect.getsource(PondHead)
    assert len(written.splitlines()) <= 30
    assert written in (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()


def test_boxes_are_the_ones_worked_out_cell_by_cell(pond, picture):
    detector = wrapped(pond, names=("carp", "duck", "frog"))
    tensor, geometry, raw = candidates(detector, picture)
    assert geometry == Letterbox.fit((97, 61), (96, 96), 16)
    with torch.no_grad():
        maps = pond(tensor[None])
    row = 0
    for name, stride in (("fine", 8), ("coarse", 16)):
        for y in range(maps[name].shape[2]):
            for x in range(maps[name].shape[3]):
                *classes, height, width, cy, cx = maps[name][0, :, y, x].tolist()
                assert raw.class_logits[row].tolist() == pytest.approx(classes)
                w, h = math.exp(width) * 2 * stride, math.exp(height) * 2 * stride
                middle = (x + cx) * stride, (y + cy) * stride
                expected = [middle[0] - w / 2, middle[1] - h / 2, middle[0] + w / 2, middle[1] + h / 2]
                assert raw.boxes(torch.tensor([row]))[0].tolist() == pytest.approx(expected, abs=1e-3)
                assert raw.locate(row)[:3] == (raw.levels[name == "coarse"], y, x)
                row += 1
    assert row == len(raw.class_logits)


def test_detections_are_the_best_boxes_after_suppression(pond, picture):
    detector = wrapped(pond, iou=0.5)
    _, geometry, raw = candidates(detector, picture)
    found = detector.detect(raw, geometry, DetectOptions(conf=0.5))
    scores, labels = raw.class_logits.detach().sigmoid().max(dim=1)
    boxes = raw.boxes(torch.arange(len(scores))).detach()
    kept = [i for i in batched_nms(boxes, scores, labels, 0.5).tolist() if scores[i] > 0.5]
    assert found.candidates.tolist() == kept
    assert len(kept) > 3
    assert torch.allclose(found.boxes, geometry.boxes_to_image(boxes[kept]), atol=1e-3)


def test_explaining_it_gives_every_default_layer_a_gradient(pond, picture):
    explanation = explain(wrapped(pond), picture, conf=0.3, imgsz=96, max_boxes=50)
    assert {explanation.deciding[box] for box in range(len(explanation))} == {"P3", "P4"}
    assert set(explanation.levels) == {"P3", "P4"}
    for box in range(len(explanation)):
        assert explanation.involved["P4"][box]
        assert explanation.involved["P3"][box]


def test_a_batch_is_its_pictures_one_by_one(pond):
    detector = wrapped(pond)
    batch = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with capture(pond, {}):
        together = detector.forward(batch)
        alone = [detector.forward(one[None])[0] for one in batch]
    everything = torch.arange(len(together[0].class_logits))
    for first, second in zip(together, alone, strict=True):
        assert torch.allclose(first.class_logits, second.class_logits, atol=1e-5)
        assert torch.allclose(first.boxes(everything), second.boxes(everything), atol=1e-3)


@pytest.mark.parametrize("classes", [1, 2, 5, 80])
def test_the_class_count_is_what_the_head_gives(classes):
    pond = seeded(Pond(classes))
    assert wrapped(pond).class_names == {index: str(index) for index in range(classes)}


def test_a_wrong_count_is_told_with_both_numbers(pond):
    with pytest.raises(InputError, match=r"--num-classes says 80.* score 3"):
        wrapped(pond, num_classes=80)
    with pytest.raises(InputError, match=r"2 names .* 3 classes"):
        wrapped(pond, names=("carp", "duck"))


def test_the_model_is_as_it_was_after_success_and_after_a_failure(pond, picture):
    pond.train()
    pond.out.requires_grad_(False)
    before = copy.deepcopy(pond.state_dict())
    flags = [p.requires_grad for p in pond.parameters()]
    detector = wrapped(pond)
    explain(detector, picture, conf=0.3, imgsz=64)

    def fail(module, inputs):
        raise RuntimeError("in the middle")

    handle = pond.join.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        explain(detector, picture, conf=0.3, imgsz=64)
    handle.remove()
    assert pond.training
    assert [p.requires_grad for p in pond.parameters()] == flags
    assert all(p.grad is None for p in pond.parameters())
    assert all(torch.equal(value, before[name]) for name, value in pond.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pond.modules())


# --- layers ---


def sets(detector):
    return {layer.name: (layer.member_of, layer.stride) for layer in detector.layers() if layer.member_of}


def test_the_backbone_ends_where_a_stride_gets_smaller_again(pond):
    detector = wrapped(pond, head_modules=("out",))
    parts = {layer.name: layer.part for layer in detector.layers()}
    assert {name for name, part in parts.items() if part == "neck"} == {"down_path", "up_path", "join"}
    assert {name for name, part in parts.items() if part == "head"} == {"out.fine", "out.coarse"}
    assert sets(detector) == {
        "deep.0": ("backbone", 8),
        "gate": ("backbone", 16),
        "down_path": ("head", 8),
        "join": ("head", 16),
        "up_path": ("neck", 16),
    }


def test_layers_inside_a_block_that_strides_are_no_stage(pond):
    # deep.1.reduce works at /8 after deep.0, but it is the inside of the /16 block.
    names = [layer.name for layer in wrapped(pond).layers()]
    assert names.index("deep.1.reduce") > names.index("deep.0")
    assert sets(wrapped(pond))["deep.0"] == ("backbone", 8)


def test_without_knowing_the_heads_modules_only_the_backbone_is_marked(pond):
    assert set(sets(wrapped(pond))) == {"deep.0", "gate"}


def test_the_backbone_can_be_named(pond):
    detector = wrapped(pond, backbone=("stem", "deep"))
    parts = {layer.name: layer.part for layer in detector.layers()}
    assert parts["gate"] == "neck"
    assert sets(detector)["deep.1"] == ("backbone", 16)


def test_a_heads_own_layers_and_prepare_are_used(pond, picture):
    class OwnHead(PondHead):
        def prepare(self, pixels, imgsz):
            geometry = Letterbox.stretch(pixels.shape[:2], (32, 64))
            return torch.from_numpy(geometry.apply(pixels)).permute(2, 0, 1).flip(0), geometry

        def layers(self):
            return [Layer("gate", "Gate", 16, 8, "backbone", "backbone")]

    detector = wrap(pond, head=OwnHead(pond), imgsz=64)
    tensor, geometry = detector.prepare(picture, None)
    assert geometry.input_size == (32, 64)
    assert tensor.dtype == torch.float32
    assert [layer.name for layer in detector.layers()] == ["gate"]


# --- tensors in a named layout ---


def replica_v5(maps, anchors, strides):
    """YOLOv5's boxes and scores as plain sums in float64: rows level by level, fine first."""
    boxes, objectness, logits = [], [], []
    for level, stride in sorted(enumerate(strides), key=lambda pair: pair[1]):
        data = maps[level][0].double()
        values = data.shape[0] // 3
        for a in range(3):
            for y in range(data.shape[1]):
                for x in range(data.shape[2]):
                    v = data[a * values : (a + 1) * values, y, x]
                    s = v[:4].sigmoid()
                    cx, cy = (2 * s[0] - 0.5 + x) * stride, (2 * s[1] - 0.5 + y) * stride
                    w, h = (
                        (2 * s[2]) ** 2 * anchors[3 * level + a][0],
                        (2 * s[3]) ** 2 * anchors[3 * level + a][1],
                    )
                    boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                    objectness.append(v[4])
                    logits.append(v[5:])
    return torch.tensor(boxes), torch.stack(objectness), torch.stack(logits)


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_anchor_maps_coarse_first_are_read_by_the_names_of_their_modules(classes, picture):
    model = seeded(Maps(3 * (5 + classes)))
    about = {"layout": "anchor-maps", "decode": "v5", "anchors": Maps.anchors, "imgsz": 64}
    detector = wrap(model, head=("coarse", "fine"), **about)
    assert len(detector.class_names) == classes
    assert detector.strides == (8, 16)
    tensor, _, raw = candidates(detector, picture)
    with torch.no_grad():
        boxes, objectness, logits = replica_v5(model(tensor[None]), Maps.anchors, (16, 8))
    everything = torch.arange(len(boxes))
    assert torch.allclose(raw.boxes(everything).double(), boxes, atol=1e-3)
    assert torch.allclose(raw.objectness_logits.double(), objectness, atol=1e-5)
    assert torch.allclose(raw.class_logits.double(), logits, atol=1e-5)
    assert torch.allclose(raw.scores().double(), objectness.sigmoid()[:, None] * logits.sigmoid(), atol=1e-6)


def test_v3_boxes_are_exponential(picture):
    model = seeded(Maps(3 * 7))
    detector = wrap(model, head=("coarse", "fine"), decode="v3", anchors=Maps.anchors, imgsz=64)
    tensor, _, raw = candidates(detector, picture)
    with torch.no_grad():
        t = model(tensor[None])[1][0, 7:14, 2, 3].double()  # fine level, second anchor, row 2, column 3
    height, width = raw.levels[0].grid
    row = height * width + 2 * width + 3
    middle = (t[0].sigmoid() + 3) * 8, (t[1].sigmoid() + 2) * 8
    w, h = t[2].exp() * Maps.anchors[4][0], t[3].exp() * Maps.anchors[4][1]
    expected = [middle[0] - w / 2, middle[1] - h / 2, middle[0] + w / 2, middle[1] + h / 2]
    assert raw.boxes(torch.tensor([row]))[0].tolist() == pytest.approx([float(e) for e in expected], abs=1e-3)


def test_distances_from_distributions_are_their_expectations(picture):
    model = seeded(Maps(4 * 8 + 2))
    detector = wrap(model, head=("coarse", "fine"), layout="dfl-maps", reg_max=8, imgsz=64)
    assert len(detector.class_names) == 2
    tensor, _, raw = candidates(detector, picture)
    with torch.no_grad():
        values = model(tensor[None])[0][0, :32, 1, 0].double().reshape(4, 8)  # coarse level, row 1, column 0
    left, top, right, bottom = (values.softmax(dim=1) @ torch.arange(8.0).double()).tolist()
    row = raw.levels[0].rows + raw.levels[1].grid[1]
    expected = [(0.5 - left) * 16, (1.5 - top) * 16, (0.5 + right) * 16, (1.5 + bottom) * 16]
    assert raw.boxes(torch.tensor([row]))[0].tolist() == pytest.approx(expected, abs=1e-3)


BOXES = {  # what a cell at (row 1, column 2) of a /16 level says, on an input of 64 x 96 (H x W)
    "ltrb": ([0.5, 1.0, 1.5, 0.25], [32.0, 8.0, 64.0, 28.0]),
    "xyxy": ([1.0, 2.0, 30.0, 40.0], [1.0, 2.0, 30.0, 40.0]),
    "cxcywh": ([20.0, 30.0, 10.0, 8.0], [15.0, 26.0, 25.0, 34.0]),
    "xyxyn": ([0.25, 0.5, 0.5, 1.0], [24.0, 32.0, 48.0, 64.0]),
    "cxcywhn": ([0.5, 0.5, 0.25, 0.5], [36.0, 16.0, 60.0, 48.0]),
}


@pytest.mark.parametrize("decode", BOXES)
def test_a_callable_gives_tensors_and_a_name_their_decoding(decode):
    values, expected = BOXES[decode]
    layer = nn.Conv2d(3, 6, 16, stride=16)

    def tensors(batch):
        box = torch.tensor(values).reshape(1, 4, 1, 1)
        found = layer(batch)
        return torch.cat([box.expand(len(batch), 4, *found.shape[2:]), found[:, 4:]], dim=1)

    detector = wrap(layer, head=tensors, layout="box-maps", decode=decode, values="logits", imgsz=64)
    with capture(layer, {}):
        (raw,) = detector.forward(torch.zeros(1, 3, 64, 96))
    assert raw.locate(8)[1:3] == (1, 2)
    assert raw.boxes(torch.tensor([8]))[0].tolist() == pytest.approx(expected)


def test_probabilities_become_the_logits_they_were(pond, picture):
    def decoded(batch):
        maps = pond(batch)
        return [torch.cat([m[:, -4:], m[:, :-4].sigmoid()], dim=1) for m in (maps["fine"], maps["coarse"])]

    about = {"layout": "box-maps", "decode": "ltrb", "imgsz": 64}
    detector = wrap(pond, head=decoded, values="probabilities", **about)
    _, _, raw = candidates(detector, picture)
    _, _, expected = candidates(wrapped(pond), picture)
    assert torch.allclose(raw.class_logits, expected.class_logits, atol=1e-4)
    with pytest.raises(InputError, match=r"all class values lie in 0\.\.1: say values='probabilities'"):
        wrap(pond, head=decoded, **about)
    raw_maps = wrap(pond, head=("out.fine", "out.coarse"), **about)
    assert len(raw_maps.class_names) == 3
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        wrap(pond, head=("out.fine", "out.coarse"), values="probabilities", **about)


def test_named_modules_are_the_head_of_the_layer_table():
    model = seeded(Maps(3 * 7))
    detector = wrap(
        model, head=("coarse", "fine"), num_classes=2, decode="v5", anchors=Maps.anchors, imgsz=64
    )
    assert {layer.name for layer in detector.layers() if layer.part == "head"} == {"coarse", "fine"}


def test_both_ways_explain_alike(pond, picture):
    def tensors(batch):
        maps = pond(batch)
        return [torch.cat([m[:, -4:], m[:, :-4]], dim=1) for m in (maps["coarse"], maps["fine"])]

    other = wrap(pond, head=tensors, layout="box-maps", decode="ltrb", num_classes=3, imgsz=64)
    asked = {"conf": 0.3, "iou": 1.0, "imgsz": 96, "max_boxes": 5}
    first, second = explain(wrapped(pond), picture, **asked), explain(other, picture, **asked)
    assert first.detections.candidates.tolist() == second.detections.candidates.tolist()
    for level in first.levels:
        assert torch.allclose(first.levels[level], second.levels[level], atol=1e-6)


def test_an_ambiguous_head_lists_its_readings_and_convolutions_settle_it():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 16, stride=16)
            self.box, self.cls = nn.Conv2d(4, 64, 1), nn.Conv2d(4, 80, 1)

        def forward(self, x):
            return torch.cat([self.box(self.stem(x)), self.cls(self.stem(x))], dim=1)

    model = seeded(Towers())
    with pytest.raises(AmbiguousHeadError, match=r"43 classes .*80 classes .*76 classes"):
        wrap(model, head=model, imgsz=64)
    detector = wrap(model, head=model, convolutions=(("box", "cls"),), imgsz=64)
    assert len(detector.class_names) == 80
    with pytest.raises(AmbiguousHeadError, match=r"80, --num-classes: 20"):
        wrap(model, head=model, convolutions=(("box", "cls"),), num_classes=20, imgsz=64)


def test_softmax_scores_are_a_choice(pond, picture):
    detector = wrapped(pond, scoring=Softmax(background=-1))
    _, _, raw = candidates(detector, picture)
    assert torch.allclose(raw.scores()[:, :2], raw.class_logits.softmax(dim=1)[:, :2])


# --- what is refused ---


def test_a_stranger_without_a_head_is_told_about_head(pond):
    with pytest.raises(UnsupportedModelError, match=r"understands a Pond.*head="):
        wrap(pond)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"head": "nowhere"}, UnknownNameError, "no module 'nowhere'"),
        ({"head": ()}, InputError, "names of modules"),
        ({"head": 7}, InputError, "head is a int"),
        ({"head": "coarse", "decode": "v4"}, UnknownNameError, "no decode 'v4'"),
        ({"head": "coarse", "layouts": "x"}, InputError, "cannot use layouts"),
        ({"head": "coarse", "layout": "dfl-maps", "reg_max": 2, "decode": "v5"}, InputError, "does not fit"),
        ({"head": "coarse", "layout": "box-maps"}, InputError, "decode= one of ltrb, dfl"),
        (
            {"head": "coarse", "layout": "anchor-maps", "num_classes": 2, "decode": "v5"},
            InputError,
            "needs anchors",
        ),
        (
            {"head": ("coarse", "fine"), "anchors": Maps.anchors[:5], "decode": "v5"},
            InputError,
            "5 anchors .* 2",
        ),
        ({"head": "coarse", "layout": "end-to-end"}, ShapeError, "'end-to-end' does not fit"),
        ({"head": "coarse", "values": "odds"}, UnknownNameError, "no values 'odds'"),
    ],
)
def test_what_cannot_be_used_is_one_line(options, error, message):
    with pytest.raises(error, match=message) as caught:
        wrap(seeded(Maps(21)), **{"imgsz": 64, **options})
    assert "\n" not in str(caught.value)


def output(logits=(1, 20, 3), boxes=(1, 20, 4), objectness=None, fill=0.0):
    class Fixed:
        strides = (16,)

        def forward(self, batch):
            scores = None if objectness is None else torch.zeros(objectness)
            return HeadOutput(torch.full(logits, fill), torch.zeros(boxes), scores)

    return Fixed()


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (output(logits=(20, 3)), ShapeError, r"class_logits must be \(B, N, K\)"),
        (output(boxes=(1, 20, 5)), ShapeError, r"boxes must be \(1, 20, 4\)"),
        (output(objectness=(1, 20, 1)), ShapeError, r"objectness_logits must be \(1, 20\)"),
        (output(), ShapeError, r"20 candidates .* 16 cells of strides \[16\]"),
        (output(fill=math.nan), CaptureError, "NaN or infinity"),
    ],
)
def test_a_heads_tensors_that_do_not_belong_together_are_an_error(pond, head, error, message):
    with pytest.raises(error, match=message):
        wrap(pond, head=head, imgsz=64)


def test_a_head_that_returns_something_else_is_told_what_to_return(pond):
    class Wrong(PondHead):
        def forward(self, batch):
            return self.model(batch)

    with pytest.raises(CaptureError, match="gave a dict: return a HeadOutput"):
        wrap(pond, head=Wrong(pond), imgsz=64)
