"""A zoo of ultralytics networks: built from the vendor's yaml, made to find something, saved and reloaded.

Reloading matters: it turns activations in-place, which a network fresh from its yaml does not have.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from detcam.structures import Detections, RawPrediction

# family -> number of classes
FAMILIES = {
    "yolov3": 3,
    "yolov3-tiny": 80,
    "yolov5n": 80,
    "yolov5n-p6": 2,
    "yolov6n": 3,
    "yolov8n": 80,
    "yolov8n-p2": 1,
    "yolov8n-p6": 3,
    "yolov8n-seg": 2,
    "yolov8n-pose": 1,
    "yolov8n-obb": 3,
    "yolov9t": 80,
    "yolov10n": 3,
    "yolo11n": 1,
    "yolo11n-seg": 80,
    "yolo11n-pose": 2,
    "yolo11n-obb": 80,
    "yolo12n": 3,
    "yolo26n": 80,
    "yolo26n-seg": 2,
    "yolo26n-pose": 1,
    "yolo26n-obb": 3,
}
DUAL = [family for family in FAMILIES if family.startswith(("yolov10", "yolo26"))]
ROTATED = [family for family in FAMILIES if family.endswith("obb")]
BRANCHES = [(family, "one2many") for family in FAMILIES] + [(family, "one2one") for family in DUAL]

QUARTER = math.log(0.25 / 0.75)  # the logit of the default score threshold

BOX_PIXELS = 1e-3
SCORE = 1e-4


def release_name() -> str:
    import ultralytics

    return str(ultralytics.__version__)


def release() -> tuple[int, ...]:
    return tuple(int(part) for part in release_name().split(".")[:3])


@dataclass(frozen=True)
class Example:
    """One network of the zoo, as a file."""

    family: str
    path: Path
    classes: int

    @property
    def imgsz(self) -> int:
        """A small input size at which `picture()` needs no rounding: a half, or for /64 heads the whole."""
        return 320 if self.family.endswith("p6") else 160

    @functools.cached_property
    def model(self) -> Any:
        """The reloaded network that most tests share; predict never touches it."""
        return self.yolo().model

    def yolo(self) -> Any:
        """A fresh `YOLO` object."""
        from ultralytics import YOLO

        return YOLO(str(self.path))

    @functools.lru_cache(maxsize=4)  # noqa: B019  # lives as long as the session anyway
    def _vendor(self, branch: str) -> Any:
        yolo = self.yolo()
        if release() < (8, 4, 143):
            head = yolo.model.model[-1]
            if branch == "one2many" and release() < (8, 4, 0) and "fuse" in vars(type(head)):
                pytest.skip(f"predict of ultralytics {release_name()} removes that branch before it runs")
            if getattr(head, "end2end", False) != (branch == "one2one"):
                try:
                    head.end2end = branch == "one2one"
                except AttributeError:
                    pytest.skip(f"ultralytics {release_name()} cannot be told which branch predict takes")
        return yolo

    def predict(self, pixels: np.ndarray, branch: str = "one2many", **options: Any) -> Any:
        """The vendor's own results for an RGB picture."""
        if branch == "one2one" and release() >= (8, 4, 143):
            options["nms"] = False
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        # All of them, every time: a `YOLO` object remembers what the last call said.
        options = {"conf": 0.25, "iou": 0.7, "classes": None, "max_det": 300, "imgsz": self.imgsz, **options}
        if self.family.endswith("seg"):
            options["retina_masks"] = (
                True  # at a coarser resolution small boxes lose their mask, and are dropped
            )
        with pytest.MonkeyPatch.context() as patch:
            if self.family in ROTATED and release() < (8, 4, 0):
                # Clips centre and size of a rotated box as if they were two corners.
                patch.setattr("ultralytics.utils.ops.clip_boxes", lambda boxes, _shape: boxes)
            return self._vendor(branch).predict(bgr, device="cpu", verbose=False, **options)[0]

    def shown(self, detections: Detections) -> Detections:
        """Those that predict shows: of a segmentation model's, it drops those too thin for a mask."""
        sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
        return detections[(sides >= 1).all(dim=1)] if self.family.endswith("seg") else detections

    @property
    def box_tolerance(self) -> float:
        """Of a box's edges, in pixels; releases before 8.4 round the boxes of pose models to whole ones."""
        return 0.5 + BOX_PIXELS if self.family.endswith("pose") and release() < (8, 4, 0) else BOX_PIXELS


