"""There and back between picture, network input and feature grid; the vendor's own letterbox as witness."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detcam.errors import InputError
from detcam.geometry import Letterbox

HALF_A_PIXEL = 0.5
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}  # pixels, or units of a map whose values are pixels

PRIMES = [(97, 61), (61, 97), (197, 331), (2, 311), (311, 2), (1, 1), (1, 1999)]

sides = st.integers(1, 700)
limits = st.integers(1, 12).map(lambda blocks: 32 * blocks)

quick = settings(deadline=None, max_examples=60, derandomize=True)  # the same examples every time


def noise(height, width):
    generator = np.random.default_rng(height * 1009 + width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- fitting ------------------------------------------------------------------------------------------


def test_a_letterbox_by_hand():
    # 100 x 200 into 64 x 64: shrunk by 200 / 64 to 32 x 64, which needs no padding at stride 32.
    box = Letterbox.fit((100, 200), (64, 64), 32)
    assert (box.resized, box.pad, box.input_size) == ((32, 64), (0, 0), (32, 64))
    # 150 x 200 becomes 48 x 64; 16 rows are missing, 8 go on top.
    box = Letterbox.fit((150, 200), (64, 64), 32)
    assert (box.resized, box.pad, box.input_size) == ((48, 64), (0, 8), (64, 64))
    # 61 x 97 into 96 x 96: 60.4 rows are 60; 36 to spare, of which 4 stay at stride 32, 2 on top.
    box = Letterbox.fit((61, 97), (96, 96), 32)
    assert (box.resized, box.pad, box.input_size) == ((60, 96), (0, 2), (64, 96))
    # Turned by a right angle, everything is.
    box = Letterbox.fit((97, 61), (96, 96), 32)
    assert (box.resized, box.pad, box.input_size) == ((96, 60), (2, 0), (96, 64))


def test_an_odd_pixel_of_padding_goes_behind_the_picture():
    box = Letterbox.fit((31, 64), (64, 64), 32)
    assert (box.pad, box.input_size) == ((0, 0), (32, 64))
    box = Letterbox.fit((29, 64), (64, 64), 32)
    assert (box.pad, box.input_size) == ((0, 1), (32, 64))


@quick
@given(sides, sides, limits, limits, st.sampled_from([32, 64]))
def test_the_input_is_the_smallest_that_holds_the_picture(height, width, high, wide, stride):
    limit = (math.ceil(high / stride) * stride, math.ceil(wide / stride) * stride)
    box = Letterbox.fit((height, width), limit, stride)
    for side, inner, outer, before, most in zip(
        (height, width), box.resized, box.input_size, box.pad[::-1], limit, strict=True
    ):
        assert outer % stride == 0
        assert outer <= most
        assert 0 <= outer - inner < stride
        assert before == (outer - inner) // 2
        assert inner >= 1
        ratio = min(limit[0] / height, limit[1] / width)
        assert abs(inner - side * ratio) <= 1
    assert any(inner == most for inner, most in zip(box.resized, limit, strict=True))


@pytest.mark.parametrize("limit", [(100, 64), (64, 100), (0, 64), (-32, 64)])
def test_an_input_that_is_no_multiple_of_the_stride_is_refused(limit):
    with pytest.raises(InputError, match="multiples of the stride 32"):
        Letterbox.fit((10, 10), limit, 32)


# --- the vendor's letterbox ---------------------------------------------------------------------------


@quick
@given(sides, sides, limits, limits)
@example(1, 1, 640, 640)
@example(1, 2000, 640, 640)
@example(2000, 1, 640, 640)
@example(97, 61, 96, 96)
@example(331, 197, 320, 160)
def test_the_pixels_are_the_vendors(height, width, high, wide):
    from ultralytics.data.augment import LetterBox

    pixels = noise(height, width)
    box = Letterbox.fit((height, width), (high, wide), 32)
    expected = LetterBox((high, wide), auto=True, stride=32)(image=pixels)
    assert box.input_size == expected.shape[:2]
    assert np.array_equal(box.apply(pixels), expected)


@pytest.mark.parametrize("size", PRIMES)
def test_the_pixels_are_the_vendors_at_a_stride_of_64(size):
    from ultralytics.data.augment import LetterBox

    expected = LetterBox((320, 320), auto=True, stride=64)(image=noise(*size))
    assert np.array_equal(Letterbox.fit(size, (320, 320), 64).apply(noise(*size)), expected)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"\(61, 97\) pixels was given \(97, 61\)"):
        Letterbox.fit((61, 97), (96, 96), 32).apply(noise(97, 61))


# --- points and boxes ---------------------------------------------------------------------------------


def test_points_and_boxes_by_hand():
    box = Letterbox.fit((150, 200), (64, 64), 32)  # by 0.32, with 8 rows on top
    assert box.ratio == (0.32, 0.32)
    points = torch.tensor([[0.0, 0.0], [200.0, 150.0], [100.0, 25.0]])
    expected = torch.tensor([[0.0, 8.0], [64.0, 56.0], [32.0, 16.0]])
    torch.testing.assert_close(box.points_to_input(points), expected)
    torch.testing.assert_close(box.points_to_image(expected), points)
    boxes = torch.tensor([[100.0, 25.0, 200.0, 150.0]])
    torch.testing.assert_close(box.boxes_to_input(boxes), torch.tensor([[32.0, 16.0, 64.0, 56.0]]))


@quick
@given(sides, sides, limits, st.floats(0, 1), st.floats(0, 1))
def test_points_come_back_from_the_input(height, width, limit, along, down):
    box = Letterbox.fit((height, width), (limit, limit), 32)
    point = torch.tensor([along * width, down * height])
    there = box.points_to_input(point)
    assert box.pad[0] - HALF_A_PIXEL <= there[0] <= box.pad[0] + box.resized[1] + HALF_A_PIXEL
    assert box.pad[1] - HALF_A_PIXEL <= there[1] <= box.pad[1] + box.resized[0] + HALF_A_PIXEL
    assert (box.points_to_image(there) - point).abs().max() <= HALF_A_PIXEL
    precise = box.points_to_image(box.points_to_input(point.double()))
    assert (precise - point).abs().max() <= 1e-6


@pytest.mark.parametrize("size", PRIMES)
def test_the_pictures_corners_are_those_of_the_resized_one(size):
    box = Letterbox.fit(size, (320, 320), 32)
    corners = box.boxes_to_input(torch.tensor([[0.0, 0.0, size[1], size[0]]]))
    left, top = box.pad
    assert corners.tolist() == [[left, top, left + box.resized[1], top + box.resized[0]]]


@quick
@given(sides, sides, limits, st.lists(st.floats(-0.2, 1.2), min_size=4, max_size=4))
def test_boxes_come_back_clipped_to_the_picture(height, width, limit, edges):
    box = Letterbox.fit((height, width), (limit, limit), 32)
    wanted = torch.tensor([edges]) * torch.tensor([width, height, width, height])
    found = box.boxes_to_image(box.boxes_to_input(wanted))
    clipped = wanted.clone()
    clipped[:, 0::2] = clipped[:, 0::2].clamp(0, width)
    clipped[:, 1::2] = clipped[:, 1::2].clamp(0, height)
    assert found[:, 0::2].min() >= 0
    assert found[:, 0::2].max() <= width
    assert found[:, 1::2].min() >= 0
    assert found[:, 1::2].max() <= height
    assert (found - clipped).abs().max() <= HALF_A_PIXEL


def test_boxes_in_the_padding_shrink_to_the_pictures_edge():
    box = Letterbox.fit((150, 200), (64, 64), 32)
    found = box.boxes_to_image(torch.tensor([[-5.0, 0.0, 10.0, 7.0], [60.0, 50.0, 80.0, 64.0]]))
    expected = torch.tensor([[0.0, 0.0, 31.25, 0.0], [187.5, 131.25, 200.0, 150.0]])
    torch.testing.assert_close(found, expected)


def test_boxes_in_cells_by_hand():
    box = Letterbox.fit((61, 97), (96, 96), 32)  # an input of 64 x 96
    boxes = torch.tensor([[8.0, 16.0, 96.0, 64.0]])
    assert box.boxes_to_grid(boxes, (8, 12)).tolist() == [[1, 2, 12, 8]]
    assert box.boxes_to_grid(boxes, (2, 3)).tolist() == [[0.25, 0.5, 3, 2]]


def test_no_boxes_are_no_boxes():
    box = Letterbox.fit((61, 97), (96, 96), 32)
    none = torch.zeros(0, 4)
    for found in (box.boxes_to_image(none), box.boxes_to_input(none), box.boxes_to_grid(none, (8, 12))):
        assert found.shape == (0, 4)


# --- maps ---------------------------------------------------------------------------------------------


def ramps(box, stride, dtype):
    """Two maps that hold, at each cell, its centre's x and y in input pixels."""
    height, width = (side // stride for side in box.input_size)
    y, x = torch.meshgrid(
        (torch.arange(height, dtype=dtype) + 0.5) * stride,
        (torch.arange(width, dtype=dtype) + 0.5) * stride,
        indexing="ij",
    )
    return torch.stack([x, y])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("size", PRIMES)
def test_a_ramp_says_at_each_pixel_where_its_centre_lies(size, stride, dtype):
    box = Letterbox.fit(size, (320, 320), 32)
    found = box.maps_to_image(ramps(box, stride, dtype))
    assert found.shape == (2, *size)
    assert found.dtype == dtype
    y, x = torch.meshgrid(*(torch.arange(side, dtype=dtype) + 0.5 for side in size), indexing="ij")
    where = box.points_to_input(torch.stack([x, y], dim=-1)).movedim(-1, 0)
    # Beyond the outermost cells' centres there is nothing to interpolate: their values go on.
    edges = torch.tensor([box.input_size[1], box.input_size[0]], dtype=dtype)[:, None, None]
    expected = where.maximum(torch.tensor(stride / 2, dtype=dtype)).minimum(edges - stride / 2)
    assert (found - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (197, 331)])
