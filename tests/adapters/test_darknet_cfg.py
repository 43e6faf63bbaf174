"""Darknet's files: what is read, what is refused, and what single layers compute."""

import numpy as np
import pytest
import torch
from darknet_replica import Replica, conv, net, section, squared, yolo, yolov4, yolov4_tiny

from detcam.adapters.darknet_cfg import parse_cfg, read_cfg
from detcam.adapters.darknet_modules import MaxPool, Route
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.adapters.darknet_weights import load_weights
from detcam.checkpoints import open_model_file
from detcam.errors import CheckpointError

ONE_LEVEL = net(32, 32) + conv(21, 1, 1, "linear", norm=0) + yolo("0,1,2", 2)


def network(cfg):
    return DarknetNetwork(parse_cfg(cfg, "try.cfg"))


def loaded(tmp_path, cfg, data):
    path = tmp_path / "try.weights"
    path.write_bytes(data)
    model = network(cfg)
    load_weights(model, open_model_file(path))
    return model.eval()


def test_spaces_comments_and_windows_line_ends_mean_nothing():
    cfg = "# hello\r\n[ net ]\r\n width = 3 2 \r\n;x=1\r\n\r\n[conv]\r\nfilters=7 # seven\r\n"
    first, second = parse_cfg(cfg, "a.cfg")
    assert (first.kind, first.line, first.options) == ("net", 2, {"width": ("32", 3)})
    assert (second.kind, second.line, second.options) == ("convolutional", 6, {"filters": ("7", 7)})


def test_what_cannot_be_printed_does_not_reach_a_message():
    with pytest.raises(CheckpointError, match=r"line 5: \[\?\[31mlstm\] is a kind"):
        network(ONE_LEVEL.replace("[convolutional]", "[\x1b[31mlstm]"))


def test_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "a.cfg").write_bytes(b"\xef\xbb\xbf" + ONE_LEVEL.encode())
    assert [part.kind for part in read_cfg(tmp_path / "a.cfg")] == ["net", "convolutional", "yolo"]


def test_first_of_two_equal_keys_counts():
    cfg = ONE_LEVEL.replace("stride=1", "stride=1\nstride=2")
    assert network(cfg).nodes[0].shape == (21, 32, 32)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ("width=32\n[net]\n", r"a.cfg, line 1: 'width=32' is neither \[section\] nor key=value"),
        ("[net]\nwidth\n", "line 2: 'width' is neither"),
        ("[convolutional]\n[yolo]\n", r"does not start with a \[net\] section"),
        ("", r"does not start with a \[net\] section"),
        ("[net]\n", r"has 0 layers"),
        ("[net]\n" + "[dropout]\n" * 5000, r"has 5000 layers, which is not in 1\.\.4095"),
    ],
)
def test_what_is_no_description_is_refused(cfg, message):
    with pytest.raises(CheckpointError, match=message):
        parse_cfg(cfg, "a.cfg")


def test_missing_description_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*gone\.cfg: No such file"):
        read_cfg(tmp_path / "gone.cfg")


