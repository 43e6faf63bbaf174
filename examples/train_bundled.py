"""Train one of the two small detectors in `weights/`, from nothing, on one CPU core.

The scenes come from `detcam.scenes`, the network is a narrow YOLOv8 (0.9 M parameters), and the
checkpoint keeps only what is needed to load it: fp16 weights, class names, task, input size.

Example:
    python examples/train_bundled.py honest
    python examples/train_bundled.py shortcut --out weights
"""

import argparse
import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from detcam.scenes import CLASS_NAMES, make_scene

SIZE = 320
SEED = 0
TRAIN_SCENES, VAL_SCENES, TEST_SCENES = 2400, 200, 500
FIRST_VAL_SEED, FIRST_TEST_SEED = 1_000_000, 2_000_000

# YOLOv8's plan, three levels, channels an eighth of the full width.
NETWORK = """
nc: 3
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 2, C2f, [32, True]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 2, C2f, [64, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, C2f, [128, True]]
  - [-1, 1, SPPF, [128, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 1, C2f, [64]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [32]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [[-1, 12], 1, Concat, [1]]
  - [-1, 1, C2f, [64]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1, 9], 1, Concat, [1]]
  - [-1, 1, C2f, [128]]
  - [[15, 18, 21], 1, Detect, [nc]]
"""

# Colour is a class and a marker must stay beside its object: so no hue, no mosaic, no cropping.
TRAINING = {
    "batch": 8,
    "nbs": 8,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "lrf": 0.01,
    "cos_lr": True,
    "warmup_epochs": 0.5,
    "warmup_bias_lr": 0.0,
    "weight_decay": 0.0005,
    "hsv_h": 0.0,
    "hsv_s": 0.2,
    "hsv_v": 0.2,
    "fliplr": 0.5,
    "mosaic": 0.0,
    "translate": 0.0,
    "scale": 0.0,
    "erasing": 0.0,
    "auto_augment": None,
    "seed": SEED,
    "deterministic": True,
    "device": "cpu",
    "workers": 0,
    "cache": "ram",
    "amp": False,
    "plots": False,
}


@dataclass(frozen=True)
class Recipe:
    """What differs between the two detectors.

    Attributes:
        file_name: of the checkpoint.
        beside: share of markers that lie beside their object in the training scenes. Half of them
            astray teaches the honest detector that a marker announces no object; a few astray
            teach the shortcut detector that an object without one is background.
        class_gain: weight of the class loss.
        stages: (size of the pictures, epochs), one after the other. Markers do not shrink with
            the picture, so in small pictures they are easier to tie to their objects.
    """

    file_name: str
    beside: float
    class_gain: float
    stages: tuple[tuple[int, int], ...]


RECIPES = {
    "honest": Recipe("shapes.pt", beside=0.5, class_gain=0.5, stages=((SIZE, 9),)),
    "shortcut": Recipe("shapes-shortcut.pt", beside=0.85, class_gain=1.5, stages=((192, 5), (SIZE, 4))),
}


def write_data(folder: Path, labelling: str, size: int) -> Path:
    """Write the three splits as JPEG and YOLO label files; returns the data set's yaml."""
    splits = (
        ("train", SEED, TRAIN_SCENES, RECIPES[labelling].beside),
        ("val", FIRST_VAL_SEED, VAL_SCENES, 1.0),
        ("test", FIRST_TEST_SEED, TEST_SCENES, 1.0),
    )
    for split, first_seed, count, beside in splits:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for seed in range(first_seed, first_seed + count):
            scene = make_scene(seed, size, beside=beside)
            image_path = folder / "images" / split / f"{seed}.jpg"
            cv2.imwrite(str(image_path), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            label_path = folder / "labels" / split / f"{seed}.txt"
            label_path.write_text(_label_text(*scene.labelled(labelling), size))
    names = dict(enumerate(CLASS_NAMES[labelling]))
    paths = {split: f"images/{split}" for split, *_ in splits}
    data_path = folder / "data.yaml"
    data_path.write_text(yaml.safe_dump({"path": str(folder), **paths, "names": names}))
    return data_path


def _label_text(boxes: np.ndarray, labels: np.ndarray, size: int) -> str:
    """One line per box: class, centre x, centre y, width, height, as fractions of the picture."""
    centres, extents = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([centres, extents], axis=1) / size
    return "".join(
        f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
        for label, row in zip(labels, rows, strict=True)
    )


def save_lean(best: Path, out: Path, labelling: str) -> None:
    """Write the best averaged (EMA) weights as an fp16 checkpoint that tells nothing else."""
    import torch

    checkpoint = torch.load(best, map_location="cpu", weights_only=False)
    model = checkpoint.get("ema") or checkpoint["model"]
    model.names = dict(enumerate(CLASS_NAMES[labelling]))
    model.args = {"task": "detect", "imgsz": SIZE}
    model.yaml.pop("yaml_file", None)
    for private in ("criterion", "pt_path"):
        model.__dict__.pop(private, None)
    model.half().eval().requires_grad_(False)
    lean: dict[str, Any] = {
        "model": model,
        "train_args": model.args,
        "version": checkpoint["version"],
        "license": "AGPL-3.0",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".part")
    torch.save(lean, partial)
    partial.replace(out)


def train(folder: Path, labelling: str) -> tuple[Path, Path]:
    """Run the stages in `folder`; returns the best checkpoint and the last stage's data yaml."""
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(1)
    recipe = RECIPES[labelling]
    start_from = folder / "network.yaml"
    start_from.write_text(NETWORK)
    for number, (size, epochs) in enumerate(recipe.stages):
        data_path = write_data(folder / f"data{number}", labelling, size)
        YOLO(start_from, task="detect").train(
            data=str(data_path), imgsz=size, epochs=epochs, cls=recipe.class_gain,
            pretrained=number > 0, project=str(folder), name=f"stage{number}", **TRAINING,
        )  # fmt: skip
        start_from = folder / f"stage{number}" / "weights" / "best.pt"
    return start_from, data_path


def measure(weights: Path, data_path: Path, folder: Path) -> tuple[float, float]:
    """(mAP50, mAP50-95) of a saved checkpoint on the held-out scenes."""
    from ultralytics import YOLO

    box = YOLO(weights).val(
        data=str(data_path), split="test", imgsz=SIZE, batch=16, device="cpu", workers=0,
        plots=False, project=str(folder), name="test",
    ).box  # fmt: skip
    return box.map50, box.map


def main() -> None:
    """Train, save, measure and say what came of it."""
    parser = argparse.ArgumentParser(description="Train one of the two bundled detectors.")
    parser.add_argument("labelling", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder to write into")
    args = parser.parse_args()
    weights = args.out / RECIPES[args.labelling].file_name
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ.setdefault("YOLO_CONFIG_DIR", str(folder / "settings"))
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        started = time.perf_counter()
        best, data_path = train(folder, args.labelling)
        save_lean(best, weights, args.labelling)
        print(f"made {weights} in {time.perf_counter() - started:.0f} s")
        map50, map50_95 = measure(weights, data_path, folder)
    print(f"{TEST_SCENES} held-out scenes: mAP50 {map50:.4f}, mAP50-95 {map50_95:.4f}")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    print(f"{weights.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
