"""Known maps, written out as each layout has them by plain loops, must come back number for number."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import swin_transformer

from detcam.cam.tokens import MOST_EXTRA_TOKENS, InputFrame, TokenGrid, flattened
from detcam.errors import CaptureError, ShapeError


def known(batch, channels, *cells):
    """Maps in which every number is another."""
    return torch.arange(batch * channels * math.prod(cells), dtype=torch.float32).reshape(
        batch, channels, *cells
    )


def as_tokens(maps, extra=0):
    """(B, C, *cells) -> (B, extra + N, C), cell by cell in reading order, behind tokens of -1."""
    cells = itertools.product(*(range(size) for size in maps.shape[2:]))
    rows = [torch.full_like(maps[:, :, *[0] * (maps.ndim - 2)], -1)] * extra
    return torch.stack([*rows, *(maps[:, :, *cell] for cell in cells)], dim=1)


def as_windows(maps, side, shift=0):
    """(B, C, h, w) -> (B·k, side², C): padded with -1, rolled up and left, cut, in reading order."""
    batch, channels, height, width = maps.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    windows = []
    for picture, row, column in itertools.product(range(batch), range(rows), range(columns)):
        window = []
        for i, j in itertools.product(range(side), range(side)):
            y = (row * side + i + shift) % (rows * side)
            x = (column * side + j + shift) % (columns * side)
            inside = y < height and x < width
            window.append(maps[picture, :, y, x] if inside else torch.full((channels,), -1.0))
        windows.append(torch.stack(window))
    return torch.stack(windows)


def maps_of(output, input_size, batch=2, *, grid=None, shift=0):
    return InputFrame(batch, input_size, grid).layout(output, "layer", shift)(output)


# --- each layout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [(13, 8), (7, 7), (1, 1), (97, 61)])
def test_feature_maps_stay_as_they_are(cells):
    maps = known(2, 5, *cells)
    assert torch.equal(maps_of(maps, (97, 61)), maps)


@pytest.mark.parametrize("cells", [(24, 15), (13, 8), (12, 8)])
@pytest.mark.parametrize("channels", [1, 5, 96])
def test_channels_may_come_last(cells, channels):
    maps = known(2, channels, *cells)
    assert torch.equal(maps_of(maps.permute(0, 2, 3, 1), (97, 61)), maps)


def test_channels_of_a_volume_may_come_last():
    maps = known(2, 6, 3, 13, 8)
    assert torch.equal(maps_of(maps.permute(0, 2, 3, 4, 1), (12, 97, 61)), maps)
    assert torch.equal(maps_of(maps, (12, 97, 61)), maps)


@pytest.mark.parametrize("extra", range(MOST_EXTRA_TOKENS + 1))
@pytest.mark.parametrize(("input_size", "cells"), [((208, 112), (13, 7)), ((224, 224), (14, 14))])
def test_tokens_fill_the_grid_behind_class_and_register_tokens(input_size, cells, extra):
    maps = known(2, 3, *cells)
    assert torch.equal(maps_of(as_tokens(maps, extra), input_size), maps)


def test_more_extra_tokens_than_any_network_has_fit_nothing():
    tokens = as_tokens(known(2, 3, 13, 7), MOST_EXTRA_TOKENS + 1)
    with pytest.raises(
        CaptureError, match=r"'layer' gave \(2, 100, 3\) for 2 pictures of \(208, 112\) pixels.*grid=\(h, w\)"
    ):
        maps_of(tokens, (208, 112))


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_the_sequence_may_come_first(extra):
    maps = known(2, 3, 13, 7)
    tokens = as_tokens(maps, extra).transpose(0, 1)
    assert torch.equal(maps_of(tokens, (208, 112)), maps)


def test_tokens_of_sizes_that_no_stride_divides_are_rounded_as_the_usual_strides_round():
    """DETR: 800 × 1066 through convolutions of stride 2 is 25 × 34, the columns rounded up each time."""
    maps = known(1, 2, 25, 34)
    assert torch.equal(maps_of(as_tokens(maps).transpose(0, 1), (800, 1066), batch=1), maps)


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("is_square", [False, True])
@pytest.mark.parametrize(("cells", "side"), [((56, 28), 7), ((21, 14), 7), ((12, 20), 4)])
def test_windows_are_put_together_and_rolled_back(cells, side, is_square, shift):
    maps = known(2, 3, *cells)
    windows = as_windows(maps, side, shift)
    windows = windows.reshape(-1, side, side, 3) if is_square else windows
    assert torch.equal(maps_of(windows, tuple(4 * one for one in cells), shift=shift), maps)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize(("cells", "side"), [((64, 64), 14), ((13, 11), 5), ((10, 16), 7)])
def test_the_padding_of_windows_is_left_out(cells, side, shift):
    maps = known(2, 3, *cells)
    windows = as_windows(maps, side, shift)
    assert torch.equal(maps_of(windows, tuple(16 * one for one in cells), shift=shift), maps)


@pytest.mark.parametrize("cells", [(14, 21), (13, 11)])
@pytest.mark.parametrize("shift", [0, 3])
def test_the_windows_of_torchvisions_swin_come_back(monkeypatch, cells, shift):
    """What its attention multiplies with the query weights are its windows."""
    seen = []

    def linear(values, *_):
        seen.append(values)
        return values.repeat(1, 1, 3) if len(seen) == 1 else values

    maps = known(2, 4, *cells)
    monkeypatch.setattr(swin_transformer.F, "linear", linear)
    swin_transformer.shifted_window_attention(
        maps.permute(0, 2, 3, 1), torch.zeros(12, 4), torch.zeros(4, 4), torch.zeros(1, 1, 49, 49),
        window_size=[7, 7], num_heads=1, shift_size=[shift, shift],
    )  # fmt: skip
    assert seen[0].shape[1:] == (49, 4)
    found = maps_of(seen[0], (16 * cells[0], 16 * cells[1]), shift=shift)
    assert torch.equal(found, maps)


def test_gradients_take_the_same_way_as_activations():
    maps = known(2, 3, 13, 11)
    windows = as_windows(maps, 5, 2).requires_grad_()
    found = maps_of(windows, (208, 176), shift=2)
    (gradient,) = torch.autograd.grad((found * maps).sum(), windows)
    assert torch.equal(gradient, as_windows(maps, 5, 2).clamp(min=0))  # -1 is the padding


def test_flattening_a_volume_keeps_its_rows_apart():
    maps = known(2, 3, 4, 5, 7)
    flat, cells = flattened(maps)
    assert cells == (4, 5, 7)
    assert torch.equal(flat.reshape(2, 3, 4, 5, 7), maps)
    assert flat.shape == (2, 3, 20, 7)


# --- told -----------------------------------------------------------------------------------------------


def test_a_given_grid_takes_the_tokens_at_the_end():
    maps = known(2, 3, 5, 11)
    assert torch.equal(maps_of(as_tokens(maps, 12), (97, 61), grid=(5, 11)), maps)
    first = as_tokens(maps, 12).transpose(0, 1)
    assert torch.equal(maps_of(first, (97, 61), grid=(5, 11)), maps)


def test_a_given_grid_of_windows_overrides_what_would_be_inferred():
    maps = known(2, 3, 9, 13)
    for windows in (as_windows(maps, 7, 3), as_windows(maps, 7, 3).reshape(-1, 7, 7, 3)):
        assert torch.equal(maps_of(windows, (224, 224), grid=(9, 13), shift=3), maps)


def test_a_given_grid_may_be_a_volume():
    maps = known(2, 3, 4, 5, 7)
    assert torch.equal(maps_of(as_tokens(maps, 1), (8, 80, 112), grid=(4, 5, 7)), maps)


def test_a_token_grid_skips_tokens_in_front_and_leaves_out_those_behind():
    maps = known(2, 3, 5, 11)
    tokens = torch.cat([as_tokens(maps, 2), torch.full((2, 4, 3), -7.0)], dim=1)
    assert torch.equal(maps_of(tokens, (97, 61), grid=TokenGrid((5, 11), skip=2)), maps)


@pytest.mark.parametrize("shift", [0, 2])
def test_a_token_grid_may_be_in_windows(shift):
    maps = known(2, 3, 9, 13)
    grid = TokenGrid((9, 13), window=5, shift=shift)
    assert torch.equal(maps_of(as_windows(maps, 5, shift), (97, 61), grid=grid), maps)


@pytest.mark.parametrize("grid", [(5, 11), TokenGrid((5, 11))])
def test_a_grid_of_tokens_is_none_of_feature_maps(grid):
    """Layers before the tokens are convolutions, and are asked for beside them."""
    maps = known(2, 3, 13, 8)
    assert torch.equal(maps_of(maps, (97, 61), grid=grid), maps)


def test_too_few_tokens_for_a_given_grid_are_an_error():
    with pytest.raises(ShapeError, match=r"grid of \(5, 11\) behind 2 tokens needs \(B, 57 or more, C\)"):
        maps_of(as_tokens(known(2, 3, 5, 11)), (97, 61), grid=TokenGrid((5, 11), skip=2))
    with pytest.raises(ShapeError, match=r"got \(2, 55, 3\)"):
        maps_of(as_tokens(known(2, 3, 5, 11)), (97, 61), grid=(5, 12))


def test_windows_that_do_not_make_up_a_given_grid_are_an_error():
    windows = as_windows(known(2, 3, 9, 13), 5)
    with pytest.raises(ShapeError, match=r"windows of 5×5 needs \(B·4, 25, C\), got \(9, 25, 3\)"):
        maps_of(windows[:9], (97, 61), grid=TokenGrid((9, 9), window=5))
    with pytest.raises(ShapeError, match=r"windows of 4×4 needs \(B·12, 16, C\), got \(12, 25, 3\)"):
        maps_of(windows, (97, 61), grid=TokenGrid((9, 13), window=4))


# --- what cannot be told --------------------------------------------------------------------------------


def outcome(output, input_size, batch=1, shift=0):
    """The maps, or None where they cannot be told."""
    try:
        return maps_of(output, input_size, batch, shift=shift)
    except CaptureError:
        return None


sides = st.integers(20, 700)
rounds = st.sampled_from([lambda side, stride: side // stride, lambda side, stride: -(-side // stride)])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(sides, sides, st.sampled_from([4, 8, 16, 32]), rounds, rounds, st.integers(0, 8), st.booleans())
def test_tokens_of_a_usual_stride_are_never_taken_for_another_grid(
    height, width, stride, down, across, extra, is_first
):
    """Whatever the size and however it is rounded: the true grid, or an error."""
    cells = down(height, stride), across(width, stride)
    if 0 in cells:
        return
    tokens = torch.full((1, extra + math.prod(cells), 1), -1.0)
    tokens[0, extra:, 0] = torch.arange(math.prod(cells))
    found = outcome(tokens.transpose(0, 1) if is_first else tokens, (height, width))
    assert found is None or torch.equal(found, known(1, 1, *cells))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(4, 20), st.integers(4, 20), st.integers(4, 32), st.sampled_from([0, 1, 2, 5]))
def test_tokens_of_a_stride_that_divides_the_input_are_found(rows, columns, stride, extra):
    """True for ViTs, which take no other inputs."""
    tokens = torch.full((1, extra + rows * columns, 1), -1.0)
    tokens[0, extra:, 0] = torch.arange(rows * columns)
    found = outcome(tokens, (rows * stride, columns * stride))
    assert found is None or torch.equal(found, known(1, 1, rows, columns))


@pytest.mark.parametrize("size", [(224, 224), (384, 384), (640, 480), (512, 1024), (96, 160)])
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_the_tokens_of_ordinary_inputs_are_not_refused(size, stride, extra):
    maps = known(1, 1, size[0] // stride, size[1] // stride)
    if math.prod(maps.shape[2:]) >= 9:
        assert torch.equal(maps_of(as_tokens(maps, extra), size, batch=1), maps)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(16, 400), st.integers(16, 400), st.sampled_from([4, 8, 16, 32]), rounds, rounds,
    st.sampled_from([4, 5, 7, 8, 12, 14]), st.integers(0, 3),
)  # fmt: skip
def test_windows_of_a_usual_stride_are_never_taken_for_another_grid(
    height, width, stride, down, across, side, shift
):
    cells = down(height, stride), across(width, stride)
    if min(cells) < 2 or max(cells) <= side:  # a single window is a row of tokens
        return
    maps, shift = known(1, 1, *cells), shift if min(cells) > side else 0
    found = outcome(as_windows(maps, side, shift), (height, width), shift=shift)
    assert found is None or torch.equal(found, maps)


def test_a_single_token_is_no_grid():
    """So that four tokens of 32² pixels are 2 × 2, and not one behind three others."""
    maps = known(2, 3, 2, 2)
    assert torch.equal(maps_of(as_tokens(maps), (32, 32)), maps)
    with pytest.raises(CaptureError, match="no grid fits"):
        maps_of(as_tokens(known(2, 3, 1, 1)), (32, 32))


def test_the_grid_of_a_volumes_tokens_is_often_open():
    """16 frames of 224²: 8 × 14 × 14 of a ViT over pairs of frames is as many as 2 × 28 × 28."""
    with pytest.raises(CaptureError, match="several grids fit"):
        maps_of(torch.zeros(1, 8 * 14 * 14, 3), (16, 224, 224), batch=1)


@pytest.mark.parametrize("tokens", [300, 900, 100])
def test_the_queries_of_a_decoder_are_no_grid(tokens):
    with pytest.raises(CaptureError, match="no grid fits"):
        maps_of(torch.zeros(2, tokens, 3), (640, 640))


@pytest.mark.parametrize("shape", [(8, 3, 49, 49), (8, 4, 49, 49), (8, 16, 49, 49)])
def test_the_attention_inside_windows_is_no_grid(shape):
    """Four heads of 49 numbers each are 14², but no window."""
    with pytest.raises(CaptureError, match="no grid fits"):
        maps_of(torch.zeros(shape), (56, 56))


def test_documented_ambiguity_a_stride_that_divides_is_believed_before_one_that_does_not():
    """64² in steps of 13, rounded up and down, is 5 × 4: read as 4 × 4 behind four tokens. Needs grid=."""
    tokens = as_tokens(known(1, 1, 5, 4))
    assert outcome(tokens, (64, 64)).shape[2:] == (4, 4)
    assert torch.equal(maps_of(tokens, (64, 64), batch=1, grid=(5, 4)), known(1, 1, 5, 4))


def test_documented_ambiguity_channels_come_first_where_both_readings_fit():
    """As many channels as rows and columns."""
    output = known(1, 7, 7, 7)
    assert torch.equal(maps_of(output, (224, 224), batch=1), output)


def test_documented_ambiguity_unpadded_windows_are_believed_before_padded_ones():
    """2 × 2 windows of 8 over 224²: 16 × 16 cells of stride 14, not 14 × 14 of stride 16 and padding."""
    maps = known(1, 1, 16, 16)
    assert torch.equal(maps_of(as_windows(maps, 8), (224, 224), batch=1), maps)


# --- looking for layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, (5, 11), TokenGrid((5, 11), skip=1)])
@pytest.mark.parametrize("shape", [(2, 10), (2, 3, 4), (2, 768, 3), (7, 3, 9, 9)])
def test_what_is_no_grid_has_no_layout(grid, shape):
    assert InputFrame(2, (97, 61), grid).layout_if_any(torch.zeros(shape)) is None


def test_a_grid_that_lies_over_the_input_has_a_layout():
    maps = known(2, 3, 13, 8)
    layout = InputFrame(2, (97, 61)).layout_if_any(maps.permute(0, 2, 3, 1))
    assert torch.equal(layout(maps.permute(0, 2, 3, 1)), maps)


def test_maps_that_no_stride_makes_of_the_input_have_no_layout():
    assert InputFrame(2, (97, 61)).layout_if_any(known(2, 3, 8, 13)) is None


def test_rows_and_columns_two_steps_apart_are_of_no_one_stride():
    """7 rows of 224 need a stride over 28, 9 columns one below."""
    assert InputFrame(2, (224, 224)).layout_if_any(known(2, 3, 7, 9)) is None
    assert InputFrame(2, (224, 224)).layout_if_any(known(2, 3, 7, 8)) is not None


def test_the_rows_of_a_detection_head_are_no_tokens():
    """400 values for each of the 80² + 40² + 20² cells at 640²: not 20 × 20 tokens."""
    with pytest.raises(CaptureError, match="no grid fits"):
        maps_of(torch.zeros(1, 400, 8400), (640, 640), batch=1)


def test_channels_that_happen_to_be_the_cells_of_coarse_levels_are_tokens_all_the_same():
    """32 = 4·6 + 2·3 + 1·2, the cells at strides 16, 32 and 64, at which no head of three levels begins."""
    tokens = known(2, 32, 4, 6).flatten(2).transpose(1, 2)
    assert torch.equal(maps_of(tokens, (64, 96), batch=2), known(2, 32, 4, 6))