class Zoo:
    """Family, and number of classes -> its example, made when first asked for.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, int], Example] = {}

    def __call__(self, family: str, classes: int | None = None) -> Example:
        from ultralytics.nn.tasks import yaml_model_load

        classes = classes or FAMILIES[family]
        if (family, classes) not in self.made:
            try:
                architecture = yaml_model_load(f"{family}.yaml")
            except FileNotFoundError:
                pytest.skip(f"ultralytics {release_name()} has no {family}")
            path = self.folder / f"{family}-{classes}" / "saved.pt"
            self.made[family, classes] = self._save(Example(family, path, classes), architecture)
        return self.made[family, classes]

    def _save(self, example: Example, architecture: dict[str, Any]) -> Example:
        from ultralytics import YOLO
        from ultralytics.nn.modules import Conv

        family, folder = example.family, example.path.parent
        folder.mkdir()
        del architecture["yaml_file"]
        architecture["nc"] = example.classes
        if family.startswith("yolov3"):  # comes in one size only: as a nano
            architecture |= {"width_multiple": 0.25, "depth_multiple": 0.33}
        # Not under the vendor's file names: those it looks for on the internet.
        recipe = folder / ("own.yaml" if family.startswith("yolov3") else "yolo0n.yaml")
        recipe.write_text(yaml.safe_dump(architecture))
        with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
            torch.manual_seed(len(family))
            # A recipe that names its activation leaves it behind as everybody's default, in older releases.
            patch.setattr(Conv, "default_act", Conv.default_act)
            yolo = YOLO(str(recipe), task=_task(family), verbose=False)
            _make_it_find_something(yolo.model, example.imgsz)
        # As training leaves it.
        yolo.model.names = {index: f"class {index}" for index in range(example.classes)}
        if "kpt_shape" in architecture:
            yolo.model.kpt_shape = architecture["kpt_shape"]
        yolo.ckpt = {"train_args": {"task": _task(family), "imgsz": example.imgsz}}
        yolo.save(str(example.path))
        return example


@functools.cache
def picture(height: int = 176, width: int = 320, seed: int = 0) -> np.ndarray:
    """Noise of several grains, (H, W, 3) uint8. By default the letterbox needs no rounding: exactly half."""
    generator = np.random.default_rng(seed)
    coarse, middle, fine = (
        generator.integers(0, 256, (-(-height // grain), -(-width // grain), 3))
        .repeat(grain, axis=0)
        .repeat(grain, axis=1)[:height, :width]
        for grain in (67, 23, 7)
    )
    return ((2 * coarse + 2 * middle + fine) // 5).astype(np.uint8)


def clear_threshold(raw: RawPrediction, near: float = 0.25) -> float:
    """A threshold in the widest gap between two scores: predict fuses its weights and so rounds otherwise."""
    scores = raw.scores().amax(dim=1)
    scores = scores[(scores > 0.8 * near) & (scores < 1.2 * near)].sort().values
    if len(scores) < 2:
        return near
    gap = scores.diff().argmax()
    return float(scores[gap] + scores[gap + 1]) / 2


def assert_same(detections: Detections, result: Any, box: float = BOX_PIXELS, score: float = SCORE) -> None:
    """Each detection is one of predict's: label, score, box and, if rotated, corners. Ties may be swapped."""
    rotated = result.obb is not None
    box = 2 * box if rotated else box  # a rounded angle moves far corners more
    theirs = (result.obb if rotated else result.boxes).cpu()
    assert (detections.corners is not None) == rotated
    torch.testing.assert_close(detections.scores, theirs.conf, rtol=0, atol=score)
    if not len(theirs):
        return
    differs = (detections.scores[:, None] - theirs.conf).abs() / score
    differs = differs.maximum(1e9 * (detections.labels[:, None] != theirs.cls))
    differs = differs.maximum((detections.boxes[:, None] - theirs.xyxy).abs().amax(dim=2) / box)
    if rotated:
        # The corners may be counted from another one on.
        turns = torch.stack([theirs.xyxyxyxy.roll(turn, dims=1) for turn in range(4)])
        off = (detections.corners[:, None] - turns[:, None]).abs().amax(dim=(3, 4)).amin(dim=0)
        differs = differs.maximum(off / box)
    assert differs.amin(dim=1).max() <= 1, f"{differs.amin(dim=1).max()} times the tolerance"
    assert sorted(differs.argmin(dim=1).tolist()) == list(range(len(theirs)))


