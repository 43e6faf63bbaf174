"""What the code blocks of the documentation speak of: files they open, names they take as given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from small_detectors import KINDS
from small_yolo import SIDE, network, pictures
from test_onnx import export
from torch import nn

import detcam

NAMES = ("person", "bus", "truck")
_WEIGHTS = Path(__file__).parents[1] / "weights"


def make_files(folder: Path) -> None:
    """Every file that a block opens, under the name it has there."""
    (folder / "weights").symlink_to(_WEIGHTS)
    _checkpoints(folder)
    _data_sets(folder)
    Image.fromarray(_noise()).save(folder / "pond.jpg")
    detcam.explain(detcam.load(folder / "yolo.pt", device="cpu"), folder / "street.jpg").save(folder)


def given(page: str, folder: Path) -> dict[str, Any]:
    """The names that the blocks of a page take as given.

    Args:
        page: from the root of the repository, such as "docs/metrics.md".
        folder: with the files, for what is built to be saved.
    """
    make = _GIVEN.get(page)
    return {} if make is None else make(folder)


def _noise() -> np.ndarray:
    return pictures(1, SIDE, SIDE, seed=4)[0]


def _checkpoints(folder: Path) -> None:
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml", verbose=False)  # lends its way of saving
    yolo.model = network()
    yolo.model.names = dict(enumerate(NAMES))
    yolo.save(folder / "yolo.pt")
    export(folder / "yolov8n.onnx")
    for kind, saved in (("yolov5", "yolov5n.pt"), ("yolov4", "yolo4.pth"), ("yolox", "yolox_nano.pth")):
        shutil.move(_built(kind, folder).file, folder / saved)
    shutil.copy(folder / "yolo.pt", folder / "best.pt")
    darknet = _built("darknet", folder)
    shutil.move(darknet.file, folder / "yolov4.weights")
    shutil.move(darknet.load["cfg"], folder / "yolov4.cfg")
    (folder / "coco.names").write_text("\n".join(NAMES))


def _built(kind: str, folder: Path) -> Any:
    return KINDS[kind].build(len(NAMES), folder)


def _data_sets(folder: Path) -> None:
    """Two pictures, with labels in YOLO's form and in COCO's: what the small detector finds in them."""
    detector = detcam.load(folder / "yolo.pt", device="cpu")
    yaml = f"path: {folder}/pets\nval: images\nnames: [{', '.join(NAMES)}]\n"
    for name in ("photos", "val2017", "pets/images", "pets/labels"):
        (folder / name).mkdir(parents=True)
    records, objects = [], []
    for number, pixels in enumerate(pictures(2, SIDE, SIDE, seed=4)):
        for where in ("photos", "val2017", "pets/images"):
            Image.fromarray(pixels).save(folder / where / f"{number}.png")
        found = detcam.explain(detector, pixels, max_boxes=4).detections
        lines = []
        for (x1, y1, x2, y2), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
            centre = ((x1 + x2) / 2 / SIDE, (y1 + y2) / 2 / SIDE, (x2 - x1) / SIDE, (y2 - y1) / SIDE)
            lines.append(" ".join(map(str, [label, *centre])))
            objects.append(
                {
                    "id": len(objects),
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
        (folder / "pets" / "labels" / f"{number}.txt").write_text("\n".join(lines))
        records.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    (folder / "instances.json").write_text(
        json.dumps({"images": records, "annotations": objects, "categories": categories})
    )
    (folder / "data.yaml").write_text(yaml)
    (folder / "pets" / "data.yaml").write_text(yaml)
    shutil.copy(folder / "photos" / "0.png", folder / "street.jpg")  # told by what is in it, not by its name


def _detector(folder: Path) -> Any:
    return detcam.load(folder / "yolo.pt", device="cpu")


def _live(kind: str) -> Callable[[Path], dict[str, Any]]:
    """The small live model of a family."""
    return lambda folder: {"model": _built(kind, folder).model}


def _readme(_: Path) -> dict[str, Any]:
    normal = {"MEAN": (0.485, 0.456, 0.406), "STD": (0.229, 0.224, 0.225)}
    return {"network": _resnet(), "images": torch.rand(1, 3, 64, 64), "detect": _three_answers, **normal}


def _resnet() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18().eval()


def _three_answers(several: list[np.ndarray]) -> list[Any]:
    """A callable that finds one box whose score is the picture's brightness."""
    return [(np.array([[10, 10, 60, 60]]), np.array([one.mean() / 255]), np.array([0])) for one in several]


