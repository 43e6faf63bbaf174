"""Files as ultralytics saves them, read by us and by ultralytics, and files made to attack it."""

import copy
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import ultralytics
from torch import nn
from ultralytics import RTDETR, YOLO
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel

from detcam.adapters import ultralytics_checkpoint
from detcam.checkpoints import open_checkpoint
from detcam.errors import CheckpointError, UnsafeCheckpointError

pytestmark = pytest.mark.compat

FAMILIES = [
    "yolov3-tiny",
    "yolov5n",
    "yolov5n-p6",
    "yolov6n",
    "yolov8n",
    "yolov8n-p2",
    "yolov8n-p6",
    "yolov8n-seg",
    "yolov8n-pose",
    "yolov8n-obb",
    "yolov8n-world",
    "yolov8n-worldv2",
    "yolov9t",
    "yolov10n",
    "yolo11n",
    "yolo11n-seg",
    "yolo11n-pose",
    "yolo11n-obb",
    "yolo12n",
    "yolo26n",
    "yolo26n-seg",
    "yolo26n-pose",
    "yolo26n-obb",
    "yoloe-11n",
    "yoloe-11n-seg",
    "rtdetr-l",
]
FUSED = ("yolov8n", "yolov9t", "yolov10n", "yolo26n", "yoloe-11n")


class Call:
    """Pickles as "call this function with these arguments"."""

    def __init__(self, function, *args):
        self.recipe = (function, args)

    def __reduce__(self):
        return self.recipe


def load_ultralytics(path, **options):
    return ultralytics_checkpoint.load_ultralytics(open_checkpoint(path), **options)


def build(family):
    torch.manual_seed(0)
    kind = RTDETR if family.startswith("rtdetr") else YOLO
    try:
        return kind(f"{family}.yaml").model
    except FileNotFoundError:
        pytest.skip(f"ultralytics {ultralytics.__version__} has no {family}.yaml")


def save(model, path, **beside):
    """The layout of `YOLO.save`, which fails on a model built from yaml in 8.3.0."""
    torch.save({"ema": None, "model": copy.deepcopy(model).half(), **beside}, path)
    return path


def tensors(output):
    if isinstance(output, torch.Tensor):
        return [output]
    parts = (
        output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    )
    return [tensor for part in parts for tensor in tensors(part)]


def assert_same(ours, theirs):
    """The same weights, bit by bit, and the same answer (old RT-DETR needs 300 cells to answer at all)."""
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, second = tensors(ours(image)), tensors(theirs(image))
    assert len(first) == len(second) > 0
    assert all(map(torch.equal, first, second))


@pytest.fixture(autouse=True)
def default_activation(monkeypatch):
    """A yaml's `activation` stays on the class, also for the models of later tests."""
    monkeypatch.setattr(Conv, "default_act", nn.SiLU())


