"""Draw one of the scenes that the bundled detectors were trained on; `detcam.scenes` says what is in them.

Example:
    python examples/scenes.py scene.png --seed 7
"""

import argparse
from pathlib import Path

import cv2

from detcam.scenes import MARKERS, SHAPES, make_scene


def main() -> None:
    """Write one scene and say what is in it."""
    parser = argparse.ArgumentParser(description="Write one scene as a picture.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", type=int, default=320)
    args = parser.parse_args()
    scene = make_scene(args.seed, args.size)
    if not cv2.imwrite(str(args.out), scene.image[..., ::-1]):
        parser.error(f"could not write {args.out}")
    for shape, marker, box in zip(scene.shapes, scene.markers, scene.boxes, strict=True):
        print(f"{SHAPES[shape]:9}{MARKERS[marker]:7}{box.astype(int).tolist()}")


if __name__ == "__main__":
    main()
