"""Weights out of whatever a training script wrapped them in; nothing in the file runs, whatever it holds."""

import argparse
import json
import os
import struct
import subprocess
import sys
from collections import OrderedDict, defaultdict
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detcam.checkpoints import find_state_dict, open_model_file
from detcam.errors import CheckpointError, UnsafeCheckpointError


class Foreign:
    """A class of some training framework."""

    def __init__(self):
        self.settings = {"lr": 0.1}


class Settings(dict):
    """A dictionary of a class nobody knows."""


class Attack:
    def __init__(self, function, *args):
        self.recipe = (function, args)

    def __reduce__(self):
        return self.recipe


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)))


def read(content, path):
    torch.save(content, path)
    return open_model_file(path).tensors


def assert_is(tensors, net):
    expected = net.state_dict()
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def prefixed(net, prefix):
    return {prefix + name: value for name, value in net.state_dict().items()}


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "ema", "net", "weights"])
def test_a_state_dict_is_found_bare_and_under_the_usual_keys(net, path, key):
    state = net.state_dict()
    assert_is(read(state if key is None else {key: state, "epoch": 3}, path), net)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "model.module.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_removed(net, path, prefix):
    assert_is(read({"state_dict": prefixed(net, prefix)}, path), net)


def test_a_moving_average_is_read_as_the_network_it_is_of(net, path):
    average = torch.optim.swa_utils.AveragedModel(nn.DataParallel(net))
    worse = {name: value + 1 for name, value in net.state_dict().items()}
    for content in (average.state_dict(), {"model": worse, "model_ema": average.state_dict()}):
        assert_is(read(content, path), net)


def test_a_weight_that_is_called_like_a_counter_stays(path):
    state = {"conv.weight": torch.ones(1), "n_averaged": torch.tensor(3)}
    assert list(read(state, path)) == list(state)


def test_numbered_layers_of_a_network_that_calls_itself_model_keep_their_names(path):
    state = {"model.0.conv.weight": torch.ones(1), "model.24.m.0.weight": torch.ones(2)}
    assert list(read(state, path)) == list(state)
    lightning = {f"model.{name}": value for name, value in state.items()}
    assert list(read({"state_dict": lightning}, path)) == list(state)


def test_a_prefix_that_not_all_names_have_stays(path):
    state = {"model.conv.weight": torch.ones(1), "loss.weight": torch.ones(1)}
    assert list(read({"state_dict": state}, path)) == list(state)


def test_ema_weights_are_preferred(net, path):
    worse = {name: value + 1 for name, value in net.state_dict().items()}
    assert_is(read({"model": worse, "ema": net.state_dict()}, path), net)
    assert_is(read({"model": worse, "ema": {"module": net.state_dict(), "updates": 7}}, path), net)
    assert_is(read({"model": net.state_dict(), "ema": None}, path), net)


def test_a_training_checkpoint_with_optimizer_numpy_scalars_and_a_namespace_is_read(net, path):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.rand(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 12,
        "best": np.float64(0.5),
        "map": np.zeros(3),
        "loss": torch.tensor(0.25),
        "args": argparse.Namespace(lr=0.1, data="coco"),
        "optimizer": optimizer.state_dict(),
        "model": net.state_dict(),
    }
    assert_is(read(checkpoint, path), net)


def test_what_stands_between_the_tensors_is_left_out(net, path):
    state = dict(net.state_dict()) | {"_metadata": {"": {"version": 1}}, "num_classes": 80, "names": ["a"]}
    assert_is(read(state, path), net)


def test_tied_tensors_stay_tied(path):
    shared = torch.ones(3)
    tensors = read({"a": shared, "b": shared}, path)
    assert tensors["a"].data_ptr() == tensors["b"].data_ptr()


def test_weights_beside_foreign_classes_are_read_without_those(net, path):
    tensors = read({"state_dict": net.state_dict(), "hyper_parameters": Foreign()}, path)
    assert_is(tensors, net)


@pytest.mark.parametrize("beside", [{"a": torch.ones(1)}, {"model": nn.Linear(2, 2).state_dict()}])
def test_weights_beside_an_attack_are_refused_with_its_name_and_it_does_not_run(beside, path, tmp_path):
    marker = tmp_path / "the attack ran"
    # As the file names it: Python 2 called the module so, for which torch writes.
    with pytest.raises(UnsafeCheckpointError, match=r"commands\.call"):
        read({**beside, "x": Attack(subprocess.call, ["touch", str(marker)])}, path)
    assert not marker.exists()


def test_a_call_of_the_operating_system_is_refused_by_name(net, path, tmp_path):
    marker = tmp_path / "the attack ran"
    with pytest.raises(UnsafeCheckpointError, match=r"(posix|nt)\.system"):
        read({"model": net.state_dict(), "x": Attack(os.system, f"touch '{marker}'")}, path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"model": Foreign()}, Foreign(), {"x": Settings(a=1)}])
