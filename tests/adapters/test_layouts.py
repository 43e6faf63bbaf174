"""Head tensors read by their shapes: the truth or an error, never a wrong count."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcam.adapters.class_count import class_count, counts_of_convolutions, infer
from detcam.adapters.head_rows import split
from detcam.adapters.layouts import LAYOUTS, SURE_OF_OBJECTNESS, HeadFacts, Layout, readings
from detcam.errors import AmbiguousHeadError, InputError, ShapeError, UnknownNameError

SEED_SHAPES = ((1, 507, 6), (1, 2028, 6), (1, 8112, 6))


def facts(*shapes, side=640, **known):
    return HeadFacts(input_size=(side, side), shapes=shapes, **known)


def counts(*shapes, **known):
    return {(layout.name, layout.num_classes, layout.anchors) for layout in readings(facts(*shapes, **known))}


def test_the_one_class_yolov4_at_416_is_read_as_one_class_with_three_anchors_coarse_to_fine():
    layout = infer(facts(*SEED_SHAPES, side=416))
    assert (layout.num_classes, layout.anchors, layout.has_objectness) == (1, 3, True)
    assert layout.strides == (32, 16, 8)
    assert layout.levels_order == "coarse to fine"


def test_ten_classes_said_of_the_one_class_yolov4_are_told_with_both_numbers():
    with pytest.raises(AmbiguousHeadError, match=r"reads as 1 class .*--num-classes says 10"):
        infer(facts(*SEED_SHAPES, side=416, num_classes=10))


def test_levels_of_one_tensor_may_leave_strides_out():
    # At 256: 32² + 16² + 4² = 1296 cells of strides 8, 16 and 64; and 8² + 4² + 2² = 84 of 32, 64 and 128.
    seen = {"side": 256, "anchors": 1, "reg_max": 16}
    with pytest.raises(AmbiguousHeadError, match=r"1232 classes \(dfl-rows, .* or 20 classes \(dfl-columns"):
        infer(facts((1, 84, 1296), **seen))
    layout = infer(facts((1, 84, 1296), num_names=20, **seen))
    assert (layout.name, layout.strides) == ("dfl-columns", (8, 16, 64))


def test_a_head_whose_strides_alone_are_open_asks_for_them():
    # At 32, one cell has a stride of 32, 64 or 128.
    seen = HeadFacts((32, 32), ((1, 2, 8),), layout="box-rows")
    with pytest.raises(
        AmbiguousHeadError, match=r"4 classes \(box-rows\) at strides .*\[32, 64\].*: give strides$"
    ):
        infer(seen)
    assert infer(replace(seen, strides=(32, 64))).strides == (32, 64)


# The readings of heads.md §4.3, worked out there by hand.
@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (255, {80, 46, 191, 187, 250, 251}),
        (144, {43, 67, 31, 11, 80, 76, 139, 140}),
        (84, {23, 37, 16, 20, 80, 79}),
        (18, {1, 4, 13, 14}),
        (66, {17, 2, 28, 61, 62}),
        (68, {64, 4}),
    ],
)
def test_a_map_has_every_reading_that_its_channels_allow(channels, expected):
    found = {count for _, count, _ in counts((1, channels, 20, 20))}
    assert expected <= found
    with pytest.raises(AmbiguousHeadError) as caught:
        infer(facts((1, channels, 20, 20)))
    assert len(caught.value.readings) == len(readings(facts((1, channels, 20, 20))))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (85, {("box-columns", 81), ("obb-columns", 80), ("objectness-columns", 80)}),
        (116, {("box-columns", 112), ("seg-columns", 80)}),
        (37, {("box-columns", 33), ("seg-columns", 1)}),
        (56, {("box-columns", 52), ("pose-columns", 1)}),
        (6, {("box-columns", 2), ("obb-columns", 1)}),
    ],
)
def test_columns_may_have_an_angle_masks_or_keypoints_behind_the_classes(values, expected):
    assert expected <= {(name, count) for name, count, _ in counts((1, values, 8400))}


def test_yolov5_seg_grids_read_as_112_classes_or_80_and_masks():
    assert counts((1, 3, 20, 20, 117)) == {("anchor-grids", 112, 3), ("seg-anchor-grids", 80, 3)}


def test_three_candidates_a_cell_have_an_objectness():
    # 3·(40² + 20² + 10²) = 6300
    layout = infer(facts((1, 6300, 6), side=320))
    assert (layout.name, layout.num_classes, layout.anchors) == ("anchor-rows", 1, 3)


CELLS = 80**2 + 40**2 + 20**2 + 10**2 + 5**2


@pytest.mark.parametrize(
    ("shape", "form"),
    [((1, 9 * CELLS, 7), "rows"), ((1, 7, 9 * CELLS), "columns"), ((1, 2, 20, 20, 7), "grids")],
)
def test_other_numbers_of_anchors_may_do_without_an_objectness(shape, form):
    # RetinaNet: nine anchors a cell, each 4 + 3 values. With an objectness there would be two classes.
    anchors = shape[1] if form == "grids" else 9
    with pytest.raises(
        AmbiguousHeadError, match=rf"2 classes \(anchor-{form}.* 3 classes \(box-anchor-{form}"
    ):
        infer(facts(shape))
    layout = infer(facts(shape, num_names=3))
    assert (layout.name, layout.num_classes, layout.anchors) == (f"box-anchor-{form}", 3, anchors)
    assert infer(facts(shape, num_names=2)).name == f"anchor-{form}"


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize(("anchors", "strides"), [(4, (16, 32, 64)), (5, (16,))])
def test_rows_that_one_anchor_at_finer_levels_fills_as_well_are_that_unless_named(form, anchors, strides):
    rows = anchors * sum((640 // stride) ** 2 for stride in strides)
    shape = (1, rows, 84) if form == "rows" else (1, 84, rows)
    assert infer(facts(shape, num_names=80)).name == f"box-{form}"
    named = infer(facts(shape, num_names=80, layout=f"box-anchor-{form}", strides=strides))
    assert (named.anchors, named.strides) == (anchors, strides)


def test_anchors_that_a_named_layout_leaves_open_are_asked_for():
    # At 640: 4·(40² + 20²) = 5·40²
    with pytest.raises(AmbiguousHeadError, match=r"4 anchors\) or .*5 anchors\): give anchors, reg_max or"):
        infer(facts((1, 8000, 84), num_names=80, layout="box-anchor-rows"))


def test_levels_of_one_cell_are_in_the_order_of_the_strides_that_were_said():
    for strides in ((32, 64), (64, 32)):
        seen = HeadFacts((32, 32), ((1, 6, 1, 1),) * 2, layout="objectness-maps", strides=strides)
        assert infer(seen).strides == strides


def test_300_rows_of_6_are_a_level_with_anchors_or_the_winners_of_an_end_to_end_head():
    # 3·10·10 = 300, the level of stride 32 at 320
    with pytest.raises(AmbiguousHeadError, match=r"1 class \(anchor-rows, 3 anchors\).*\(end-to-end\)"):
        infer(facts((1, 300, 6), side=320))


def test_end_to_end_tensors_do_not_show_the_class_count():
    with pytest.raises(AmbiguousHeadError, match=r"end-to-end.*--num-classes or --names"):
        infer(facts((1, 300, 6), layout="end-to-end"))
    assert infer(facts((1, 300, 6), num_names=80)).num_classes == 80


def test_a_head_scores_at_least_one_class():
    # 15 = 3·(5 + 0) would be three anchors of nothing
    assert all(layout.num_classes >= 1 for layout in readings(facts((1, 15, 20, 20))))


def test_strides_that_were_said_are_all_used():
    assert counts((1, 84, 80, 80), (1, 84, 40, 40), strides=(8, 16, 32)) == set()


def test_names_settle_an_ambiguous_map():
    layout = infer(facts((1, 255, 20, 20), num_names=80))
    assert (layout.name, layout.anchors) == ("anchor-maps", 3)
    assert infer(facts((1, 84, 8400), num_names=80)).name == "box-columns"


def test_a_count_that_leaves_two_layouts_asks_for_the_layout():
    with pytest.raises(AmbiguousHeadError, match=r"objectness-columns.*obb-columns.*give --layout$"):
        infer(facts((1, 85, 8400), num_classes=80))
    assert infer(facts((1, 85, 8400), layout="obb-columns")).num_classes == 80


def test_anchors_settle_an_ambiguous_map():
    assert infer(facts((1, 18, 13, 13), side=416, anchors=3)).num_classes == 1


def test_names_and_count_that_differ_are_told_with_both_numbers():
    with pytest.raises(AmbiguousHeadError, match=r"--names: 80.*--num-classes: 20"):
        infer(facts((1, 255, 20, 20), num_names=80, num_classes=20))


def test_the_error_names_the_readings_and_the_flags_in_one_line():
    with pytest.raises(AmbiguousHeadError) as caught:
        infer(facts((1, 255, 20, 20)))
    text = str(caught.value)
    for part in ("[1, 255, 20, 20]", "80 classes", "46 classes", "--num-classes", "--names", "--layout"):
        assert part in text
    assert "\n" not in text


def test_an_unknown_layout_offers_the_closest():
    with pytest.raises(UnknownNameError, match="anchor-maps"):
        facts((1, 18, 13, 13), layout="anchor-map")


def test_a_layout_that_does_not_fit_is_an_error():
    with pytest.raises(ShapeError, match="'dfl-maps' does not fit"):
        infer(facts((1, 60, 20, 20), layout="dfl-maps", reg_max=16))


@pytest.mark.parametrize(
    "shapes", [(), ((1, 2),), ((1, 84, 8400), (2, 84, 8400)), ((1, 18, 13, 13), (1, 507, 6))]
)
def test_tensors_that_do_not_belong_together_are_an_error(shapes):
    with pytest.raises(ShapeError):
        infer(facts(*shapes))


# --- convolutions ---


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((64, 80), {80}),  # ultralytics: 4·16 and 80
        ((80, 64), {80}),  # in whichever order
        ((68, 80), {80}),  # YOLOv6: 4·17
        ((4, 80), {80}),  # YOLO26
        ((64, 1), {1}),
        ((4, 1, 80), {80}),  # YOLOX
        ((4, 1, 1), {1}),
        ((36, 720), {80}),  # RetinaNet: nine anchors
        ((64, 68), {64, 68}),  # 4·17 and 64, or 4·16 and 68
        ((64, 4), {64, 4}),
    ],
)
def test_two_or_three_convolutions_say_the_class_count(channels, expected):
    assert counts_of_convolutions(HeadFacts(convolutions=(channels,) * 3)) == expected


def test_one_convolution_says_the_class_count_once_the_anchors_are_known():
    assert counts_of_convolutions(HeadFacts(convolutions=((255,),), anchors=3)) == {80}
    with pytest.raises(AmbiguousHeadError, match=r"255 channels.*--num-classes or --names"):
        class_count(HeadFacts(convolutions=((255,),)))


def test_levels_whose_convolutions_differ_are_no_head():
    with pytest.raises(ShapeError, match="no known head"):
        counts_of_convolutions(HeadFacts(convolutions=((64, 80), (64, 79))))


def test_convolutions_settle_what_tensors_leave_open():
    layout = infer(facts((1, 144, 20, 20), convolutions=((64, 80),)))
    assert (layout.name, layout.num_classes, layout.reg_max) == ("dfl-maps", 80, 16)


def test_convolutions_and_names_that_differ_are_told_with_both_numbers():
    with pytest.raises(AmbiguousHeadError, match=r"64 \+ 80 channels\): 80, --names: 79"):
        class_count(HeadFacts(convolutions=((64, 80),), num_names=79))


def test_without_any_source_the_count_is_asked_for():
    with pytest.raises(AmbiguousHeadError, match="give --num-classes or --names"):
        class_count(HeadFacts())


# --- property: draw a head, forget what it was ---

drawn = settings(max_examples=300, deadline=None, derandomize=True)
USUAL = [(8, 16, 32), (16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (32,), (8,)]
# Heads leave strides out: every choice of the strides that are considered.
RUNS = USUAL + [run for size in range(1, 7) for run in combinations((4, 8, 16, 32, 64, 128), size)]
NAMES = [name for name in LAYOUTS if name != "end-to-end"]


def anchors_of(form):
    """Those that shapes can tell: some are taken to come with an objectness, unless a layout is named."""
    sure = () if form.has_objectness else SURE_OF_OBJECTNESS[form.arrangement]
    return [count for count in range(2, 10) if count not in sure]


@st.composite
def heads(draw):
    """A layout, its truth and its tensors' shapes."""
    name = draw(st.sampled_from(NAMES))
    form = LAYOUTS[name]
    strides = draw(st.sampled_from(RUNS))
    strides = strides[::-1] if draw(st.booleans()) else strides
    # A last, cut cell counts: the coarser grids need not divide the input.
    cells = draw(st.sampled_from([stride for stride in (32, 64, 128) if stride <= max(32, *strides)]))
    size = (cells * draw(st.integers(1, 7)), cells * draw(st.integers(1, 7)))
    anchors = draw(st.sampled_from(anchors_of(form))) if form.has_anchors else 1
    bins = draw(st.sampled_from([8, 16, 17, 32])) if form.has_bins else 1
    classes = draw(st.one_of(st.integers(1, 6), st.integers(1, 400)))
    values = 4 * bins + form.has_objectness + classes + form.extra
    grids = [(math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]
    batch = draw(st.integers(1, 3))
    is_one = form.arrangement in ("rows", "columns") and draw(st.booleans())
    counted = [anchors * math.prod(grid) for grid in grids]
    counted = [sum(counted)] if is_one else counted
    shapes = {
        "grids": [(batch, anchors, *grid, values) for grid in grids],
        "maps": [(batch, anchors * values, *grid) for grid in grids],
        "rows": [(batch, count, values) for count in counted],
        "columns": [(batch, values, count) for count in counted],
    }[form.arrangement]
    order = "fine to coarse" if list(strides) == sorted(strides) else "coarse to fine"
    truth = Layout(name, classes, strides, order, anchors, bins)
    return truth, HeadFacts(input_size=size, shapes=tuple(shapes))


def known_parts(truth, known):
    parts = {
        "strides": truth.strides,
        "anchors": truth.anchors if truth.form.has_anchors else None,
        "layout": truth.name,
        "reg_max": truth.reg_max,
        "num_classes": truth.num_classes,
        "num_names": truth.num_classes,
    }
    return {name: parts[name] for name in known}


KNOWN = st.sets(st.sampled_from(["strides", "anchors", "layout", "reg_max", "num_classes", "num_names"]))


@drawn
@given(heads(), KNOWN)
def test_any_head_is_read_rightly_or_refused(head, known):
    truth, seen = head
    said = HeadFacts(seen.input_size, seen.shapes, **known_parts(truth, known))
    try:
        found = infer(said)
    except AmbiguousHeadError:
        assert len(readings(said)) > 1
        return
    assert found.num_classes == truth.num_classes
    assert (found.name, found.anchors, found.reg_max) in {
        (truth.name, truth.anchors, truth.reg_max),
        (truth.name.removesuffix("-yxa"), truth.anchors, truth.reg_max),
    }


@drawn
@given(heads(), KNOWN)
def test_the_truth_is_always_among_the_readings(head, known):
    truth, seen = head
    said = HeadFacts(seen.input_size, seen.shapes, **known_parts(truth, known - {"num_classes", "num_names"}))
    found = {(layout.name, layout.num_classes, layout.anchors) for layout in readings(said)}
    name = truth.name if said.layout else truth.name.removesuffix("-yxa")
    assert (name, truth.num_classes, truth.anchors) in found


@drawn
@given(heads(), st.integers(1, 400))
def test_a_wrong_count_is_never_reshaped_into(head, wrong):
    truth, seen = head
    known = known_parts(truth, {"layout", "strides", "reg_max", "anchors"})
    if wrong == truth.num_classes:
        return
    with pytest.raises(AmbiguousHeadError, match=rf"--num-classes says {wrong}"):
        infer(HeadFacts(seen.input_size, seen.shapes, num_classes=wrong, **known))


@drawn
@given(heads())
def test_everything_said_leaves_exactly_the_truth(head):
    truth, seen = head
    known = known_parts(truth, {"layout", "strides", "reg_max", "anchors", "num_names"})
    assert infer(HeadFacts(seen.input_size, seen.shapes, **known)) == truth


# --- rows ---


def numbered(layout, size, batch=2):
    """Tensors of a layout, and the same values put into rows cell by cell."""
    generator = torch.Generator().manual_seed(0)
    form = layout.form
    values = 4 * layout.reg_max + form.has_objectness + layout.num_classes + form.extra
    tensors, rows = [], {}
    for stride in layout.strides:
        height, width = size[0] // stride, size[1] // stride
        grid = torch.randn(batch, layout.anchors, height, width, values, generator=generator)
        cells = [(a, y, x) for a in range(layout.anchors) for y in range(height) for x in range(width)]
        if form.row_order == "yxa":
            cells.sort(key=lambda cell: (cell[1], cell[2], cell[0]))
        rows[stride] = torch.stack([grid[:, a, y, x] for a, y, x in cells], dim=1)
        tensors.append(
            {
                "grids": grid,
                "maps": grid.permute(0, 1, 4, 2, 3).reshape(batch, -1, height, width),
                "rows": rows[stride],
                "columns": rows[stride].transpose(1, 2),
            }[form.arrangement]
        )
    return tensors, torch.cat([rows[stride] for stride in sorted(rows)], dim=1)


@pytest.mark.parametrize("order", ["fine to coarse", "coarse to fine"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_come_finest_level_first_in_the_order_of_their_cells(name, order):
    strides = (8, 16) if order == "fine to coarse" else (16, 8)
    anchors, bins = (3 if LAYOUTS[name].has_anchors else 1), (16 if LAYOUTS[name].has_bins else 1)
    layout = Layout(name, 5, strides, order, anchors, bins)
    tensors, expected = numbered(layout, (48, 32))
    start = 4 * bins + layout.has_objectness
    forms = [tensors]
    if layout.form.arrangement in ("rows", "columns"):
        forms.append([torch.cat(tensors, dim=1 if layout.form.arrangement == "rows" else 2)])
    for given_tensors in forms:
        rows = split(given_tensors, layout, (48, 32))
        assert [level.name for level in rows.levels] == ["P3", "P4"]
        assert [(level.grid, level.anchors) for level in rows.levels] == [
            ((6, 4), anchors),
            ((3, 2), anchors),
        ]
        assert torch.equal(rows.box_values, expected[..., : 4 * bins])
        assert torch.equal(rows.class_logits, expected[..., start : start + 5])
        if layout.has_objectness:
            assert torch.equal(rows.objectness_logits, expected[..., 4])
        else:
            assert rows.objectness_logits is None


def test_rows_of_one_tensor_are_views_in_the_live_graph():
    tensor = torch.randn(1, 5 + 2, 24 + 6, requires_grad=True)
    layout = Layout("objectness-columns", 2, (8, 16), "fine to coarse")
    rows = split([tensor], layout, (48, 32))
    assert rows.class_logits.data_ptr() == tensor[:, 5].data_ptr()
    (gradient,) = torch.autograd.grad(rows.class_logits[0, 25, 1], tensor)
    assert gradient.nonzero().tolist() == [[0, 6, 25]]


def test_one_tensor_with_levels_in_unknown_order_asks_for_the_strides():
    layout = infer(facts((1, 6300, 6), side=320))
    assert layout.levels_order is None
    with pytest.raises(InputError, match="give strides, in the order of its rows"):
        split([torch.zeros(1, 6300, 6)], layout, (320, 320))
    told = infer(facts((1, 6300, 6), side=320, strides=(32, 16, 8)))
    assert told.levels_order == "coarse to fine"


def test_end_to_end_tensors_are_not_split():
    layout = infer(facts((1, 300, 6), num_classes=80))
    with pytest.raises(InputError, match="no logits: name the modules before"):
        split([torch.zeros(1, 300, 6)], layout, (640, 640))


@pytest.mark.parametrize("shape", [(1, 7, 23), (1, 8, 24), (1, 24, 7), (1, 7, 4, 6)])
def test_a_tensor_that_does_not_fit_its_layout_is_an_error(shape):
    layout = Layout("objectness-columns", 2, (8,), "fine to coarse")
    with pytest.raises(ShapeError):
        split([torch.zeros(shape)], layout, (48, 32))
