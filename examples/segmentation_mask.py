# %% [markdown]
"""# Dense outputs: a class over a mask, and a manipulation map.

A segmentation network gives scores for every pixel. What speaks for *circle*, where it says circle? That is
one number again: the class's scores summed over a mask (`MaskedClass`), as the well-known DeepLab example
has it. A network with one dense channel, such as MVSS-Net's map of manipulated pixels, is asked with
`MaskScore`.
"""

# %%
import cv2
import numpy as np
import torch
from drawing import enlarged, out_folder, outlined, save_sheet, shaded
from teaching import COLOURS, SHAPES, block, draw, stacked, teach
from torch import Tensor, nn
from torch.nn import functional

import detcam
from detcam.cam import MaskedClass, MaskScore

OUT = out_folder("segmentation_mask")
SIDE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("ground", *SHAPES)

# %% [markdown]
# ## A small U-Net, taught to tell circles, squares and triangles apart
# Colours mean nothing to it. Like torchvision's DeepLab it gives a dict.


# %%
class SmallUNet(nn.Module):
    """Scores (B, K, H, W) in a dict under "out", as torchvision's segmentation networks give them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down1, self.down2 = block(3, 12), block(12, 24)
        self.down3, self.down4 = block(24, 32), block(32, 48)
        self.bottom = block(48, 48, 1)
        self.up3, self.up2 = block(48 + 32, 32, 1), block(32 + 24, 24, 1)
        self.up1 = block(24 + 12, 16, 1)
        self.classifier = nn.Conv2d(16, classes, 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Scores of normalised pictures (B, 3, H, W)."""
        half = self.down1(pictures)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        deep = self.bottom(self.down4(eighth))
        deep = self.up3(torch.cat([functional.interpolate(deep, scale_factor=2), eighth], dim=1))
        deep = self.up2(torch.cat([functional.interpolate(deep, scale_factor=2), quarter], dim=1))
        deep = self.up1(torch.cat([functional.interpolate(deep, scale_factor=2), half], dim=1))
        return {"out": functional.interpolate(self.classifier(deep), scale_factor=2, mode="bilinear")}


def normalised(pictures: Tensor) -> Tensor:
    """0..1 pictures with ImageNet's mean and deviation taken out, as most networks want them."""
    return (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def labelled(rng: np.random.Generator, shapes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A picture with these shapes in random colours, and each pixel's class."""
    drawn = draw(rng, SIDE, [(str(rng.choice(list(COLOURS))), shape) for shape in shapes], (0.14, 0.19))
    truth = np.zeros((SIDE, SIDE), np.int64)
    for shape, mask in zip(shapes, drawn.masks, strict=True):
        truth[mask] = CLASSES.index(shape)
    return drawn.picture, truth


torch.manual_seed(0)
rng = np.random.default_rng(0)
network = SmallUNet(len(CLASSES))


lessons = [labelled(rng, list(rng.choice(SHAPES, 3))) for _ in range(480)]
pictures, truths = (
    normalised(stacked(picture for picture, _ in lessons)),
    torch.from_numpy(np.stack([truth for _, truth in lessons])),
)


def segmentation_loss() -> Tensor:
    """Of 16 pictures of three shapes each."""
    chosen = torch.from_numpy(rng.integers(0, len(pictures), 16))
    weight = torch.tensor([0.3, 1, 1, 1])
    return functional.cross_entropy(network(pictures[chosen])["out"], truths[chosen], weight)


teach(network, segmentation_loss, steps=220, learning_rate=6e-3)

# %% [markdown]
# ## What speaks for each class, where the network sees it
# Without a mask, `MaskedClass` takes the pixels where the class scores highest; here the masks are made by
# hand, as one would who wants another region. `output="out"` names the part of the dict.

# %%
picture, truth = labelled(np.random.default_rng(13), ["circle", "square", "triangle"])
inputs = normalised(stacked([picture]))
with torch.no_grad():
    predicted = network(inputs)["out"][0].argmax(dim=0).numpy()
agreement = float((predicted == truth).mean())
print(f"{agreement:.1%} of the pixels are classified right")

masks = {name: predicted == number for number, name in enumerate(CLASSES) if name != "ground"}
heatmaps = {
    name: detcam.activation_maps(
        network,
        inputs,
        MaskedClass(CLASSES.index(name), mask, output="out"),
        layers="up2",
        method="layer-cam",
    ).heatmaps()
    for name, mask in masks.items()
}

# %%
paint = np.array([(60, 60, 60), (235, 95, 80), (90, 190, 110), (90, 130, 240)], np.uint8)
tiles = [
    ("picture", enlarged(picture)),
    ("segmentation", cv2.resize(paint[predicted], (256, 256), interpolation=cv2.INTER_NEAREST)),
]
for name, heatmap in heatmaps.items():
    tiles.append((f"why {name}", outlined(shaded(picture, heatmap[0]), masks[name])))

# %% [markdown]
# ## A map of manipulated pixels
# A fully convolutional network looks for pixels that were denoised; its answer is one channel. It is asked
# about the pixels that it marks; the outline is where the picture was edited.


# %%
class ManipulationMap(nn.Module):
    """How likely each pixel was denoised, (B, 1, H, W) before the sigmoid, from the noise residual."""

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]])[None, None] / 4
        self.register_buffer("kernel", kernel.repeat(3, 1, 1, 1))
        self.encoder = nn.Sequential(block(3, 12), block(12, 24), block(24, 32), block(32, 32, 1))
        self.score = nn.Conv2d(32, 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores of pictures (B, 3, H, W), 0..1."""
        residual = functional.conv2d(pictures, self.kernel, padding=1, groups=3) * 20
        return functional.interpolate(self.score(self.encoder(residual)), scale_factor=8, mode="bilinear")


def edited(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture in which an ellipse was denoised, and the ellipse's mask."""
    clean = draw(rng, SIDE, [("grey", "square")], noise=6.0).picture
    ellipse = np.zeros((SIDE, SIDE), np.uint8)
    centre, axes = rng.integers(16, SIDE - 16, 2).tolist(), rng.integers(8, 14, 2).tolist()
    cv2.ellipse(ellipse, centre, axes, int(rng.integers(180)), 0, 360, 1, -1)
    smooth = cv2.GaussianBlur(clean, (0, 0), 1.5)
    return np.where(ellipse[..., None] > 0, smooth, clean), ellipse > 0


detector = ManipulationMap()


def manipulation_loss() -> Tensor:
    """Of 16 new pictures."""
    pairs = [edited(rng) for _ in range(16)]
    scores = detector(stacked([picture for picture, _ in pairs]))[:, 0]
    truth = torch.from_numpy(np.stack([mask for _, mask in pairs])).float()
    return functional.binary_cross_entropy_with_logits(scores, truth)


teach(detector, manipulation_loss, steps=50)

# %%
forged, patch = edited(np.random.default_rng(11))
batch = stacked([forged])
with torch.no_grad():
    marked = detector(batch)[0, 0] > 0
manipulation = detcam.activation_maps(
    detector, batch, MaskScore(marked), layers="encoder", method="layer-cam"
).heatmaps()

# %%
tiles += [
    ("an ellipse was denoised", enlarged(forged)),
    (
        "the network's map",
        outlined(enlarged(np.repeat(marked.numpy()[..., None] * 1.0, 3, axis=2)), patch, (220, 40, 40)),
    ),
    ("why manipulated", outlined(shaded(forged, manipulation[0]), patch)),
]
save_sheet(
    OUT / "masks.jpg", tiles, 4, key="evidence, up to each largest; outlined: the class, the edited ellipse"
)
