"""What maps cost, in plain forward passes of the same network: `make bench`.

Every figure is a ratio of medians measured in turns in one run, in processor time of one thread, which other
work on the machine hardly changes. "simple" is the way that everybody writes first, on the same layers: one
forward pass with a graph and one `torch.autograd.grad` a box, torch's own convolutions, nothing else done.
Ours reads off boxes, explains them and makes the maps. Peers are measured where they are importable
(`scripts/parity.py` unpacks them, see there): pytorch-grad-cam and torch-cam once a box, as their users do.

    python benchmarks/speed.py                      # all tables, as Markdown
    python benchmarks/speed.py boxes sizes          # some
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import numpy as np
import torch
from against_grad_cam import resident
from torch import Tensor, nn

import detcam
from detcam.adapters import Detector
from detcam.cam.capture import borrowed
from detcam.explainer import Explainer, ExplainOptions
from detcam.explanation import Explanation, SaveOptions
from detcam.files import write_picture
from detcam.geometry import Letterbox
from detcam.images import Picture, as_picture, find_pictures, read_picture
from detcam.outputs import RunFolder
from detcam.runner import ExplainBatch, jobs_of, run

ASSETS = Path(os.environ.get("DETCAM_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
MODELS = ("yolov8n.pt", "yolo26n.pt")
BOXES = (1, 10, 50, 300)
ASKED = {
    "three backbone stages": {"method": "layer-cam", "layers": "backbone"},
    "head inputs": {"method": "layer-cam", "layers": "head"},
    "default": {},
}


def mosaic(side: int) -> np.ndarray:
    """Nine photographs in a square (side, side, 3): enough objects of all sizes, spread over it."""
    tile = -(-side // 3)
    parts = []
    for path in find_pictures([str(ASSETS / "coco64" / "images")])[:9]:
        geometry = Letterbox.stretch(read_picture(path).pixels.shape[:2], (tile, tile))
        parts.append(geometry.apply(read_picture(path).pixels))
    rows = [np.concatenate(parts[i : i + 3], axis=1) for i in (0, 3, 6)]
    return np.ascontiguousarray(np.concatenate(rows)[:side, :side])


def in_turns(repeats: int, **actions: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of processor time of each action, one after the other, after a first round."""
    spent: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = time.process_time()
            action()
            if turn:
                spent[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in spent.items()}


def plain(detector: Detector, batch: Tensor) -> Callable[[], Any]:
    """A forward pass without a graph."""

    def forward() -> None:
        with borrowed(detector.model), torch.no_grad():
            detector.model(batch)

    return forward


def explained(explainer: Explainer, pictures: Sequence[Picture]) -> Callable[[], Any]:
    """All of them in one batch."""
    return lambda: list(explainer.explain(pictures, len(pictures)))


