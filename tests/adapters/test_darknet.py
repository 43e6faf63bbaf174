"""Darknet detectors: equal to independent arithmetic and to OpenCV, stages named, the network left alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from darknet_replica import Replica, net, squared, suppressed, yolov4, yolov4_tiny

import detcam
from detcam.adapters import darknet
from detcam.adapters.base import DetectOptions, LoadOptions
from detcam.adapters.darknet_cfg import parse_cfg
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.checkpoints import open_model_file
from detcam.errors import CheckpointError, InputError
from detcam.images import as_picture


@pytest.fixture
def load(tmp_path):
    def from_text(cfg, seed=0, **options):
        replica = Replica(cfg, seed=seed)
        (tmp_path / "a.cfg").write_text(cfg)
        (tmp_path / "a.weights").write_bytes(replica.file())
        options = LoadOptions(cfg=tmp_path / "a.cfg", **options)
        return darknet.load(open_model_file(tmp_path / "a.weights"), options), replica

    return from_text


@pytest.fixture(scope="module")
def fastest(assets):
    cfg, weights = (assets / "weights" / f"yolo-fastest-1.1-xl.{end}" for end in ("cfg", "weights"))
    return darknet.load(open_model_file(weights), LoadOptions(cfg=cfg)), cfg, weights


@pytest.fixture(scope="module")
def bus():
    import ultralytics

    return as_picture(Path(ultralytics.__file__).parent / "assets" / "bus.jpg")


def picture(height=97, width=61, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def forward(detector, *pictures):
    batch = torch.stack([detector.prepare(one, None)[0] for one in pictures])
    with torch.no_grad():
        return detector.forward(batch)


@pytest.mark.parametrize(
    "cfg",
    [yolov4(classes=1), yolov4(classes=7), yolov4_tiny(classes=2), yolov4_tiny(80), squared(classes=3)],
    ids=["yolov4-1", "yolov4-7", "tiny-2", "tiny-80", "new-coords-3"],
)
def test_boxes_objectness_and_scores_equal_a_float64_replica(load, cfg):
    detector, replica = load(cfg)
    (raw,) = forward(detector, picture())
    boxes, objectness, scores = replica.candidates(detector.prepare(picture(), None)[0])
    assert np.abs(raw.boxes(torch.arange(len(boxes))).numpy() - boxes).max() <= 1e-3
    assert np.abs(raw.objectness_logits.sigmoid().numpy() - objectness).max() <= 1e-5
    assert np.abs(raw.scores().numpy() - scores).max() <= 1e-5


def test_picture_is_stretched_bilinearly_over_the_networks_own_size(load):
    detector, _ = load(yolov4_tiny(1, 96, 64))
    tensor, geometry = detector.prepare(picture(), None)
    expected = cv2.resize(picture(), (64, 96), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal((tensor * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert (geometry.input_size, geometry.pad, geometry.resized) == ((96, 64), (0, 0), (96, 64))
    assert detector.imgsz == 96


def test_another_input_size_is_rounded_up_to_the_stride(load):
    detector, _ = load(yolov4_tiny(1))
    assert detector.prepare(picture(), 70)[0].shape == (3, 96, 96)
    assert detector.prepare(picture(), (32, 50))[0].shape == (3, 32, 64)


def test_levels_are_named_finest_first_and_rows_are_where_they_say(load):
    detector, _ = load(yolov4(classes=2))
    (raw,) = forward(detector, picture())
    assert [(level.name, level.stride, level.grid) for level in raw.levels] == [
        ("P3", 8, (8, 12)),
        ("P4", 16, (4, 6)),
        ("P5", 32, (2, 3)),
    ]
    # 288 candidates of P3, then anchor 1 of P4 (24 cells each), row 2, column 5
    assert raw.locate(288 + 24 + 2 * 6 + 5) == (raw.levels[1], 2, 5, 1)


def test_stages_of_cspdarknet_are_found_at_every_stride(load):
    detector, _ = load(yolov4(w=2))
    backbone = [layer for layer in detector.layers() if layer.part == "backbone"]
    last = {layer.stride: (layer.name, layer.channels) for layer in backbone}
    assert last == {
        1: ("layers.0", 4),
        2: ("layers.10", 4),
        4: ("layers.20", 8),
        8: ("layers.30", 16),
        16: ("layers.40", 32),
        32: ("layers.50", 64),
    }


@pytest.mark.parametrize(
    ("cfg", "sets"),
    [
        (yolov4(), {"backbone": [30, 40, 50], "neck": [72, 79, 86], "head": [73, 80, 87]}),
        (yolov4_tiny(), {"backbone": [23, 26], "neck": [27, 34], "head": [28, 35]}),
    ],
    ids=["yolov4", "yolov4-tiny"],
)
def test_sets_are_what_the_neck_the_head_and_its_last_convolutions_read(load, cfg, sets):
    detector, _ = load(cfg)
    found = {name: [la.name for la in detector.layers() if la.member_of == name] for name in sets}
    assert found == {name: [f"layers.{index}" for index in members] for name, members in sets.items()}
    for name in sets:
        strides = {layer.stride for layer in detector.layers() if layer.member_of == name}
        assert strides == set(detector.strides)


def test_dropout_does_nothing_even_in_training(load):
    cfg = yolov4_tiny().replace("[upsample]", "[dropout]\nprobability=.9\n[upsample]")
    detector, _ = load(cfg)
    before = forward(detector, picture())[0].class_logits
    for module in detector.model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    torch.testing.assert_close(forward(detector, picture())[0].class_logits, before)


def test_description_is_asked_for(load, tmp_path):
    load(yolov4_tiny())
    with pytest.raises(CheckpointError, match=r"a\.weights holds numbers alone: .* --cfg NAME\.cfg"):
        detcam.load(tmp_path / "a.weights")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3}, "--num-classes says 3, but the weights of the head score 2"),
        ({"names": ("a", "b", "c")}, "3 names were given for the 2 classes"),
    ],
)
def test_options_that_contradict_the_description_are_errors(load, options, message):
    with pytest.raises(InputError, match=message):
        load(yolov4_tiny(classes=2), **options)


def test_names_are_the_users_or_the_ids(load):
    assert load(yolov4_tiny(2))[0].class_names == {0: "0", 1: "1"}
    assert load(yolov4_tiny(2), names=("cat", "dog"))[0].class_names == {0: "cat", 1: "dog"}


def test_input_that_cells_do_not_divide_is_an_error():
    cfg = net(33, 64) + squared().partition("channels=3\n")[2]
    network = DarknetNetwork(parse_cfg(cfg, "a.cfg"))
    with pytest.raises(CheckpointError, match=r"gives a 3x4 map of a 33x64 input.* multiples of 32"):
        darknet.wrap(network, LoadOptions())


def test_live_network_is_recognised(load):
    detector, _ = load(yolov4_tiny())
    again = detcam.wrap(detector.model, names=("thing",))
    assert (again.family, again.class_names, again.origin) == ("Darknet YOLO", {0: "thing"}, None)


def test_origin_names_the_file(fastest):
    detector, _, weights = fastest
    file = open_model_file(weights)
    assert (detector.origin.path, detector.origin.sha256) == (str(weights), file.sha256)
    assert detector.origin.trust == "safe"


def test_real_network_finds_the_bus_and_the_persons(fastest, bus):
    detector, _, _ = fastest
    tensor, geometry = detector.prepare(bus.pixels, None)
    with torch.no_grad():
        found = detector.detect(detector.forward(tensor[None])[0], geometry, DetectOptions(conf=0.5))
    pairs = list(zip(found.labels.tolist(), [round(s, 2) for s in found.scores.tolist()], strict=True))
    assert pairs == [(0, 0.99), (0, 0.98), (5, 0.93), (0, 0.88)]


def test_real_network_equals_a_float64_replica_box_for_box(fastest, bus):
    detector, cfg, weights = fastest
    replica = Replica(cfg.read_text(), weights.read_bytes())
    tensor, geometry = detector.prepare(bus.pixels, None)
    boxes, _, scores = replica.candidates(tensor)
    found = detector.detect(forward(detector, bus.pixels)[0], geometry, DetectOptions())
    kept, labels = suppressed(boxes, scores, 0.25, 0.45)
    assert found.candidates.tolist() == list(kept)
    assert found.labels.tolist() == labels.tolist()
    height, width = bus.pixels.shape[:2]
    expected = (boxes[kept] * np.array([width, height, width, height]) / 320).clip(
        0, np.array([width, height, width, height])
    )
    assert np.abs(found.boxes.numpy() - expected).max() <= 1e-3
    assert np.abs(found.scores.numpy() - scores.max(1)[kept]).max() <= 1e-4


@pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason="OpenCV 5 dropped its Darknet importer"
)
def test_real_network_equals_opencv(fastest, bus):
    detector, cfg, weights = fastest
    network = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    network.setInput(cv2.dnn.blobFromImage(bus.pixels, 1 / 255, (320, 320)))
    outputs = network.forward(network.getUnconnectedOutLayersNames())
    (raw,) = forward(detector, bus.pixels)
    start = 0
    for level in raw.levels:
        # Rows (y, x, anchor) of cx, cy, w, h as shares of the input, objectness, scores above .2
        rows = next(rows for rows in outputs if len(rows) == level.rows)
        rows = rows.reshape(*level.grid, 3, -1).transpose(2, 0, 1, 3).reshape(level.rows, -1)
        indices = torch.arange(start, start + level.rows)
        start += level.rows
        # OpenCV adds 1e-6 to variances where Darknet adds 1e-5.
        assert np.abs(raw.objectness_logits[indices].sigmoid().numpy() - rows[:, 4]).max() <= 1e-3
        likely = rows[:, 4] > 0.25
        centres, halves = rows[likely, :2] * 320, rows[likely, 2:4] * 160
        corners = np.concatenate([centres - halves, centres + halves], axis=1)
        assert np.abs(raw.boxes(indices[torch.from_numpy(likely)]).numpy() - corners).max() <= 0.05


def test_real_network_is_explained_from_its_files(fastest, bus):
    _, cfg, weights = fastest
    detector = detcam.load(weights, cfg=cfg, device="cpu")
    explanation = detcam.explain(detector, bus.pixels, classes=[5], iou=0.45, layers="backbone", path="total")
    assert [layer.module for layer in explanation.layers] == ["layers.80", "layers.108"]
    assert explanation.deciding == ("P5",)
    assert all(levels.abs().amax() > 0 for levels in explanation.levels.values())
