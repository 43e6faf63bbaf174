"""What the main job costs, as ratios measured in one run: `make bench`.

Absolute times depend on the machine; each figure is a multiple of something measured beside it.
Needs a YOLO checkpoint: --weights, or yolov8n.pt of the folder in DETCAM_ASSETS, or ../shared/assets.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import torch

import detcam
from detcam.adapters import Detector
from detcam.images import read_picture

BIN = Path(sys.executable).parent


def main() -> None:
    arguments = _arguments()
    detector = detcam.load(arguments.weights, device="cpu")
    picture = arguments.picture or _bus()
    print(f"{detector.family}, {arguments.weights}, {Path(picture).name}, {torch.get_num_threads()} threads")
    boxes_cost(detector, picture, arguments.repeats)
    memory(detector, picture, arguments.images)
    command_line(arguments.weights, picture, arguments.repeats)


def boxes_cost(detector: Detector, picture: str, repeats: int) -> None:
    """Ten boxes with three levels, in forward passes without a graph."""
    tensor, _ = detector.prepare(read_picture(picture).pixels, None)

    def forward() -> None:
        with torch.inference_mode():
            detector.model(tensor[None])

    def explain(path: str) -> None:
        explanation = detcam.explain(detector, picture, conf=0.01, max_boxes=10, layers="backbone", path=path)
        assert len(explanation) == 10

    one = _median(forward, repeats)
    print(f"one forward pass: {one * 1000:.0f} ms")
    for path in ("direct", "total"):
        ratio = _median(lambda path=path: explain(path), repeats) / one
        print(f"ten boxes, three levels, {path} gradients: {ratio:.1f} forward passes (target <= 8)")


def memory(detector: Detector, picture: str, images: int) -> None:
    """Resident memory over many pictures, after a warm-up."""
    for _ in range(10):
        detcam.explain(detector, picture)
    before = _resident()
    for _ in range(images):
        detcam.explain(detector, picture)
    print(f"memory over {images} pictures: {before:.0f} MB -> {_resident():.0f} MB, peak {_peak():.0f} MB")


def command_line(weights: str, picture: str, repeats: int) -> None:
    """The commands from start to end, processes and imports included, one after the other in turn."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "detcam --help": [BIN / "detcam", "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
            "detcam explain": [
                BIN / "detcam",
                "explain",
                weights,
                picture,
                "--project",
                folder,
                "--device",
                "cpu",
            ],
            "yolo predict": [
                BIN / "yolo",
                "predict",
                f"model={weights}",
                f"source={picture}",
                f"project={folder}",
                "device=cpu",
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run([str(part) for part in command], check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.2f} s")
    ratio = medians["detcam explain"] / medians["yolo predict"]
    print(f"detcam explain / yolo predict, one picture: {ratio:.2f} (target <= 1.3)")


def _median(action: Callable[[], None], repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _bus() -> str:
    from ultralytics.utils import ASSETS

    return str(ASSETS / "bus.jpg")


def _arguments() -> argparse.Namespace:
    assets = Path(os.environ.get("DETCAM_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=str(assets / "weights" / "yolov8n.pt"))
    parser.add_argument("--picture", help="default: bus.jpg of the ultralytics package")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    if not Path(arguments.weights).exists():
        parser.error(f"no checkpoint at {arguments.weights}: name one with --weights")
    return arguments


if __name__ == "__main__":
    main()
