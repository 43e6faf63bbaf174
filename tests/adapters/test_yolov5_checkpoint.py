"""Files as the YOLOv5 and YOLOv7 repositories save them, read without these repositories; and live models."""

import copy
import math
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import ultralytics
from anchor_lookalikes import Conv, Detect, IDetect, Model, planted, trained, vendor_candidates
from torch import nn

import detcam.adapters as adapters
from detcam.adapters import DetectOptions
from detcam.cam.capture import borrowed, capture
from detcam.errors import CheckpointError, InputError, UnsafeCheckpointError, UnsupportedModelError
from detcam.scoring import ObjectAlone, ObjectTimesClass


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "best.pt"


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)


def save(path, model, **beside):
    with planted():
        torch.save({"epoch": -1, "model": model, "ema": None, "optimizer": None} | beside, path)
    return path


def load(path, **options):
    return adapters.load(path, device="cpu", **options)


def raw_of(detector, x):
    with borrowed(detector.model), torch.no_grad():
        return detector.forward(x)


# --- a file gives what its repository would compute -----------------------------------------------


@pytest.mark.parametrize("head", [Detect, IDetect])
@pytest.mark.parametrize("nc", [1, 2, 7, 80])
def test_a_loaded_network_gives_the_candidates_of_its_repository(path, pixels, nc, head):
    model = trained(Model(nc, head))
    detector = load(save(path, model))
    x, _ = detector.prepare(pixels, 96)
    (raw,) = raw_of(detector, x[None])
    boxes, objectness, classes = vendor_candidates(model, x[None])
    assert raw.class_logits.shape == (3 * (12 * 8 + 6 * 4), nc)
    torch.testing.assert_close(raw.boxes(torch.arange(len(boxes))), boxes, rtol=0, atol=1e-4)
    torch.testing.assert_close(raw.objectness_logits.sigmoid(), objectness, rtol=0, atol=1e-6)
    torch.testing.assert_close(raw.class_logits.sigmoid(), classes, rtol=0, atol=1e-6)


def test_the_real_yolov5n_finds_what_its_own_repository_finds(assets):
    detector = load(assets / "weights" / "yolov5n.pt")
    bus = cv2.imread(str(pathlib.Path(ultralytics.__file__).parent / "assets" / "bus.jpg"))[..., ::-1].copy()
    x, geometry = detector.prepare(bus, None)
    found = detector.detect(raw_of(detector, x[None])[0], geometry, DetectOptions())
    # ultralytics/yolov5 at 5081342f: letterbox to 640x480, confidence .25, overlap .45.
    assert [detector.class_names[label] for label in found.labels.tolist()] == ["person"] * 4 + ["bus"]
    scores = torch.tensor([0.866514, 0.765691, 0.761771, 0.478613, 0.434788])
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-4)
    best = torch.tensor([54.7227, 395.804, 212.776, 893.009])
    torch.testing.assert_close(found.boxes[0], best, rtol=0, atol=2e-2)


def test_the_real_yolov5n_filling_the_square_gives_the_scores_of_the_assets_notes(assets):
    detector = load(assets / "weights" / "yolov5n.pt")
    bus = cv2.imread(str(pathlib.Path(ultralytics.__file__).parent / "assets" / "bus.jpg"))[..., ::-1].copy()
    square = np.full((1080, 1080, 3), 114, np.uint8)
    square[:, 135:945] = bus
    x, geometry = detector.prepare(square, 640)
    found = detector.detect(raw_of(detector, x[None])[0], geometry, DetectOptions())
    bus_scores, persons = (found.scores[found.labels == label].tolist() for label in (5, 0))
    assert persons[:3] == pytest.approx([0.81, 0.79, 0.61], abs=0.01)
    assert bus_scores == pytest.approx([0.51], abs=0.01)


# --- what a file may hold -------------------------------------------------------------------------


def test_loading_imports_nothing_of_the_repository(path):
    save(path, Model())
    code = f"import sys, detcam.adapters as a; a.load({str(path)!r}); print('models' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_file_that_would_run_something_runs_nothing(path, tmp_path):
    class Attack:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "the attack ran",)

    save(path, Model(), hyp=Attack())
    with pytest.raises(UnsafeCheckpointError):
        load(path)
    assert not (tmp_path / "the attack ran").exists()


def test_layers_nobody_knows_are_named_with_the_ways_on(path):
    model = Model()
    with planted(Gate=Gate):
        model.model[4] = plugged(Gate(6), model.model[4])
        torch.save({"model": model}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"models\.common\.Gate.*--allow-global.*fork") as caught:
        load(path)
    assert caught.value.unsafe_globals == ("models.common.Gate",)


def test_a_layer_of_the_users_own_runs_with_the_users_forward(path):
    model = trained(Model())
    with planted(Gate=Gate):
        model.model[4] = plugged(Gate(6), model.model[4])
        torch.save({"model": model}, path)
    detector = load(path, allow_globals=(f"models.common.Gate={__name__}.Gate",))
    x = torch.rand(1, 3, 64, 64)
    boxes, _, _ = vendor_candidates(model, x)
    torch.testing.assert_close(
        raw_of(detector, x)[0].boxes(torch.arange(len(boxes))), boxes, rtol=0, atol=1e-4
    )
    assert detector.origin.trust == "named globals"