def test_foreign_classes_without_weights_are_refused_by_name(content, path):
    with pytest.raises(UnsafeCheckpointError, match=r"test_model_file\.(Foreign|Settings)"):
        read(content, path)


@pytest.mark.parametrize("beside", [defaultdict(list, {1: [2]}), Settings(a=1)])
def test_weights_beside_a_dictionary_of_another_class_are_refused_and_not_called_damaged(net, path, beside):
    with pytest.raises(UnsafeCheckpointError, match=r"no plain state dict.*save its state_dict"):
        read({"model": net.state_dict(), "x": beside}, path)


@pytest.mark.parametrize("content", [{}, [], 7, "text", {"model": {}}, {"epoch": 3}, [torch.ones(1)]])
def test_a_file_without_weights_has_none(content, path):
    assert read(content, path) is None


def test_parts_of_a_model_side_by_side_are_no_state_dict(net):
    assert (
        find_state_dict({"backbone": net.state_dict(), "head": net.state_dict(), "scale": torch.ones(1)})
        is None
    )


def test_wrappers_without_end_are_given_up():
    endless = {"model": None}
    endless["model"] = endless
    assert find_state_dict(endless) is None


def test_a_tensor_larger_than_its_numbers_is_refused(path):
    with pytest.raises(UnsafeCheckpointError, match=r"shape \[1000000, 1000000\], larger than the numbers"):
        read({"a": torch.ones(1).expand(1_000_000, 1_000_000)}, path)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_a_sparse_tensor_is_refused_in_one_line(path):
    with pytest.raises(UnsafeCheckpointError) as caught:
        read({"a": torch.ones(2).to_sparse()}, path)
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_a_vendors_whole_model_is_not_searched(path, monkeypatch):
    monkeypatch.setattr(Foreign, "__module__", "models.yolo")
    module = ModuleType("models.yolo")
    module.Foreign = Foreign
    monkeypatch.setitem(sys.modules, "models", ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.yolo", module)
    torch.save({"model": Foreign(), "ema": {"a": torch.ones(1)}}, path)
    assert open_model_file(path).tensors is None


# --- safetensors ---


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_safetensors_are_read_whatever_they_are_called(net, tmp_path, name):
    state = prefixed(net, "module.")
    save_file(state, tmp_path / name)
    file = open_model_file(tmp_path / name)
    assert file.kind == "safetensors"
    expected = net.state_dict()
    assert set(file.tensors) == set(expected)
    assert all(torch.equal(file.tensors[key], expected[key]) for key in expected)


HOSTILE = {
    "a header longer than the file": safetensors({"a": entry([1], [0, 4])}, bytes(4), length=1 << 40),
    "a header of nearly all memory": safetensors({"a": entry([1], [0, 4])}, bytes(4), length=(1 << 64) - 1),
    "a header that is no JSON": safetensors(b'{"a": nonsense'),
    "a header that is a list": safetensors([1, 2]),
    "bytes that are not there": safetensors({"a": entry([4], [0, 16])}, bytes(4)),
    "bytes that overlap": safetensors({"a": entry([1], [0, 4]), "b": entry([1], [0, 4])}, bytes(4)),
    "a shape that does not fit its bytes": safetensors({"a": entry([1000, 1000], [0, 4])}, bytes(4)),
    "a shape that overflows": safetensors({"a": entry([1 << 62, 8], [0, 4])}, bytes(4)),
    "a negative side": safetensors({"a": entry([-1], [0, 4])}, bytes(4)),
    "a type nobody knows": safetensors({"a": entry([1], [0, 4], "Q99")}, bytes(4)),
    "control characters": safetensors({"\x1b[2J\n": entry([9], [0, 4])}, bytes(4)),
    "nothing but a length": struct.pack("<Q", 2),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_safetensors_are_one_line(tmp_path, what):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(CheckpointError, match="no valid safetensors file") as caught:
        _ = open_model_file(path).tensors
    assert str(caught.value).isprintable()


# --- what else is called so ---


def test_darknet_weights_are_known_by_their_header(tmp_path):
    path = tmp_path / "net.weights"
    path.write_bytes(struct.pack("<3iq", 0, 2, 5, 32013312) + bytes(400))
    file = open_model_file(path)
    assert (file.kind, file.tensors) == ("darknet", None)


@pytest.mark.parametrize("name", ["net.weights", "net.safetensors"])
def test_a_torch_checkpoint_is_one_whatever_it_is_called(net, tmp_path, name):
    torch.save(net.state_dict(), tmp_path / name)
    assert_is(open_model_file(tmp_path / name).tensors, net)


def test_a_web_page_called_weights_is_a_web_page(tmp_path):
    path = tmp_path / "yolov4.weights"
    path.write_bytes(b"<!doctype html><html>404</html>")
    with pytest.raises(CheckpointError, match="a web page"):
        open_model_file(path)


def test_an_empty_file_is_said_to_be(tmp_path):
    path = tmp_path / "net.weights"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is empty \(0 bytes\)"):
        open_model_file(path)
