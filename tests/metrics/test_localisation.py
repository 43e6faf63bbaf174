"""Localisation metrics against maps worked out by hand and plain loops, and what cannot change them."""

from __future__ import annotations

import math
from functools import partial

import metric_replicas as replicas
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from detcam.errors import InputError, ShapeError
from detcam.metrics import (
    compactness,
    energy_in_box,
    energy_in_mask,
    odi,
    odi_in_masks,
    pointing_game,
    pointing_game_in_mask,
    vea,
    vea_curve,
)

NAN = math.nan
HEIGHT, WIDTH = 7, 5
ALL = tensor([0.0, 0.0, 5.0, 7.0])

# Every metric of one map and one region, at a fixed region.
LEFT_BOX = tensor([1.0, 2.0, 3.0, 5.0])
LEFT_MASK = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
LEFT_MASK[2:5, 1:3] = True
OBJECTS = tensor([[1.0, 2.0, 3.0, 5.0], [3.0, 0.0, 5.0, 3.0]])
OBJECT_MASKS = torch.stack([LEFT_MASK, LEFT_MASK.roll(2, dims=1)])
OF_ONE_MAP = {
    "pointing_game": lambda m: pointing_game(m, LEFT_BOX.expand(*m.shape[:-2], 4)),
    "pointing_game_in_mask": lambda m: pointing_game_in_mask(m, LEFT_MASK.expand(m.shape)),
    "energy_in_box": lambda m: energy_in_box(m, LEFT_BOX.expand(*m.shape[:-2], 4)),
    "energy_in_mask": lambda m: energy_in_mask(m, LEFT_MASK.expand(m.shape)),
    "compactness": lambda m: compactness(m, LEFT_BOX.expand(*m.shape[:-2], 4)),
    "vea": lambda m: vea(m, LEFT_MASK.expand(m.shape)),
    "odi": lambda m: odi(m, OBJECTS, torch.zeros(m.shape[:-2], dtype=torch.long)),
    "odi_in_masks": lambda m: odi_in_masks(m, OBJECT_MASKS, torch.zeros(m.shape[:-2], dtype=torch.long)),
}
every_metric = pytest.mark.parametrize("metric", OF_ONE_MAP.values(), ids=OF_ONE_MAP.keys())


def signed_maps(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


# --- Perfect, inverted, constant, empty ---


def test_a_perfect_map_gets_the_best_of_everything(assert_close):
    perfect = LEFT_MASK.float() * 0.25
    expected = dict.fromkeys(OF_ONE_MAP, 1) | {"odi": 0, "odi_in_masks": 0}
    for name, metric in OF_ONE_MAP.items():
        if name != "compactness":  # 0 is one pixel, not a filled box
            assert_close(metric(perfect), expected[name])


def test_an_inverted_map_gets_the_worst(assert_close):
    # The whole map lies outside the object, the other object's whole box and mask in it.
    inverted = 1 - LEFT_MASK.float()
    expected = dict.fromkeys(OF_ONE_MAP, 0) | {"odi": 1, "odi_in_masks": 1}
    for name, metric in OF_ONE_MAP.items():
        if name != "compactness":
            assert_close(metric(inverted), expected[name])


def test_a_constant_map_knows_nothing_and_gets_the_regions_share(assert_close):
    constant = torch.full((HEIGHT, WIDTH), 0.3)
    for name in ("pointing_game", "pointing_game_in_mask", "energy_in_box", "energy_in_mask"):
        assert_close(OF_ONE_MAP[name](constant), 6 / 35)
    assert_close(OF_ONE_MAP["odi"](constant), 6 / 12)
    assert_close(OF_ONE_MAP["vea"](constant), NAN)  # nothing to scale


@every_metric
@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_without_a_positive_value_is_undefined_not_zero(metric, value):
    assert metric(torch.full((HEIGHT, WIDTH), value)).isnan()


@every_metric
def test_undefined_maps_of_a_batch_leave_the_others_alone(metric, assert_close):
    maps = signed_maps(0)
    maps[1] = 0
    found = metric(maps)
    assert found.isnan().tolist() == [False, True, False, False]
    assert_close(found[2], metric(maps[2]))


# --- By hand ---

PENCIL = tensor([[1.0, 0.0, -5.0], [2.0, 4.0, 1.0]])


def test_energy_in_box_by_hand(assert_close):
    # Positive part sums to 8. Columns 0..2, row 1: 2 + 4. Half of column 1: 2 + 4/2. -5 is no evidence.
    boxes = tensor([[0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 1.5, 2.0], [0.0, 0.0, 3.0, 2.0], [2.0, 0.0, 3.0, 1.0]])
    assert_close(energy_in_box(PENCIL.expand(4, 2, 3), boxes), [6 / 8, 4 / 8, 1, 0])


def test_energy_in_mask_by_hand(assert_close):
    mask = tensor([[True, False, True], [False, True, False]])
    assert_close(energy_in_mask(PENCIL, mask), 5 / 8)


def test_energy_counts_what_lies_in_the_picture_of_a_box_that_sticks_out(assert_close):
    assert_close(energy_in_box(PENCIL, tensor([-4.0, -4.0, 1.0, 9.0])), 3 / 8)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([1.0, 1.0, 2.0, 2.0], 1),  # the maximum, 4, is in row 1, column 1
        ([0.0, 0.0, 1.0, 2.0], 0),
        ([1.5, 1.5, 2.0, 2.0], 1),  # its centre lies on the box's corner: left and upper edges belong to it
        ([0.0, 0.0, 1.5, 2.0], 0),  # right and lower edges do not
        ([0.0, 0.0, 3.0, 1.5], 0),
        ([1.0, 1.0, 1.5, 2.0], NAN),  # no centre at all
    ],
)
def test_pointing_game_by_hand(box, expected, assert_close):
    assert_close(pointing_game(PENCIL, tensor(box)), expected)


