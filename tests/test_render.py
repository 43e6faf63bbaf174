"""Drawing: colours, places and scales checked on pictures small enough to reason about."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from detcam.errors import ImageError, InputError, ShapeError, UnknownNameError
from detcam.render import (
    COLORMAPS,
    PALETTE,
    ColourKey,
    TileStyle,
    blend,
    class_colour,
    colour_kernel_sheet,
    contact_sheet,
    decode_map_16bit,
    draw_boxes,
    encode_map_16bit,
    matrix_sheet,
    read_map_png,
    scale_map,
    tile_sheet,
    with_colour_bar,
    write_map_png,
)
from detcam.render.boxes import Plate, place_label
from detcam.render.colour import lookup_table
from detcam.render.text import SMALLEST, fit, font, line_height, readable_on, text_size_for, text_width

HEIGHT, WIDTH = 61, 97  # primes, so that a swapped H/W cannot hide
CYAN = (0, 229, 255)


@pytest.fixture
def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def zeros() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.float32)


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours (n, 3), IEC 61966-2-1 and CIE 15."""
    channel = colours / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    cube_root = np.where(luminance > 216 / 24389, np.cbrt(luminance), (24389 / 27 * luminance + 16) / 116)
    return 116 * cube_root - 16


# Colour maps


@pytest.mark.parametrize("name", ["inferno", "viridis", "magma"])
def test_lightness_rises_from_end_to_end(name):
    # Whole-number colours wobble by a fraction of an L* unit.
    assert (np.diff(lightness(COLORMAPS[name])) > -0.35).all()
    assert np.ptp(lightness(COLORMAPS[name])) > 70


@pytest.mark.parametrize("name", ["jet", "turbo"])
def test_lightness_of_a_rainbow_falls_again(name):
    assert np.diff(lightness(COLORMAPS[name])[::16]).min() < -5


def test_colours_are_rgb_not_bgr():
    red, _, blue = (int(c) for c in COLORMAPS["jet"][-1])
    assert red > 100 > blue == 0
    red, _, blue = (int(c) for c in COLORMAPS["jet"][0])
    assert blue > 100 > red == 0
    # matplotlib's published first and last entries
    assert np.abs(COLORMAPS["viridis"][[0, -1]].astype(int) - [[68, 1, 84], [253, 231, 37]]).max() <= 2
    assert np.abs(COLORMAPS["inferno"][[0, -1]].astype(int) - [[0, 0, 4], [252, 255, 164]]).max() <= 2


def test_lookup_tables_cannot_be_spoilt():
    with pytest.raises(ValueError, match="read-only"):
        COLORMAPS["inferno"][0] = 0


def test_unknown_colour_map_names_the_closest(photograph):
    with pytest.raises(UnknownNameError, match="viridis"):
        blend(photograph, zeros(), "virdis")


# Scale


def test_scale_is_linear_between_low_and_high_and_clipped_outside():
    raw = np.array([[-1.0, 0.0, 2.0, 3.0, 4.0, 9.0]], np.float32)
    # (v - 2) / (4 - 2), clipped: negatives and all below `low` are nothing
    assert scale_map(raw, 2, 4).tolist() == [[0, 0, 0, 0.5, 1, 1]]
    assert scale_map(raw, 0, 4).tolist() == [[0, 0, 0.5, 0.75, 1, 1]]


def test_two_maps_over_one_range_stay_comparable():
    weak, strong = np.array([[0.0, 1.0]]), np.array([[0.0, 4.0]])
    assert scale_map(weak, 0, 4)[0, 1] == 0.25
    assert scale_map(strong, 0, 4)[0, 1] == 1


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
@pytest.mark.parametrize("value_range", [(0, 1), (-3, 3.5), (0, 0), (3.5, 3.5)])
def test_constant_map_points_nowhere(value, value_range):
    assert not scale_map(np.full((3, 4), value, np.float32), *value_range).any()


def test_empty_range_shows_nothing():
    assert not scale_map(np.array([[0.0, -1.0]]), 0, 0).any()


def test_tiny_gradients_survive_scaling():
    raw = np.array([[0, 1e-38, 2e-38]], np.float32)
    assert scale_map(raw, 0, float(raw.max())) == pytest.approx(np.array([[0, 0.5, 1]]), abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_refused_and_counted(value):
    with pytest.raises(InputError, match="1 NaN or infinite values of 6"):
        scale_map(np.array([[0, 1, 2], [3, 4, value]]), 0, 1)


@pytest.mark.parametrize("value_range", [(1, 0), (0, np.nan), (-np.inf, 0)])
def test_a_range_upside_down_or_unbounded_is_refused(value_range):
    with pytest.raises(InputError, match="low <= high"):
        scale_map(np.eye(2), *value_range)


@pytest.mark.parametrize("shape", [(3,), (1, 3, 3), (0, 3)])
def test_a_map_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match=r"\(H, W\)"):
        scale_map(np.zeros(shape), 0, 1)


