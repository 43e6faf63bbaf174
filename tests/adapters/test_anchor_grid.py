"""Decoding by pencil, and a made-up detector whose maps are what a test says they are."""

import math
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detcam.adapters.anchor_grid import AnchorGridDetector, AnchorHead
from detcam.adapters.base import DetectOptions, LoadOptions
from detcam.adapters.class_names import class_names_for, classes_in
from detcam.adapters.decoding import exponential_anchor_boxes, squared_anchor_boxes
from detcam.adapters.preparation import (
    LetterboxedRectangle,
    PaddedBehind,
    Stretched,
    bicubic_pillow,
    bilinear_cv2,
    rounded_up,
)
from detcam.adapters.stages import LayerTable
from detcam.errors import CaptureError, InputError
from detcam.geometry import Letterbox
from detcam.scoring import ObjectTimesClass


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


CPU = torch.device("cpu")
LN3 = math.log(3)  # σ(ln 3) = .75


def decode(function, values, **options):
    cell, anchor = torch.tensor([[3, 2]]), torch.tensor([[10.0, 20.0]])
    return function(torch.tensor([values]), cell, anchor, 8, **options)[0].tolist()


# --- boxes by pencil: cell (3, 2), stride 8, anchor 10x20 ------------------------------------------


def test_squared_boxes_of_zeros_are_the_anchor_around_the_cells_centre():
    # Centre (.5·2 - .5 + 3)·8 = 28 and (.5 + 2)·8 = 20, size (2·.5)²·(10, 20).
    assert decode(squared_anchor_boxes, [0.0, 0.0, 0.0, 0.0]) == pytest.approx([23, 10, 33, 30])


def test_squared_boxes_shift_by_twice_the_sigmoid_and_grow_by_its_square():
    # Centre (.75·2 - .5 + 3)·8 = 32 and (.25·2 - .5 + 2)·8 = 16, size 1.5²·10 = 22.5 and .5²·20 = 5.
    assert decode(squared_anchor_boxes, [LN3, -LN3, LN3, -LN3]) == pytest.approx([20.75, 13.5, 43.25, 18.5])


def test_exponential_boxes_shift_by_the_sigmoid_and_grow_exponentially():
    # Centre (.75 + 3)·8 = 30 and (.25 + 2)·8 = 18, size 2·10 and 20/4.
    values = [LN3, -LN3, math.log(2), -math.log(4)]
    assert decode(exponential_anchor_boxes, values) == pytest.approx([20, 15.5, 40, 20.5])


def test_a_scale_lets_the_centre_leave_its_cell():
    # (.75·1.2 - .1 + 3)·8 = 30.4 and (.25·1.2 - .1 + 2)·8 = 17.6.
    box = decode(exponential_anchor_boxes, [LN3, -LN3, 0.0, 0.0], scale_xy=1.2)
    assert box == pytest.approx([25.4, 7.6, 35.4, 27.6])


def test_the_scale_of_squared_boxes_is_two_unless_given():
    # (.75·1.1 - .05 + 3)·8 = 30.2.
    box = decode(squared_anchor_boxes, [LN3, 0.0, 0.0, 0.0], scale_xy=1.1)
    assert (box[0] + box[2]) / 2 == pytest.approx(30.2)


# --- a detector whose maps are given ---------------------------------------------------------------

FINE, COARSE = ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)), ((30.0, 61.0), (62.0, 45.0))
CLASSES = 3


