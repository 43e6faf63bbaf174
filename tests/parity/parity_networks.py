"""Seeded networks of every kind that both libraries explain, and what is asked of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputTarget,
    FasterRCNNBoxScoreTarget,
    SemanticSegmentationTarget,
)
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

CLASSES = 10


@dataclass(frozen=True, eq=False)
class Case:
    """A network and a question.

    Attributes:
        model: what ours explains.
        inputs: (B, 3, H, W).
        targets: of their library, one for each picture; ours takes them as they are.
        layer: for gradients and principal components.
        scored_layer: for methods that score every channel: one of fewer channels.
        wrapped: what theirs explains: it needs a tensor, or a list, as the output.
        forward: ours' way to an output whose rows the targets can read; None for the model's own.
        reshape: theirs needs one for channels-last maps and tokens.
        has_zeros: whether the scored layer's smallest value is exactly 0 (it ends in a ReLU).
    """

    model: nn.Module
    inputs: Tensor
    targets: list[Callable[[Any], Tensor]]
    layer: str
    scored_layer: str
    wrapped: nn.Module
    forward: Callable[..., Any] | None = None
    reshape: Callable[[Tensor], Tensor] | None = None
    has_zeros: bool = True


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Noise with structure at all scales, so that coarse grids vary."""
    generator = torch.Generator().manual_seed(seed)
    octaves = [
        nn.functional.interpolate(
            torch.randn(count, 3, *size, generator=generator), (height, width), mode="bilinear"
        )
        for size in ((3, 3), (8, 8), (height, width))
    ]
    return sum(octaves, torch.zeros(()))


def warmed(model: nn.Module, side: int = 96) -> nn.Module:
    """Evaluating, with batch statistics of such pictures, which keep values of random weights about 1."""
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()(pictures(8, side, side, seed=9))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


@functools.cache
def case(name: str) -> Case:
    torch.manual_seed(len(name))
    return CASES[name]()


def _classifier(
    model: nn.Module, layer: str, scored: str, side: tuple[int, int] = (96, 96), **options: Any
) -> Case:
    warmed(model)
    inputs = pictures(2, *side)
    with torch.no_grad():  # scores that are positive, which Ablation-CAM presumes
        targets = [ClassifierOutputTarget(int(row.argmax())) for row in model(inputs)]
    return Case(model, inputs, targets, layer, scored, model, **options)


def _resnet18() -> Case:
    model = torchvision.models.resnet18(num_classes=CLASSES)
    return _classifier(model, "layer4.1", "layer1.1", (96, 128))


def _resnet50() -> Case:
    model = torchvision.models.resnet50(num_classes=CLASSES)
    return _classifier(model, "layer4.2", "relu")


def _densenet121() -> Case:
    return _classifier(
        torchvision.models.densenet121(num_classes=CLASSES), "features.denseblock4", "features.relu0"
    )


def _vgg11() -> Case:
    model = torchvision.models.vgg11(num_classes=CLASSES)
    return _classifier(model, "features.20", "features.2")


def tokens_as_maps(tokens: Tensor, grid: tuple[int, int] = (6, 6)) -> Tensor:
    """(B, 1 + N, C) -> (B, C, h, w), the class token left out."""
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, *grid)


def channels_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _vit() -> Case:
    model = torchvision.models.VisionTransformer(96, 16, 4, 4, 64, 128, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight)  # torchvision leaves it at zero
    last, earlier = "encoder.layers.encoder_layer_3.ln_1", "encoder.layers.encoder_layer_2"
    return _classifier(model, last, earlier, reshape=tokens_as_maps, has_zeros=False)


def _swin_t() -> Case:
    model = torchvision.models.swin_t(num_classes=CLASSES)
    nn.init.normal_(model.head.weight, std=0.3)
    return _classifier(model, "features.7.1.norm1", "features.1.1", reshape=channels_first, has_zeros=False)


class Mask(nn.Module):
    """The dense scores out of a dict: what theirs asks its users to write."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)["out"]


def _deeplab() -> Case:
    model = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    warmed(model)
    wrapped = Mask(model).eval()
    inputs = pictures(2, 96, 64)
    with torch.no_grad():
        labels = wrapped(inputs).argmax(dim=1)
    targets = []
    for row in labels:
        category = int(row.flatten().mode().values)
        targets.append(SemanticSegmentationTarget(category, (row == category).float().numpy()))
    return Case(
        model,
        inputs,
        targets,
        "backbone.16",
        "backbone.6",
        wrapped,
        forward=lambda x: model(x)["out"],
        has_zeros=False,
    )


def _faster_rcnn() -> Case:
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 4, 1), nn.BatchNorm2d(32), nn.ReLU()
    )
    warmed(backbone)
    backbone.out_channels = 32
    anchors = AnchorGenerator(sizes=((16, 32, 64),), aspect_ratios=((0.5, 1.0, 2.0),))
    options = {"min_size": 96, "max_size": 96, "box_score_thresh": 0.05, "box_detections_per_img": 5}
    model = FasterRCNN(backbone, 4, rpn_anchor_generator=anchors, rpn_post_nms_top_n_test=30, **options)
    model.roi_heads.box_head = TwoMLPHead(32 * 49, 32)
    model.roi_heads.box_predictor = FastRCNNPredictor(32, 4)
    model.roi_heads.box_predictor.cls_score.weight.data.mul_(20)
    model.eval()
    inputs = pictures(1, 96, 96).sigmoid()
    with torch.no_grad():
        (found,) = model(inputs)
    target = FasterRCNNBoxScoreTarget(found["labels"], found["boxes"], iou_threshold=0.2)

    return Case(model, inputs, [target], "backbone.4", "backbone.4", model)


CASES: dict[str, Callable[[], Case]] = {
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "densenet121": _densenet121,
    "vgg11": _vgg11,
    "vit": _vit,
    "swin_t": _swin_t,
    "deeplabv3_mobilenet": _deeplab,
    "faster_rcnn": _faster_rcnn,
}