def _task(family: str) -> str:
    return {"seg": "segment", "pose": "pose", "obb": "obb"}.get(family.rpartition("-")[2], "detect")


def _make_it_find_something(model: Any, imgsz: int) -> None:
    """Statistics, scales and biases as if trained: every tenth candidate of `picture()` passes 0.25."""
    batch = _inputs(imgsz)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the passes
            # Where SiLU is nearly straight: deep random networks otherwise blow up every rounding.
            module.weight.data.fill_(0.5)
            module.bias.data.fill_(1.0)
    with torch.no_grad():
        for _ in range(2):
            model(batch)
        model.eval().half().float()  # as it will be saved
        head = model.model[-1]
        _adjust_towers(model, batch, head.cv2, head.cv3, getattr(head, "cv4", None), share=0.1)
        if hasattr(head, "one2one_cv2"):
            extra = getattr(head, "one2one_cv4", None)
            _adjust_towers(model, batch, head.one2one_cv2, head.one2one_cv3, extra, share=0.15)


def _inputs(imgsz: int) -> torch.Tensor:
    """Four pictures, `picture()` first, as the letterbox prepares them."""
    shrink = 320 // imgsz
    pictures = np.stack([picture(seed=seed) for seed in range(4)])
    pictures = pictures.reshape(4, 176 // shrink, shrink, 320 // shrink, shrink, 3).mean(axis=(2, 4))
    pictures = np.pad(pictures, ((0, 0), (8 // shrink, 8 // shrink), (0, 0), (0, 0)), constant_values=114)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _adjust_towers(
    model: Any, batch: torch.Tensor, boxes: Any, classes: Any, extra: Any, share: float
) -> None:
    """Boxes of a few cells, scores of which `share` pass the threshold, small angles, full masks."""
    _spread_out(model, batch, boxes, 0.5)
    for level in boxes:  # about two cells from the centre to each edge
        bins = level[-1].out_channels // 4
        fewer = level[-1].bias - 0.5 * torch.arange(bins).repeat(4)
        level[-1].bias.copy_(fewer if bins > 1 else torch.tensor(2.0))
    _spread_out(model, batch, classes, 20 * share)
    best = torch.cat([m.amax(dim=1).flatten() for m in _outputs(model, batch[:1], classes)])
    for level in classes:
        level[-1].bias += QUARTER - best.quantile(1 - share)
    if model.task == "obb":
        _spread_out(model, batch, extra, 0.3)
    if model.task == "segment":  # predict drops a box whose mask is empty: masks that cover everything
        for level in extra:
            level[-1].weight.zero_()
            level[-1].bias.fill_(1.0)


def _spread_out(model: Any, batch: torch.Tensor, tower: Any, spread: float) -> None:
    """Every channel of every level gives values around 0, of the same spread."""
    for level, values in zip(tower, _outputs(model, batch, tower), strict=True):
        factor = spread / values.std(dim=(0, 2, 3))
        level[-1].weight.mul_(factor[:, None, None, None])
        level[-1].bias.sub_(values.mean(dim=(0, 2, 3))).mul_(factor)


def _outputs(model: Any, batch: torch.Tensor, tower: Any) -> list[torch.Tensor]:
    """What a head's last convolutions give, level by level."""
    seen: list[torch.Tensor] = []
    handles = [level.register_forward_hook(lambda _m, _i, output: seen.append(output)) for level in tower]
    model(batch)
    for handle in handles:
        handle.remove()
    return seen
