# %% [markdown]
"""# YOLOv4, level by level.

A detector predicts on several grids at once, fine ones for small objects and coarse ones for large. Two
pictures show them: what the head *says* in each cell of each level (`detcam.output_maps`), and *why* a box
was found, as evidence at each level of the backbone (`detcam.explain`). The YOLOv4 here is as Darknet keeps
it, a `.cfg` and a `.weights` file; it is thin and was taught, within seconds, which colour figures have.
Then the same of the bundled detector.
"""

# %%
import numpy as np
import torch
from drawing import WEIGHTS, by_level, out_folder, save_picture
from PIL import Image
from small_yolov4 import NAMES, scene, taught

import detcam

OUT = out_folder("yolov4_levels")

# %%
torch.manual_seed(0)
cfg, weights = taught(OUT, steps=220)
detector = detcam.load(weights, device="cpu", cfg=cfg, names=list(NAMES))
drawn, labels = scene(np.random.default_rng(1021))
picture = Image.fromarray((drawn.picture * 255).astype(np.uint8))
shown = picture.resize((320, 320), Image.Resampling.BICUBIC)  # read at the network's size all the same

# %% [markdown]
# ## What the head says
# Objectness, class and score of every cell as probabilities, on one scale for all levels.

# %%
outputs = detcam.output_maps(detector, shown)
for name, values in outputs["score"].levels.items():
    print(name, tuple(values.shape), f"best score {float(values.max()):.2f}")
save_picture(OUT / "yolov4_score.jpg", outputs.sheet("score", "viridis"))

# %% [markdown]
# ## Why it says so

# %%
explanation = detcam.explain(detector, shown, layers="backbone", conf=0.2)
for box in range(len(explanation)):
    print(explanation.label(box), "predicted at", explanation.deciding[box])
best = explanation[0]
print("evidence:", {level: f"{share[0]:.0%}" for level, share in best.shares.items()})
save_picture(OUT / "yolov4_evidence.jpg", by_level(explanation, "viridis"))

# %% [markdown]
# ## The bundled detector
# `shapes.pt` was trained for longer, on harder pictures: scores of circles alone, and the evidence for
# them.

# %%
bundled = detcam.load(WEIGHTS / "shapes.pt", device="cpu")
circles = detcam.output_maps(bundled, WEIGHTS / "scene.png", classes=["circle"])
save_picture(OUT / "shapes_circle.jpg", circles.sheet("score_0"))

# %%
why = detcam.explain(bundled, WEIGHTS / "scene.png", layers="backbone", classes=["circle"])
save_picture(OUT / "shapes_evidence.jpg", by_level(why))
