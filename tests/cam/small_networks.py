"""Small networks of every wiring that the engine has to cope with, with weights from a seed."""

import torch
from torch import nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Two convolutions, pooling and a linear layer; what a float64 replica is written out of."""

    def __init__(self, channels=3, classes=4, *, inplace=True):
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.silu = nn.SiLU(inplace=inplace)
        self.head = nn.Linear(5, classes)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.norm(self.relu(self.first(x)))
        return self.head(self.silu(self.second(x)).mean(dim=(2, 3)))


class SharedHead(nn.Module):
    """One head for the levels of a pyramid, as in RetinaNet and YOLOX."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        fine = self.fine(x).relu()
        return {"levels": [self.head(fine), self.head(self.coarse(fine).relu())]}


class Backbone(nn.Module):
    """Gives several maps in a dict."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x):
        one = self.one(x).relu()
        return {"one": one, "pool": (self.two(one).relu(), x.shape)}


class OfSeveral(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.backbone, self.head = Backbone(), nn.Linear(10, 3)

    def forward(self, x):
        maps = self.backbone(x)
        return self.head(torch.cat([maps["one"].amax((2, 3)), maps["pool"][0].amax((2, 3))], dim=1))


class TwoInputs(nn.Module):
    """RGB and frequency coefficients, each with a branch of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.rgb, self.frequency = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(7, 4, 3, 2, 1)
        self.both, self.head = nn.Conv2d(8, 5, 3, padding=1), nn.Linear(5, 2)

    def forward(self, rgb, frequency, scale=1.0, *, ids=None):
        both = torch.cat([self.rgb(rgb), scale * self.frequency(frequency)], dim=1).relu()
        scores = self.head(self.both(both).relu().mean((2, 3)))
        return scores if ids is None else scores + ids[:, None]


class Volume(nn.Module):
    """Three-dimensional, as r3d_18."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(9)
        self.first, self.second = nn.Conv3d(1, 4, 3, (1, 2, 2), 1), nn.Conv3d(4, 3, 3, 2, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3, 4)))


class UNet(nn.Module):
    """Down, across and up again to a dense output of K classes."""

    def __init__(self, classes=2):
        super().__init__()
        torch.manual_seed(10)
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.up1, self.up2 = nn.Conv2d(10, 4, 3, padding=1), nn.Conv2d(4, classes, 1)

    def forward(self, x):
        one = self.down1(x).relu()
        two = self.down2(one).relu()
        up = F.interpolate(two, one.shape[2:], mode="bilinear", align_corners=False)
        up = self.up1(torch.cat([one, up], dim=1)).relu()
        return {"out": F.interpolate(self.up2(up), x.shape[2:]), "aux": None}


class Attention(nn.Module):
    """Written out, with the shares of attention as the output of a module, as many small ViTs have it."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.attend, self.out = (
            nn.Linear(width, 3 * width),
            nn.Softmax(dim=-1),
            nn.Linear(width, width),
        )

    def forward(self, x):
        q, k, v = (one.unflatten(2, (2, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, dim=2))
        shares = self.attend(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5)
        return self.out((shares @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """A ViT: patches of 16, a class token, and what is read off it."""

    def __init__(self, cells, width=8, outputs=3, blocks=2):
        super().__init__()
        torch.manual_seed(11)
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 1 + cells, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.places
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class TwoTowers(nn.Module):
    """Like CLIP: an image tower, a text tower, and logits of both."""

    def __init__(self, cells):
        super().__init__()
        self.visual = Tower(cells, outputs=6)
        self.words = nn.Embedding(9, 6)
        self.scale = nn.Parameter(torch.tensor(4.0))

    def encode_image(self, image):
        return self.visual(image)

    def encode_text(self, ids):
        return self.words(ids).mean(dim=1)

    def forward(self, image, ids):
        return (
            self.scale
            * F.normalize(self.encode_image(image), dim=1)
            @ F.normalize(self.encode_text(ids), dim=1).T
        )


def pictures(batch=2, channels=3, size=(37, 29), seed=1):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