def _adapters(_: Path) -> dict[str, Any]:
    import pond

    # Their maps are what the blocks name: a head of anchors at three strides, and one of distances.
    return {
        "model": pond.seeded(pond.Pond(3)),
        "yolov4": _Heads(3 * (5 + 3)),
        "other": _Heads(4 * 16 + 3),
        "names": NAMES,
    }


class _Heads(nn.Module):
    """Three convolutions at strides 32, 16 and 8; gives what a training loop wants, and the maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 8, stride=8)
        self.yolo_head1, self.yolo_head2, self.yolo_head3 = (
            nn.Conv2d(4, channels, 4 // 2**i, 4 // 2**i) for i in range(3)
        )

    def forward(self, batch: torch.Tensor) -> tuple[None, list[torch.Tensor]]:
        fine = self.body(batch)
        return None, [head(fine) for head in (self.yolo_head1, self.yolo_head2, self.yolo_head3)]


def _blackbox(folder: Path) -> dict[str, Any]:
    return {
        "detector": _detector(folder),
        "detect": _three_answers,
        "NAMES": NAMES,
        "picture_640": _noise(),
    }


def _features(folder: Path) -> dict[str, Any]:
    network = _resnet()
    return {"detector": _detector(folder), "network": network, "model": network}


def _metrics(folder: Path) -> dict[str, Any]:
    explanation = detcam.explain(_detector(folder), _noise(), max_boxes=1)
    box, label = explanation.detections.boxes[0], int(explanation.detections.labels[0])
    several = torch.eye(3)[label].expand(1, 3)

    def detect(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        seen = batch.mean(dim=(1, 2, 3))[:, None, None]
        return box.expand(len(batch), 1, 4), several * seen, None

    return {
        "picture": torch.from_numpy(_noise()).permute(2, 0, 1).float() / 255,
        "maps": explanation.geometry.maps_to_image(explanation.merged),
        "box": box,
        "class_id": label,
        "probabilities": several[0],
        "detect": detect,
        "values": torch.rand(8),
        "method": torch.rand(8),
        "gaussian": torch.rand(8),
        "photographs": [0, 0, 1, 1, 2, 2, 3, 3],
    }


def _networks(_: Path) -> dict[str, Any]:
    from torchvision.models.segmentation import deeplabv3_resnet50

    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    deeplab = deeplabv3_resnet50(weights_backbone=None).eval()
    return {**_readme(_), "resnet": _resnet(), "deeplab": deeplab, "mask": mask}


_GIVEN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "README.md": _readme,
    "docs/adapters.md": _adapters,
    "docs/blackbox.md": _blackbox,
    "docs/features.md": _features,
    "docs/labels.md": lambda folder: {"detector": _detector(folder)},
    "docs/metrics.md": _metrics,
    "docs/networks.md": _networks,
    "docs/families/classify.md": _live("classify"),
    "docs/families/rt-detr.md": _live("rt-detr"),
    "docs/families/torchvision.md": _live("regions"),
    "docs/families/transformers.md": _live("rt-detr-lookalike"),
    "docs/families/yolov4.md": _live("yolov4"),
    "docs/families/yolov5.md": _live("yolov5"),
    "docs/families/yolov6.md": _live("yolov6"),
    "docs/families/yolov9.md": _live("yolov9"),
    "docs/families/yolox.md": _live("yolox"),
}
