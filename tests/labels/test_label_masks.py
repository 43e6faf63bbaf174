"""Outlines filled and run lengths decoded, against pixels worked out by hand, plain loops and pycocotools."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcam.errors import InputError
from detcam.labels import RunLengths
from detcam.labels.masks import fill, resized

HEIGHT, WIDTH = 13, 17
coordinates = st.integers(-12, 80).map(lambda quarter: quarter / 4)  # also on edges and centres
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9)
masks = st.tuples(st.integers(1, 13), st.integers(1, 11)).flatmap(
    lambda size: st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda flat: np.array(flat).reshape(size)
    )
)


def drawn(*outlines, size=(HEIGHT, WIDTH)):
    return fill([np.array(outline, np.float32) for outline in outlines], size)


def rectangle(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def is_inside(points, x, y):
    """Even-odd, a ray to the left, edge by edge: a centre on an edge counts if what is inside lies right."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if min(y1, y2) <= y < max(y1, y2):
            crossings += x1 + (y - y1) / (y2 - y1) * (x2 - x1) <= x
    return crossings % 2 == 1


# Outlines


def test_a_triangle_covers_the_pixels_whose_centres_it_holds():
    """x + y < 4 at centres (c + .5, r + .5): c + r < 3; those with c + r = 3 lie on the right edge."""
    triangle = drawn([(0, 0), (4, 0), (0, 4)], size=(4, 4))
    assert triangle.tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
    ]


@pytest.mark.parametrize(
    ("box", "columns", "rows"),
    [
        ((2, 3, 5, 7), range(2, 5), range(3, 7)),  # whole pixels: exactly these
        ((2.4, 3.4, 5.4, 7.4), range(2, 5), range(3, 7)),  # centres 2.5 … 4.5 and 3.5 … 6.5
        ((2.6, 3.6, 5.6, 7.6), range(3, 6), range(4, 8)),
        ((2.5, 3.5, 4.5, 6.5), range(2, 4), range(3, 6)),  # the left and upper edge count, the others do not
        ((-9, -9, 99, 99), range(WIDTH), range(HEIGHT)),
    ],
)
def test_a_rectangle_covers_its_pixels_and_none_beyond(box, columns, rows):
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert np.array_equal(drawn(rectangle(*box)), expected)


@pytest.mark.parametrize("box", [(2.6, 3, 3.4, 9), (-9, 0, -1, 9), (20, 0, 30, 9), (3, 4, 9, 4)])
def test_what_holds_no_centre_of_the_picture_covers_nothing(box):
    assert not drawn(rectangle(*box)).any()


def test_parts_and_their_overlap_are_covered():
    """Two 4×4 squares that share 2×2 pixels: 16 + 16 - 4."""
    assert drawn(rectangle(0, 0, 4, 4), rectangle(2, 2, 6, 6)).sum() == 28


def test_a_hole_is_cut_by_a_line_there_and_back():
    ring = [(0, 0), (8, 0), (8, 8), (0, 8), (0, 0), (2, 2), (2, 5), (5, 5), (5, 2), (2, 2)]
    expected = drawn(rectangle(0, 0, 8, 8)) & ~drawn(rectangle(2, 2, 5, 5))
    assert np.array_equal(drawn(ring), expected)


@given(points=polygons)
@settings(deadline=None)
def test_any_outline_covers_what_the_plain_loop_says(points):
    expected = [[is_inside(points, x + 0.5, y + 0.5) for x in range(WIDTH)] for y in range(HEIGHT)]
    assert drawn(points).tolist() == expected


def test_it_is_what_opencv_fills_but_for_the_edge():
    """OpenCV's integer points are pixel centres, and it also sets each pixel that the outline touches."""
    points = np.array([(10.3, 5.2), (90.7, 20.9), (60.1, 55.5), (35.8, 30.2), (12.4, 58.6)], np.float32)
    ours = fill([points], (61, 97))
    theirs = np.zeros((61, 97), np.uint8)
    cv2.fillPoly(theirs, [((points - 0.5) * 256).round().astype(np.int32)], 1, shift=8)
    assert not (ours & (theirs == 0)).any()
    edge = np.zeros((61, 97), np.uint8)
    cv2.polylines(edge, [((points - 0.5) * 256).round().astype(np.int32)], True, 1, 2, shift=8)
    assert not ((theirs == 1) & ~ours & (edge == 0)).any()