@pytest.fixture
def tiny(default_activation):
    """A detector of two levels, built in a moment."""
    return DetectionModel(
        {
            "nc": 2,
            "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "C2f", [8, True]], [-1, 1, "Conv", [8, 3, 2]]],
            "head": [[[1, 2], 1, "Detect", [2]]],
        },
        verbose=False,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


# --- the vendor's files ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_as_the_vendor_reads_it(family, path):
    save(build(family), path)
    model, checkpoint = load_ultralytics(path)
    assert checkpoint.trust == "safe"
    assert_same(model, YOLO(path).model)


@pytest.mark.parametrize("family", FUSED)
def test_a_fused_model_is_read_as_the_vendor_reads_it(family, path):
    save(build(family).eval().fuse(verbose=False), path)
    assert_same(load_ultralytics(path)[0], YOLO(path).model)


@pytest.mark.parametrize("name", ["yolov8n", "yolo26n"])
def test_real_weights_are_read_as_the_vendor_reads_them(name, assets):
    file = assets / "weights" / f"{name}.pt"
    model, checkpoint = load_ultralytics(file)
    assert_same(model, YOLO(file).model)
    assert model.names[0] == "person"
    assert model.args["imgsz"] == 640
    assert len(checkpoint.sha256) == 64


def test_a_local_file_named_like_a_release_is_not_replaced_by_a_download(tiny, tmp_path):
    model, _ = load_ultralytics(save(tiny, tmp_path / "yolov5n.pt"))
    assert model.yaml["nc"] == 2


def test_a_model_comes_ready_to_be_explained(tiny, path):
    model, _ = load_ultralytics(save(tiny, path))
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    activations = [module for module in model.modules() if isinstance(module, nn.SiLU)]
    assert activations
    assert not any(module.inplace for module in activations)
    assert model.names == tiny.names
    assert torch.equal(model.stride, tiny.stride)
    assert (model.task, len(list(model.model))) == ("detect", 4)


def test_what_old_releases_did_not_save_is_filled_in(tiny, path):
    old = copy.deepcopy(tiny)
    for name in ("stride", "task"):
        vars(old).pop(name, None)
    old.args = SimpleNamespace(imgsz=320, lr0=0.01)
    model, _ = load_ultralytics(save(old, path, train_args={"imgsz": 416}))
    assert model.task == "detect"
    assert model.stride.tolist() == [32]
    assert model.args == {"imgsz": 416, "lr0": 0.01}


def test_the_averaged_weights_go_before_the_last_ones(tiny, path):
    average = copy.deepcopy(tiny).half()
    nn.init.constant_(average.model[0].conv.weight, 0.5)
    model, _ = load_ultralytics(save(tiny, path, ema=average))
    assert model.model[0].conv.weight.unique().tolist() == [0.5]


def test_the_training_loss_is_left_behind(tiny, path):
    trained = copy.deepcopy(tiny)
    trained.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
    trained.criterion = trained.init_criterion()
    model, checkpoint = load_ultralytics(save(trained, path))
    assert any(name.startswith("ultralytics.utils.loss.") for name in torch_globals(path))
    assert not hasattr(model, "criterion")
    assert checkpoint.trust == "safe"


def torch_globals(path):
    return torch.serialization.get_unsafe_globals_in_checkpoint(path)


# --- attacks --------------------------------------------------------------------------------------


def test_a_models_constructor_is_not_called_with_the_files_yaml(path, tmp_path):
    """The attack that a list of allowed classes does not stop: building evaluates the yaml's `activation`."""
    marker = tmp_path / "the attack ran"
    evil = {
        "nc": 1,
        "activation": f"open({str(marker)!r}, 'w').close() or torch.nn.ReLU()",
        "backbone": [[-1, 1, "Conv", [8, 3, 2]]],
        "head": [[[0], 1, "Detect", [1]]],
    }
    torch.save({"model": Call(DetectionModel, evil)}, path)
    with torch.serialization.safe_globals([DetectionModel]):
        torch.load(path, weights_only=True)
        assert marker.exists(), "the attack is a real one"
        marker.unlink()
        with pytest.raises(UnsafeCheckpointError, match=r"a call of ultralytics\.nn\.tasks\.DetectionModel"):
            load_ultralytics(path)
    assert not marker.exists()


def test_a_shell_command_beside_a_good_model_is_refused(tiny, path, tmp_path):
    marker = tmp_path / "the attack ran"
    save(tiny, path, date=Call(os.system, f"touch '{marker}'"))
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_ultralytics(path)
    assert caught.value.unsafe_globals == ("posix.system",)
    assert not marker.exists()


def test_a_package_that_the_file_names_is_neither_imported_nor_installed(tiny, path, monkeypatch):
    package = ModuleType("detcam_left_pad")
    package.Block = type("Block", (nn.Module,), {"__module__": "detcam_left_pad"})
    monkeypatch.setitem(sys.modules, "detcam_left_pad", package)
    model = copy.deepcopy(tiny)
    model.model[0].act = package.Block()
    save(model, path)
    monkeypatch.delitem(sys.modules, "detcam_left_pad")
    for name in ("run", "Popen", "check_output", "check_call"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(UnsafeCheckpointError, match=r"detcam_left_pad\.Block"):
        load_ultralytics(path)
    assert "detcam_left_pad" not in sys.modules


@pytest.mark.parametrize("name", ["forward", "forward_fuse"])
def test_a_replaced_method_is_refused(tiny, path, name):
    model = copy.deepcopy(tiny)
    vars(model.model[0])[name] = nn.Identity()
    with pytest.raises(UnsafeCheckpointError, match=rf"Conv .*'{name}'"):
        load_ultralytics(save(model, path))


def test_another_layers_forward_is_refused(tiny, path):
    model = copy.deepcopy(tiny)
    model.model[0].forward = model.model[2].forward_fuse
    with pytest.raises(UnsafeCheckpointError, match="Conv with a 'forward' of its own"):
        load_ultralytics(save(model, path))


def test_a_hook_is_refused(tiny, path):
    model = copy.deepcopy(tiny)
    model.register_forward_hook(nn.Identity())
    with pytest.raises(UnsafeCheckpointError, match="_forward_hooks"):
        load_ultralytics(save(model, path))


@pytest.mark.parametrize(
    "name",
    [
        "ultralytics.nn.tasks.torch",  # a module within reach
        "ultralytics.nn.tasks.guess_model_task",  # a function that evaluates
        "ultralytics.nn.autobackend.AutoBackend",  # a class that opens whatever it is given
        "ultralytics.nn.modules.block.torch.hub.load",
    ],
)
def test_names_next_to_the_vendors_layers_are_unknown(path, name):
    home, _, attribute = name.rpartition(".")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", f"\x80\x02c{home}\n{attribute}\n.".encode("latin1"))
        archive.writestr("model/version", "3\n")
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_ultralytics(path)
    assert caught.value.unsafe_globals == (name,)


# --- classes of the user's ------------------------------------------------------------------------


def test_a_forks_classes_are_named_and_can_be_given(assets, monkeypatch):
    file = assets / "weights" / "LeYOLONano.pt"
    foreign = ("ultralytics.nn.modules.block.MobileNetV3_BLOCK", "ultralytics.nn.modules.conv.mn_conv")
    with pytest.raises(UnsafeCheckpointError, match="a fork's") as caught:
        load_ultralytics(file)
    assert caught.value.unsafe_globals == foreign

    lab = ModuleType("detcam_lab_blocks")
    lab.Block, lab.Conv = (type(name, (nn.Module,), {}) for name in ("Block", "Conv"))
    monkeypatch.setitem(sys.modules, "detcam_lab_blocks", lab)
    allowed = [f"{foreign[0]}=detcam_lab_blocks.Block", f"{foreign[1]}=detcam_lab_blocks.Conv"]
    model, checkpoint = load_ultralytics(file, allow_globals=allowed)
    assert {lab.Block, lab.Conv} < {type(module) for module in model.modules()}
    assert (checkpoint.trust, checkpoint.allowed_globals) == ("named globals", foreign)
    assert not hasattr(model, "criterion")


def test_unsafe_loading_gives_a_model_too(tiny, path, caplog):
    model, checkpoint = load_ultralytics(save(tiny, path), unsafe=True)
    assert (model.training, checkpoint.trust) == (False, "unsafe")
    assert "UNSAFE" in caplog.text


# --- files without a usable detector --------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "is_newer"),
    [("99.0.0", True), ("8.0.100", False), (ultralytics.__version__, False), (None, False)],
)
def test_a_file_of_a_newer_release_is_read_with_a_warning(tiny, path, caplog, saved, is_newer):
    load_ultralytics(save(tiny, path, version=saved))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("detcam")]
    assert len(said) == is_newer
    assert all("saved by ultralytics 99.0.0" in line and "update ultralytics" in line for line in said)