def test_rows_and_columns_are_not_swapped_in_the_pointing_game(assert_close):
    # What GCAME's published code gets wrong: the maximum at row 0, column 2.
    heatmap = tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    boxes = tensor([[2.0, 0.0, 3.0, 1.0], [0.0, 2.0, 1.0, 3.0]])
    assert_close(pointing_game(heatmap.expand(2, 3, 3), boxes), [1, 0])


def test_several_largest_values_share_the_pointing(assert_close):
    heatmap = tensor([[2.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    assert_close(pointing_game(heatmap, tensor([0.0, 0.0, 2.0, 2.0])), 2 / 3)
    mask = tensor([[False, False, True], [True, False, False]])
    assert_close(pointing_game_in_mask(heatmap, mask), 1 / 3)


def test_compactness_by_hand(assert_close):
    # Maximum 3 at row 0, column 0; 1 at row 0, column 2 (d² = 4), 1 at row 2, column 1 (d² = 5). Sum 5.
    # Box 4 wide, 2 high: (16 + 4) / 4 = 5. sqrt(9 / (5·5)) = 3/5.
    heatmap = tensor([[3.0, 0.0, 1.0], [0.0, -7.0, 0.0], [0.0, 1.0, 0.0]])
    assert_close(compactness(heatmap, tensor([0.0, 0.0, 4.0, 2.0])), 0.6)
    assert_close(compactness(heatmap, tensor([9.0, 9.0, 13.0, 11.0])), 0.6)  # only its size matters


def test_compactness_of_one_pixel_is_0_and_of_the_boxs_corners_their_share(assert_close):
    one = torch.zeros(5, 5)
    one[2, 2] = 1e-30
    assert_close(compactness(one, tensor([0.0, 0.0, 1.0, 1.0])), 0)
    # d² = 8 for 4 of 6; half the diagonal of a 4 x 4 box squared is 8.
    ring = torch.zeros(5, 5)
    ring[::4, ::4], ring[2, 2] = 1, 2
    assert_close(compactness(ring, tensor([0.0, 0.0, 4.0, 4.0])), math.sqrt(4 / 6))


def test_compactness_takes_the_mean_over_several_largest_values(assert_close):
    # 1 at columns 0 and 2 of one row: d² is 0 and 4 from either: mean 2. Box 2 x 2: 8/4 = 2.
    assert_close(compactness(tensor([[1.0, 0.0, 1.0]]), tensor([0.0, 0.0, 2.0, 2.0])), 1)


def test_compactness_of_a_box_without_size_is_undefined():
    assert compactness(PENCIL, tensor([1.0, 1.0, 1.0, 1.0])).isnan()


def test_vea_by_hand(assert_close):
    # Clipped at 0: [1, 0, 0, 2, 4, 1], over 4: .25, 0, 0, .5, 1, .25. Mask: the .5 and the 1.
    # Above .1 and .2: 4 pixels, IoU 2/4; from .3 to .4: 2/2; from .5 (not above): 1/2.
    mask = tensor([[False, False, False], [True, True, False]])
    assert_close(vea_curve(PENCIL, mask), [0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert_close(vea(PENCIL, mask), 1)
    assert_close(vea_curve(PENCIL, mask, [0.0, 0.25]), [0.5, 1])


def test_vea_scales_from_the_smallest_value_and_not_from_0(assert_close):
    # 10, 11, 12 become 0, .5, 1: at .6 only the last is above.
    assert_close(
        vea_curve(tensor([[10.0, 11.0, 12.0]]), tensor([[False, False, True]]), [0.4, 0.6]), [0.5, 1]
    )


def test_odi_by_hand(assert_close):
    # Object 0: the left column, 1 + 2. Object 1: the lower row's first two, 2 + 4, sharing the 2. Union 7.
    boxes = tensor([[0.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 2.0]])
    assert_close(odi(PENCIL.expand(2, 2, 3), boxes, tensor([0, 1])), [6 / 7, 3 / 7])


def test_odi_in_masks_by_hand(assert_close):
    masks = tensor([[[1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]], [[0, 0, 0], [0, 1, 1]]]).bool()
    # 1 + 2; 4 (-5 is none); 4 + 1. All: 8. Others of 0: 5, of 1: 3 + 5, of 2: 3 + 4.
    assert_close(odi_in_masks(PENCIL.expand(3, 2, 3), masks, tensor([0, 1, 2])), [5 / 8, 1, 7 / 8])


def test_odi_needs_two_objects_and_energy_in_them():
    assert odi(PENCIL, tensor([[0.0, 0.0, 1.0, 2.0]]), tensor(0)).isnan()
    assert odi(PENCIL, tensor([[1.0, 0.0, 2.0, 1.0], [2.0, 0.0, 3.0, 1.0]]), tensor(0)).isnan()


@pytest.mark.parametrize("box", [[1, 0, 1, 2], [7, 7, 9, 9]])
def test_a_region_without_a_pixel_is_undefined(box):
    box = tensor(box, dtype=torch.float32)
    assert energy_in_box(PENCIL, box).isnan()
    assert pointing_game(PENCIL, box).isnan()
    empty = torch.zeros(2, 3, dtype=torch.bool)
    for metric in (energy_in_mask, pointing_game_in_mask, vea):
        assert metric(PENCIL, empty).isnan()


# --- Plain loops ---


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_plain_loops(seed, assert_close):
    maps = signed_maps(seed)
    maps[1] = maps[1].round()  # with ties
    corners = torch.rand(4, 2, 2, generator=torch.Generator().manual_seed(seed)) * tensor([WIDTH, HEIGHT])
    boxes = corners.sort(dim=1).values.flatten(1)
    masks = signed_maps(seed + 9) > 0.3
    for i, (heatmap, box, mask) in enumerate(zip(maps.tolist(), boxes.tolist(), masks.tolist(), strict=True)):
        loops = [
            (energy_in_box(maps, boxes), replicas.energy(heatmap, partial(replicas.covered, box))),
            (energy_in_mask(maps, masks), replicas.energy(heatmap, lambda r, c, m=mask: m[r][c])),
            (compactness(maps, boxes), replicas.compactness(heatmap, box)),
            (vea_curve(maps, masks)[:, 3], replicas.vea(heatmap, mask, 0.4)),
            (odi(maps, boxes, torch.arange(4)), replicas.odi(heatmap, boxes.tolist(), i)),
        ]
        for found, expected in loops:
            assert_close(found[i], expected)


# --- What cannot change them ---


@every_metric
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-900, 900))
def test_no_metric_depends_on_the_maps_unit(metric, seed, exponent):
    maps = signed_maps(seed).double()
    torch.testing.assert_close(metric(maps * 2.0**exponent), metric(maps), equal_nan=True)


@every_metric
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_how_negative_a_value_is_does_not_matter(metric, seed):
    maps = signed_maps(seed)
    torch.testing.assert_close(metric(maps.where(maps > 0, maps * 50)), metric(maps), equal_nan=True)


@every_metric
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
@example(seed=4051)  # the object of one of its maps has no evidence: nan both ways
def test_a_batch_is_its_maps_one_by_one(metric, seed):
    maps = signed_maps(seed)
    one_by_one = torch.stack([metric(heatmap) for heatmap in maps])
    torch.testing.assert_close(metric(maps), one_by_one, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.floats(0.1, 6.9))
def test_energy_of_two_halves_is_the_whole(seed, cut):
    maps = signed_maps(seed)
    upper, lower = tensor([0.0, 0.0, 5.0, cut]).expand(4, 4), tensor([0.0, cut, 5.0, 7.0]).expand(4, 4)
    torch.testing.assert_close(
        energy_in_box(maps, upper) + energy_in_box(maps, lower), torch.ones(4).double()
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mirroring_picture_and_box_changes_nothing(seed):
    maps = signed_maps(seed).round()  # with ties
    mirrored_box = tensor([WIDTH - 3.0, 2.0, WIDTH - 1.0, 5.0]).expand(4, 4)
    for metric in (pointing_game, energy_in_box, compactness):
        torch.testing.assert_close(
            metric(maps.flip(-1), mirrored_box), metric(maps, LEFT_BOX.expand(4, 4)), equal_nan=True
        )


def test_a_box_on_pixel_edges_is_its_mask(assert_close):
    maps = signed_maps(3)
    assert_close(OF_ONE_MAP["pointing_game"](maps), OF_ONE_MAP["pointing_game_in_mask"](maps))
    assert_close(OF_ONE_MAP["energy_in_box"](maps), OF_ONE_MAP["energy_in_mask"](maps))
    boxes = tensor([[1.0, 2.0, 3.0, 5.0], [3.0, 2.0, 5.0, 5.0]])
    assert_close(odi(maps, boxes, torch.zeros(4, dtype=torch.long)), OF_ONE_MAP["odi_in_masks"](maps))


def test_half_precision_maps_are_summed_in_float64(assert_close):
    heatmap = torch.full((300, 300), 2.0, dtype=torch.float16)  # the sum, 180000, is no float16
    assert_close(energy_in_box(heatmap, tensor([0.0, 0.0, 300.0, 75.0])), 0.25)


def test_no_map_at_all_gives_no_number():
    none = torch.zeros(0, HEIGHT, WIDTH)
    for name, metric in OF_ONE_MAP.items():
        assert metric(none).shape == (0,), name


# --- Refused ---


@pytest.mark.parametrize("value", [math.nan, math.inf])
@every_metric
def test_a_map_that_is_not_finite_is_refused(metric, value):
    maps = signed_maps(0)
    maps[2, 1, 1] = value
    with pytest.raises(InputError, match="maps must be finite"):
        metric(maps)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: energy_in_box(PENCIL, ALL[None]), ShapeError, r"boxes must be \(4,\), got \(1, 4\)"),
        (lambda: energy_in_box(PENCIL[0], ALL), ShapeError, r"maps must be \(…, H, W\)"),
        (lambda: energy_in_box(torch.zeros(0, 3), ALL), ShapeError, "at least one pixel"),
        (lambda: compactness(PENCIL, ALL.flip(0)), InputError, r"x1 <= x2 and y1 <= y2, got \[7.0"),
        (lambda: pointing_game(PENCIL, ALL * math.nan), InputError, "finite xyxy"),
        (lambda: pointing_game(PENCIL, tensor([0.0, 0.0, 5.0, math.inf])), InputError, "finite xyxy"),
        (lambda: compactness(PENCIL, tensor([0.0, 3.0, 1.0, 2.0])), InputError, "y1 <= y2"),
        (lambda: energy_in_mask(PENCIL, PENCIL[:1].bool()), ShapeError, r"masks must be \(2, 3\)"),
        (lambda: vea(PENCIL, PENCIL), InputError, "masks must be bool, got torch.float32"),
        (lambda: vea_curve(PENCIL, PENCIL.bool(), [1.0]), InputError, "0 <= t < 1"),
        (lambda: vea_curve(PENCIL, PENCIL.bool(), [0.5, -0.1]), InputError, "0 <= t < 1"),
        (lambda: vea_curve(PENCIL, PENCIL.bool(), []), InputError, "at least one number"),
        (lambda: odi(PENCIL, ALL, tensor(0)), ShapeError, "object_boxes must be"),
        (lambda: odi(PENCIL, OBJECTS, tensor([0])), ShapeError, r"explained must be \(\), got \(1,\)"),
        (lambda: odi(PENCIL, OBJECTS, tensor(2)), InputError, "explained must be 0 to 1, got 2"),
        (lambda: odi(PENCIL, OBJECTS, tensor(-1)), InputError, "explained must be 0 to 1, got -1"),
        (lambda: odi_in_masks(PENCIL, OBJECT_MASKS, tensor(0)), ShapeError, "object_masks must be"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, error, said):
    with pytest.raises(error, match=said):
        call()
