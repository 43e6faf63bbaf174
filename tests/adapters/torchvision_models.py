"""Small torchvision detectors with random weights that see something in noise, and their own predictions."""

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

SIZES = {"min_size": 96, "max_size": 160}
LEAST_SIZES = {"min_size": 64, "max_size": 112}


def noise(height=97, width=61, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_input(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def predicted(model, *pictures):
    with torch.no_grad():
        return model([as_input(one) for one in pictures])


def small(kind, classes=4, **options):
    """A detector of one kind; `classes` counts the background."""
    torch.manual_seed(len(kind) + classes)
    return enlivened(_BUILDERS[kind](classes, **options).eval())


def _resnet(**options):
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, **options)


def _regions(classes, **options):
    proposals = {"rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 40}
    model = FasterRCNN(_resnet(), classes, **SIZES, **proposals, **options)
    model.roi_heads.box_head = TwoMLPHead(256 * 49, 32)
    model.roi_heads.box_predictor = FastRCNNPredictor(32, classes)
    return model


def _retinanet(classes, **options):
    backbone = _resnet(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return RetinaNet(backbone, classes, **SIZES, **options)


def _fcos(classes, **options):
    backbone = _resnet(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return FCOS(backbone, classes, **SIZES, **options)


def _one_map(classes, **options):
    """The tutorial's Faster R-CNN: one feature map, no pyramid."""
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 4, 1), nn.ReLU())
    backbone.out_channels = 16
    anchors = AnchorGenerator(sizes=((16, 32, 64),), aspect_ratios=((0.5, 1.0, 2.0),))
    model = FasterRCNN(backbone, classes, rpn_anchor_generator=anchors, **SIZES, **options)
    model.roi_heads.box_head = TwoMLPHead(16 * 49, 32)
    model.roi_heads.box_predictor = FastRCNNPredictor(32, classes)
    return model


class _Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()),
        )
        self.extra = nn.ModuleList([nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())])

    def forward(self, x):
        maps = []
        for block in (*self.features, *self.extra):
            x = block(x)
            maps.append(x)
        return {str(i): one for i, one in enumerate(maps)}


def _ssd(classes, **options):
    anchors = DefaultBoxGenerator([[2], [2, 3], [2]])
    return SSD(_Stages(), anchors, (96, 96), classes, **options)


_BUILDERS = {
    "regions": _regions,
    "one-map": _one_map,
    "retinanet": _retinanet,
    "fcos": _fcos,
    "ssd": _ssd,
}


def enlivened(model):
    """Spread the head's outputs, which random weights leave all alike or beyond any bound."""
    probe = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if hasattr(model, "roi_heads"):
            heads = model.roi_heads
            pools = heads.mask_roi_pool, heads.keypoint_roi_pool
            heads.mask_roi_pool = heads.keypoint_roi_pool = None  # masks and keypoints take the longest
            _spread(model.rpn.head.cls_logits, model, 2.0)
            _spread(heads.box_predictor.cls_score, model, 1.5)
            _spread(heads.box_predictor.bbox_pred, model, 1.0)
            heads.mask_roi_pool, heads.keypoint_roi_pool = pools
            return model
        fixed = model.transform.fixed_size
        probe = probe if fixed is None else torch.randn(1, 3, *fixed[::-1])
        maps = list(model.backbone(probe).values())
        for module, std in _final_layers(model.head):
            _spread(module, lambda: model.head(maps), std)
        for module, _ in _final_layers(model.head)[:1]:
            if isinstance(model, RetinaNet | FCOS):  # as training leaves it: few fire, the background never
                module.bias -= 4
                module.bias.view(-1, module.out_channels // _anchors(model))[:, 0] = -30
    return model


def _anchors(model):
    return model.head.regression_head.bbox_reg.out_channels // 4


def _final_layers(head):
    if hasattr(head.classification_head, "cls_logits"):
        final = [(head.classification_head.cls_logits, 1.5), (head.regression_head.bbox_reg, 0.5)]
        centredness = getattr(head.regression_head, "bbox_ctrness", None)
        return final + ([(centredness, 1.5)] if centredness else [])
    towers = ((head.classification_head, 1.5), (head.regression_head, 1.0))
    return [
        ([m for m in one.modules() if isinstance(m, nn.Conv2d)][-1], std)
        for tower, std in towers
        for one in tower.module_list
    ]


def _spread(module, forward, std):
    """Scale a final layer so that what it gives has a certain spread around its bias."""
    outputs = []
    handle = module.register_forward_hook(lambda _m, _i, output: outputs.append(output.flatten()))
    if isinstance(forward, nn.Module):
        forward([as_input(noise())])
    else:
        forward()
    handle.remove()
    values = torch.cat(outputs)
    module.weight *= std / values.std().clamp(min=1e-6)
    nn.init.zeros_(module.bias)


def assert_same(found, expected):
    """Ours and the model's own, box for box."""
    assert len(found) == len(expected["boxes"])
    assert found.labels.tolist() == expected["labels"].tolist()
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
