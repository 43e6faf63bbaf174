# %% [markdown]
"""# A training checkpoint with `module.` before every name.

What a training run on several GPUs leaves behind: the weights of a DataParallel network, an optimizer, the
epoch, the settings. `detcam.load_weights` puts it into the plain network without running anything in the
file, and a network that is still wrapped is explained as it is.
"""

# %%
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from drawing import enlarged, out_folder, save_sheet, shaded
from teaching import COLOURS, SHAPES, block, draw, stacked, teach
from torch import Tensor, nn
from torch.nn import functional

import detcam

OUT = out_folder("data_parallel_checkpoint")
SIDE = 64
NAMES = tuple(COLOURS)


def small_network() -> nn.Module:
    """Which colour has the coloured shape? Scores (B, 4)."""
    features = nn.Sequential(block(3, 16), block(16, 24), block(24, 24))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, len(NAMES)))


# %% [markdown]
# ## Training, data-parallel

# %%
torch.manual_seed(0)
rng = np.random.default_rng(0)
trained = nn.DataParallel(small_network())


def loss() -> Tensor:
    """Of 16 new pictures, each with a coloured shape and a grey one."""
    truth = rng.integers(0, len(NAMES), 16)
    figures = [
        [(NAMES[number], str(rng.choice(SHAPES))), ("grey", str(rng.choice(SHAPES)))] for number in truth
    ]
    pictures = stacked(draw(rng, SIDE, one).picture for one in figures)
    return functional.cross_entropy(trained(pictures), torch.from_numpy(truth))


teach(trained, loss, steps=50, learning_rate=5e-3)

# %% [markdown]
# ## The checkpoint, and back

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "train.pth"
    checkpoint = {
        "epoch": 7,
        "state_dict": trained.state_dict(),
        "optimizer": torch.optim.AdamW(trained.parameters()).state_dict(),
        "args": Namespace(learning_rate=5e-3, gpus=[0, 1, 2, 3]),
    }
    print("in the file:", next(iter(checkpoint["state_dict"])), "and", len(checkpoint) - 1, "other entries")
    torch.save(checkpoint, path)
    loaded = detcam.load_weights(small_network(), path)

# %% [markdown]
# ## The same maps, three times

# %%
drawn = draw(np.random.default_rng(2), SIDE, [("yellow", "triangle"), ("grey", "circle"), ("grey", "square")])
picture, target = stacked([drawn.picture]), NAMES.index("yellow")
networks = {
    "the network itself": trained.module,
    "still in DataParallel": trained,
    "loaded from the file": loaded,
}
maps = {
    title: detcam.activation_maps(network, picture, target, method="hires-cam")
    for title, network in networks.items()
}
original, *others = maps.values()
for one in others:
    assert all(torch.equal(one.maps[name], values) for name, values in original.maps.items())
    assert torch.equal(one.values, original.values)
print("all maps are equal, at", *original.maps)

# %%
tiles = [("what is yellow?", enlarged(drawn.picture))]
tiles += [(title, shaded(drawn.picture, one.heatmaps()[0])) for title, one in maps.items()]
save_sheet(OUT / "checkpoint.jpg", tiles, 4, key="what speaks for yellow")
