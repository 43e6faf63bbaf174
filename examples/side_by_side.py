"""Explain one picture with several detectors and put the results side by side.

Example:
    python examples/side_by_side.py OUT.jpg weights/scene.png weights/shapes.pt weights/shapes-shortcut.pt
"""

import argparse
from pathlib import Path

from PIL import Image

import detcam
from detcam.render import contact_sheet

WIDTH = 640  # px each, so that the labels of small pictures can be read


def main() -> None:
    """Explain, draw, and write the sheet."""
    arguments = _arguments()
    picture = Image.open(arguments.picture).convert("RGB")
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)))
    tiles = []
    for weights in arguments.detectors:
        detector = detcam.load(weights)
        explanation = detcam.explain(detector, picture, layers=arguments.layers, path=arguments.path)
        tiles.append((Path(weights).name, explanation.overlay()))
    Image.fromarray(contact_sheet(tiles, tile_side=WIDTH + 100)).save(arguments.out, quality=88)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Explain one picture with several detectors.")
    parser.add_argument("out")
    parser.add_argument("picture")
    parser.add_argument("detectors", nargs="+")
    parser.add_argument("--layers")
    parser.add_argument("--path")
    return parser.parse_args()


if __name__ == "__main__":
    main()
