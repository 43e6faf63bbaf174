"""`detcam inspect FILE`: what a model file is, told without running anything of it."""

import hashlib
import json
import os
import pickle
import struct
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detcam.adapters import inspect
from detcam.checkpoints import open_checkpoint
from detcam.checkpoints.scanning import list_pickle
from detcam.cli import main
from detcam.errors import CheckpointError


class Foreign:
    def __init__(self, names):
        self.names = names


class Attack:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["inspect", *map(str, arguments)])
    return end.value.code


def head(**towers):
    """A state dict of a backbone and a head of three levels, each tower with so many channels."""
    state = {"backbone.stem.weight": torch.ones(8, 3, 3, 3), "backbone.norm.weight": torch.ones(8)}
    state |= {"backbone.gate.weight": torch.ones(8, 8, 1, 1), "backbone.gate.bias": torch.ones(8)}
    for name, channels in towers.items():
        for level in range(3):
            state[f"head.{name}.{level}.weight"] = torch.ones(channels, 8, 1, 1)
            state[f"head.{name}.{level}.bias"] = torch.ones(channels)
    return state


def test_a_state_dict_is_counted_and_its_last_convolutions_named(path):
    state = head(reg=64, cls=80)
    torch.save(state, path)
    found = inspect(path)
    assert (found.kind, found.family, found.classes, found.class_names) == (
        "torch checkpoint",
        None,
        80,
        None,
    )
    assert found.tensors == 4 + 2 * 6
    assert found.parameters == 8 * 27 + 8 + 64 + 8 + 3 * (64 * 9 + 80 * 9)
    assert found.bytes == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.final_convolutions == {
        **{f"head.reg.{level}.weight": 64 for level in range(3)},
        **{f"head.cls.{level}.weight": 80 for level in range(3)},
    }
    assert found.trust == "safe: numbers only"


@pytest.mark.parametrize(
    ("towers", "expected"),
    [
        ({"reg_preds": 4, "obj_preds": 1, "cls_preds": 3}, 3),  # YOLOX
        ({"cv2": 64, "cv3": 1}, 1),
        ({"cv2": 64, "cv3": 68}, None),  # 68 classes, or 64 with 17 bins
        ({"cv2": 64, "cv3": 1, "cv4": 51}, None),  # pose of one class; not 51 classes and an objectness
        ({"m": 255}, None),  # 80 with three anchors, 46 with five
    ],
)
def test_classes_of_a_state_dict_are_told_only_if_there_is_one_reading(path, towers, expected):
    torch.save(head(**towers), path)
    assert inspect(path).classes == expected


def test_anchors_in_a_state_dict_settle_the_count(path):
    torch.save(head(m=255) | {"head.anchors": torch.ones(3, 3, 2)}, path)
    assert inspect(path).classes == 80


def test_shared_tensors_are_counted_once(path):
    shared = torch.ones(10)
    torch.save({"a": shared, "b": shared, "c": torch.ones(10)}, path)
    assert inspect(path).parameters == 20
    assert list_pickle(open_checkpoint(path).archive.pickle).numbers == 20


def test_safetensors_whose_header_has_a_pickles_first_byte_are_no_pickle(tmp_path):
    padding = "x" * next(n for n in range(256) if _header_length(tmp_path, "x" * n) % 256 == 0x80)
    save_file(head(cls=7, reg=4), tmp_path / "a.safetensors", {"padding": padding})
    assert (tmp_path / "a.safetensors").read_bytes()[0] == 0x80
    assert inspect(tmp_path / "a.safetensors").classes == 7


def _header_length(folder, padding):
    save_file(head(cls=7, reg=4), folder / "a.safetensors", {"padding": padding})
    return int.from_bytes((folder / "a.safetensors").read_bytes()[:8], "little")


def test_safetensors_and_darknet_weights_are_told_apart(tmp_path):
    save_file(head(cls=7, reg=4), tmp_path / "a.safetensors")
    found = inspect(tmp_path / "a.safetensors")
    assert (found.kind, found.classes) == ("safetensors, weights without a model", 7)
    (tmp_path / "a.weights").write_bytes(struct.pack("<3iq", 0, 2, 5, 99) + bytes(4 * 50))
    found = inspect(tmp_path / "a.weights")
    assert (found.kind, found.parameters) == ("Darknet weights, to be read with --cfg", 50)


