"""DETR, RT-DETR and YOLOS in small: own look-alikes of what an adapter sees, and the real ones untrained."""

import functools
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn


class Positions(nn.Module):
    """A 4-D output that does not depend on the picture."""

    def forward(self, like):
        return torch.ones_like(like).cumsum(dim=-1)


class Attention(nn.Module):
    """Queries read cells; the weights go through a module of their own, as a 4-D tensor."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def forward(self, queries, cells):
        weights = (queries @ cells.transpose(1, 2)).softmax(dim=2)
        return self.dropout(weights[:, None])[:, 0] @ cells


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=s, padding=1), nn.ReLU())
            for a, b, s in ((3, 8, 4), (8, 12, 2), (12, 16, 2), (16, 20, 2))
        )

    def forward(self, picture):
        maps = []
        for stage in self.stages:
            picture = stage(picture)
            maps.append(picture)
        return tuple(maps[1:])


class Heads(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.classes, self.boxes = nn.Linear(16, columns), nn.Linear(16, 4)
        nn.init.normal_(self.classes.weight, std=2.0)
        nn.init.normal_(self.boxes.weight, std=1.0)

    def forward(self, queries):
        return SimpleNamespace(logits=self.classes(queries), pred_boxes=self.boxes(queries).sigmoid())


def configuration(kind, queries, classes=5):
    names = {index: f"name {index}" for index in range(classes)}
    return SimpleNamespace(model_type=kind, num_queries=queries, id2label=names)


class DetrForObjectDetection(nn.Module):
    """Free queries read the last stage."""

    def __init__(self, classes=5):
        super().__init__()
        self.config = configuration("detr", 12, classes)
        self.model = nn.Module()
        self.model.backbone = Backbone()
        self.model.position_embedding = Positions()
        self.model.input_projection = nn.Conv2d(20, 16, 1)
        self.model.attention = Attention()
        self.model.queries = nn.Parameter(torch.randn(12, 16) * 3)
        self.heads = Heads(columns=classes + 1)

    def forward(self, pixel_values, **_options):
        cells = self.model.input_projection(self.model.backbone(pixel_values)[-1])
        cells = (cells + 0.01 * self.model.position_embedding(cells)).flatten(2).transpose(1, 2)
        queries = self.model.queries.expand(len(pixel_values), -1, -1)
        return self.heads(queries + self.model.attention(queries, cells))


class RTDetrForObjectDetection(nn.Module):
    """The cells of three levels with the best class become queries."""

    def __init__(self, kind="rt_detr", classes=5):
        super().__init__()
        self.config = configuration(kind, 20, classes)
        self.model = nn.Module()
        self.model.backbone = Backbone()
        self.model.encoder = nn.ModuleList(nn.Conv2d(c, 16, 3, padding=1) for c in (12, 16, 20))
        self.model.decoder_input_proj = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(3))
        self.model.enc_score_head = nn.Linear(16, classes)
        self.model.attention = Attention()
        self.heads = Heads(columns=classes)

    def forward(self, pixel_values, **_options):
        maps = self.model.backbone(pixel_values)
        maps = [encode(one) for encode, one in zip(self.model.encoder, maps, strict=True)]
        maps = [project(one) for project, one in zip(self.model.decoder_input_proj, maps, strict=True)]
        cells = torch.cat([one.flatten(2) for one in maps], dim=2).transpose(1, 2)
        best = self.model.enc_score_head(cells).amax(dim=2).topk(20, dim=1).indices
        queries = cells.gather(1, best[:, :, None].expand(-1, -1, 16))
        return self.heads(3 * queries + self.model.attention(queries, cells))


class YolosForObjectDetection(nn.Module):
    """A vision transformer: tokens from the first layer on."""

    def __init__(self):
        super().__init__()
        self.config = configuration("yolos", 0)
        self.projection = nn.Conv2d(3, 16, 16, stride=16)
        self.attention = Attention()
        self.tokens = nn.Parameter(torch.randn(8, 16))
        self.heads = Heads(columns=6)

    def forward(self, pixel_values, **_options):
        cells = self.projection(pixel_values).flatten(2).transpose(1, 2)
        tokens = self.tokens.expand(len(pixel_values), -1, -1)
        return self.heads(tokens + 5 * self.attention(tokens, cells))


class LongformerForObjectDetection(nn.Module):
    """Of a family that is not known."""

    config = SimpleNamespace(model_type="longformer", id2label={})


@functools.cache
def lookalike(kind, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return kind(**options).eval()


def softmax_replica(logits, shares, conf, size):
    """Boxes, scores and labels of the queries whose best class passes; the last column is none."""
    found = []
    for row, share in zip(logits.double().tolist(), shares.double().tolist(), strict=True):
        weights = np.exp(np.array(row) - max(row))
        probabilities = (weights / weights.sum())[:-1]
        if probabilities.max() > conf:
            found.append((corners(share, size), probabilities.max(), int(probabilities.argmax())))
    boxes, scores, labels = zip(*found, strict=True)
    return torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels)


def sigmoid_replica(logits, shares, conf, size):
    """Boxes, scores and labels of the best pairs of query and class, as many as there are queries."""
    pairs = []
    for row, share in zip(logits.double().tolist(), shares.double().tolist(), strict=True):
        pairs += [(1 / (1 + np.exp(-value)), label, corners(share, size)) for label, value in enumerate(row)]
    best = [pair for pair in sorted(pairs, reverse=True)[: len(logits)] if pair[0] > conf]
    scores, labels, boxes = zip(*best, strict=True)
    return torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels)


def corners(share, size):
    """A box (cx, cy, w, h) in shares of a picture of (H, W) pixels as x1, y1, x2, y2 in pixels."""
    cx, cy, w, h = share
    height, width = size
    return [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]


# --- the real ones

_RESNET = {
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def real_detr(transformers, classes):
    configuration = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(**_RESNET, out_features=["stage4"]),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        num_labels=classes,
    )
    return transformers.DetrForObjectDetection(configuration)


def real_rtdetr(transformers, classes, version=""):
    configuration = getattr(transformers, f"RTDetr{version}Config")(
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=transformers.RTDetrResNetConfig(
            **_RESNET, out_features=["stage2", "stage3", "stage4"]
        ),
        encoder_in_channels=[24, 32, 40],
        d_model=32,
        encoder_hidden_dim=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        decoder_in_channels=[32, 32, 32],
        num_queries=30,
        num_labels=classes,
        num_denoising=0,
    )
    return getattr(transformers, f"RTDetr{version}ForObjectDetection")(configuration)


def real_yolos(transformers, classes):
    configuration = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 96],
        num_detection_tokens=10,
        num_labels=classes,
    )
    return transformers.YolosForObjectDetection(configuration)


_PROPORTIONAL = {"size": {"shortest_edge": 96, "longest_edge": 159}}  # as 800 to 1333
_SQUARE = {"size": {"height": 96, "width": 96}}
REAL = {
    "detr": (real_detr, "DetrImageProcessor", _PROPORTIONAL),
    "rt_detr": (real_rtdetr, "RTDetrImageProcessor", _SQUARE),
    "rt_detr_v2": (functools.partial(real_rtdetr, version="V2"), "RTDetrImageProcessor", _SQUARE),
    "yolos": (real_yolos, "YolosImageProcessor", _PROPORTIONAL),
}


def real_processor(kind):
    """What prepares pictures for it, and reads what it gives."""
    import transformers

    _, name, size = REAL[kind]
    return getattr(transformers, name)(**size)


@functools.cache
def real(kind, classes):
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = REAL[kind][0](transformers, classes).eval()
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and ("class" in name or "score" in name):
                nn.init.normal_(weight, std=0.5)
            if weight.ndim == 2 and "bbox" in name:
                nn.init.normal_(weight, std=0.2)
            if name.endswith(("query_position_embeddings.weight", "detection_tokens")):
                nn.init.normal_(weight, std=2.0)
    return model