def test_weights_without_a_model_are_an_error(tiny, path):
    for content in (tiny.state_dict(), {"model": tiny.state_dict()}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"weights without a model .*'model\.0\.conv\.weight'"):
            load_ultralytics(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 1}, "holds no model"),
        ({"model": "yolov8n"}, "a str where the model should be"),
        ({"model": nn.Sequential(nn.ReLU())}, "a Sequential, which is no ultralytics detector"),
        ([1, 2], "a list where"),
    ],
)
def test_a_checkpoint_without_a_detector_is_an_error(path, content, message):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_ultralytics(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_an_error_that_names_the_first(tiny, path, value):
    model = copy.deepcopy(tiny)
    with torch.no_grad():
        model.model[2].conv.weight[0, 0, 0, 0] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinite.*'model\.2\.conv\.weight'"):
        load_ultralytics(save(model, path))


def test_loading_prints_nothing_and_leaves_nothing_beside_the_file(tiny, path, tmp_path):
    save(tiny, path)
    code = "import sys, detcam; detcam.load(sys.argv[1])"
    import_path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path / "settings"), "PYTHONPATH": import_path}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, stdout=subprocess.PIPE)
    assert done.stdout == b""
    assert {entry.name for entry in tmp_path.iterdir()} <= {"model.pt", "settings"}
