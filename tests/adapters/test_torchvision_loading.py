"""torchvision's detectors from a state dict and the name of a builder."""

import os
import socket
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import ssdlite
from torchvision_models import _BUILDERS, assert_same, enlivened, noise, predicted

import detcam
from detcam.adapters import DetectOptions, torchvision_loading
from detcam.adapters.torchvision_loading import ARCHITECTURES, Architecture, class_columns
from detcam.cam.capture import capture
from detcam.cli import main
from detcam.errors import CheckpointError, InputError, UnknownNameError, UnsafeCheckpointError

SSDLITE = "ssdlite320_mobilenet_v3_large"
NAMES = ("ant", "bee")


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch):
    def refuse(*_):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    build = ssdlite.ssdlite320_mobilenet_v3_large
    return enlivened(build(weights=None, weights_backbone=None, num_classes=3).eval())


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "state.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def tiny(monkeypatch):
    """A builder of small RetinaNets, registered as one of torchvision's."""

    def build(*, weights, weights_backbone, num_classes):
        assert weights is None
        assert weights_backbone is None
        return _BUILDERS["retinanet"](num_classes)

    marks = ARCHITECTURES["retinanet_resnet50_fpn"].marks
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(build, marks, frozen_eps=0.0))
    torch.manual_seed(3)
    return enlivened(_BUILDERS["retinanet"](3).eval())


def load(path, arch=SSDLITE, **options):
    return detcam.load(path, device="cpu", arch=arch, **options)


def detected(detector, pixels):
    tensor, geometry = detector.prepare(pixels, None)
    with capture(detector.model, {}):
        (raw,) = detector.forward(tensor[None])
    options = DetectOptions(conf=detector.model.score_thresh, max_det=1000)
    return detector.detect(raw, geometry, options)


# --- what is read ---------------------------------------------------------------------------------


def test_a_state_dict_detects_what_the_model_did(model, path):
    detector = load(path, num_classes=3, names=NAMES)
    assert_same(detected(detector, noise()), predicted(model, noise())[0])
    assert detector.class_names == {1: "ant", 2: "bee"}
    assert (detector.origin.path, detector.origin.trust) == (str(path), "safe")
    assert len(detector.origin.sha256) == 64
    assert not any(module.training for module in detector.model.modules())


def test_a_picture_is_explained_from_a_state_dict(path):
    detector = load(path, names=NAMES)
    explanation = detcam.explain(detector, noise(), layers="backbone", conf=0.3, max_boxes=2)
    assert len(explanation) == 2
    assert list(explanation.levels) == ["P4", "P5"]


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_training_checkpoint_is_unwrapped(model, tmp_path, key):
    weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({key: weights, "optimizer": {"lr": 0.1}, "epoch": 7}, tmp_path / "checkpoint.pth")
    assert_same(
        detected(load(tmp_path / "checkpoint.pth"), noise()),
        predicted(model, noise())[0],
    )


def test_safetensors_are_read(model, tmp_path):
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "state.safetensors")
    assert load(tmp_path / "state.safetensors").columns == 3


def test_loading_leaves_the_random_state_alone(path):
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_class_count_of_every_builder_is_in_its_weights(arch):
    for classes in (2, 6):
        with torch.device("meta"):
            model = ARCHITECTURES[arch].build(weights=None, weights_backbone=None, num_classes=classes)
        weights = model.state_dict()
        assert class_columns(weights) == classes
        assert ARCHITECTURES[arch].marks in weights
        assert torchvision_loading._hint(weights).count(arch) >= 1


def test_no_builder_bears_the_mark_of_another_kind():
    with torch.device("meta"):
        weights = ARCHITECTURES["fcos_resnet50_fpn"].build(weights=None, weights_backbone=None).state_dict()
    assert torchvision_loading._hint(weights) == ". It may be fcos_resnet50_fpn"


def test_ssdlite_trained_from_a_classifier_is_wider(monkeypatch, tmp_path):
    """With downloaded weights for the backbone, the builder makes its last stage twice as wide."""
    whole = partial(mobilenet_v3_large, reduced_tail=False)
    with monkeypatch.context() as patch:
        patch.setattr(ssdlite, "mobilenet_v3_large", lambda reduced_tail, **options: whole(**options))
        model = ssdlite.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    model = enlivened(model.eval())
    torch.save(model.state_dict(), tmp_path / "wide.pth")
    detector = load(tmp_path / "wide.pth")
    assert_same(detected(detector, noise()), predicted(model, noise())[0])


