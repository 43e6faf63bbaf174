"""Files whose model is wrapped, odd or damaged: read, or refused in one line."""

import re
import types

import pytest
import small_yolo
import torch
from torch import nn

import detcam
from detcam.checkpoints import open_model_file
from detcam.errors import CheckpointError, InputError, UnsafeCheckpointError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "odd.pt"


def saved(path, content):
    torch.save(content, path)
    return path


def refusal(path, error=CheckpointError):
    with pytest.raises(error) as caught:
        detcam.load(path, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the model inside ---


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: {"model": model},
        lambda model: {"state_dict": model},
        lambda model: {"net": model},
        lambda model: {"ema": None, "model": model},
        lambda model: {"ema": {"w": torch.ones(1)}, "model": model},
        lambda model: {"model": nn.DataParallel(model)},
        lambda model: {"state_dict": nn.DataParallel(model)},
    ],
)
@pytest.mark.parametrize("unsafe", [False, True])
def test_a_model_is_found_under_the_usual_keys_and_in_dataparallel(path, wrap, unsafe):
    model = small_yolo.network()
    detector = detcam.load(saved(path, wrap(model)), device="cpu", unsafe=unsafe)
    assert detector.class_names == small_yolo.CLASS_NAMES
    weights = detector.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert detector.origin.trust == ("unsafe" if unsafe else "safe")


# --- odd and damaged networks ---


@pytest.mark.parametrize("size", [None, "x", -3, [], ["x", 2], float("nan"), {}])
def test_a_size_that_is_none_leaves_the_usual_one(path, size):
    model = small_yolo.network()
    model.args = {"imgsz": size}
    detector = detcam.load(saved(path, {"model": model, "train_args": {"imgsz": size}}), device="cpu")
    assert detector.imgsz == 640
    assert detcam.wrap(model).imgsz == 640


def test_a_size_of_two_sides_is_the_longer(path):
    model = small_yolo.network()
    model.args = types.SimpleNamespace(imgsz=[320, 480])
    assert detcam.wrap(model).imgsz == 480


def without_yaml(model):
    del model.yaml


def with_other_yaml(model):
    model.yaml = "yolov8n.yaml"


def with_other_channels(model):
    model.model[3].conv = nn.Conv2d(99, 16, 3, 2, 1, bias=False)


def with_no_such_source(model):
    model.model[10].f = [-1, 77]


def with_other_bins(model):
    model.model[-1].reg_max = 8


def without_strides(model):
    model.model[-1].stride = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_yaml, "lacks its description"),
        (with_other_yaml, "lacks its description"),
        (with_other_channels, "does not run.*to have 99 channels"),
        (with_no_such_source, "does not run.*IndexError"),
        (with_other_bins, "does not run"),
        (without_strides, "strides"),
    ],
)
def test_a_network_that_cannot_work_is_refused_in_one_line(path, damage, said):
    model = small_yolo.network()
    damage(model)
    assert re.search(said, refusal(saved(path, {"model": model})))


def test_a_count_that_the_convolutions_contradict_is_refused_in_one_line(path):
    model = small_yolo.network()
    model.model[-1].nc = 10
    assert "10 classes" in refusal(saved(path, {"model": model}), InputError)


# --- tensors that claim more than they hold ---


def claimed(*shape):
    return torch.zeros(1).as_strided(shape, (0,) * len(shape))


def test_a_weight_that_claims_terabytes_is_refused_before_it_is_made(path):
    model = small_yolo.network()
    model.model[0].conv.weight = nn.Parameter(claimed(10**6, 3, 100, 10**3), requires_grad=False)
    assert "larger than the numbers it holds" in refusal(saved(path, {"model": model}), UnsafeCheckpointError)


def test_a_state_dict_that_claims_terabytes_is_refused(path):
    with pytest.raises(UnsafeCheckpointError, match="larger than the numbers it holds"):
        _ = open_model_file(saved(path, {"a": claimed(10**6, 10**6)})).tensors


def test_a_grid_that_repeats_its_numbers_is_kept(path):
    model = small_yolo.network()
    model.grid = torch.arange(80.0).expand(3, 80, 80)  # as YOLOv5 keeps its anchors' grids
    assert detcam.load(saved(path, {"model": model}), device="cpu").model.grid.shape == (3, 80, 80)


# --- whole models of other vendors ---


class Stranger(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "options", [{}, {"unsafe": True}, {"allow_globals": ("test_odd_checkpoints.Stranger",)}]
)
def test_a_whole_model_of_no_family_is_told_what_to_do_and_nothing_that_cannot_work(path, options):
    saved(path, {"model": Stranger()})
    with pytest.raises(UnsafeCheckpointError, match="Stranger") as caught:
        detcam.load(path, device="cpu", **options)
    text = str(caught.value)
    assert "save its state_dict" in text
    assert "detcam.wrap" in text
    assert "--allow-global" not in text
    assert "--unsafe-load" not in text
    trust = detcam.adapters.inspect(path).trust
    assert "state_dict" in trust
    assert "--unsafe-load" not in trust
