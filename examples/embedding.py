# %% [markdown]
"""# Embeddings: what makes this picture like that text?.

CLIP in small: a convolutional image tower, a vision transformer as image tower, and a text tower over seven
words, trained together so that a picture lies close to its caption. The target is the cosine similarity to
a text's embedding; of two texts that share a word, `Contrast` shows what tells them apart.
"""

# %%
import numpy as np
import torch
from drawing import enlarged, out_folder, save_sheet, shaded
from teaching import COLOURS, SHAPES, block, draw, stacked, teach
from torch import Tensor, nn
from torch.nn import functional

import detcam
from detcam.cam import Contrast, CosineSimilarity

OUT = out_folder("embedding")
SIDE, PATCH, WIDTH = 64, 8, 48
WORDS = (*COLOURS, *SHAPES)
CAPTIONS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]

# %% [markdown]
# ## Two image towers and one text tower


# %%
class PatchTransformer(nn.Module):
    """Class token, patches of 8 × 8 pixels, one block; the class token is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(1)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        """Embeddings (B, E)."""
        tokens = self.patches(pictures).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.places
        for one in self.blocks:
            tokens = one(tokens)
        return self.norm(tokens)[:, 0]


class SmallClip(nn.Module):
    """Pictures and captions in one space, with two towers for pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            block(3, 16), block(16, 32), block(32, WIDTH), block(WIDTH, WIDTH, 1)
        )
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.transformer = PatchTransformer()
        self.words = nn.EmbeddingBag(len(WORDS), WIDTH, mode="sum")
        self.text_projection = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def encode_convolutional(self, pictures: Tensor) -> Tensor:
        """(B, E) by the convolutional tower."""
        return self.projection(self.convolutions(pictures - 0.5).mean(dim=(2, 3)))

    def encode_transformer(self, pictures: Tensor) -> Tensor:
        """(B, E) by the vision transformer."""
        return self.transformer(pictures - 0.5)

    def encode_text(self, captions: list[str]) -> Tensor:
        """(n, E)."""
        numbers = torch.tensor([[WORDS.index(word) for word in caption.split()] for caption in captions])
        return self.text_projection(self.words(numbers))


torch.manual_seed(0)
rng = np.random.default_rng(0)
clip = SmallClip()


def captioned() -> tuple[np.ndarray, list[int]]:
    """A picture of one or two figures, and the numbers of its captions."""
    chosen = rng.choice(len(CAPTIONS), rng.integers(1, 3), replace=False).tolist()
    return draw(rng, SIDE, [tuple(CAPTIONS[one].split()) for one in chosen], (0.15, 0.2)).picture, chosen


lessons = [captioned() for _ in range(640)]
pictures = stacked(picture for picture, _ in lessons)
shares = torch.zeros(len(lessons), len(CAPTIONS))  # (pictures, captions): which belong together
for row, (_, chosen) in zip(shares, lessons, strict=True):
    row[chosen] = 1 / len(chosen)


def contrastive_loss() -> Tensor:
    """Of 32 pictures: each shall be most like its own captions, in both towers."""
    chosen = torch.from_numpy(rng.integers(0, len(pictures), 32))
    texts = functional.normalize(clip.encode_text(CAPTIONS), dim=1)
    towers = clip.encode_convolutional(pictures[chosen]), clip.encode_transformer(pictures[chosen])
    alike = [functional.normalize(embeddings, dim=1) @ texts.T * 12 for embeddings in towers]
    return sum(functional.cross_entropy(one, shares[chosen]) for one in alike)


teach(clip, contrastive_loss, steps=180, learning_rate=5e-3)

# %% [markdown]
# ## One picture, two texts, two towers
# `forward=` is called instead of the network. Opacity follows the value to the power .7, so that the
# picture stays visible where the map says nothing.

# %%
drawn = draw(np.random.default_rng(3), SIDE, [("red", "circle"), ("blue", "square")], (0.16, 0.22))
picture = stacked([drawn.picture])
TEXTS = ("red circle", "blue square")
TOWERS = {
    "convolutions": (clip.encode_convolutional, "convolutions"),
    "transformer": (clip.encode_transformer, "last"),
}
with torch.no_grad():
    meanings = dict(zip(TEXTS, clip.encode_text(list(TEXTS)), strict=True))
maps = {
    (tower, text): detcam.activation_maps(
        clip, picture, CosineSimilarity(meanings[text]), layers=layer, method="hires-cam", forward=forward
    )
    for tower, (forward, layer) in TOWERS.items()
    for text in TEXTS
}
similarities = {key: float(one.values) for key, one in maps.items()}
print({" · ".join(key): round(value, 2) for key, value in similarities.items()})

# %% [markdown]
# ## What tells two texts apart
# *Red circle* and *blue circle* share a word: similarity to one may rest on both figures. The contrast
# takes the other text's similarity off.

# %%
twins = draw(np.random.default_rng(8), SIDE, [("red", "circle"), ("blue", "circle")], (0.16, 0.22))
both = stacked([twins.picture])
with torch.no_grad():
    red, blue = clip.encode_text(["red circle", "blue circle"])
forward, layer = TOWERS["convolutions"]
targets = {
    "like red circle": CosineSimilarity(red),
    "red rather than blue circle": Contrast(red, blue[None]),
}
contrasts = {
    title: detcam.activation_maps(clip, both, target, layers=layer, method="hires-cam", forward=forward)
    for title, target in targets.items()
}

# %%
tiles = [("one picture", enlarged(drawn.picture))]
for (tower, text), one in maps.items():
    tiles.append(
        (f"{tower}: {text} {similarities[tower, text]:.2f}", shaded(drawn.picture, one.heatmaps()[0]))
    )
tiles.insert(3, ("the same", enlarged(drawn.picture)))
tiles.append(("two circles", enlarged(twins.picture)))
tiles += [(title, shaded(twins.picture, one.heatmaps()[0])) for title, one in contrasts.items()]
save_sheet(OUT / "texts.jpg", tiles, 3, key="similarity, each map up to its largest")