def simple(
    detector: Detector, tensor: Tensor, names: list[str], rows: list[tuple[int, int]], path: str
) -> Any:
    """One forward pass with a graph, one backward pass a box, nothing shared and nothing left out."""
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            is_cut = path == "direct" or not output.requires_grad
            caught[name] = output.detach().clone().requires_grad_() if is_cut else output.clone()
            return caught[name].clone()

        return hook

    with borrowed(detector.model), torch.enable_grad():
        hooks = [detector.model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
        (raw,) = detector.forward(tensor[None])
        for hook in hooks:
            hook.remove()
        layers = list(caught.values())
        for row, label in rows:
            found = torch.autograd.grad(
                raw.class_logits[row, label], layers, retain_graph=True, allow_unused=True
            )
            for gradient, layer in zip(found, layers, strict=True):
                if gradient is not None:
                    (gradient.clamp(min=0) * layer.detach()).sum(dim=1).clamp(min=0)


def boxes(repeats: int) -> Iterator[str]:
    """Boxes of one picture of 640 pixels."""
    yield "| model, layers, gradients | boxes | of them at P3, P4, P5 | simple loop | detcam |"
    yield "|---|---|---|---|---|"
    picture = as_picture(mosaic(640))
    for name in MODELS:
        detector = detcam.load(ASSETS / "weights" / name)
        tensor, _ = detector.prepare(picture.pixels, 640)
        for what, asked in ASKED.items():
            for path in ("direct", "total") if asked else (None,):
                for count in BOXES:
                    options = ExplainOptions(
                        conf=0.0005, iou=0.7, max_det=count, max_boxes=count, imgsz=640, path=path, **asked
                    )
                    explainer = Explainer.of(detector, options)
                    (found,) = explainer.explain([picture])
                    if len(found) < count:
                        continue
                    rows = list(
                        zip(
                            found.detections.candidates.tolist(),
                            found.detections.labels.tolist(),
                            strict=True,
                        )
                    )
                    names = list(explainer.modules)
                    spent = in_turns(
                        max(repeats // max(count // 25, 1), 2),
                        plain=plain(detector, tensor[None]),
                        simple=partial(simple, detector, tensor, names, rows, explainer.path),
                        ours=explained(explainer, [picture]),
                    )
                    levels = " ".join(str(found.deciding.count(level)) for level in ("P3", "P4", "P5"))
                    ratios = [spent[key] / spent["plain"] for key in ("simple", "ours")]
                    yield (
                        f"| {name}, {what}, {explainer.path} | {count} | {levels} "
                        f"| {ratios[0]:.1f} | {ratios[1]:.1f} |"
                    )


def sizes(repeats: int) -> Iterator[str]:
    """Ten boxes at several input sizes, and in several pictures at once."""
    yield "| YOLOv8n, three backbone stages, direct, ten boxes a picture | forward passes of that batch |"
    yield "|---|---|"
    detector = detcam.load(ASSETS / "weights" / "yolov8n.pt")
    for side, batch in ((320, 1), (640, 1), (960, 1), (1280, 1), (640, 8), (320, 32)):
        picture = as_picture(mosaic(side))
        options = ExplainOptions(conf=0.01, max_boxes=10, imgsz=side, **ASKED["three backbone stages"])
        explainer = Explainer.of(detector, options)
        tensor, _ = detector.prepare(picture.pixels, side)
        spent = in_turns(
            max(repeats // batch, 2),
            plain=plain(detector, tensor.expand(batch, *tensor.shape)),
            ours=explained(explainer, [picture] * batch),
        )
        yield f"| {side} pixels, batch {batch} | {spent['ours'] / spent['plain']:.2f} |"


def others(repeats: int) -> Iterator[str]:
    """A classifier and a detector of regions, random weights."""
    import torchvision

    yield "| network | detcam, in plain forward passes |"
    yield "|---|---|"
    network = torchvision.models.resnet50(weights=None).eval()
    batch = torch.rand(8, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            network(batch)

    spent = in_turns(
        repeats,
        plain=forward,
        ours=lambda: detcam.activation_maps(network, batch, target=1, layers="layer4", method="grad-cam"),
    )
    yield f"| ResNet-50, 8 pictures of 224, Grad-CAM, last stage | {spent['ours'] / spent['plain']:.2f} |"
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    ).eval()
    detector = detcam.wrap(model)
    picture = as_picture(mosaic(320))
    tensor, _ = detector.prepare(picture.pixels, None)
    options = ExplainOptions(conf=0.0, max_boxes=10, **ASKED["three backbone stages"])
    explainer = Explainer.of(detector, options)
    spent = in_turns(repeats, plain=plain(detector, tensor[None]), ours=explained(explainer, [picture]))
    yield f"| Faster R-CNN (MobileNetV3, 320), ten boxes, backbone | {spent['ours'] / spent['plain']:.2f} |"


def peers(repeats: int) -> Iterator[str]:
    """What others ask for the same picture: ultralytics for all of it, the CAM libraries for one box."""
    from ultralytics import YOLO

    yield "| YOLOv8n at 640 | in plain predicts (ultralytics) or forward passes (others) |"
    yield "|---|---|"
    weights = ASSETS / "weights" / "yolov8n.pt"
    pixels = mosaic(640)
    yolo, detector = YOLO(weights), detcam.load(weights)
    default, backbone = (
        Explainer.of(detector, ExplainOptions(max_boxes=16, imgsz=640, **asked))
        for asked in (ASKED["default"], ASKED["three backbone stages"])
    )
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):

        def predict(**more: Any) -> None:
            yolo.predict(pixels[..., ::-1], imgsz=640, device="cpu", verbose=False, project=folder, **more)

        def saved(explainer: Explainer) -> None:
            for one in explainer.explain([as_picture(pixels)]):
                one.save(folder)

        spent = in_turns(
            repeats,
            predict=predict,
            theirs=lambda: predict(visualize=True),
            default=lambda: saved(default),
            backbone=lambda: saved(backbone),
        )
    for what, key in (
        ("ultralytics' `visualize=True`, 16 predictions merged into one picture", "theirs"),
        ("detcam's default, 16 boxes apart, files written", "default"),
        ("detcam, three backbone stages, direct, the same", "backbone"),
    ):
        yield f"| {what} | {spent[key] / spent['predict']:.1f} |"
    tensor, _ = detector.prepare(pixels, 640)
    network = _Scores(YOLO(weights).model.float().eval()).requires_grad_(True)
    layer = network.network.model[9]
    for name, one in _libraries(network, layer, tensor[None]).items():
        spent = in_turns(repeats, plain=plain(detector, tensor[None]), theirs=one)
        yield f"| {name}, one box | {spent['theirs'] / spent['plain']:.1f} |"


class _Scores(nn.Module):
    """Class scores (B, K) of one candidate: the shape that libraries for classifiers ask for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        found = self.network(batch)
        decoded: Tensor = found[0] if isinstance(found, list | tuple) else found
        return decoded[:, 4:, 4000]


def _libraries(network: nn.Module, layer: nn.Module, batch: Tensor) -> dict[str, Callable[[], Any]]:
    """Peers that are there, each asked about one box."""
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("pytorch_grad_cam"):
        from pytorch_grad_cam import EigenCAM, GradCAM, LayerCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        for kind in (GradCAM, LayerCAM, EigenCAM):
            cam = kind(model=network, target_layers=[layer])
            found[f"pytorch-grad-cam {kind.__name__}"] = lambda cam=cam: cam(
                batch, [ClassifierOutputTarget(0)]
            )
    if importlib.util.find_spec("torchcam"):
        from torchcam.methods import GradCAM as TorchGradCAM

        extractor = TorchGradCAM(network, target_layer=layer)
        found["torch-cam GradCAM"] = lambda: extractor(0, network(batch))
    return found


def memory(_repeats: int) -> Iterator[str]:
    """The largest resident set of a process that does one thing, above what it held before."""
    yield "| YOLOv8n at 640 | MB above the loaded model |"
    yield "|---|---|"
    for what in ("forward", "backbone", "default"):
        yield f"| {what} | {_measured(what):.0f} |"
    yield f"| default, growth over 300 more pictures | {_measured('growth'):.0f} |"


def _measured(what: str) -> float:
    run = subprocess.run(
        [sys.executable, __file__, "--memory-of", what], check=True, capture_output=True, text=True
    )
    return float(run.stdout.split()[-1])


def _memory_of(what: str) -> float:
    detector = detcam.load(ASSETS / "weights" / "yolov8n.pt")
    picture = as_picture(mosaic(640))
    tensor, _ = detector.prepare(picture.pixels, 640)
    asked = ASKED["three backbone stages"] if what == "backbone" else {}
    explainer = Explainer.of(detector, ExplainOptions(conf=0.01, max_boxes=10, imgsz=640, **asked))
    before = resident("VmRSS")
    if what == "forward":
        plain(detector, tensor[None])()
        return resident("VmHWM") - before
    list(explainer.explain([picture]))
    if what != "growth":
        return resident("VmHWM") - before
    for _ in range(20):
        list(explainer.explain([picture]))
    before = resident("VmRSS")
    for _ in range(300):
        list(explainer.explain([picture]))
    return resident("VmRSS") - before


def commands(repeats: int) -> Iterator[str]:
    """Commands from start to end on one picture: wall-clock time, processes and imports included."""
    weights, folder = ASSETS / "weights" / "yolov8n.pt", tempfile.mkdtemp()
    picture = Path(folder, "picture.png")
    write_picture(picture, mosaic(640))
    tools = Path(sys.executable).parent
    ours = [tools / "detcam", "explain", weights, picture, "--project", folder, "--device", "cpu"]
    theirs = [f"model={weights}", f"source={picture}", f"project={folder}", "device=cpu"]
    asked = {
        "detcam --help": [tools / "detcam", "--help"],
        "detcam explain": ours,
        "yolo predict": [tools / "yolo", "predict", *theirs],
    }
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(min(repeats, 5)):
        for name, command in asked.items():
            began = time.perf_counter()
            subprocess.run([str(part) for part in command], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    yield "| command | seconds |"
    yield "|---|---|"
    for name, spent in seconds.items():
        yield f"| `{name}` | {statistics.median(spent):.2f} |"


def folders(_repeats: int) -> Iterator[str]:
    """Many pictures from files to files: how much of the time the network has."""
    detector = detcam.load(ASSETS / "weights" / "yolov8n.pt")
    explainer = Explainer.of(detector, ExplainOptions(max_boxes=10))
    inside, explain = [0.0], Explainer.explain

    def timed(*given: Any, **more: Any) -> Iterator[Explanation]:
        began = time.perf_counter()
        found = list(explain(*given, **more))
        inside[0] += time.perf_counter() - began
        return iter(found)

    paths = find_pictures([str(ASSETS / "coco64" / "images")])
    with tempfile.TemporaryDirectory() as parent, patch.object(Explainer, "explain", timed):
        folder = RunFolder.create(Path(parent), "run", exist_ok=False)
        began = time.perf_counter()
        work = ExplainBatch(lambda: explainer, folder, SaveOptions())
        rows = list(run(work, jobs_of(paths)))
        whole = time.perf_counter() - began
    boxes_found = sum(0 if row.explanation is None else len(row.explanation) for row in rows)
    yield "| YOLOv8n, 64 photographs, up to ten boxes each, files written | |"
    yield "|---|---|"
    yield f"| pictures per second | {len(rows) / whole:.2f} ({boxes_found} boxes) |"
    yield f"| time inside the model and its maps | {inside[0] / whole:.0%} |"


def plot(table: Sequence[str], path: Path) -> None:
    """Draw the table of `boxes`: forward passes against boxes, both logarithmic."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float, float]]] = {}
    for line in table[2:]:
        what, count, _, loop, ours = (cell.strip() for cell in line.strip("|").split("|"))
        curves.setdefault(what, []).append((int(count), float(loop), float(ours)))
    sheet = Figure(figsize=(9, 4), layout="constrained")
    for axes, model in zip(sheet.subplots(1, len(MODELS), sharey=True), MODELS, strict=True):
        for place, (what, points) in enumerate((w, p) for w, p in curves.items() if w.startswith(model)):
            numbers, loop, ours = zip(*points, strict=True)
            axes.loglog(numbers, loop, ":", color=f"C{place}")
            axes.loglog(numbers, ours, "o-", color=f"C{place}", label=what.partition(", ")[2])
        axes.set(title=f"{model}: dotted the simple loop, solid detcam", xlabel="boxes")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    sheet.axes[0].set_ylabel("plain forward passes")
    sheet.savefig(path, dpi=110)


TABLES = {one.__name__: one for one in (boxes, sizes, others, peers, folders, memory, commands)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", default=list(TABLES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--plot", type=Path, help="Where to draw the table of boxes.")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print(_memory_of(arguments.memory_of))
        return
    print(f"torch {torch.__version__}, one thread")
    for name in arguments.tables:
        print(f"\n### {(TABLES[name].__doc__ or name).splitlines()[0]}\n")
        lines = []
        for line in TABLES[name](arguments.repeats):
            print(line, flush=True)
            lines.append(line)
        if name == "boxes" and arguments.plot:
            plot(lines, arguments.plot)


if __name__ == "__main__":
    main()
