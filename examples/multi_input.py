# %% [markdown]
"""# A network with three inputs, its evidence tower by tower.

Manipulation detectors look at a picture in several ways at once: its colours, its noise residual, its
frequencies. Here is such a network in small. It answers two questions: was a patch of the picture
*denoised*, as an editing tool leaves it, and is there a *red disc*? The first cannot be seen in the
colours, the second in nothing else. Nothing is concatenated and no wrapper is written: the inputs go in as
a tuple.
"""

# %%
import cv2
import numpy as np
import torch
from drawing import enlarged, out_folder, outlined, save_sheet, shaded, signed
from teaching import block, draw, stacked, teach
from torch import Tensor, nn

import detcam

OUT = out_folder("multi_input")
SIDE = 96
QUESTIONS = ("denoised patch", "red disc")
SOFTNESS = 3.0  # towards infinity all cells count alike, towards 0 the surest alone

# %% [markdown]
# ## Pictures
# Each has a disc, red or blue, and in half of them a patch was smoothed: the colours stay, the noise goes.


# %%
def camera_picture(rng: np.random.Generator, is_red: bool, is_edited: bool) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) in 0..1, and the mask of the patch that was denoised."""
    drawn = draw(rng, SIDE, [("red" if is_red else "blue", "circle")], noise=5.0)
    patch = np.zeros((SIDE, SIDE), bool)
    if is_edited:
        while not patch.any() or (patch & drawn.masks[0]).any():
            height, width = rng.integers(20, 36, 2)
            top, left = rng.integers(2, SIDE - height - 2), rng.integers(2, SIDE - width - 2)
            patch[:] = False
            patch[top : top + height, left : left + width] = True
    smooth = cv2.GaussianBlur(drawn.picture, (0, 0), 1.5)
    return np.where(patch[..., None], smooth, drawn.picture), patch


def views(pictures: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """What the towers see: colours (B, 3, 96, 96), noise (B, 1, 96, 96), frequencies (B, 63, 12, 12)."""
    colours = stacked(pictures)
    grey = colours.mean(dim=1, keepdim=True)
    cross = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]])[None, None] / 4
    noise = nn.functional.conv2d(grey, cross, padding=1) * 28
    # The discrete cosine transform of each block of 8 × 8 pixels, as in JPEG, without the block's mean.
    blocks = grey.unfold(2, 8, 8).unfold(3, 8, 8)[:, 0]
    index = torch.arange(8.0)
    basis = torch.cos((2 * index + 1) * index[:, None] * torch.pi / 16)
    spectrum = (basis @ blocks @ basis.T).flatten(3)[..., 1:]
    return colours, noise, spectrum.abs().add(0.02).log().permute(0, 3, 1, 2)


# %% [markdown]
# ## Network
# Three towers end on one grid of 12 × 12; what follows reads them together, and the cells that are surest
# decide.


# %%
class ThreeTowers(nn.Module):
    """Colour, noise and frequency towers, fused; (B, 2) scores, one for each question."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Sequential(block(3, 12), block(12, 16), block(16, 16))
        self.noise = nn.Sequential(block(1, 12), block(12, 16), block(16, 16))
        self.frequency = nn.Sequential(block(63, 16, 1), block(16, 16, 1))
        self.fuse = nn.Sequential(nn.Conv2d(48, 32, 1), nn.ReLU(), nn.Conv2d(32, len(QUESTIONS), 1))

    def forward(self, colours: Tensor, noise: Tensor, spectrum: Tensor) -> Tensor:
        """Scores (B, 2) of the three views."""
        towers = self.colour(colours), self.noise(noise), self.frequency(spectrum)
        cells = self.fuse(torch.cat(towers, dim=1)).flatten(2)
        return SOFTNESS * ((cells / SOFTNESS).logsumexp(dim=2) - np.log(cells.shape[2]))


torch.manual_seed(0)
rng = np.random.default_rng(0)
network = ThreeTowers()


truths = rng.random((400, len(QUESTIONS))) < 0.5
lessons = views([camera_picture(rng, is_red, is_edited)[0] for is_edited, is_red in truths])


def loss() -> Tensor:
    """Of 24 pictures."""
    chosen = rng.integers(0, len(truths), 24)
    scores = network(*(view[chosen] for view in lessons))
    return nn.functional.binary_cross_entropy_with_logits(scores, torch.from_numpy(truths[chosen]).float())


teach(network, loss, steps=100)

# %% [markdown]
# ## Maps
# One call for each question. With `path="direct"` the three layers are leaves of one graph, and their maps
# have one unit: where a tower stays dark, it had nothing to say.

# %%
picture, patch = camera_picture(np.random.default_rng(5), True, True)
inputs = views([picture])
TOWERS = ["colour", "noise", "frequency"]
maps = {
    question: detcam.activation_maps(
        network, inputs, number, layers=TOWERS, method="layer-cam", path="direct"
    )
    for number, question in enumerate(QUESTIONS)
}
shares = {
    question: {
        tower: float(one.maps[tower].sum() / sum(m.sum() for m in one.maps.values())) for tower in TOWERS
    }
    for question, one in maps.items()
}
print({question: {tower: f"{share:.0%}" for tower, share in one.items()} for question, one in shares.items()})

# %%
spectrum_energy = inputs[2][0].mean(dim=0).numpy()
seen = {
    "colour": picture,
    "noise": signed(inputs[1][0, 0].numpy(), 1.5),
    "frequency": signed(
        cv2.resize(spectrum_energy - spectrum_energy.mean(), (SIDE, SIDE), interpolation=0), 1.5
    ),
}
tiles = [(f"what the {tower} tower sees", enlarged(seen[tower])) for tower in TOWERS]
for question, one in maps.items():
    high = max(float(values.max()) for values in one.maps.values())
    for tower in TOWERS:
        drawn_map = shaded(seen[tower], one.maps[tower][0], high)
        tiles.append((f"{question}: {tower} {shares[question][tower]:.0%}", outlined(drawn_map, patch)))
save_sheet(OUT / "towers.jpg", tiles, 3, key="evidence, one scale per row; outlined: the denoised patch")