class Gate(Conv):
    def __init__(self, c):
        super().__init__(c, c, 2)

    def forward(self, x):
        return super().forward(x).tanh()


def plugged(layer, old):
    layer.f, layer.i, layer.type = old.f, old.i, "models.common.Gate"
    return layer.eval()


def test_everything_training_keeps_beside_the_network_comes_through(path):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.01}]}
    options = {"imgsz": 320, "weights": pathlib.PurePosixPath("yolov5s.pt")}
    save(path, Model(), optimizer=optimizer, opt=options, best_fitness=np.array([0.5]), date=None)
    assert load(path).imgsz == 320


def test_the_size_is_the_vendors_640_where_the_file_does_not_say(path):
    assert load(save(path, Model())).imgsz == 640


def test_averaged_weights_are_preferred(path):
    model, averaged = trained(Model(), seed=1), trained(Model(), seed=2)
    detector = load(save(path, model, ema=averaged))
    assert torch.equal(detector.model.state_dict()["model.0.conv.weight"], averaged.model[0].conv.weight)


def test_half_precision_comes_out_in_float32_evaluating_and_not_in_place(path):
    model = load(save(path, copy.deepcopy(Model()).half().train())).model
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not any(module.training or getattr(module, "inplace", False) for module in model.modules())


def test_an_upsampling_of_an_older_torch_still_runs(path):
    model = Model()
    del model.model[5].recompute_scale_factor
    load(save(path, model))


def test_a_fused_network_computes_the_same(path):
    model = trained(Model())
    x = torch.rand(1, 3, 64, 64)
    expected, _, _ = vendor_candidates(model, x)
    for module in model.modules():
        if isinstance(module, Conv):
            module.fuse()
    raw = raw_of(load(save(path, model)), x)[0]
    torch.testing.assert_close(raw.boxes(torch.arange(len(expected))), expected, rtol=0, atol=1e-3)


def test_names_come_from_the_file_as_list_or_as_dict(path):
    model = Model(2)
    model.names = {0: "cat", 1: "dog"}
    assert load(save(path, model)).class_names == {0: "cat", 1: "dog"}
    assert load(save(path, Model(2))).class_names == {0: "kind 0", 1: "kind 1"}


def test_the_users_names_go_over_those_of_the_file(path):
    assert load(save(path, Model(2)), names=("mast", "hull")).class_names == {0: "mast", 1: "hull"}


def test_the_origin_is_kept(path):
    origin = load(save(path, Model())).origin
    assert (origin.path, origin.trust, len(origin.sha256)) == (str(path), "safe", 64)


# --- the head -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nc", "head", "scoring"),
    [
        (1, Detect, ObjectTimesClass(is_class_trained=False)),
        (2, Detect, ObjectTimesClass()),
        (1, IDetect, ObjectAlone()),
        (2, IDetect, ObjectTimesClass()),
    ],
)
def test_scores_follow_the_repository_and_the_number_of_classes(path, nc, head, scoring):
    assert load(save(path, Model(nc, head))).scoring == scoring


def test_yolov7_is_known_by_its_networks_where_the_head_is_plain(path):
    model = Model(1)
    model.traced = False
    assert load(save(path, model)).scoring == ObjectAlone()


def test_anchors_in_pixels_are_preferred_as_older_heads_decode_with_them(path):
    model = Model()
    own = torch.arange(12.0).reshape(2, 1, 3, 1, 1, 2) + 5
    model.model[-1].register_buffer("anchor_grid", own)
    assert load(save(path, model)).heads[1].anchors == ((11, 12), (13, 14), (15, 16))


def test_the_layer_sets_are_stages_neck_and_inputs_of_the_head(path):
    layers = {layer.name: layer for layer in load(save(path, Model())).layers()}
    members = {name: layer.member_of for name, layer in layers.items() if layer.member_of}
    assert members == {
        "model.3": "backbone",
        "model.4": "backbone",
        "model.6": "neck",
        "model.9": "neck",
        "model.7": "head",
        "model.10": "head",
    }
    assert (layers["model.3"].kind, layers["model.3"].stride, layers["model.3"].channels) == ("C3", 8, 6)
    assert [layer.part for layer in layers.values()] == ["backbone"] * 5 + ["neck"] * 6


# --- what cannot be used is told ------------------------------------------------------------------


def without_yaml(model):
    del model.yaml


def with_nan(model):
    model.model[3].cv1.conv.weight.data[0, 0, 0, 0] = math.nan


def with_uneven_levels(model):
    model.model[-1].m[1] = nn.Conv2d(6, 3 * 9, 1)


def with_missing_stride(model):
    model.model[-1].stride = torch.tensor([8.0])


def with_no_such_layer(model):
    model.model[6].f = [-1, 40]