def test_a_pickle_with_foreign_code_is_listed_and_exits_0(path, capsys):
    torch.save({"model": Foreign({0: "carp", 1: "duck"}), "w": torch.ones(6)}, path)
    assert run(path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unknown_globals"] == [f"{Foreign.__module__}.Foreign"]
    assert found["class_names"] == ["carp", "duck"]
    assert (found["tensors"], found["parameters"]) == (1, 6)


@pytest.mark.parametrize("is_zip", [True, False])
def test_an_attack_is_listed_and_does_not_run(path, tmp_path, is_zip, capsys):
    marker = tmp_path / "the attack ran"
    torch.save({"model": Attack(f"touch '{marker}'")}, path, _use_new_zipfile_serialization=is_zip)
    assert run(path) == 0
    out = capsys.readouterr().out
    assert f"{os.system.__module__}.system" in out
    assert "refused" in out
    assert not marker.exists()


def test_inspecting_imports_nothing_that_the_file_names(path, monkeypatch):
    module = ModuleType("a_module_that_would_be_installed")
    module.Foreign = Foreign
    monkeypatch.setattr(Foreign, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save({"model": Foreign([])}, path)
    monkeypatch.delitem(sys.modules, module.__name__)
    assert inspect(path).unknown_globals == ("a_module_that_would_be_installed.Foreign",)
    assert module.__name__ not in sys.modules


def test_known_and_unknown_names_are_told_apart(path):
    torch.save({"model": nn.Conv2d(3, 4, 1), "x": Foreign([])}, path)
    found = inspect(path)
    assert "torch.nn.modules.conv.Conv2d" in found.known_globals
    assert found.unknown_globals == (f"{Foreign.__module__}.Foreign",)
    assert found.trust.startswith("1 unknown names: refused")


def test_weights_beside_foreign_code_are_said_to_be_readable(path):
    torch.save({"model": head(cls=7, reg=4), "x": Foreign([])}, path)
    found = inspect(path)
    assert found.classes == 7
    assert found.trust.startswith("safe: only its weights")


NAMES = [
    ["a"],
    ["a", "b"],
    {0: "a"},
    {0: "a", 1: "b"},
    {i: f"c{i}" for i in range(2500)},
    [f"c{i}" for i in range(2500)],
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("names", NAMES)
def test_class_names_are_read_off_the_instructions(names, protocol):
    data = pickle.dumps(
        {"before": ["x"], "names": names, "task": "detect", "more": [1, 2]}, protocol=protocol
    )
    assert list_pickle(data).names == tuple(names.values() if isinstance(names, dict) else names)


@pytest.mark.parametrize("names", [[], {}, {1: "a", 2: "b"}, [1, 2], "a", None, {"a": "b"}, [["a"]]])
def test_what_is_called_names_and_holds_none_is_passed_over(names):
    assert list_pickle(pickle.dumps({"names": names, "end": 1}, protocol=2)).names is None


@pytest.mark.parametrize("length", [0, 1, 10, 100, 150])
def test_a_pickle_cut_short_is_listed_as_far_as_it_goes(length):
    data = pickle.dumps({"names": ["a", "b"], "x": Foreign([1])}, protocol=2)
    assert list_pickle(data[:length]).tensors == 0


NO_MODELS = {
    "empty": (b"", "is empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(32), "a PNG picture"),
    "html": (b"<!doctype html><html>", "a web page"),
    "noise": (b"\x00\x01\x02 noise", "not a torch checkpoint"),
    "zip": (b"PK\x03\x04" + bytes(40), "zip archive"),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model_is_one_line_and_exits_1(path, capsys, kind):
    data, message = NO_MODELS[kind]
    path.write_bytes(data)
    assert run(path) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_exits_1(tmp_path, capsys):
    assert run(tmp_path / "nowhere.pt") == 1
    assert "no file" in capsys.readouterr().err


def test_damaged_safetensors_are_an_error(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b'{"a":1}')
    with pytest.raises(CheckpointError, match="no valid safetensors"):
        inspect(path)


def test_a_name_in_the_file_does_not_steer_the_terminal(path, capsys):
    torch.save({"model": Foreign(["\x1b[2J\nduck"])}, path)
    assert run(path) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"names:             \x1b[2J\nduck" in out


REAL = {  # family, classes, tensors, unknown globals
    "yolov8n.pt": ("ultralytics", 80, 359, ()),
    "yolo26n.pt": ("ultralytics", 80, 712, ()),
    "yolov5n.pt": ("yolov5", 80, 358, ()),
    "yolox_nano.pth": ("yolox", 80, 642, ()),
    "LeYOLONano.pt": (
        "ultralytics",
        80,
        657,
        ("ultralytics.nn.modules.block.MobileNetV3_BLOCK", "ultralytics.nn.modules.conv.mn_conv"),
    ),
    "yolo-fastest-1.1-xl.weights": ("darknet", None, None, ()),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_told_for_what_they_are(assets, name):
    found = inspect(assets / "weights" / name)
    assert (found.family, found.classes, found.tensors, found.unknown_globals) == REAL[name]
    assert found.sha256 == hashlib.sha256((assets / "weights" / name).read_bytes()).hexdigest()
    if found.class_names:
        assert (found.class_names[0], found.class_names[79]) == ("person", "toothbrush")


@pytest.mark.parametrize("name", ["yolov8n.pt", "yolov5n.pt", "LeYOLONano.pt"])
def test_what_is_read_off_the_instructions_is_what_unpickling_gives(assets, name):
    from detcam.checkpoints.records import Record

    file = open_checkpoint(assets / "weights" / name)
    found, numbers, seen = 0, {}, set()

    def walk(value):
        nonlocal found
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found += 1
            numbers[value.untyped_storage().data_ptr()] = (
                value.untyped_storage().nbytes() // value.element_size()
            )
        elif isinstance(value, Record):
            walk(value.state)
            walk(value.args)
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)

    everything = file.records()
    walk(everything)
    listing = list_pickle(file.archive.pickle)
    assert (listing.tensors, listing.numbers) == (found, sum(numbers.values()))


# --- what disagrees, and what is only known when it is read ---


def test_stray_names_do_not_overrule_the_convolutions(path, capsys):
    torch.save({"model": head(cls=7, reg=4), "names": ["a", "b"]}, path)
    found = inspect(path)
    assert (found.classes, found.class_names) == (7, ("a", "b"))
    assert run(path) == 0
    assert "classes:           7 by the last convolutions, but 2 names" in capsys.readouterr().out


def test_names_count_where_no_convolution_can_be_read(path):
    torch.save({"model": Foreign({0: "carp", 1: "duck"})}, path)
    assert inspect(path).classes == 2


def test_a_file_of_known_names_is_not_called_safe_before_it_is_read(path):
    class Sneaky(nn.Conv2d):
        def __reduce__(self):
            return nn.Conv2d, (3, 4, 1)

    torch.save({"model": Sneaky(3, 4, 1)}, path)
    trust = inspect(path).trust
    assert trust.startswith("every name in it is known; how they are used is checked when it is read")
    assert "safe" not in trust


@pytest.mark.parametrize(
    ("arch", "layer", "channels"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "roi_heads.box_predictor.cls_score.weight", 5),
        ("ssdlite320_mobilenet_v3_large", "head.classification_head.module_list.0.1.weight", 30),
    ],
)
def test_a_torchvision_state_dict_is_counted_at_the_layers_that_score_classes(
    path, arch, layer, channels, capsys
):
    from torchvision.models import detection

    model = getattr(detection, arch)(weights=None, weights_backbone=None, num_classes=5)
    torch.save(model.state_dict(), path)
    found = inspect(path)
    assert (found.family, found.classes, found.final_convolutions[layer]) == ("torchvision", 5, channels)
    assert not any("rpn" in name for name in found.final_convolutions)
    assert run(path) == 0
    assert "classes:           5, background counted" in capsys.readouterr().out