def test_description_of_megabytes_is_refused(tmp_path):
    (tmp_path / "a.cfg").write_bytes(b"#" * (1 << 21))
    with pytest.raises(CheckpointError, match=r"a\.cfg is larger than 1048576 bytes"):
        read_cfg(tmp_path / "a.cfg")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("filters=21", "filters=x", r"line 7: \[convolutional\] filters='x' is not made of numbers"),
        ("filters=21", "filters=1e9", "filters='1e9' is not made of numbers"),
        ("filters=21", f"filters={'9' * 4000}", "filters='9{40}' is not made of numbers"),
        ("filters=21", "filters=1000000000", r"filters=1000000000 is not one number in 1\.\.65536"),
        ("width=32", "width=1000000", r"line 2: \[net\] width=1000000 is not one number in 1\.\.8192"),
        ("width=32", "", r"line 1: \[net\] has no width"),
        ("channels=3", "channels=1", r"channels=1 is not one number in 3\.\.3"),
        ("stride=1", "stride=0", "stride=0 is not one number"),
        ("[convolutional]", "[lstm]", r"line 5: \[lstm\] is a kind of layer that is not understood, only"),
        ("activation=linear", "activation=maxout", r"line 11: .* activation='maxout' is not understood"),
        ("pad=1", "pad=1\nantialiasing=1", r"line 11: .* antialiasing=1 is not understood"),
        ("pad=1", "pad=1\ngroups=2", "groups=2 divides 3 channels into 21 filters"),
        ("classes=2", "classes=80", "classes=80 and 3 anchors need 255 filters .*line 5.* has 21"),
        ("mask=0,1,2", "mask=0,1,9", r"mask \(0, 1, 9\) does not fit 9 anchors"),
        ("anchors=6,8,", "anchors=6,-8,", "does not fit 9 anchors .width, height > 0."),
        ("anchors=6,8,", "anchors=nan,8,", "is not made of numbers"),
        ("activation=linear", "activation=logistic", "needs activation=linear in the layer before it"),
        ("num=9", "num=9\nnew_coords=1", "needs activation=logistic in the layer before it"),
        ("[yolo]", "[region]", r"\[region\] is a kind of layer that is not understood"),
        ("[yolo]", "[route]\nlayers=-3\n[yolo]", "reads layer -3: before layer 1 there is none"),
        ("[yolo]", "[route]\nlayers=5\n[yolo]", "reads layer 5: before layer 1 there is none"),
        ("[yolo]", "[dropout]\n[yolo]", r"does not stand behind a \[convolutional\] layer"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_line(old, new, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        network(ONE_LEVEL.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (conv(4, 3, 2) + section("route", layers="0,1"), r"cannot join \[\(4, 16, 16\), \(4, 8, 8\)\]"),
        (conv(5) + section("route", layers=-1, groups=2), r"cannot join \[\(5, 16, 16\)\] in 2 groups"),
        (conv(5) + section("shortcut", **{"from": -2}), r"cannot add \[\(5, 16, 16\), \(4, 16, 16\)\]"),
        (
            conv(4) + section("shortcut", **{"from": -2}, weights_type="per_channel"),
            "weights_type=per_channel",
        ),
        (conv(5) + section("sam", **{"from": -2}), "cannot multiply"),
        (conv(4) + section("scale_channels", **{"from": -2}), "cannot multiply"),
        (conv(4, 20, 1, pad=0), "gives a map of -3x-3: its input is too small"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(layers, message):
    with pytest.raises(CheckpointError, match=message):
        network(net(32, 32) + conv(4, 3, 2) + layers + conv(21, 1, 1, "linear", norm=0) + yolo("0,1,2", 2))


def test_network_without_yolo_layer_is_refused():
    with pytest.raises(CheckpointError, match=r"has no \[yolo\] layer"):
        network(net(32, 32) + conv(21))


def test_levels_of_different_class_counts_are_refused():
    second = section("route", layers=-3) + conv(24, 1, 1, "linear", norm=0) + yolo("0,1,2", 3)
    with pytest.raises(CheckpointError, match=r"different numbers of classes: \[2, 3\]"):
        network(ONE_LEVEL.replace("[convolutional]", section("dropout") + "[convolutional]") + second)


def test_reading_a_yolo_layer_is_refused():
    with pytest.raises(CheckpointError, match=r"reads layer 1, a \[yolo\] layer"):
        network(ONE_LEVEL + conv(4))


def test_widths_that_multiply_to_terabytes_are_refused_before_memory_is_taken():
    doubled = section("route", layers="-1,-1") * 40
    with pytest.raises(CheckpointError, match=r"all layers together exceed 8589934592"):
        network(net(320, 320) + conv(64) + doubled + conv(21, 1, 1, "linear", norm=0) + yolo("0,1,2", 2))


def test_weights_of_terabytes_are_refused_before_memory_is_taken(tmp_path):
    # 65536·65536·9 weights in each of the two large layers: 309 GB.
    wide = net(32, 32) + conv(65536, 3, 32) + conv(65536, 3) + conv(65536, 3)
    cfg = wide + conv(21, 1, 1, "linear", norm=0) + yolo("0,1,2", 2)
    with pytest.raises(CheckpointError, match=r"holds 1000 weights where try\.cfg describes 77313343509:"):
        loaded(tmp_path, cfg, np.array([0, 2, 0, 0, 0, *[0] * 1000], "<i4").tobytes())


@pytest.mark.parametrize(("change", "held"), [(-4, "83"), (4, "85"), (-1, "83.75")])
def test_file_of_another_length_is_an_error_with_both_numbers(tmp_path, change, held):
    data = Replica(ONE_LEVEL).file()
    data = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(CheckpointError, match=rf"holds {held} weights where try\.cfg describes 84:"):
        loaded(tmp_path, ONE_LEVEL, data)


def test_file_without_a_header_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"has 16 bytes: no Darknet \.weights file is so short"):
        loaded(tmp_path, ONE_LEVEL, bytes(16))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    data = Replica(ONE_LEVEL).file()
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite weights \(first in 'layers\.0\.conv\.weight'\)"
    ):
        loaded(tmp_path, ONE_LEVEL, data[:-4] + np.array([np.nan], "<f4").tobytes())


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (1, 0, 0)])
def test_seen_pictures_are_counted_in_8_bytes_from_version_0_2_on(tmp_path, version):
    replica = Replica(ONE_LEVEL, seed=3)
    model = loaded(tmp_path, ONE_LEVEL, replica.file(version))
    assert torch.equal(model.layers[0].conv.bias.double(), replica.weights[0]["bias"])