# Overlay


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_empty_map_leaves_the_picture_untouched(photograph, colormap):
    assert np.array_equal(blend(photograph, zeros(), colormap), photograph)


def test_input_is_not_drawn_on(photograph):
    before, values = photograph.copy(), np.full((HEIGHT, WIDTH), 0.7, np.float32)
    draw_boxes(blend(photograph, values), np.array([[1, 2, 30, 40.0]]), ["a"], [CYAN])
    draw_boxes(photograph, np.array([[1, 2, 30, 40.0]]), ["a"], [CYAN])
    assert np.array_equal(photograph, before)
    assert (values == np.float32(0.7)).all()


def test_one_hot_pixel_is_coloured_at_its_x_and_y_and_nowhere_else(photograph):
    values = zeros()
    values[11, 83] = 1  # row 11, column 83: outside the picture if swapped
    blended = blend(photograph, values, opacity=1)
    assert blended[11, 83].tolist() == COLORMAPS["inferno"][255].tolist()
    changed = (blended != photograph).any(axis=-1)
    assert np.argwhere(changed).tolist() == [[11, 83]]


def test_blend_by_hand():
    # α = 0.8 · 0.25**0.5 = 0.4; the colour is entry round(0.25 · 255) = 64
    image = np.full((1, 1, 3), 101, np.uint8)
    blended = blend(image, np.array([[0.25]], np.float32), "jet", opacity=0.8, power=0.5)
    expected = 0.6 * 101 + 0.4 * COLORMAPS["jet"][64].astype(float)
    assert np.abs(blended[0, 0] - expected).max() <= 0.5


def test_brightness_stays_where_nothing_speaks(photograph):
    values = zeros()
    values[:, :40] = np.linspace(0.1, 1, 40)
    assert np.array_equal(blend(photograph, values)[:, 40:], photograph[:, 40:])


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_larger_value_is_more_opaque(power):
    values = np.linspace(0, 1, 64, dtype=np.float32)[None]
    black, white = np.zeros((1, 64, 3), np.uint8), np.full((1, 64, 3), 255, np.uint8)
    # Over black and white the colour's part cancels: what is left of 255 is the picture's part, 1 - α.
    difference = blend(white, values, power=power).astype(int) - blend(black, values, power=power)
    assert (np.diff(difference.mean(axis=-1)[0]) < 1).all()
    assert difference[0, 0].tolist() == [255] * 3
    assert difference[0, -1].max() < 0.2 * 255
    assert difference[0, 32].mean() == pytest.approx(255 * (1 - 0.85 * (32 / 63) ** power), abs=1)


@pytest.mark.parametrize(
    ("values", "options", "error"),
    [
        (np.zeros((WIDTH, HEIGHT), np.float32), {}, ShapeError),
        (np.full((HEIGHT, WIDTH), 1.01, np.float32), {}, InputError),
        (np.full((HEIGHT, WIDTH), np.nan, np.float32), {}, InputError),
        (zeros(), {"opacity": 1.5}, InputError),
        (zeros(), {"power": 0}, InputError),
    ],
)
def test_blend_refuses_what_it_cannot_draw(photograph, values, options, error):
    with pytest.raises(error):
        blend(photograph, values, **options)


@pytest.mark.parametrize("image", [np.zeros((3, 5, 7), np.uint8), np.zeros((5, 7, 3)), np.zeros((5, 7))])
def test_only_rgb_uint8_is_drawn_on(image):
    with pytest.raises(ShapeError, match="uint8 RGB"):
        blend(image, np.zeros(image.shape[:2], np.float32))


def test_importing_brings_neither_torch_nor_matplotlib():
    code = "import sys, detcam.render; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Boxes and labels


def test_box_is_drawn_on_its_coordinates(photograph):
    drawn = draw_boxes(photograph, np.array([[10, 20, 70, 50.0]]), [""], [CYAN])
    expected = photograph.copy()
    expected[[20, 50], 10:71] = CYAN
    expected[20:51, [10, 70]] = CYAN
    assert np.array_equal(drawn, expected)


