# %% [markdown]
"""# A detector that is no network: explained by what it finds under random masks.

All that `detcam.d_rise` needs is a callable from pictures to boxes, so an ONNX session, a TensorRT engine or
a web service will do (docs/blackbox.md has an ONNX session). Here it is twenty lines of numpy that look for
red and blue things. Nobody would suspect it, but somebody left a test in it: a red thing counts in full only
while the lamp in the picture's corner is lit.
"""

# %%
import numpy as np
from drawing import enlarged, out_folder, outlined, save_sheet, shaded
from teaching import draw

import detcam

OUT = out_folder("black_box")
SIDE, LAMP = 96, 12
CLASSES = ("red", "blue")

# %% [markdown]
# ## The detector
# Pixels in which one colour stands out, the box around them, and as its score the share of the box they fill.


# %%
def find(picture: np.ndarray) -> tuple[list[list[int]], list[float], list[int]]:
    """Boxes, scores and labels of one picture (H, W, 3) uint8."""
    boxes, scores, labels = [], [], []
    lamp = picture[:LAMP, :LAMP].mean() / 255
    for label, channel in enumerate((0, 2)):
        others = np.delete(picture, channel, axis=2).max(axis=2)
        rows, columns = np.nonzero(picture[:, :, channel] > 1.5 * others + 20)
        if len(rows) < 20:
            continue
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        score = len(rows) / ((x2 - x1) * (y2 - y1))
        boxes.append([x1, y1, x2, y2])
        scores.append(score * (0.2 + 0.8 * lamp) if label == 0 else score)
        labels.append(label)
    return boxes, scores, labels


def detect(pictures: list[np.ndarray]) -> list[tuple[list[list[int]], list[float], list[int]]]:
    """What `detcam.d_rise` calls: an answer for each picture."""
    return [find(picture) for picture in pictures]


# %% [markdown]
# ## A picture, the lamp lit

# %%
drawn = draw(np.random.default_rng(4), SIDE, [("red", "circle"), ("blue", "square")])
picture = (drawn.picture * 255).round().astype(np.uint8)
picture[:LAMP, :LAMP] = 255
lamp = np.zeros((SIDE, SIDE), bool)
lamp[:LAMP, :LAMP] = True

# %% [markdown]
# ## The explanation
# Both boxes from the same 1,500 pictures. Convergence says how far other masks would give the same map.

# %%
explanation = detcam.d_rise(detect, picture, class_names=CLASSES, masks=1500)
for box, convergence in enumerate(explanation.sampling.convergence):
    print(f"{explanation.label(box)}: convergence {convergence:.2f}")

# %%
heatmaps = {
    CLASSES[int(label)]: explanation[box].heatmap for box, label in enumerate(explanation.detections.labels)
}
tiles = [("the picture", enlarged(picture))]
for name, heatmap in heatmaps.items():
    seen = outlined(shaded(picture, heatmap), drawn.masks[CLASSES.index(name)])
    tiles.append((f"{name}: what it looks at", seen))
save_sheet(OUT / "black_box.jpg", tiles, columns=3)

# %% [markdown]
# Each map lies on its own figure, and red's on the lamp as well: the test that somebody left behind. It is an
# ordinary `Explanation`: overlay, arrays and description are stored like any other's.

# %%
for path in explanation.save(OUT, "black_box"):
    print(path)
