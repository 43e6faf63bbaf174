"""A detector nobody knows, explained by what its user says about the head: in a class, or by its tensors."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pond import Maps, Pond, PondHead, pond_candidates, replica_v5, seeded
from torch import nn

from detcam import explain
from detcam.adapters import HeadOutput, wrap
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
from detcam.windows import describe_layers


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
    boxes, logits = pond_candidates(pond, tensor)
    torch.testing.assert_close(raw.class_logits.double(), logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(raw.boxes(torch.arange(len(boxes))).double(), boxes, rtol=0, atol=1e-3)
    # 97×61 fits 96×64: 12 rows of 8 cells at /8, then 6 rows of 4 at /16.
    assert raw.locate(8 + 3)[:3] == (raw.levels[0], 1, 3)
    assert raw.locate(96 + 2 * 4 + 1)[:3] == (raw.levels[1], 2, 1)
    assert len(boxes) == 96 + 24


def test_explaining_it_gives_every_default_layer_a_gradient(pond, picture):
    explanation = explain(wrapped(pond), picture, layers="backbone", conf=0.3, imgsz=96, max_boxes=50)
    assert {explanation.deciding[box] for box in range(len(explanation))} == {"P3", "P4"}
    assert set(explanation.levels) == {"P3", "P4"}
    for box in range(len(explanation)):
        assert explanation.involved["P4"][box]
        assert explanation.involved["P3"][box]


@pytest.mark.parametrize("classes", [1, 2, 5, 80])
def test_the_class_count_is_what_the_head_gives(classes):
    pond = seeded(Pond(classes))
    assert wrapped(pond).class_names == {index: str(index) for index in range(classes)}


def test_a_wrong_count_is_told_with_both_numbers(pond):
    with pytest.raises(InputError, match=r"--num-classes says 80.* score 3"):
        wrapped(pond, num_classes=80)
    with pytest.raises(InputError, match=r"2 names .* 3 classes"):
        wrapped(pond, names=("carp", "duck"))


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


class SharedHead(nn.Module):
    """One head for two levels: it runs twice in a forward pass."""

    strides = (8, 16)

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 6, 8, stride=8), nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.out = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, batch):
        fine = self.fine(batch)
        rows = [self.out(one).flatten(2).transpose(1, 2) for one in (fine, self.coarse(fine))]
        both = torch.cat(rows, dim=1)
        return HeadOutput(both[..., :2], both[..., 2:])


def test_a_layer_that_runs_for_each_level_has_a_window_for_each():
    model = seeded(SharedHead())
    rows = {row["name"]: row["total"] for row in describe_layers(wrap(model, head=model, imgsz=64))}
    # A prediction is one cell of the head's output and three by three of its input, seven by seven of the
    # finer level's where the coarser one was made of these: 2·3 + 1.
    assert rows == {"fine": "P3:3×3 P4:7×7", "coarse": "P3:- P4:3×3", "out": "P3:1×1 P4:1×1"}


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
        ({"head": "coarse", "layouts": "x"}, InputError, "Closest: 'layout'"),
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
