"""Time and memory of ours against pytorch-grad-cam's, on the same work: `make bench-parity`.

Each figure is a ratio of what was measured side by side in one run: theirs and ours take turns, and the
medians are divided. Both get the same network, input, layer and target, and end with maps at the input's
size; theirs stretches them to 0..1, too. Its CAM object is made once, outside of what is measured.

ResNet-50: 8 pictures of 224 pixels, gradient and eigen methods at the last stage. Methods that score every
channel take minutes there, so they are asked about one picture at the end of the second stage: 512 channels.
YOLOv8n: one picture of 640 pixels, a class score of one candidate, at the end of the backbone. Theirs needs
a wrapper that gives the decoded tensor alone; ours takes the model as it is. "ten boxes": as many calls of
theirs, one `detcam.explain` of ours, which also reads, letterboxes and detects.

Times are processor time where one thread of the CPU works, which other work on the machine hardly changes,
and wall-clock time elsewhere. Random weights, nothing is downloaded. Memory is the peak of the resident set
above what the process held before the call, each in a process of its own; on CUDA, of what torch allocated.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from torch import Tensor, nn

from detcam.cam import activation_maps

GRADIENT = ("grad-cam", "hires-cam", "grad-cam-elementwise", "grad-cam++", "xgrad-cam", "layer-cam")
EIGEN = ("eigen-cam", "eigen-grad-cam")
SCORING = ("score-cam", "ablation-cam")
NAMES = {
    "grad-cam": "GradCAM",
    "hires-cam": "HiResCAM",
    "grad-cam-elementwise": "GradCAMElementWise",
    "grad-cam++": "GradCAMPlusPlus",
    "xgrad-cam": "XGradCAM",
    "layer-cam": "LayerCAM",
    "eigen-cam": "EigenCAM",
    "eigen-grad-cam": "EigenGradCAM",
    "score-cam": "ScoreCAM",
    "ablation-cam": "AblationCAM",
}
WANTED = dict.fromkeys(GRADIENT, 3.0) | dict.fromkeys(EIGEN, 50.0) | dict.fromkeys(SCORING, 2.0)
CANDIDATE, CATEGORY = 4000, 0


@dataclass(frozen=True)
class Work:
    """One question to one network.

    Attributes:
        network: key of `NETWORKS`.
        method: key of `NAMES`.
        layer: dotted name.
        batch: pictures.
    """

    network: str
    method: str
    layer: str
    batch: int

    def __str__(self) -> str:
        return f"{self.network} {self.layer}, {self.batch} × {self.method}"


WORK = [
    *(Work("resnet50", method, "layer4.2", 8) for method in (*GRADIENT, *EIGEN)),
    *(Work("resnet50", method, "layer2.3", 1) for method in SCORING),
    *(Work("yolov8n", method, "model.9", 1) for method in (*GRADIENT, *EIGEN, "score-cam")),
    # Theirs exchanges the module, and ultralytics asks modules of the top level where they take from.
    Work("yolov8n", "ablation-cam", "model.9.cv2", 1),
]


class Decoded(nn.Module):
    """What theirs needs around a detector: a tensor as the output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[0]


def resnet50() -> tuple[nn.Module, nn.Module, int]:
    import torchvision

    model = torchvision.models.resnet50().eval()
    return model, model, 224


def yolov8n() -> tuple[nn.Module, nn.Module, int]:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", verbose=False).eval()
    return model, Decoded(model), 640


NETWORKS: dict[str, Callable[[], tuple[nn.Module, nn.Module, int]]] = {
    "resnet50": resnet50,
    "yolov8n": yolov8n,
}


def of_class(output: Any) -> Tensor:
    """ResNet's score of a class; a detector's, of one candidate."""
    output = output[0] if isinstance(output, tuple | list) else output
    return output[CATEGORY] if output.ndim == 1 else output[4 + CATEGORY, CANDIDATE]


def prepared(work: Work, device: str) -> dict[str, Callable[[], Any]]:
    """Theirs, ours, and forward passes to hold them against."""
    import pytorch_grad_cam

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    model, wrapped, side = _network(work.network, device)
    inputs = torch.rand(work.batch, 3, side, side, device=device)
    cam = getattr(pytorch_grad_cam, NAMES[work.method])(wrapped, [model.get_submodule(work.layer)])

    def ours() -> Any:
        found = activation_maps(model, inputs, of_class, layers=work.layer, method=work.method)
        return found.heatmaps().cpu()

    def forward() -> Any:
        with torch.inference_mode():
            return _finished(model(inputs), device)

    return {
        "theirs": lambda: cam(inputs, [of_class] * work.batch),
        "ours": ours,
        "forward": forward,
    }


def _finished(output: Any, device: str) -> Any:
    if device == "cuda":
        torch.cuda.synchronize()
    return output


@functools.cache
def _network(name: str, device: str) -> tuple[nn.Module, nn.Module, int]:
    model, wrapped, side = NETWORKS[name]()
    return model.to(device), wrapped.to(device), side