def test_rotated_box_joins_its_corners(photograph):
    corners = np.array([[[48, 10], [70, 30], [48, 50], [26, 30.0]]])
    drawn = draw_boxes(photograph, np.array([[26, 10, 70, 50.0]]), [""], [CYAN], corners)
    for x, y in [(48, 10), (70, 30), (48, 50), (26, 30), (59, 20)]:
        near = drawn[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).tolist()
        assert list(CYAN) in near
    assert np.array_equal(drawn[10, 26:40], photograph[10, 26:40])  # no upright box


def test_part_of_a_box_outside_lies_on_the_rim(photograph):
    drawn = draw_boxes(photograph, np.array([[-50, 20, 1e9, 40.0]]), [""], [CYAN])
    assert (drawn[20, :] == CYAN).all()
    assert (drawn[20:41, [0, -1]] == CYAN).all()


def test_no_boxes_leave_the_picture_untouched(photograph):
    assert np.array_equal(draw_boxes(photograph, np.zeros((0, 4)), [], []), photograph)


@pytest.mark.parametrize(
    ("boxes", "labels", "corners", "error"),
    [
        (np.zeros((1, 5)), ["a"], None, ShapeError),
        (np.zeros((2, 4)), ["a"], None, ShapeError),
        (np.zeros((1, 4)), ["a"], np.zeros((1, 5)), ShapeError),
        (np.array([[9, 0, 3, 5.0]]), ["a"], None, InputError),
        (np.array([[0, 0, np.nan, 5.0]]), ["a"], None, InputError),
    ],
)
def test_boxes_that_make_no_sense_are_refused(photograph, boxes, labels, corners, error):
    with pytest.raises(error):
        draw_boxes(photograph, boxes, labels, [CYAN] * len(labels), corners)


@pytest.mark.parametrize("size", [(64, 48), (640, 480), (4000, 6000)])
def test_label_is_a_plate_with_readable_letters_at_any_size(size):
    height, width = size
    picture = np.full((height, width, 3), 128, np.uint8)
    drawn = draw_boxes(picture, np.array([[0.2 * width, 0.4 * height, width, height]]), ["bus 0.87"], [CYAN])
    rows, columns = np.nonzero((drawn == 0).all(axis=-1) & (np.indices(size)[0] < 0.4 * height - 2))
    letters_high, letters_wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert letters_high >= 6
    assert letters_high >= 0.012 * height
    assert letters_wide > 3 * letters_high


boxes_anywhere = st.tuples(*[st.floats(-500, 1500)] * 4).map(
    lambda box: [(x, y) for x in sorted(box[:2]) for y in sorted(box[2:])]
)