# Run lengths


def test_runs_go_down_the_columns_and_begin_outside():
    """[[0, 1, 1], [1, 1, 0]] by columns is 0 1 | 1 1 | 1 0: one outside, four inside, one outside."""
    mask = np.array([[0, 1, 1], [1, 1, 0]], bool)
    runs = RunLengths((2, 3), np.array([1, 4, 1]))
    assert np.array_equal(runs.mask(), mask)
    assert RunLengths.of(mask).counts.tolist() == [1, 4, 1]
    assert RunLengths.of(~mask).counts.tolist() == [0, 1, 4, 1]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("14", [1, 4]),
        ("252O", [2, 5, 2, 4]),  # the fourth is 4 - 5 = -1: five bits 11111, chr(48 + 31)
        ("`04", [16, 4]),  # 16 would read as negative in five bits: 10000 and more, then 0
    ],
)
def test_compressed_runs_are_five_bits_a_character(text, counts):
    runs = RunLengths.from_text((1, sum(counts)), text)
    assert runs.counts.tolist() == counts


def compressed(counts):
    """The format's own description, the other way around."""
    text = ""
    for position, count in enumerate(counts):
        value = count - counts[position - 2] if position > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            if value == (-1 if bits & 16 else 0):
                text += chr(48 + bits)
                break
            text += chr(48 + bits + 32)
    return text


@given(mask=masks)
def test_masks_survive_both_forms_of_run_lengths(mask):
    runs = RunLengths.of(mask)
    assert np.array_equal(runs.mask(), mask)
    assert np.array_equal(RunLengths.from_text(mask.shape, compressed(runs.counts.tolist())).mask(), mask)


@given(counts=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=9))
def test_long_runs_survive_compression(counts):
    assert RunLengths.from_text((1, sum(counts)), compressed(counts)).counts.tolist() == counts


@given(mask=masks)
@settings(deadline=None)
def test_run_lengths_are_those_of_pycocotools(mask):
    codec = pytest.importorskip("pycocotools.mask")
    theirs = codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(RunLengths.from_text(mask.shape, theirs["counts"].decode()).mask(), mask)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 4", "cannot hold ' ' at position 1"),
        ("14\x7f", "cannot hold '\\x7f' at position 2"),
        ("````````0", "cannot hold '`' at position 7"),
        ("14`", "end within a number"),
        ("15", "add up to 6, not to the 5 pixels"),
        ("", "add up to 0, not to the 5 pixels"),
        ("1O5", "one list of numbers >= 0"),
    ],
)
def test_text_that_is_no_run_lengths_is_refused(text, said):
    with pytest.raises(InputError) as refused:
        RunLengths.from_text((1, 5), text)
    assert said in str(refused.value)


def test_runs_too_long_for_the_picture_are_not_wrapped_around():
    with pytest.raises(InputError, match="not to the 5 pixels"):
        RunLengths((1, 5), np.array([(1 << 62), (1 << 62), (1 << 62), (1 << 62) + 5]))


def test_a_scaled_mask_is_what_lies_under_the_centres():
    """5 → 2: centres .5 and 1.5 of 2 lie at 1.25 and 3.75 of 5: pixels 1 and 3. 2 → 4: 0 0 1 1."""
    mask = np.array([[0, 1, 0, 0, 1], [1, 0, 1, 1, 0]], bool)
    assert resized(mask, (2, 2)).tolist() == [[True, False], [False, True]]
    assert resized(mask[:, :1], (4, 1))[:, 0].tolist() == [False, False, True, True]
    assert np.array_equal(resized(mask, mask.shape), mask)