def test_keypoints_are_counted_in_the_weights(monkeypatch):
    asked = {}
    architecture = Architecture(
        lambda **options: asked.update(options) or nn.Module(), torchvision_loading._KEYPOINT
    )
    weights = {torchvision_loading._KEYPOINT: torch.zeros(512, 5, 4, 4)}
    torchvision_loading._built(architecture, weights, 2)
    assert asked == {"weights": None, "weights_backbone": None, "num_classes": 2, "num_keypoints": 5}


def test_frozen_statistics_get_torchvisions_own_eps(tiny, tmp_path):
    """Weights without `num_batches_tracked` come from frozen layers, in torchvision's weights with eps 0."""
    weights = tiny.state_dict()
    torch.save(weights, tmp_path / "trained.pth")
    frozen = {name: one for name, one in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(frozen, tmp_path / "frozen.pth")
    for name, eps in (("trained", 1e-5), ("frozen", 0.0)):
        backbone = load(tmp_path / f"{name}.pth", "tiny").model.backbone
        assert {one.eps for one in backbone.modules() if isinstance(one, nn.BatchNorm2d)} == {eps}


# --- what is told ---------------------------------------------------------------------------------


def test_a_wrong_class_count_is_told_with_both_numbers(path):
    with pytest.raises(InputError, match="num_classes 5 does not fit: the weights score 3 classes"):
        load(path, num_classes=5)


def test_a_wrong_number_of_names_is_told(path):
    with pytest.raises(InputError, match="4 class names for 2 classes"):
        load(path, names=("a", "b", "c", "d"))


def test_weights_without_a_builder_name_the_ones_that_fit(path):
    with pytest.raises(InputError, match=f"give --arch. It may be {SSDLITE}$"):
        load(path, arch=None)


def test_an_unknown_builder_is_told_with_the_closest(path):
    with pytest.raises(UnknownNameError, match=r"no torchvision detector 'fasterrcnn_resnet50'.*_fpn"):
        load(path, arch="fasterrcnn_resnet50")


def test_weights_of_another_kind_are_told(path):
    with pytest.raises(CheckpointError, match=f"no state dict of fcos_resnet50_fpn.* It may be {SSDLITE}$"):
        load(path, arch="fcos_resnet50_fpn")


def test_weights_that_are_no_detectors_are_told(tmp_path):
    torch.save({"fc.weight": torch.zeros(10, 4)}, tmp_path / "classifier.pth")
    with pytest.raises(CheckpointError, match=r"no state dict of .*: it lacks 'head\.classification_head"):
        load(tmp_path / "classifier.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("backbone.fpn.inner_blocks.0.0.bias"), "1 tensors missing, the first 'backbone"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 tensors unknown, the first 'extra'"),
        (
            lambda w: w.update({"backbone.fpn.inner_blocks.0.0.bias": torch.zeros(9)}),
            r"'backbone.fpn.inner_blocks.0.0.bias' is \(9,\), not \(256,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_told_in_a_line(tiny, tmp_path, change, message):
    weights = dict(tiny.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "state.pth", "tiny")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_told(path, tmp_path):
    (tmp_path / "half.pth").write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CheckpointError):
        load(tmp_path / "half.pth")


class Call:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def test_a_shell_command_among_the_weights_does_not_run(model, tmp_path):
    marker = tmp_path / "the attack ran"
    torch.save(
        {"model": model.state_dict(), "args": Call(os.system, f"touch '{marker}'")}, tmp_path / "state.pth"
    )
    with pytest.raises(UnsafeCheckpointError):
        load(tmp_path / "state.pth")
    assert not marker.exists()


# From the command line


@pytest.mark.parametrize("arch", [SSDLITE, "tiny"])
def test_the_command_line_explains_what_a_file_holds(arch, model, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save((model if arch == SSDLITE else tiny).state_dict(), "state.pth")
    Image.fromarray(noise()).save("noise.png")
    with pytest.raises(SystemExit) as end:
        main(["explain", "state.pth", "noise.png", "--arch", arch, "--max-boxes", "2", "--conf", "0.01"])
    said = capsys.readouterr()
    assert not end.value.code, said.err
    assert "noise.png: 2 boxes" in said.err


def test_the_command_line_refuses_a_size_that_the_network_cannot_take(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise()).save("noise.png")
    with pytest.raises(SystemExit) as end:
        main(["explain", str(path), "noise.png", "--arch", SSDLITE, "--imgsz", "640"])
    assert end.value.code == 1
    assert "takes 320×320 pixels only, got imgsz 640" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["noise.png"]