@given(
    outlines=st.lists(boxes_anywhere, min_size=1, max_size=12),
    picture=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(deadline=None)
def test_plates_stay_inside_the_picture(outlines, picture, share):
    size = (max(1, int(share[0] * picture[0]), picture[0] // 50), max(1, int(share[1] * picture[1])))
    taken: list[Plate] = []
    for outline in outlines:
        plate = place_label(outline, size, picture, taken)
        if plate is None:
            assert taken
            continue
        assert 0 <= plate.left < plate.right <= picture[1]
        assert 0 <= plate.top < plate.bottom <= picture[0]
        assert (plate.bottom - plate.top, plate.right - plate.left) == size
        assert not any(map(plate.overlap, taken))
        taken.append(plate)


@given(text=st.text(max_size=200), size=st.integers(SMALLEST, 60), room=st.integers(0, 400))
@settings(deadline=None)
def test_any_text_fits_its_room_in_one_line(text, size, room):
    fitted, fitted_size = fit(text, size, room)
    assert not fitted or text_width(fitted, fitted_size) <= room
    assert SMALLEST <= fitted_size <= size
    assert fitted.isprintable()


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    box=st.tuples(*[st.integers(-20, 80)] * 4),
    label=st.text(max_size=30),
)
@settings(deadline=None)
def test_anything_can_be_drawn_on_tiny_pictures(size, box, label):
    x1, x2, y1, y2 = *sorted(box[:2]), *sorted(box[2:])
    picture = np.full((*size, 3), 90, np.uint8)
    assert draw_boxes(picture, np.array([[x1, y1, x2, y2]]), [label], [CYAN]).shape == picture.shape


def test_label_goes_above_its_box_and_inside_at_the_upper_rim():
    low = [(10, 40), (60, 40), (60, 90), (10, 90)]
    high = [(10, 5), (60, 5), (60, 90), (10, 90)]
    assert place_label(low, (12, 30), (100, 100), []) == Plate(10, 28, 40, 40)
    assert place_label(high, (12, 30), (100, 100), []) == Plate(10, 0, 40, 12)


def test_labels_of_equal_boxes_do_not_cover_each_other_and_stay_near():
    outline = [(10, 40), (60, 40), (60, 90), (10, 90)]
    taken: list[Plate] = []
    while plate := place_label(outline, (12, 30), (200, 200), taken):
        assert sum(map(plate.overlap, taken)) == 0
        assert plate.top >= 40 - 3 * 12
        assert plate.bottom <= 90 + 3 * 12
        taken.append(plate)
    assert len(taken) >= 9


def test_labels_never_hide_the_picture():
    picture = np.full((64, 48, 3), 90, np.uint8)
    boxes = np.array([[5, 20, 40, 60.0]] * 20)
    drawn = draw_boxes(picture, boxes, [f"person {i}" for i in range(20)], [CYAN] * 20)
    assert (drawn == 90).all(axis=-1).mean() > 0.5


@pytest.mark.parametrize("colour", PALETTE)
def test_letters_stand_out_from_every_plate(colour):
    """WCAG asks 4.5 : 1 of text."""
    luminances = sorted(
        float((lightness(np.array([c])) / 116 + 16 / 116)[0] ** 3) for c in (colour, readable_on(colour))
    )
    assert (luminances[1] + 0.05) / (luminances[0] + 0.05) > 4.5


def test_a_class_keeps_its_colour():
    assert class_colour(3) == class_colour(3 + len(PALETTE)) == PALETTE[3]
    assert len(set(PALETTE)) == len(PALETTE)


def test_non_latin_letters_are_drawn_each_in_its_own_shape():
    picture = np.full((200, 300, 3), 90, np.uint8)
    box = np.array([[20, 60, 280, 180.0]])
    drawn = [draw_boxes(picture, box, [label], [CYAN]) for label in ("ЖЖ", "ΩΩ", "éé")]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])


# Colour bar


@pytest.mark.parametrize("colormap", COLORMAPS)
@pytest.mark.parametrize("size", [(20, 31), (50, 700)])
def test_colour_bar_shows_the_colour_map_from_end_to_end(colormap, size):
    image = np.full((*size, 3), 90, np.uint8)
    sheet = with_colour_bar(image, colormap, "0", "0.0123", "class logit · scale: box")
    edge = text_size_for(size[0], max(size[1], 240)) // 2
    bar = sheet[size[0] + 2 * edge, edge : sheet.shape[1] - edge]
    table = {
        tuple(colour): index for index, colour in reversed(list(enumerate(COLORMAPS[colormap].tolist())))
    }
    indices = [table[tuple(colour)] for colour in bar.tolist()]
    expected = np.linspace(0, 255, len(bar))
    assert np.abs(np.array(indices) - expected).max() < 1.5  # neighbours in viridis may be equal
    assert (bar[0].tolist(), bar[-1].tolist()) == (
        COLORMAPS[colormap][0].tolist(),
        COLORMAPS[colormap][255].tolist(),
    )


def test_picture_keeps_its_place_above_the_colour_bar(photograph):
    sheet = with_colour_bar(photograph, "inferno", "0", "1", "class logit")
    assert np.array_equal(sheet[:HEIGHT, :WIDTH], photograph)


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (2000, 3000)])
def test_the_two_ends_and_the_title_are_written(size):
    image = np.full((*size, 3), 90, np.uint8)
    texts = ["0", "0.0123", "class logit"]
    whole = with_colour_bar(image, "inferno", *texts)
    for index in range(3):
        without = with_colour_bar(image, "inferno", *[t if i != index else " " for i, t in enumerate(texts)])
        assert not np.array_equal(whole, without)


@pytest.mark.parametrize("length", range(8, 40))
def test_a_title_never_runs_into_the_words_at_the_ends(length):
    # Words are black on white: between the title and the end there is a gap wider than inside a word.
    image = np.full((300, 300, 3), 90, np.uint8)
    with_title, without = (
        (with_colour_bar(image, "inferno", "0", "max of each", title)[300:] < 90).all(axis=-1)
        for title in ("x" * length, " ")
    )
    if with_title.shape != without.shape:
        return  # the title has a line of its own
    edge = text_size_for(300, 300)
    below_the_bar = slice(2 * edge, None)
    ends = np.nonzero(without[below_the_bar].any(axis=0))[0]
    title = np.nonzero((with_title & ~without)[below_the_bar].any(axis=0))[0]
    assert title.max() + 4 < ends[ends > 100].min()


