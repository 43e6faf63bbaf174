# %% [markdown]
"""# What a CSPDarknet holds: the stem and its stages, channel by channel.

Nobody edits a `forward` for this: `detcam.features` hooks the layers, and gives every channel raw. The thin
YOLOv4 is asked at 416 × 416 as its users do; its numbers are random here, and even so its stem tells
colours apart and its stages come on ever coarser grids. The bundled detector, whose backbone is a CSP one
as well, was trained: its channels have become outlines, each of another direction.
"""

# %%
from drawing import WEIGHTS, out_folder, save_picture
from small_yolov4 import write

import detcam

OUT = out_folder("csp_features")
SCENE = WEIGHTS / "scene.png"

# %%
cfg, weights = write(OUT, side=416)
yolov4 = detcam.features(detcam.load(weights, device="cpu", cfg=cfg), SCENE, channels="top16")
for layer in yolov4.layers:
    print(layer.name, layer.kind, "×".join(map(str, layer.values.shape)))

# %% [markdown]
# ## Contact sheets
# The 16 channels with the most to say, their numbers over them. Zero is light grey where there are values
# below zero.

# %%
stem, *stages = yolov4.layers
save_picture(OUT / "yolov4_stem.jpg", yolov4.sheet(stem.name))

# %%
save_picture(OUT / "yolov4_stage3.jpg", yolov4.sheet("P3"))

# %% [markdown]
# ## The bundled detector

# %%
shapes = detcam.features(detcam.load(WEIGHTS / "shapes.pt", device="cpu"), SCENE, channels="top16")
for layer in shapes.layers:
    print(layer.name, layer.kind, "×".join(map(str, layer.values.shape)))
save_picture(OUT / "shapes_P3.jpg", shapes.sheet("P3"))

# %% [markdown]
# ## Everything, raw
# All channels of all layers in one `.npz`, a contact sheet for each layer, and a description.

# %%
for path in shapes.save(OUT, "shapes"):
    print(path)
