"""Weights of whatever file end up in the network they are of, or in none."""

import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import detcam
from detcam.errors import CheckpointError, UnsafeCheckpointError


def network(channels=3, seed=0):
    torch.manual_seed(seed)
    layers = {"stem": nn.Conv2d(channels, 4, 3), "norm": nn.BatchNorm2d(4), "head": nn.Conv2d(4, 2, 1)}
    return nn.Sequential(OrderedDict(layers))


class Lightning(nn.Module):
    """Keeps the network under a name of its own, as trainers do."""

    def __init__(self, seed=0):
        super().__init__()
        self.model = network(seed=seed)


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == name_ and torch.equal(value, value_) for (name, value), (name_, value_) in pairs)


SAVED = {
    "state dict": lambda m: m.state_dict(),
    "of data-parallel training": lambda m: nn.DataParallel(m).state_dict(),
    "of a compiled network": lambda m: {f"_orig_mod.{k}": v for k, v in m.state_dict().items()},
    "of both": lambda m: {f"module._orig_mod.{k}": v for k, v in m.state_dict().items()},
    "of a moving average": lambda m: AveragedModel(m).state_dict(),
    "under a key, beside an optimizer": lambda m: {
        "epoch": 3,
        "state_dict": nn.DataParallel(m).state_dict(),
        "optimizer": torch.optim.Adam(m.parameters()).state_dict(),
    },
}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel])
def test_weights_arrive_however_they_are_wrapped(form, wrap, tmp_path):
    torch.save(SAVED[form](network(seed=1)), tmp_path / "w.pth")
    model = network(seed=2)
    wrapped = wrap(model)
    assert detcam.load_weights(wrapped, tmp_path / "w.pth") is wrapped
    assert same(model, network(seed=1))


@pytest.mark.parametrize("form", SAVED)
def test_weights_arrive_in_a_moving_average_whose_counter_stays(form, tmp_path):
    torch.save(SAVED[form](network(seed=1)), tmp_path / "w.pth")
    average = AveragedModel(network(seed=2))
    average.n_averaged.fill_(7)
    assert same(detcam.load_weights(average, tmp_path / "w.pth").module, network(seed=1))
    assert average.n_averaged == 7


def test_a_network_that_calls_itself_model_keeps_its_names(tmp_path):
    torch.save(Lightning(seed=1).state_dict(), tmp_path / "w.pth")
    assert same(detcam.load_weights(Lightning(seed=2), tmp_path / "w.pth"), Lightning(seed=1))
    assert same(detcam.load_weights(network(seed=2), tmp_path / "w.pth"), network(seed=1))


def test_safetensors_are_read(tmp_path):
    save_file({f"module.{k}": v for k, v in network(seed=1).state_dict().items()}, tmp_path / "w.safetensors")
    assert same(detcam.load_weights(network(seed=2), tmp_path / "w.safetensors"), network(seed=1))


def test_a_counter_that_old_files_lack_is_not_missed(tmp_path):
    old = {k: v for k, v in network(seed=1).state_dict().items() if "num_batches" not in k}
    torch.save(old, tmp_path / "w.pth")
    assert same(detcam.load_weights(network(seed=2), tmp_path / "w.pth"), network(seed=1))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (
            lambda: network(channels=1).state_dict(),
            r"weight' is \(4, 1, 3, 3\), wanted \(4, 3, 3, 3\)",
        ),
        (lambda: nn.Conv2d(3, 4, 3).state_dict(), r"missing \(first 'stem\.weight'\); 2 are not wanted"),
        (lambda: {"net": {"f.weight": torch.ones(1)}}, "not wanted"),
        (lambda: {"epoch": 3}, "no plain state dict"),
    ],
)
def test_weights_of_another_network_change_nothing(saved, message, tmp_path):
    torch.save(saved(), tmp_path / "w.pth")
    model = network(seed=2)
    with pytest.raises(CheckpointError, match=message):
        detcam.load_weights(model, tmp_path / "w.pth")
    assert same(model, network(seed=2))


class Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_nothing_in_the_file_runs(tmp_path):
    torch.save({"state_dict": Runs(str(tmp_path / "mark"))}, tmp_path / "w.pth")
    with pytest.raises(UnsafeCheckpointError):
        detcam.load_weights(network(), tmp_path / "w.pth")
    assert not (tmp_path / "mark").exists()