def test_numbers_of_a_convolution_are_beta_gamma_mean_variance_weights(tmp_path):
    cfg = net(1, 1) + conv(1, 1, 1, "linear") + conv(21, 1, 1, "linear", norm=0) + yolo("0,1,2", 2)
    # β 1, γ 2, μ 3, σ² 4, weights 5 0 0; then 21 biases 0 and 21 weights 1.
    values = [1, 2, 3, 4 - 1e-5, 5, 0, 0, *[0] * 21, *[1] * 21]
    model = loaded(
        tmp_path, cfg, np.array([0, 2, 0, 0, 0], "<i4").tobytes() + np.array(values, "<f4").tobytes()
    )
    (output,) = model(torch.tensor([2.0, 9.0, 9.0]).reshape(1, 3, 1, 1))
    # (5·2 - 3) / 2 · 2 + 1 = 8
    torch.testing.assert_close(output, torch.full((1, 21, 1, 1), 8.0))


def test_pooling_2x2_at_stride_1_looks_right_and_down_and_never_at_padding():
    x = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]])[None, None]
    assert MaxPool(2, 1, 1)(x).tolist() == [[[[-0.5, -0.5], [-0.5, -0.5]]]]
    assert MaxPool(2, 1, 1)(-x).tolist() == [[[[3.0, 2.0], [3.0, 0.5]]]]


def test_pooling_an_odd_side_keeps_its_last_cell():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert MaxPool(2, 2, 1)(x).tolist() == [[[[4.0, 5.0], [7.0, 8.0]]]]


def test_padding_is_half_the_kernel_also_of_an_even_one():
    # (32 + 2·1 - 2) / 1 + 1 = 33
    assert network(ONE_LEVEL.replace("size=1", "size=2")).nodes[0].shape == (21, 33, 33)


def test_route_with_groups_takes_the_slice_of_every_source():
    first, second = torch.arange(4.0).reshape(1, 4, 1, 1), torch.arange(10.0, 12.0).reshape(1, 2, 1, 1)
    assert Route(2, 1)(first, second).flatten().tolist() == [2.0, 3.0, 11.0]


def test_attention_layers_multiply(tmp_path):
    # Layer 1 doubles the mean of each channel, layer 2 scales layer 0 by it, layer 4 squares that by itself.
    cfg = "".join(
        [
            net(1, 2),
            conv(3, 1, 1, "linear", norm=0),
            section("avgpool"),
            section("scale_channels", **{"from": 0}),
            section("dropout", probability=0.5),
            section("sam", **{"from": -2}),
            conv(21, 1, 1, "linear", norm=0),
            yolo("0,1,2", 2),
        ]
    )
    identity = [0, 0, 0, *np.eye(3).flatten()]
    values = [*identity, *[0] * 21, *[1, 0, 0] * 21]
    data = np.array([0, 2, 0, 0, 0], "<i4").tobytes() + np.array(values, "<f4").tobytes()
    (output,) = loaded(tmp_path, cfg, data)(torch.tensor([[1.0, 3.0]]).expand(1, 3, 1, 2))
    # mean 2: 1·2 = 2 and 3·2 = 6; squared 4 and 36
    assert output[0, 0].tolist() == [[4.0, 36.0]]


@pytest.mark.parametrize(
    "cfg",
    [yolov4(classes=2), yolov4_tiny(classes=1), yolov4_tiny(3, 96, 64), squared()],
    ids=["yolov4", "yolov4-tiny", "yolov4-tiny-odd", "new-coords"],
)
def test_maps_equal_a_float64_replica(tmp_path, cfg):
    replica = Replica(cfg, seed=1)
    model = loaded(tmp_path, cfg, replica.file())
    pictures = torch.rand(2, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(pictures)
    for output, (index, expected) in zip(outputs, replica.maps(pictures).items(), strict=True):
        if model.yolo(index).is_squared:
            expected = expected.sigmoid()
        torch.testing.assert_close(output.double(), expected, atol=1e-4, rtol=1e-4)


def test_input_of_another_size_is_taken(tmp_path):
    cfg = yolov4_tiny(classes=1)
    model = loaded(tmp_path, cfg, Replica(cfg).file())
    shapes = [tuple(output.shape) for output in model(torch.zeros(1, 3, 96, 160))]
    assert shapes == [(1, 18, 3, 5), (1, 18, 6, 10)]
