# %% [markdown]
"""# Vision transformers: tokens laid out as a picture.

Two networks of torchvision in small: a ViT, whose tokens come in a row behind a class token, and a Swin,
whose tokens lie in (h, w, C) and work in shifted windows. Nobody says so: where the tokens belong is
inferred, and `TokenGrid` says it where that fails. Beside them a convolutional network with guided
Grad-CAM. Each was taught which colour the one coloured shape in the picture has; grey shapes are there to
be ignored.
"""

# %%
import numpy as np
import torch
from drawing import enlarged, out_folder, save_sheet, shaded
from teaching import COLOURS, SHAPES, draw, stacked, teach
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import SwinTransformer, VisionTransformer

import detcam
from detcam.cam import TokenGrid, guided_grad_cam

OUT = out_folder("vision_transformers")
SIDE = 64
NAMES = tuple(COLOURS)

# %%
torch.manual_seed(0)
rng = np.random.default_rng(0)
vit = VisionTransformer(
    image_size=SIDE,
    patch_size=8,
    num_layers=2,
    num_heads=4,
    hidden_dim=48,
    mlp_dim=96,
    num_classes=len(NAMES),
)
swin = SwinTransformer(
    patch_size=[4, 4],
    embed_dim=24,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=[2, 2],
    stochastic_depth_prob=0.0,
    num_classes=len(NAMES),
)
convolutional = nn.Sequential(
    *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, len(NAMES))),
)

for module in swin.modules():
    if isinstance(module, nn.Linear):  # torchvision's own start suits networks ten times as wide
        nn.init.xavier_uniform_(module.weight)


def scene(rng: np.random.Generator, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) in 0..1 with one coloured and two grey shapes, and the coloured one's mask."""
    shapes = [(colour, str(rng.choice(SHAPES))), *(("grey", str(rng.choice(SHAPES))) for _ in range(2))]
    drawn = draw(rng, SIDE, shapes, (0.12, 0.17))
    return drawn.picture, drawn.masks[0]


truth = rng.integers(0, len(NAMES), 320)
pictures = stacked(scene(rng, NAMES[number])[0] for number in truth) - 0.5


def lesson(network: nn.Module, steps: int, learning_rate: float) -> None:
    """Teach a network the colours."""

    def loss() -> Tensor:
        chosen = rng.integers(0, len(truth), 20)
        return functional.cross_entropy(network(pictures[chosen]), torch.from_numpy(truth[chosen]))

    teach(network, loss, steps, learning_rate)


lesson(vit, 160, 4e-3)
lesson(swin, 100, 8e-3)
lesson(convolutional, 80, 5e-3)

# %% [markdown]
# ## Maps
# `layers="last"` finds the last layer in which places still count: in a ViT whose head reads the class
# token, that is the norm before the last attention. Any block may be named; `TokenGrid((8, 8), skip=1)`
# says what was inferred anyway. A Swin's stages have grids of their own; at the last one, after its windows
# were shifted and merged, each token knows of its surroundings, and the map is wide. At the ViT's first block
# what speaks for the class cancels cell by cell, so channels are pooled there (Grad-CAM).

# %%
examined, mask = scene(np.random.default_rng(12), "blue")
batch = stacked([examined]) - 0.5
with torch.no_grad():
    answers = {
        name: NAMES[int(network(batch).argmax())]
        for name, network in (("ViT", vit), ("Swin", swin), ("convolutions", convolutional))
    }
print(answers)

METHOD = "hires-cam"
vit_last = detcam.activation_maps(vit, batch, method=METHOD)
vit_block = detcam.activation_maps(vit, batch, layers="encoder.layers.encoder_layer_0", method="grad-cam")
vit_told = detcam.activation_maps(vit, batch, method=METHOD, grid=TokenGrid((8, 8), skip=1))
swin_last = detcam.activation_maps(swin, batch)
swin_stages = detcam.activation_maps(swin, batch, layers="stages")
small = detcam.activation_maps(convolutional, batch, method=METHOD)
guided = guided_grad_cam(convolutional, batch)

for maps in (vit_last, vit_block, vit_told, swin_last, swin_stages, small):
    print({name: tuple(values.shape[1:]) for name, values in maps.maps.items()})

# %%
gradient = guided[0].permute(1, 2, 0).numpy()  # of red, green and blue; grey is none
fine, coarse = swin_stages.maps.items()
tiles = [
    ("which colour?", enlarged(examined)),
    ("ViT, last", shaded(examined, vit_last.heatmaps()[0])),
    ("ViT, block 0", shaded(examined, vit_block.heatmaps()[0])),
    ("ViT, grid told", shaded(examined, vit_told.heatmaps()[0])),
    *((f"Swin, {name} {tuple(one.shape[1:])}", shaded(examined, one[0])) for name, one in (fine, coarse)),
    ("convolutions, last", shaded(examined, small.heatmaps()[0])),
    ("guided Grad-CAM", enlarged(0.5 + gradient / (2 * np.abs(gradient).max()))),
]
save_sheet(
    OUT / "transformers.jpg", tiles, 4, key=f"what speaks for {answers['ViT']}, each map up to its largest"
)