def times(work: Work, device: str, repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns."""
    actions = prepared(work, device)
    is_long = work.method in SCORING
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(1 if is_long else repeats + 1):
        for name, action in actions.items():
            gc.collect()
            began = _clock(device)
            action()
            if turn or is_long:  # the first turn warms up
                seconds[name].append(_clock(device) - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _clock(device: str) -> float:
    is_alone = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if is_alone else time.perf_counter()


def ten_boxes(device: str, repeats: int) -> dict[str, float]:
    """Ten boxes with LayerCAM at the backbone's three levels: one call of ours, ten of theirs."""
    import numpy as np
    import pytorch_grad_cam

    import detcam

    torch.manual_seed(0)
    model, wrapped, side = _network("yolov8n", device)
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    detector = detcam.wrap(model)
    inputs = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255).to(device)
    layers = [model.get_submodule(name) for name in ("model.4", "model.6", "model.9")]
    cam = pytorch_grad_cam.LayerCAM(wrapped, layers)

    def theirs() -> None:
        for box in range(10):
            cam(inputs, [lambda output, box=box: output[4 + CATEGORY, CANDIDATE + box]])

    def ours() -> None:
        found = detcam.explain(
            detector, picture, conf=1e-6, max_boxes=10, layers="backbone", path="total", iou=1.0
        )
        assert len(found) == 10, len(found)

    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    for turn in range(repeats + 1):
        for name, action in (("theirs", theirs), ("ours", ours)):
            began = _clock(device)
            action()
            if turn:
                seconds[name].append(_clock(device) - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak(work: Work, side: str, device: str) -> float:
    """Megabytes above what there was before, of the second call: the first fills what is kept for good."""
    action = prepared(work, device)[side]
    gc.collect()
    if device == "cuda":
        action()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of imports
    action()
    return resident("VmHWM") - before


def growth(side: str, calls: int) -> dict[str, float]:
    """Resident megabytes and live tensors after a tenth of the calls and after all, of a small network."""
    import pytorch_grad_cam

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(16, 4)).eval()
    inputs = torch.rand(2, 3, 64, 64)
    found = {}
    for call in range(1, calls + 1):
        if side == "ours":
            activation_maps(model, inputs, 1, layers="0.2").heatmaps()
        else:
            with pytorch_grad_cam.GradCAM(model, [model.get_submodule("0.2")]) as cam:
                cam(inputs, [of_first, of_first])
        if call in (calls // 10, calls):
            gc.collect()
            tensors = sum(issubclass(type(one), Tensor) for one in gc.get_objects())
            found |= {f"megabytes at {call}": resident("VmRSS"), f"tensors at {call}": tensors}
    return found


def of_first(output: Tensor) -> Tensor:
    return output[1]


def resident(name: str) -> float:
    """Megabytes, of /proc: Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(name)


def main() -> None:
    arguments = _arguments()
    if arguments.ask:
        print(json.dumps(_answer(json.loads(arguments.ask))))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, Any] = {"device": device, "torch": torch.__version__, "rows": []}
    chosen = [one for one in WORK if not arguments.only or arguments.only in str(one)]
    for work in chosen:
        row: dict[str, Any] = {"work": str(work), "wanted": WANTED[work.method], "times": {}}
        for threads in [1] if work.method in SCORING else arguments.threads:
            question = {"what": "times", "device": device, "work": vars(work), "repeats": arguments.repeats}
            row["times"][threads] = _asked(question, threads)
        for side in ("theirs", "ours", "forward"):
            question = {"what": "peak", "device": device, "work": vars(work), "side": side}
            row[f"peak of {side}"] = _asked(question, 1)
        results["rows"].append(row)
        _say(_line(row), arguments.json)
    if not arguments.only:
        for threads in arguments.threads:
            found = _asked({"what": "ten boxes", "device": device, "repeats": arguments.repeats}, threads)
            results[f"ten boxes, {threads} threads"] = found
            text = (
                f"yolov8n, ten boxes, {threads} threads: {found['theirs'] / found['ours']:.1f} times as fast"
            )
            _say(text, arguments.json)
        for side in ("theirs", "ours"):
            results[f"growth of {side}"] = _asked({"what": "growth", "side": side, "calls": 1000}, 1)
            _say(f"1,000 calls of {side}: {results[f'growth of {side}']}", arguments.json)
    if arguments.json:
        print(json.dumps(results, indent=1))


def _line(row: dict[str, Any]) -> str:
    parts = [row["work"]]
    for threads, found in row["times"].items():
        ratio, bound = found["theirs"] / found["ours"], found["theirs"] / found["forward"]
        verdict = "" if ratio >= row["wanted"] else f", below the {row['wanted']:g} that is wanted"
        parts.append(
            f"{threads} threads: {ratio:.2f} times as fast ({found['theirs']:.2f} s, {found['ours']:.2f} s)"
            f"{verdict}; a forward pass alone would be {bound:.2f}"
        )
    parts.append(
        f"peak {row['peak of theirs']:.0f} MB, {row['peak of ours']:.0f} MB, "
        f"a forward pass {row['peak of forward']:.0f} MB"
    )
    return "; ".join(parts)


def _say(text: str, is_json: bool) -> None:
    print(text, file=sys.stderr if is_json else sys.stdout, flush=True)


def _asked(question: dict[str, Any], threads: int) -> Any:
    """An answer from a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--ask", json.dumps(question)]
    run = subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout.splitlines()[-1])


def _answer(question: dict[str, Any]) -> Any:
    if question["what"] == "growth":
        return growth(question["side"], question["calls"])
    if question["what"] == "ten boxes":
        return ten_boxes(question["device"], question["repeats"])
    work = Work(**question["work"])
    if question["what"] == "peak":
        return peak(work, question["side"], question["device"])
    return times(work, question["device"], question["repeats"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns; methods that score take one")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="what the work's line contains: 'resnet50', 'eigen-cam'")
    parser.add_argument("--json", action="store_true", help="everything measured, on stdout")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
