"""The command on every real checkpoint there is: the bus and the three persons that each is known to find."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from detcam.cli import cli

BUS, PERSON = 5, 0

# Scores on the vendor's own bus.jpg, from 0.4 on, best first. Of yolov5n they are those of its own
# repository, which runs the smallest rectangle; the weights' notes give those of a full square.
FOUND = {
    "yolov8n.pt": {BUS: [0.90], PERSON: [0.88, 0.87, 0.85]},
    "yolo26n.pt": {BUS: [0.91], PERSON: [0.92, 0.91, 0.88]},
    "yolov5n.pt": {BUS: [0.43], PERSON: [0.87, 0.77, 0.76, 0.48]},
    "yolox_nano.pth": {BUS: [0.91], PERSON: [0.85, 0.81, 0.69]},
    "yolo-fastest-1.1-xl.weights": {BUS: [0.93], PERSON: [0.99, 0.98, 0.88, 0.41]},
}


@pytest.mark.parametrize("name", FOUND)
def test_the_command_explains_the_bus_and_the_persons(name, assets, tmp_path):
    import ultralytics

    model = assets / "weights" / name
    cfg = ["--cfg", str(model.with_suffix(".cfg"))] if model.suffix == ".weights" else []
    bus = Path(ultralytics.__file__).parent / "assets" / "bus.jpg"
    options = ["--device", "cpu", "--conf", "0.4", "--project", str(tmp_path)]
    said = CliRunner().invoke(cli, ["explain", str(model), str(bus), *options, *cfg])
    assert said.exit_code == 0, said.stderr
    (sidecar,) = tmp_path.glob("*/bus_cam.json")
    boxes = json.loads(sidecar.read_text())["boxes"]
    for label, scores in FOUND[name].items():
        found = [box["score"] for box in boxes if box["class_id"] == label]
        assert found == pytest.approx(scores, abs=0.01)
    assert {box["class_id"] for box in boxes} == {BUS, PERSON}
    for box in boxes:
        assert any(one["involved"] and one["max"] > 0 for one in box["maps"].values())
