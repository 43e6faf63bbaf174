"""Every adapter names its backbone's stem and stages, with stride and channels, in the same way."""

import pytest
import small_yolo
import torch
from darknet_replica import yolov4
from small_detectors import KINDS

import detcam
from detcam.adapters.darknet_cfg import parse_cfg
from detcam.adapters.darknet_network import DarknetNetwork
from detcam.windows import describe_layers


def stages(detector):
    return [
        (layer.name, layer.stage, layer.stride, layer.channels) for layer in detector.layers() if layer.stage
    ]


def test_yolov8s_backbone_has_a_stem_and_four_stages():
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", verbose=False)
    assert stages(detcam.wrap(model)) == [
        ("model.0", "stem", 2, 16),
        ("model.2", "stage 1", 4, 32),
        ("model.4", "stage 2", 8, 64),
        ("model.6", "stage 3", 16, 128),
        ("model.9", "stage 4", 32, 256),
    ]


def test_cspdarknet_has_a_stem_and_five_stages():
    network = DarknetNetwork(parse_cfg(yolov4(), "yolov4.cfg")).to_empty(device="cpu").eval()
    found = stages(detcam.wrap(network))
    assert [(stage, stride) for _, stage, stride, _ in found] == [
        *(("stem", 1), ("stage 1", 2), ("stage 2", 4), ("stage 3", 8), ("stage 4", 16), ("stage 5", 32)),
    ]
    widths = {name: network.nodes[int(name.split(".")[1])].shape[0] for name, *_ in found}
    assert [channels for *_, channels in found] == list(widths.values())


@pytest.mark.parametrize("kind", KINDS)
def test_stages_run_from_the_stem_to_the_last_stage_of_the_backbone(kind, tmp_path):
    with torch.random.fork_rng(devices=[]):
        detector = KINDS[kind].build(7, tmp_path).detector
    found, table = stages(detector), list(detector.layers())
    count = len(found)
    assert count >= 2
    assert [stage for _, stage, _, _ in found] == ["stem", *(f"stage {i}" for i in range(1, count))]
    strides = [stride for _, _, stride, _ in found]
    assert strides == sorted(set(strides))
    explained = {layer.name for layer in table if layer.member_of == "backbone"}
    assert explained <= {name for name, *_ in found}
    assert all(layer.part == "backbone" for layer in table if layer.stage)


def test_the_table_of_layers_names_the_stages():
    rows = {row["name"]: row["stage"] for row in describe_layers(small_yolo.detector(), 64)}
    assert (rows["model.0"], rows["model.2"], rows["model.8"], rows["model.14"]) == (
        *("stem", "stage 1", "stage 4"),
        None,
    )