class Given(nn.Module):
    """Gives maps that were put into it, scaled by a stem that sees the picture; 3 and 2 anchors."""

    def __init__(self, extra=0):
        super().__init__()
        self.stem = nn.Conv2d(3, 1, 1)
        self.fine, self.coarse = nn.Identity(), nn.Identity()
        self.values = 5 + CLASSES + extra

    def forward(self, x):
        generator = torch.Generator().manual_seed(x.shape[2] * 1000 + x.shape[3])
        level = self.stem(x).mean(dim=(1, 2, 3)).reshape(-1, 1, 1, 1)
        maps = []
        for anchors, stride in ((3, 8), (2, 16)):
            shape = (1, anchors * self.values, x.shape[2] // stride, x.shape[3] // stride)
            maps.append(2 * torch.randn(shape, generator=generator) + level)
        return self.coarse(maps[1]), self.fine(maps[0])


def given(extra=0, **changes):
    heads = (
        AnchorHead("coarse", 16, COARSE, partial(exponential_anchor_boxes, scale_xy=1.2), extra),
        AnchorHead("fine", 8, FINE, squared_anchor_boxes, extra),
    )
    torch.manual_seed(0)
    options = {
        "model": Given(extra),
        "family": "made up",
        "heads": heads,
        "class_names": {i: str(i) for i in range(CLASSES)},
        "preparation": LetterboxedRectangle(16),
        "scoring": ObjectTimesClass(),
        "own_iou": 0.45,
        "table": LayerTable({"stem": "backbone"}, ("stem",)),
        "imgsz": 64,
    }
    return AnchorGridDetector(**(options | changes))


def replica(detector, x):
    """Every candidate of one picture in float64, by loops over level, anchor, row and column."""
    coarse, fine = (y[0].double() for y in detector.model(x))
    found = []
    for level_map, anchors, stride in ((fine, FINE, 8), (coarse, COARSE, 16)):
        _, rows, columns = level_map.shape
        for a, (width, height) in enumerate(anchors):
            for row in range(rows):
                for column in range(columns):
                    first = a * detector.model.values
                    values = level_map[first : first + detector.model.values, row, column].tolist()
                    x_, y_, w_, h_, objectness, *classes = values
                    sx, sy, sw, sh = (1 / (1 + math.exp(-v)) for v in (x_, y_, w_, h_))
                    if stride == 8:
                        centre = ((2 * sx - 0.5 + column) * 8, (2 * sy - 0.5 + row) * 8)
                        size = (4 * sw**2 * width, 4 * sh**2 * height)
                    else:
                        centre = ((1.2 * sx - 0.1 + column) * 16, (1.2 * sy - 0.1 + row) * 16)
                        size = (math.exp(w_) * width, math.exp(h_) * height)
                    box = [centre[i] + sign * size[i] / 2 for sign in (-1, 1) for i in (0, 1)]
                    found.append((box, objectness, classes[:CLASSES], (stride, row, column, a)))
    return found


@pytest.mark.parametrize("extra", [0, 4])
def test_candidates_equal_a_float64_replica_finest_level_first_anchors_outermost(extra):
    detector = given(extra)
    x = torch.rand(1, 3, 32, 48)
    expected = replica(detector, x)
    (raw,) = detector.forward(x)
    boxes, objectness, classes, _ = zip(*expected, strict=True)
    everything = torch.arange(len(expected))
    assert len(raw.class_logits) == len(expected) == 3 * 4 * 6 + 2 * 2 * 3
    torch.testing.assert_close(
        raw.boxes(everything).double(), torch.tensor(boxes).double(), rtol=1e-5, atol=1e-3
    )
    torch.testing.assert_close(raw.objectness_logits, torch.tensor(objectness))
    torch.testing.assert_close(raw.class_logits, torch.tensor(classes))


def test_a_candidates_place_is_the_one_the_replica_counts():
    detector = given()
    x = torch.rand(1, 3, 32, 48)
    (raw,) = detector.forward(x)
    for candidate, (_, _, _, place) in enumerate(replica(detector, x)):
        found = raw.locate(candidate)
        assert (found.level.stride, found.row, found.column, found.anchor) == place


def test_boxes_come_in_the_order_they_were_asked_for():
    (raw,) = given().forward(torch.rand(1, 3, 32, 48))
    everything = raw.boxes(torch.arange(84))
    asked = torch.tensor([80, 3, 3, 75, 0])  # both levels, mixed, one twice
    assert torch.equal(raw.boxes(asked), everything[asked])
    assert raw.boxes(torch.tensor([], dtype=torch.long)).shape == (0, 4)


def test_levels_are_finest_first_however_the_heads_were_given():
    detector = given()
    assert detector.strides == (8, 16)
    (raw,) = detector.forward(torch.rand(1, 3, 32, 48))
    assert [(level.name, level.grid, level.anchors) for level in raw.levels] == [
        ("P3", (4, 6), 3),
        ("P4", (2, 3), 2),
    ]


def test_boxes_of_both_levels_have_gradients():
    detector = given()
    (raw,) = detector.forward(torch.rand(1, 3, 32, 48))
    for candidate in (5, 80):
        (gradient,) = torch.autograd.grad(
            raw.boxes(torch.tensor([candidate])).sum(), detector.model.stem.bias, retain_graph=True
        )
        assert gradient.abs() > 0


def test_detections_are_candidates_in_picture_pixels_best_first():
    detector = given()
    pixels = np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    x, geometry = detector.prepare(pixels, None)
    (raw,) = detector.forward(x[None])
    found = detector.detect(raw, geometry, DetectOptions(conf=0.5))
    assert len(found) > 3
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    own = raw.scores()[found.candidates, found.labels]
    assert torch.equal(found.scores, own)
    assert torch.equal(found.boxes, geometry.boxes_to_image(raw.boxes(found.candidates)).detach())
    assert found.best_score == float(raw.scores().detach().max())


def test_a_looser_overlap_keeps_more_than_the_detectors_own():
    detector = given()
    x, geometry = detector.prepare(np.zeros((61, 97, 3), np.uint8), 64)
    (raw,) = detector.forward(x[None])
    counts = [len(detector.detect(raw, geometry, DetectOptions(0.3, iou))) for iou in (0.2, None, 0.45, 0.9)]
    assert counts[0] < counts[1] == counts[2] < counts[3]


def test_a_batch_gives_each_picture_its_own_candidates():
    detector = given()
    x = torch.stack([torch.zeros(3, 32, 48), torch.ones(3, 32, 48)])
    both = detector.forward(x)
    for i in range(2):
        (alone,) = detector.forward(x[i : i + 1])
        torch.testing.assert_close(both[i].class_logits, alone.class_logits)
    assert not torch.equal(both[0].class_logits, both[1].class_logits)


def test_maps_of_another_shape_are_told():
    detector = given(class_names={0: "a", 1: "b"})
    with pytest.raises(
        CaptureError, match=r"fine gave \(1, 24, 4, 6\), not \(B, 21, h, w\) for 3 anchors and 2"
    ):
        detector.forward(torch.rand(1, 3, 32, 48))


def test_a_map_that_never_came_is_told():
    detector = given()
    detector.model.forward = lambda x: x
    with pytest.raises(CaptureError, match="fine gave a NoneType"):
        detector.forward(torch.rand(1, 3, 32, 48))


def test_values_that_are_no_numbers_are_told():
    detector = given()
    detector.model.stem.bias.data.fill_(math.nan)
    with pytest.raises(CaptureError, match="NaN or infinity"):
        detector.forward(torch.rand(1, 3, 32, 48))


def test_the_guard_is_around_every_forward_pass():
    entered = []

    class Guard:
        def __enter__(self):
            entered.append("in")

        def __exit__(self, *_):
            entered.append("out")

    detector = given(guard=Guard)
    detector.forward(torch.rand(1, 3, 32, 48))
    detector.layers()
    assert entered == ["in", "out"] * 2


# --- class counts and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "anchors", "extra", "classes"), [(255, 3, 0, 80), (18, 3, 0, 1), (351, 3, 32, 80)]
)
def test_classes_are_what_the_channels_leave(channels, anchors, extra, classes):
    assert classes_in(channels, anchors, extra) == classes