@pytest.mark.parametrize(("row", "column"), [(1, 2), (2, 1), (3, 3)])
def test_a_single_hot_cell_lands_where_it_belongs(size, row, column):
    box = Letterbox.fit(size, (160, 160), 32)
    stride = 16
    hot = torch.zeros(1, box.input_size[0] // stride, box.input_size[1] // stride)
    hot[0, row, column] = 1
    found = box.maps_to_image(hot)[0].double()
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    middle = torch.stack([(found * x).sum(), (found * y).sum()]) / found.sum()
    expected = box.points_to_image(torch.tensor([(column + 0.5) * stride, (row + 0.5) * stride]))
    assert (middle - expected).abs().max() <= HALF_A_PIXEL


@quick
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([4, 8, 16]), st.integers(0, 2**32 - 1)
)
@example((37, 23), 8, 0)
def test_maps_agree_with_plain_bilinear_sums(size, stride, seed):
    box = Letterbox.fit(size, (64, 64), 32)
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, box.input_size[0] // stride, box.input_size[1] // stride, generator=generator)
    expected = plain_bilinear(maps.double(), box, stride)
    torch.testing.assert_close(box.maps_to_image(maps).double(), expected, rtol=0, atol=1e-4)


def plain_bilinear(maps, box, stride):
    """Pixel by pixel: where its centre lies between the centres of four cells."""
    height, width = box.image_size
    found = torch.zeros(len(maps), height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            x = ((column + 0.5) * box.resized[1] / width + box.pad[0]) / stride - 0.5
            y = ((row + 0.5) * box.resized[0] / height + box.pad[1]) / stride - 0.5
            x, y = min(max(x, 0), maps.shape[2] - 1), min(max(y, 0), maps.shape[1] - 1)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    share = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                    if share:
                        found[:, row, column] += share * maps[:, i, j]
    return found


def test_padding_does_not_appear_on_the_picture():
    box = Letterbox.fit((64, 640), (320, 320), 32)  # 32 x 320: no padding
    assert box.pad == (0, 0)
    box = Letterbox.fit((40, 320), (320, 320), 32)  # 40 rows, 12 of padding on top and below
    assert box.pad == (0, 12)
    maps = torch.zeros(1, 16, 80)  # cells of 4 pixels
    maps[0, :2] = 7  # rows 0 to 7 of the input
    maps[0, -2:] = 7
    assert not box.maps_to_image(maps).any()
    maps[0, 3] = 7  # rows 12 to 15: the picture's first
    found = box.maps_to_image(maps)[0]
    assert found[:4].min() > 0
    assert not found[6:].any()


def test_nothing_about_a_maps_values_changes():
    box = Letterbox.fit((61, 97), (96, 96), 32)
    constant = torch.full((3, 8, 12), -2.5)
    torch.testing.assert_close(box.maps_to_image(constant), torch.full((3, 61, 97), -2.5))
    torch.manual_seed(0)
    maps = torch.randn(3, 8, 12)
    found = box.maps_to_image(maps)
    assert found.max() <= maps.max()
    assert found.min() >= maps.min()
    torch.testing.assert_close(box.maps_to_image(-2 * maps), -2 * found)


def test_each_map_goes_its_own_way():
    box = Letterbox.fit((61, 97), (96, 96), 32)
    torch.manual_seed(1)
    maps = torch.randn(4, 8, 12)
    together = box.maps_to_image(maps)
    for index in range(4):
        assert torch.equal(together[index], box.maps_to_image(maps[index : index + 1])[0])


def test_no_maps_are_no_maps():
    box = Letterbox.fit((61, 97), (96, 96), 32)
    assert box.maps_to_image(torch.zeros(0, 8, 12)).shape == (0, 61, 97)


def test_a_grid_of_one_cell_fills_the_picture():
    box = Letterbox.fit((20, 20), (32, 32), 32)
    assert (box.maps_to_image(torch.full((1, 1, 1), 3.0)) == 3).all()