def test_an_overlong_title_is_shortened_not_cut():
    image = np.full((64, 64, 3), 90, np.uint8)
    sheet = with_colour_bar(image, "inferno", "0", "1", "class logit " * 30)
    assert sheet.shape[1] == 240
    assert (sheet[64:, [0, -1]] == 255).all()  # white margins


# Sheets


def solid(colour: tuple[int, int, int], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def centre_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    rows, columns = np.nonzero((sheet == colour).all(axis=-1))
    return rows.mean(), columns.mean()


def test_tiles_run_row_by_row():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = contact_sheet([("", solid(colour)) for colour in colours], columns=2)
    (red_y, red_x), (green_y, green_x), (blue_y, blue_x) = (centre_of(sheet, c) for c in colours)
    assert red_y == green_y < blue_y
    assert red_x == blue_x < green_x


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 1, 4), (5, 2, 3), (64, 8, 8)]
)
def test_few_tiles_make_a_row_and_many_a_square(count, rows, columns):
    one = contact_sheet([("", solid((9, 9, 9)))] * 1, tile_side=30)
    sheet = contact_sheet([("", solid((9, 9, 9)))] * count, tile_side=30)
    gap = one.shape[1] - 30 - (one.shape[1] - 30) // 2
    assert sheet.shape[1] == gap + columns * (30 + gap)
    assert sheet.shape[0] == gap + rows * (one.shape[0] - gap)


def test_small_tiles_are_magnified_with_sharp_cells():
    checks = np.zeros((2, 3, 3), np.uint8)
    checks[0, 0] = checks[1, 2] = (250, 10, 20)
    sheet = contact_sheet([("", checks)], tile_side=31)  # 31 // 3 = 10 times
    rows, columns = np.nonzero((sheet == (250, 10, 20)).all(axis=-1))
    assert len(rows) == 2 * 10 * 10
    assert (np.ptp(rows), np.ptp(columns)) == (19, 29)


def test_large_tiles_are_shrunk_to_the_side_asked_for():
    sheet = contact_sheet([("", solid((250, 10, 20), (100, 400)))], tile_side=80)
    rows, columns = np.nonzero((sheet == (250, 10, 20)).all(axis=-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 80)


def test_every_tile_carries_its_number():
    sheet = contact_sheet([("", solid((250, 250, 250)))] * 2, columns=1)
    half = sheet.shape[0] // 2
    top, bottom = sheet[:half] < 100, sheet[half : 2 * half] < 100
    assert top.any()
    assert bottom.any()
    assert not np.array_equal(top, bottom)


@pytest.mark.parametrize(("tiles", "columns"), [([], None), ([("", solid(CYAN))], 0)])
def test_a_sheet_of_nothing_is_refused(tiles, columns):
    with pytest.raises(InputError):
        contact_sheet(tiles, columns)


def test_a_sheet_may_do_without_counting_its_tiles():
    tiles = [("7", solid((250, 250, 250), (40, 40)))]
    plain = contact_sheet(tiles, tile_side=40, numbered=False)
    assert plain.shape == contact_sheet(tiles, tile_side=40).shape
    ink = [np.nonzero((sheet < 100).all(axis=-1))[1] for sheet in (plain, contact_sheet(tiles, tile_side=40))]
    assert len(ink[0])
    assert np.ptp(ink[0]) < 8 < np.ptp(ink[1])  # "7", and "1  7"


# Values with a sign


def test_a_key_of_values_with_a_sign_is_symmetric():
    key = ColourKey.of(np.array([[-1.0, 4.0]]))
    assert (key.top, key.is_signed, key.colormap) == (4, True, "coolwarm")
    assert (key.ends, key.reach) == (("-4", "4"), "±4")
    key = ColourKey.of(np.array([[0.0, 0.25]]), colormap="viridis")
    assert (key.top, key.is_signed, key.colormap) == (0.25, False, "viridis")
    assert (key.ends, key.reach) == (("0", "0.25"), "0.25")


@given(arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32)))
@settings(deadline=None)
def test_turning_all_signs_turns_the_colours_around_neutral(values):
    key = ColourKey(float(np.abs(values).max()), is_signed=True, colormap="grey")
    there, back = (key.paint(v)[..., 0].astype(int) for v in (values, -values))
    assert np.abs(there + back - 255).max() <= 1  # halves are rounded to the even shade
    assert (key.paint(np.zeros((1, 1))) == 128).all()


