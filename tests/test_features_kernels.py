"""Kernels: which convolution, which tiles, which colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pencil_detector import PencilDetector
from torch import nn

import detcam
from detcam.anatomy import Kernels
from detcam.errors import InputError, UnknownNameError
from detcam.render.colour import DIVERGING, lookup_table


def convolution(*shape: int, groups: int = 1, values=None) -> nn.Conv2d:
    outputs, inputs, *size = shape
    made = nn.Conv2d(inputs * groups, outputs, size, groups=groups)
    if values is not None:
        with torch.no_grad():
            made.weight.copy_(torch.tensor(values).reshape(shape))
    return made


def cells(sheet: np.ndarray, rows: int, columns: int, side: int = 192, gap: int = 5) -> np.ndarray:
    """The middles of the cells of the first tile, (rows, columns, 3)."""
    factor = side // max(rows, columns)
    is_tile = (sheet[:, gap : gap + columns * factor] != 255).any(axis=-1).all(axis=-1)
    top = int(np.argmax(is_tile))
    tile = sheet[top : top + rows * factor, gap : gap + columns * factor]
    return tile[factor // 2 :: factor, factor // 2 :: factor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.stem = nn.Sequential(convolution(4, 3, 3, 3), nn.BatchNorm2d(4))
        self.block = nn.Sequential(convolution(4, 4, 1, 1), convolution(4, 1, 3, 3, groups=4))
        self.other = nn.ModuleList([nn.Conv1d(1, 1, 3), nn.Conv3d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3)])


# Which


def test_the_first_convolution_is_the_default_and_its_weights_are_raw():
    net = Net()
    found = detcam.kernels(net)
    assert (found.layer, found.groups, found.rgb) == ("stem.0", 1, (0, 1, 2))
    assert torch.equal(found.weights, net.stem[0].weight)
    assert found.weights.data_ptr() != net.stem[0].weight.data_ptr()
    assert not found.weights.requires_grad


def test_a_layer_with_one_convolution_stands_for_it():
    assert detcam.kernels(Net(), "stem").layer == "stem.0"
    assert detcam.kernels(Net(), "block.1").groups == 4


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stem.O", r"no layer 'stem\.O'\. Closest: 'stem\.0'.*detcam layers MODEL"),
        ("", "no layer ''"),
        ("block", r"'block' \(Sequential\) holds 2 convolutions: name one, such as 'block\.0'"),
        ("norm", r"'norm' \(BatchNorm2d\) holds no 2-D convolution"),
        ("other.0", "'other.0' is a Conv1d: only plain 2-D"),
        ("other.1", "'other.1' is a Conv3d"),
        ("other.2", "'other.2' is a ConvTranspose2d"),
    ],
)
def test_what_is_no_single_convolution_is_refused_with_a_sentence(layer, message):
    with pytest.raises(InputError, match=message):
        detcam.kernels(Net(), layer)


def test_a_network_without_convolutions_has_no_kernels():
    with pytest.raises(InputError, match="this Linear has no 2-D convolution"):
        detcam.kernels(nn.Linear(2, 2))


def test_an_unknown_layer_is_an_unknown_name():
    with pytest.raises(UnknownNameError):
        detcam.kernels(Net(), "stm.0")


# Colours


def test_a_kernel_of_the_picture_is_seen_in_its_colours():
    # One pixel each: +2 red, -2 green, blue 0; then half of it. 127.5 ± 127.5 and ± 63.75.
    net = nn.Sequential(convolution(1, 3, 1, 2, values=[2.0, 1.0, -2.0, -1.0, 0.0, 0.0]))
    assert cells(detcam.kernels(net).sheet(), 1, 2).tolist() == [[[255, 0, 128], [191, 64, 128]]]


def test_the_colours_of_a_network_that_was_trained_on_bgr_are_put_right():
    net = nn.Sequential(convolution(1, 3, 1, 2, values=[2.0, 1.0, -2.0, -1.0, 0.0, 0.0]))
    found = detcam.kernels(PencilDetector(torch.zeros(0, 1), levels=(), model=net, bgr=True))
    assert found.rgb == (2, 1, 0)
    assert cells(found.sheet(), 1, 2).tolist() == [[[128, 0, 255], [128, 64, 191]]]
    assert found.weights[0, 0, 0, 0] == 2  # as trained


def test_all_kernels_share_one_scale_even_those_not_shown():
    # Of ±8 and ±4 over 8: 127.5·(1 - 1) and 127.5·(1 - .5).
    weights = torch.tensor([[[[-8.0, 0.0]]] * 3, [[[-4.0, 0.0]]] * 3])
    kernels = Kernels("x", weights, rgb=(0, 1, 2))
    assert cells(kernels.sheet(), 1, 2)[0, 0].tolist() == [0, 0, 0]
    assert cells(Kernels("x", weights.flip(0), rgb=(0, 1, 2)).sheet(), 1, 2)[0, 0].tolist() == [64, 64, 64]
    # The kernel with the largest norm is shown alone, on the scale of one with a larger weight.
    weights = torch.tensor([[[[0.0, -8.0]]] * 3, [[[-7.0, -7.0]]] * 3])
    # 127.5·(1 - 7/8) = 15.9
    assert cells(Kernels("x", weights, rgb=(0, 1, 2)).sheet(tiles=1), 1, 2)[0, 0].tolist() == [16, 16, 16]


def test_three_inputs_deeper_in_the_network_are_no_colours():
    net = nn.Sequential(convolution(3, 1, 1, 1), convolution(2, 3, 3, 3))
    assert detcam.kernels(net, "1").rgb is None


def test_other_kernels_keep_their_sign_and_the_largest_comes_first():
    # 2 outputs of 2 inputs, 1×2 cells. Norms: 5, 1, 13, 0: output 1 ← input 0 leads, scaled by 12.
    values = [3.0, -4.0, 1.0, 0.0, 12.0, -5.0, 0.0, 0.0]
    found = Kernels("x", torch.tensor(values).reshape(2, 2, 1, 2))
    table = lookup_table(DIVERGING)
    # 12/12 → 255; -5/12: 127.5·(1 - 5/12) = 74.375
    assert cells(found.sheet(), 1, 2).tolist() == [[table[255].tolist(), table[74].tolist()]]
    assert [found._title(row) for row in (2, 0, 1, 3)] == ["1←0", "0←0", "0←1", "1←1"]


def test_titles_of_grouped_kernels_name_the_inputs_that_they_read():
    # 4 outputs in 2 groups of 6 inputs: outputs 2 and 3 read inputs 3, 4 and 5.
    found = Kernels("x", torch.zeros(4, 3, 2, 2), groups=2)
    assert [found._title(row) for row in range(12)] == [
        *("0←0", "0←1", "0←2", "1←0", "1←1", "1←2", "2←3", "2←4", "2←5", "3←3", "3←4", "3←5")
    ]
    depthwise = Kernels("x", torch.zeros(4, 1, 2, 2), groups=4)
    assert [depthwise._title(row) for row in range(4)] == ["0", "1", "2", "3"]


def test_a_pointwise_convolution_is_a_matrix_of_outputs_by_inputs():
    found = Kernels("x", torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.0, 0.0]]).reshape(2, 3, 1, 1))
    table = lookup_table(DIVERGING)
    sheet = found.sheet()
    factor = 1024 // 3
    top = int(np.argmax((sheet[:, sheet.shape[1] // 2] == table[0]).all(axis=-1)))
    tile = sheet[top : top + 2 * factor]
    left = int(np.argmax((tile[0] == table[255]).all(axis=-1)))
    seen = tile[factor // 2 :: factor, left + factor // 2 :: factor][:, :3]
    # .5: 127.5·1.5 = 191.25
    assert seen.tolist() == table[[[255, 0, 128], [191, 128, 128]]].tolist()


@pytest.mark.parametrize("tiles", [0, 257])
def test_a_sheet_is_bounded(tiles):
    with pytest.raises(InputError, match="1 to 256 tiles"):
        Kernels("x", torch.randn(2, 2, 3, 3)).sheet(tiles)


def test_thousands_of_kernels_make_one_sheet(tmp_path):
    found = Kernels("x", torch.randn(64, 64, 3, 3))
    assert found.sheet(256).shape[1] < 2000
    written = found.save(tmp_path)
    assert [path.name for path in written] == ["kernels_x.png", "kernels_x.npz"]
    with np.load(written[1]) as stored:
        assert stored["x"].shape == (64, 64, 3, 3)
        assert (stored["x"] == found.weights.numpy()).all()


def test_half_stores_float16_and_a_slash_stays_out_of_the_name(tmp_path):
    written = Kernels("../a/b", torch.randn(2, 2, 3, 3)).save(tmp_path, half=True)
    assert {path.parent for path in written} == {tmp_path}
    with np.load(written[1]) as stored:
        assert stored["../a/b"].dtype == np.float16


def test_weights_that_are_not_finite_leave_no_file(tmp_path):
    with pytest.raises(InputError, match="finite"):
        Kernels("x", torch.full((1, 1, 3, 3), torch.nan)).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