@pytest.mark.parametrize(("channels", "anchors"), [(256, 3), (15, 3), (0, 3)])
def test_channels_that_leave_no_class_are_told(channels, anchors):
    with pytest.raises(InputError, match=f"a head of {channels} channels does not hold {anchors} anchors"):
        classes_in(channels, anchors)


def test_a_missing_name_is_the_classs_id():
    assert class_names_for(3, {0: "cat", 2: "dog"}, LoadOptions()) == {0: "cat", 1: "1", 2: "dog"}
    assert class_names_for(2, ["cat"], LoadOptions()) == {0: "cat", 1: "1"}
    assert class_names_for(1, None, LoadOptions()) == {0: "0"}


def test_the_users_count_is_checked_and_never_believed():
    assert class_names_for(2, None, LoadOptions(num_classes=2)) == {0: "0", 1: "1"}
    with pytest.raises(InputError, match="--num-classes says 80, but the weights of the head score 2"):
        class_names_for(2, None, LoadOptions(num_classes=80))


# --- from the picture to the input -----------------------------------------------------------------


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (97, 61, 3), dtype=np.uint8)


def test_a_letterboxed_rectangle_is_grey_around_the_bilinear_picture(pixels):
    x, geometry = LetterboxedRectangle(32)(pixels, 128, CPU)
    # 97x61 times 128/97 is 128x80, padded to 96 columns: 8 left, 8 right.
    expected = np.full((128, 96, 3), 114, np.uint8)
    expected[:, 8:88] = cv2.resize(pixels, (80, 128), interpolation=cv2.INTER_LINEAR)
    assert torch.equal(x, torch.from_numpy(expected).permute(2, 0, 1).float() / 255)
    assert geometry == Letterbox((97, 61), (128, 80), (8, 0), (128, 96))


@pytest.mark.parametrize("is_bicubic", [True, False])
def test_a_stretched_picture_fills_the_input(pixels, is_bicubic):
    x, geometry = Stretched(32, bicubic_pillow if is_bicubic else bilinear_cv2)(pixels, (60, 40), CPU)
    expected = (
        np.asarray(Image.fromarray(pixels).resize((64, 64), Image.BICUBIC))
        if is_bicubic
        else cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_LINEAR)
    )
    assert torch.equal(x * 255, torch.tensor(expected.copy()).permute(2, 0, 1).float().div(255).mul(255))
    assert geometry == Letterbox((97, 61), (64, 64), (0, 0), (64, 64))


def test_a_picture_padded_behind_is_bgr_up_to_255_at_the_top_left(pixels):
    x, geometry = PaddedBehind(32)(pixels[:89], 64, CPU)
    # 64/89 of 89x61 is 64x43.9, cut to 64x43.
    expected = np.full((64, 64, 3), 114, np.uint8)
    expected[:, :43] = cv2.resize(pixels[:89, :, ::-1], (43, 64), interpolation=cv2.INTER_LINEAR)
    assert torch.equal(x, torch.from_numpy(expected).permute(2, 0, 1).float())
    assert geometry == Letterbox((89, 61), (64, 43), (0, 0), (64, 64))


@pytest.mark.parametrize(("imgsz", "size"), [(640, (640, 640)), (630, (640, 640)), ((1, 33), (32, 64))])
def test_sides_are_rounded_up_to_what_the_network_takes(imgsz, size):
    assert rounded_up(imgsz, 32) == size
