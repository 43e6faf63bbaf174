"""Channels of layers: values, choice, colours and files, on networks one can work out by hand."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from guests_coat import unchanged
from pencil_detector import PencilDetector
from PIL import Image
from torch import nn

import detcam
from detcam.anatomy import Channels, FeatureLayer, FeatureMaps
from detcam.errors import CaptureError, InputError, ShapeError, UnknownNameError
from detcam.render import COLORMAPS
from detcam.render.colour import DIVERGING, lookup_table
from detcam.structures import Layer, stage_names

# One picture of one channel, 2 rows and 3 columns; 1×1 kernels multiply it.
X = torch.tensor([[[[0.0, 1.0, 2.0], [3.0, 4.0, 8.0]]]])
FACTORS = (1.0, -2.0, 0.0, 0.5)


def pencil(*factors: float, after: nn.Module | None = None) -> nn.Sequential:
    convolution = nn.Conv2d(1, len(factors), 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor(factors).reshape(-1, 1, 1, 1))
    return nn.Sequential(convolution, after or nn.ReLU(inplace=True))


def shown(network: nn.Module = None, layers="0", channels="all", given=X) -> FeatureMaps:
    return detcam.features(network or pencil(*FACTORS), given, layers=layers, channels=channels)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


# Values


def test_channels_are_the_layers_own_output_with_its_sign():
    values = shown()["0"].values
    for channel, factor in enumerate(FACTORS):
        assert values[channel].tolist() == (X[0, 0] * factor).tolist()


def test_an_activation_in_place_does_not_reach_the_layer_before_it():
    # ReLU(inplace=True) writes into the convolution's output: what was observed must be what it gave.
    maps = shown(layers="0,1")
    assert maps["0"].values[1].min() == -16
    assert maps["1"].values[1].max() == 0


def test_a_layer_is_found_by_name_and_by_its_level_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 1))
    maps = shown(network, "*", given=torch.zeros(1, 1, 16, 24))
    assert [(one.name, one.stride, one.level) for one in maps.layers] == [
        *(("0", 2, "P1"), ("1", 4, "P2"), ("2", 4, "P2"))
    ]
    assert maps["P1"] is maps["0"]
    with pytest.raises(UnknownNameError, match="no layer 'P2'"):
        maps["P2"]


def test_a_grid_that_does_not_divide_the_input_has_no_level():
    maps = shown(nn.Sequential(nn.Conv2d(1, 1, 3)), given=torch.zeros(1, 1, 16, 16))
    assert (maps["0"].stride, maps["0"].level) == (None, None)


def test_a_detectors_own_table_names_the_level():
    # What the grid alone would call stride 1, the detector knows as 2.
    table = (Layer("0", "Conv2d", 2, 2, "backbone"),)
    detector = PencilDetector(torch.zeros(60, 1), table=table)
    maps = detcam.features(detector, np.zeros((61, 97, 3), np.uint8))
    assert (maps.input_size, maps["P1"].name, maps["P1"].values.shape) == ((64, 96), "0", (2, 64, 96))
    assert maps.geometry.image_size == (61, 97)


class Two(nn.Module):
    """Takes two inputs, gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = pencil(1.0)[0], pencil(2.0)[0]

    def forward(self, a, b):
        return {"sum": self.left(a) + self.right(b)}


@pytest.mark.parametrize("given", [(X, X + 1), {"b": X + 1, "a": X}])
def test_a_network_takes_a_tuple_or_a_dict_of_inputs(given):
    maps = shown(Two(), "left,right", given=given)
    assert maps["left"].values.tolist() == X[0].tolist()
    assert maps["right"].values.tolist() == ((X + 1)[0] * 2).tolist()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_given_in_float32(precision):
    maps = shown(pencil(*FACTORS).to(precision), given=X.to(precision))
    assert maps["0"].values.dtype == torch.float32
    assert maps["0"].values[1, 1, 2] == -16


def test_the_network_is_left_as_it_was():
    network = pencil(*FACTORS).train()
    with unchanged(network):
        shown(network, "*")
        with pytest.raises(InputError):
            shown(network, "0", given=X.repeat(2, 1, 1, 1))