def with_other_channels(model):
    model.model[7].conv = nn.Conv2d(99, 6, 3, 1, 1, bias=False)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_yaml, "lacks its description"),
        (with_nan, r"NaN or infinite weights \(first in 'model.3.cv1.conv.weight'\)"),
        (with_uneven_levels, r"disagree on the number of classes: \[2, 4\]"),
        (with_missing_stride, r"2 maps, anchors of 2 levels and strides \[8\]"),
        (with_no_such_layer, "does not run.*KeyError: 40"),
        (with_other_channels, "does not run.*to have 99 channels"),
    ],
)
def test_a_network_that_cannot_work_is_refused_in_one_line(path, damage, said):
    model = Model(2)
    damage(model)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(save(path, model))
    assert "\n" not in str(caught.value)


def test_a_file_without_a_model_is_told(path):
    with planted():
        torch.save({"model": None, "note": Conv(3, 3), "head": Detect(2, (6, 6))}, path)
    with pytest.raises(CheckpointError, match=r"holds no model\. Give the \.pt file"):
        load(path)


def test_weights_alone_under_model_are_told(path):
    with planted():
        torch.save({"model": {"a": torch.ones(1)}, "head": Detect(2, (6, 6))}, path)
    with pytest.raises(CheckpointError, match="holds a dict where the model should be"):
        load(path)


def test_a_head_without_anchors_is_told(path):
    model = Model()
    model.model = model.model[:-1]
    with planted():
        torch.save({"model": model, "head": Detect(2, (6, 6))}, path)
    with pytest.raises(CheckpointError, match="holds a Model without a head that has anchors"):
        load(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 3}, "--num-classes says 3, but the weights of the head score 2"),
        ({"names": ("a", "b", "c")}, "3 names were given for the 2 classes"),
        ({"anchors": ((1.0, 2.0),)}, "takes no --anchors"),
        ({"cfg": pathlib.Path("yolov3.cfg")}, "takes no --cfg"),
    ],
)
def test_options_that_do_not_fit_are_told(path, options, said):
    with pytest.raises(InputError, match=said):
        load(save(path, Model(2)), **options)


# --- live models ----------------------------------------------------------------------------------


class Backend(nn.Module):
    """Wraps a model as the vendor's hub does, and makes its head export: the raw maps are dropped."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        head = next(module for module in model.modules() if isinstance(module, Detect))
        head.export = True


@pytest.mark.parametrize("head", [Detect, IDetect])
def test_a_live_model_gives_its_own_candidates_also_in_a_wrapper_that_exports(head):
    model = trained(Model(3, head))
    x = torch.rand(2, 3, 64, 96)
    boxes, objectness, _ = vendor_candidates(model, x)
    for wrapped in (model, Backend(Backend(model)), nn.DataParallel(model)):
        raw = raw_of(adapters.wrap(wrapped), x)[0]
        torch.testing.assert_close(raw.boxes(torch.arange(len(boxes))), boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(raw.objectness_logits.sigmoid(), objectness, rtol=0, atol=1e-6)


def test_a_fused_implicit_head_is_read_before_its_unused_factors():
    model = trained(Model(2, IDetect))
    x = torch.rand(1, 3, 64, 64)
    expected, _, _ = vendor_candidates(model, x)
    head = model.model[-1]
    for conv, before, behind in zip(head.m, head.ia, head.im, strict=True):
        conv.bias.data += (conv.weight.data[..., 0, 0] @ before.implicit.data.flatten()).flatten()
        conv.bias.data *= behind.implicit.data.flatten()
        conv.weight.data *= behind.implicit.data.reshape(-1, 1, 1, 1)
    head.raw = lambda i, value: head.m[i](value)
    head.forward = head.forward
    raw = raw_of(adapters.wrap(model), x)[0]
    torch.testing.assert_close(raw.boxes(torch.arange(len(expected))), expected, rtol=0, atol=1e-3)


def test_a_model_that_predicted_in_inference_mode_can_still_be_explained():
    model = trained(Model())
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        model(x)
    detector = adapters.wrap(model)
    with capture(model, {"model.3": model.model[3]}) as caught:
        (raw,) = detector.forward(x)
        gradient = caught.gradients(raw.objectness_logits.sum())["model.3"]
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_live_model_is_left_as_it_was(fails):
    model = Backend(trained(Model(2))).model.train()
    head, parameters = model.model[-1], list(model.parameters())
    attributes, grids = dict(vars(head)), list(head.grid)
    states = [module.training for module in model.modules()]
    handle = model.model[7].register_forward_hook(raising) if fails else None
    with pytest.raises(ZeroDivisionError) if fails else borrowed(model):
        raw_of(adapters.wrap(model), torch.rand(1, 3, 64, 64))
    if handle:
        handle.remove()
    assert vars(head) == attributes
    assert all(map(torch.equal, head.grid, grids))
    assert [module.training for module in model.modules()] == states
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def raising(*_):
    raise ZeroDivisionError


def test_a_live_model_without_its_description_is_told():
    model = Model()
    del model.yaml
    with pytest.raises(UnsupportedModelError, match="lacks its description"):
        adapters.wrap(model)
