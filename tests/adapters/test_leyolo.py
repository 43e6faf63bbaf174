"""LeYOLO-Nano, whose file needs two classes that ultralytics lacks: refused, or made from the user's own."""

import pytest
import torch

import detcam
from detcam.errors import UnsafeCheckpointError

FOREIGN = {
    "ultralytics.nn.modules.conv.mn_conv": "Unit",
    "ultralytics.nn.modules.block.MobileNetV3_BLOCK": "InvertedBottleneck",
}

# What the file's attributes show: c, bn and act; layers and residual (Sandler et al. 2018, arXiv:1801.04381).
BLOCKS = """
from torch import nn

class Unit(nn.Module):
    def forward(self, x):
        return self.act(self.bn(self.c(x)))

class InvertedBottleneck(nn.Module):
    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)
"""


@pytest.fixture
def allowed(tmp_path, monkeypatch):
    """The user's own module for the two classes, and the entries that name it."""
    (tmp_path / "leyolo_blocks.py").write_text(BLOCKS)
    monkeypatch.syspath_prepend(tmp_path)
    return tuple(f"{name}=leyolo_blocks.{own}" for name, own in FOREIGN.items())


@pytest.fixture(scope="module")
def bus():
    import ultralytics

    return f"{ultralytics.__path__[0]}/assets/bus.jpg"


def command(*arguments):
    """The exit code of a command line."""
    from detcam.cli import main

    with pytest.raises(SystemExit) as left:
        main(["explain", *map(str, arguments)])
    return left.value.code


def test_file_is_refused_for_its_two_foreign_classes(assets):
    with pytest.raises(UnsafeCheckpointError) as refused:
        detcam.load(assets / "weights" / "LeYOLONano.pt", device="cpu")
    assert sorted(refused.value.unsafe_globals) == sorted(FOREIGN)
    assert all(name in str(refused.value) for name in FOREIGN)


def test_command_exits_4_and_names_both_classes(assets, bus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(assets / "weights" / "LeYOLONano.pt", bus, "--device", "cpu") == 4
    said = capsys.readouterr()
    assert all(name in said.err for name in FOREIGN)
    assert said.out == ""


def test_bus_and_persons_are_found_with_the_users_own_classes(assets, bus, allowed):
    detector = detcam.load(assets / "weights" / "LeYOLONano.pt", device="cpu", allow_globals=allowed)
    assert (detector.origin.trust, sorted(detector.origin.allowed_globals)) == (
        "named globals",
        sorted(FOREIGN),
    )
    explanation = detcam.explain(detector, bus, conf=0.5, classes=["person", "bus"])
    found = explanation.detections
    assert [detector.class_names[label] for label in found.labels.tolist()].count("person") == 3
    assert found.labels.tolist().count(5) == 1
    assert found.scores.min() > 0.7
    (box,) = found.boxes[found.labels == 5]
    torch.testing.assert_close(box, torch.tensor([3.0, 230.0, 808.0, 737.0]), rtol=0, atol=10)
    involved = torch.stack(list(explanation.involved.values()))
    assert involved.all()


def test_command_explains_with_the_users_own_classes(assets, bus, allowed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vouched = [word for entry in allowed for word in ("--allow-global", entry)]
    model = assets / "weights" / "LeYOLONano.pt"
    assert command(model, bus, "--device", "cpu", "--imgsz", "320", *vouched) == 0
    assert capsys.readouterr().out.strip()