class Tokens(nn.Module):
    """A layer of each shape that is no feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.pair, self.idle = nn.Flatten(2), nn.LSTM(6, 2), nn.Identity()

    def forward(self, x):
        return self.pair(self.rows(x))


@pytest.mark.parametrize("layer", ["rows", "pair", "idle"])
def test_what_is_no_feature_map_is_refused_by_name(layer):
    with pytest.raises(CaptureError, match=f"'{layer}"):
        shown(Tokens(), layer)


def test_one_picture_at_a_time():
    with pytest.raises(InputError, match=r"one picture .*got 2 of \(2, 3\): give them one by one"):
        shown(given=X.repeat(2, 1, 1, 1))


@pytest.mark.parametrize("given", ["street.jpg", np.zeros((4, 4, 3)), (), {}])
def test_a_network_alone_cannot_read_pictures(given):
    with pytest.raises(InputError, match=r"input.*detcam\.wrap\(model\)"):
        shown(given=given)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("stages", "no layers in the set 'stages': name layers instead"),
        ("head", "no layers in the set 'head'"),
        ("backbones", r"no layer 'backbones'\. Closest: 'backbone'"),
        ("0,7", r"no layer '7'"),
        ("z*", r"no layer 'z\*'"),
        ("", "no layer ''"),
        ([], "no layers given"),
    ],
)
def test_layers_that_are_not_there_are_named(layers, message):
    with pytest.raises(InputError, match=message):
        shown(layers=layers)


def test_a_pattern_takes_all_that_match_in_their_order():
    network = nn.ModuleDict({"b": pencil(1.0), "a": pencil(2.0)})
    network.forward = lambda x: network["a"](network["b"](x))
    assert [one.name for one in shown(network, "?.0").layers] == ["b.0", "a.0"]
    assert [one.name for one in shown(network, "a.0,?.0").layers] == ["a.0", "b.0"]


# Which channels


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ("all", (0, 1, 2, 3)),
        ("top2", (1, 0)),  # mean |x|: 3, 6, 0, 1.5
        ("top16", (1, 0, 3, 2)),
        ("3,1", (3, 1)),
        ("3,1,3", (3, 1)),
        (2, (2,)),
        ([0, 3], (0, 3)),
    ],
)
def test_channels_are_the_strongest_or_those_named(channels, expected):
    assert shown(channels=channels)["0"].channels == expected


def test_equally_strong_channels_keep_their_order():
    assert shown(pencil(1.0, -1.0, 1.0, -1.0), channels="top3")["0"].channels == (0, 1, 2)


@pytest.mark.parametrize("text", ["", "top", "top0", "best", "1,", "-1", "1.5", "1, 2", "ALL"])
def test_what_is_no_choice_of_channels_is_refused(text):
    with pytest.raises(InputError, match="channels are all, topN such as top16"):
        Channels.parse(text)


@pytest.mark.parametrize("numbers", [[], [-1], [1.5], ["1"]])
def test_what_is_no_channel_number_is_refused(numbers):
    with pytest.raises(InputError, match="channels are numbers from 0 on"):
        Channels.parse(numbers)


def test_a_channel_that_the_layer_lacks_is_named():
    with pytest.raises(InputError, match="layer '0' has 4 channels, 0 to 3: there is no 4"):
        shown(channels="1,4")


def test_a_sheet_of_many_shows_the_strongest_by_their_numbers():
    values = torch.arange(300.0).flip(0)[:, None, None].expand(300, 2, 2)  # channel 0 is the strongest
    layer = FeatureLayer("x", "", None, values.clone(), tuple(range(300)))
    assert layer.on_sheet == tuple(range(256))
    layer = FeatureLayer("x", "", None, values.flip(0).clone(), tuple(range(300)))
    assert layer.on_sheet == tuple(range(44, 300))


def test_a_layer_without_cells_is_refused():
    with pytest.raises(ShapeError, match=r"values of 'x' must be \(C, h, w\)"):
        FeatureLayer("x", "", None, torch.zeros(0, 2, 2), ())


# Stages


def row(name, stride, part="backbone", kind="Conv", member_of=None) -> Layer:
    return Layer(name, kind, stride, 8, part, member_of)


def test_stages_are_the_last_of_each_stride_from_the_stem_on():
    table = [row("0", 1), row("1", 2), row("2", 2), row("3", 4), row("4", 4, "neck"), row("5", None)]
    assert stage_names(table) == ["0", "2", "3"]


def test_at_a_stride_of_the_head_the_explained_layer_is_the_stage():
    # Yolo-Fastest: behind the residual sum that the neck reads, the way to the next stage begins.
    table = [row("1", 8), row("80", 16, member_of="backbone"), row("81", 16), row("82", 32)]
    assert stage_names(table) == ["1", "80", "82"]


def test_a_convolution_inside_the_next_stages_block_is_no_stage():
    # ResNet: the block that halves the grid begins with a convolution on the finer grid.
    table = [
        *(row("conv1", 2), row("layer1.0.conv3", 4), row("layer1.0", 4, kind="Bottleneck")),
        *(row("layer1", 4, kind="Sequential"), row("layer2.0.conv1", 4), row("layer2.0.conv2", 8)),
        *(row("layer2.0", 8, kind="Bottleneck"), row("layer2", 8, kind="Sequential")),
    ]
    assert stage_names(table) == ["conv1", "layer1", "layer2"]


# Colours


def colours(maps: FeatureMaps, **style) -> np.ndarray:
    """The cells of the first tile, (2, 3, 3) RGB: magnified by a whole number, so sampled at their middle."""
    sheet = maps.sheet("0", **style)
    factor, gap = 192 // 3, 11 // 2
    is_tile = (sheet[:, gap : gap + 3 * factor] != 255).any(axis=-1).all(axis=-1)
    top = int(np.argmax(is_tile))
    cells = sheet[top : top + 2 * factor, gap : gap + 3 * factor]
    return cells[factor // 2 :: factor, factor // 2 :: factor]


def test_zero_is_neutral_and_signs_are_mirrored():
    x = torch.tensor([[[[-8.0, -4.0, 0.0], [0.0, 4.0, 8.0]]]])
    found = colours(shown(pencil(1.0), given=x))
    table = lookup_table(DIVERGING)
    # (v/8 + 1)/2·255: 0, 63.75, 127.5, 127.5, 191.25, 255; the two rows in the middle are one colour
    assert found.tolist() == table[[[0, 64, 128], [127, 191, 255]]].tolist()
    assert np.ptp(table[128].astype(int)) <= 1  # no hue
    assert found[0, 0, 2] > 150 > found[0, 0, 0]  # blue below zero
    assert found[1, 2, 0] > 150 > found[1, 2, 2]  # red above


def test_small_values_of_either_sign_are_equally_far_from_neutral():
    table = lookup_table(DIVERGING).astype(int)
    assert (table[127] == table[128]).all()
    distance = np.abs(table - table[127]).sum(axis=1)
    assert (np.diff(distance[128:]) >= 0).mean() > 0.97
    assert (np.diff(distance[:128]) <= 0).mean() > 0.97


def test_without_negative_values_nothing_is_black_and_the_largest_is_full():
    table = COLORMAPS["inferno"]
    # X/8·255: 0, 31.875, 63.75 / 95.625, 127.5, 255
    assert colours(shown(pencil(1.0))).tolist() == table[[[0, 32, 64], [96, 128, 255]]].tolist()


def test_in_grey_zero_is_black_or_with_negative_values_mid_grey():
    assert colours(shown(pencil(1.0)), grey=True)[..., 0].tolist() == [[0, 32, 64], [96, 128, 255]]
    # -X/8: 0 → 127.5 → 128; -8 → 0; (1 - 1/8)/2·255 = 111.56, 95.625, 79.6875, 63.75
    found = colours(shown(pencil(-1.0)), grey=True)
    assert found[..., 0].tolist() == [[128, 112, 96], [80, 64, 0]]
    assert (found[..., :1] == found).all()


def test_a_shared_scale_keeps_channels_comparable_and_their_own_scale_does_not():
    maps = shown(pencil(0.5, 1.0), channels="0,1")
    inferno = COLORMAPS["inferno"]
    assert colours(maps, scale="channel")[1, 2].tolist() == inferno[255].tolist()
    assert colours(maps, scale="shared")[1, 2].tolist() == inferno[128].tolist()  # .5·255 = 127.5


def test_the_shared_scale_does_not_depend_on_the_channels_shown():
    alone = colours(shown(pencil(0.5, 1.0), channels="0"), scale="shared")
    assert (alone == colours(shown(pencil(0.5, 1.0), channels="all"), scale="shared")).all()


def test_a_channel_of_nothing_is_drawn_as_zero_among_signed_ones():
    found = colours(shown(pencil(0.0, -1.0)))
    assert (found == lookup_table(DIVERGING)[128]).all()


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite"):
        shown(given=X / 0).sheet("0")


def test_another_scale_is_refused():
    with pytest.raises(UnknownNameError, match="no scale 'layer'"):
        shown().sheet("0", scale="layer")


# Files


def test_all_channels_are_stored_raw_whatever_is_shown(tmp_path):
    maps = shown(layers="0,1", channels="2")
    maps.save(tmp_path)
    stored = arrays(tmp_path / "image_features.npz")
    assert set(stored) == {"0", "1"}
    assert stored["0"].dtype == np.float32
    assert (stored["0"] == maps["0"].values.numpy()).all()


def test_half_stores_float16(tmp_path):
    shown().save(tmp_path, half=True)
    assert arrays(tmp_path / "image_features.npz")["0"].dtype == np.float16


def test_a_channels_picture_is_its_cells_magnified_not_turned(tmp_path):
    _, _, folder, _ = shown(channels="1").save(tmp_path, "x", grey=True)
    assert folder.name == "x_channels_P0_0"
    assert [path.name for path in folder.iterdir()] == ["c0001.png"]
    with Image.open(folder / "c0001.png") as image:
        pixels = np.asarray(image)
    factor = 256 // 3
    assert pixels.shape == (2 * factor, 3 * factor, 3)
    # -2·X by 16: 127.5 - 127.5·X/8
    assert pixels[::factor, ::factor, 0].tolist() == [[128, 112, 96], [80, 64, 0]]


@pytest.mark.parametrize(
    ("channels", "split", "count"),
    [("all", None, 4), ("0,2", None, 2), ("top3", None, 0), ("top3", True, 3), ("all", False, 0)],
)
def test_channels_become_files_only_if_named_or_asked_for(tmp_path, channels, split, count):
    shown(channels=channels).save(tmp_path, split=split)
    assert len(list(tmp_path.glob("*/c*.png"))) == count


def test_the_description_fits_its_schema_and_says_what_is_shown(tmp_path):
    maps = shown(layers="0,1", channels="top2")
    written = maps.save(tmp_path, "x", scale="shared")
    text = resources.files("detcam").joinpath("schemas/features-1.json").read_text("utf-8")
    document = json.loads(written[-1].read_text())
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    first = document["layers"][0]
    assert (first["name"], first["kind"], first["level"], first["shape"]) == ("0", "Conv2d", "P0", [4, 2, 3])
    # X has mean 3 and runs from 0 to 8.
    assert first["channels"] == [
        {"channel": 1, "mean_abs": 6.0, "min": -16.0, "max": 0.0},
        {"channel": 0, "mean_abs": 3.0, "min": 0.0, "max": 8.0},
    ]
    assert (first["min"], first["max"]) == (-16, 8)
    assert {path.name for path in written} == {
        *("x_features.npz", "x_features.json", first["sheet"], document["layers"][1]["sheet"])
    }


def test_a_strangers_layer_names_never_leave_the_folder(tmp_path):
    network = nn.Module()
    for name in ("../../up", "file", "a/b", "a_b", "x" * 300):
        network.add_module(name.replace(".", ""), pencil(1.0)[0])
    network.forward = lambda x: [layer(x) for layer in network.children()]
    inside = tmp_path / "deep" / "in"
    written = shown(network, "*").save(inside)
    assert all(path.parent == inside for path in written)
    assert len({path.name for path in written}) == 5 * 2 + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    assert len(arrays(inside / "image_features.npz")) == 5


def test_what_cannot_be_drawn_leaves_no_file(tmp_path):
    with pytest.raises(InputError):
        shown(given=X / 0).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