def test_the_bar_of_signed_values_runs_from_blue_to_red():
    sheet = with_colour_bar(solid((9, 9, 9), (20, 300)), "coolwarm", "-1", "1", "weights")
    edge = text_size_for(20, 300) // 2
    left, right = sheet[20 + 2 * edge, edge].astype(int), sheet[20 + 2 * edge, 299 - edge].astype(int)
    assert left[2] > left[0] + 100
    assert right[0] > right[2] + 100


def test_grids_finer_than_a_tile_are_averaged_before_they_are_coloured():
    # Blocks of 2×2 cells of -1 and 1 cancel out: neutral, and no mixture of blue and red.
    stack = np.tile(np.array([[1, -1], [-1, 1]], np.float32), (192, 192))[None]
    sheet = tile_sheet(stack, [0], ["0"], TileStyle(), "x")
    tile = sheet[30:180, 20:180].reshape(-1, 3)
    assert (tile == lookup_table("coolwarm")[128]).all()


@pytest.mark.parametrize("count", [0, 257])
def test_a_sheet_of_tiles_is_bounded(count):
    with pytest.raises(InputError, match="1 to 256 tiles"):
        tile_sheet(np.ones((300, 2, 2)), range(count), ["x"] * count, TileStyle(), "x")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: tile_sheet(np.ones((2, 2)), [0], ["x"], TileStyle(), "x"),
        lambda: colour_kernel_sheet(np.ones((2, 4, 3, 3)), [0], ["x"], "x"),
        lambda: matrix_sheet(np.ones((2, 2, 2)), "x", "x"),
    ],
)
def test_stacks_of_another_shape_are_refused(draw):
    with pytest.raises(ShapeError):
        draw()


# 16-bit maps

finite_maps = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@given(finite_maps)
@settings(deadline=None)
def test_map_file_errs_by_half_a_step_at_most(heatmap):
    file = io.BytesIO()
    write_map_png(file, heatmap)
    file.seek(0)
    step = (float(heatmap.max()) - float(heatmap.min())) / 65535
    float32_rounding = np.spacing(np.abs(heatmap).max())
    error = np.abs(read_map_png(file).astype(np.float64) - heatmap)
    assert error.max() <= step / 2 + float32_rounding


def test_codes_by_hand():
    codes, low, high = encode_map_16bit(np.array([[-1, 0, 1]], np.float32))
    assert (codes.tolist(), codes.dtype, low, high) == ([[0, 32768, 65535]], np.uint16, -1, 1)


def test_the_widest_range_does_not_overflow():
    widest = np.array([[np.finfo(np.float32).min, 0, np.finfo(np.float32).max]], np.float32)
    decoded = decode_map_16bit(encode_map_16bit(widest))
    assert (decoded[0, [0, 2]] == widest[0, [0, 2]]).all()


@pytest.mark.parametrize("value", [0.0, -3.25, 1e-30])
def test_constant_map_comes_back_exactly(tmp_path, value):
    write_map_png(tmp_path / "a.png", np.full((3, 5), value, np.float32))
    assert (read_map_png(tmp_path / "a.png") == np.float32(value)).all()


def test_map_file_is_a_16_bit_picture_to_everybody_else(tmp_path):
    write_map_png(str(tmp_path / "a.png"), np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (3, 2)
        assert np.asarray(image)[1, 2] == 65535


def test_map_file_without_a_scale_is_refused(tmp_path):
    Image.new("I;16", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="detcam:low"):
        read_map_png(tmp_path / "a.png")


def test_coloured_picture_with_a_scale_is_no_map(tmp_path):
    scale = PngInfo()
    scale.add_text("detcam:low", "0")
    scale.add_text("detcam:high", "1")
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png", pnginfo=scale)
    with pytest.raises(ImageError, match="16-bit grey"):
        read_map_png(tmp_path / "a.png")


def test_truncated_map_file_is_refused(tmp_path):
    path = tmp_path / "a.png"
    write_map_png(path, np.random.default_rng(0).random((40, 40)))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ImageError, match="not a PNG that can be read"):
        read_map_png(path)


def test_map_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(InputError, match="finite"):
        write_map_png(tmp_path / "a.png", np.array([[np.nan, 1]]))
    assert not (tmp_path / "a.png").exists()


def test_without_matplotlib_pillows_own_font_is_used(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert font.__wrapped__(12).getlength("bus") > 5


def test_line_height_leaves_room_for_descenders():
    assert line_height(20) > 20
