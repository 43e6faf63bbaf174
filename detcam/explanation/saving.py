"""The files of one explanation, each written whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detcam.errors import InputError, UnknownNameError
from detcam.explanation.overlay import MERGED, Style, draw, draw_levels, maps_of
from detcam.explanation.sidecar import classes, sidecar
from detcam.files import make_folder, whole_file, write_arrays, write_json, write_picture
from detcam.render import MOST_TILES, TileStyle, tile_sheet, write_map_png

if TYPE_CHECKING:
    from detcam.explanation.core import Explanation


@dataclass(frozen=True)
class SaveOptions:
    """What is written beside overlay, sidecar and arrays.

    Attributes:
        style: how pictures are drawn.
        extras: keys of `EXTRAS`.
        half: store arrays in float16.
    """

    style: Style = field(default_factory=Style)
    extras: tuple[str, ...] = ()
    half: bool = False

    def __post_init__(self) -> None:
        for name in self.extras:
            if name not in EXTRAS:
                raise UnknownNameError("output", name, EXTRAS)


def save(
    explanation: Explanation, folder: Path, stem: str, options: SaveOptions
) -> dict[str, Path | list[Path]]:
    """Write `stem`_cam.jpg, `stem`_cam.npz, what `options.extras` names, and last `stem`_cam.json.

    Returns:
        Role -> path or paths, the sidecar last.

    Raises:
        OutputError: the folder cannot be written.
        InputError: features are wanted and were not kept, or the picture is too large for a JPEG.
    """
    if "features" in options.extras and explanation.features is None:
        raise InputError("no features were kept: explain with keep_features=True")
    make_folder(folder)
    files: dict[str, Path | list[Path]] = {
        "overlay": write_picture(folder / f"{stem}_cam.jpg", draw(explanation, options.style)),
        "arrays": write_arrays(folder / f"{stem}_cam.npz", arrays(explanation), half=options.half),
    }
    for name in options.extras:
        files[name] = EXTRAS[name](explanation, folder, stem, options)
    document = sidecar(
        explanation, options.style.scale, {role: _names(paths) for role, paths in files.items()}
    )
    return {**files, "sidecar": write_json(folder / f"{stem}_cam.json", document)}


def paths_of(written: Mapping[str, Path | list[Path]]) -> list[Path]:
    """What `save` has written, without the roles."""
    return [path for paths in written.values() for path in ([paths] if isinstance(paths, Path) else paths)]


def arrays(explanation: Explanation) -> dict[str, npt.NDArray[np.float32]]:
    """Raw maps on their native grids: b000/P3 … b000/merged for each box, class_0/P3 … for each class.

    A class's map is at each cell the strongest of its boxes'.
    """
    found = {}
    for level in [*explanation.levels, MERGED]:
        maps = maps_of(explanation, level).float().cpu()
        for box, one in enumerate(maps):
            found[f"b{box:03d}/{level}"] = one.numpy()
        labels = explanation.detections.labels.cpu()
        for label in classes(explanation):
            found[f"class_{label}/{level}"] = maps[labels == label].amax(dim=0).numpy()
    return found


def _save_levels(explanation: Explanation, folder: Path, stem: str, options: SaveOptions) -> list[Path]:
    """A picture per level, and a sheet of all."""
    paths = [
        write_picture(folder / f"{stem}_cam_{_plain(level)}.jpg", draw(explanation, options.style, level))
        for level in explanation.levels
    ]
    return [
        *paths,
        write_picture(folder / f"{stem}_cam_levels.jpg", draw_levels(explanation, options.style)),
    ]


def _save_boxes(explanation: Explanation, folder: Path, stem: str, options: SaveOptions) -> list[Path]:
    """A picture per box."""
    return [
        write_picture(folder / f"{stem}_cam_b{box:03d}.jpg", draw(explanation[box], options.style))
        for box in range(len(explanation))
    ]


def _save_maps(explanation: Explanation, folder: Path, stem: str, options: SaveOptions) -> list[Path]:
    """A 16-bit PNG per box, the merged map on the picture; the scale is in its text chunk."""
    paths = []
    for box in range(len(explanation)):
        paths.append(folder / f"{stem}_map_b{box:03d}.png")
        with whole_file(paths[-1]) as file:
            write_map_png(file, explanation[box].heatmap.cpu().numpy())
    return paths


def _save_figure(explanation: Explanation, folder: Path, stem: str, options: SaveOptions) -> list[Path]:
    """A PDF for papers: every level and their sum."""
    from detcam.explanation.paper import draw_figure  # here, since matplotlib takes 0.2 s

    path = folder / f"{stem}_cam.pdf"
    content = draw_figure([explanation], options.style).encoded("pdf")
    with whole_file(path) as file:
        file.write(content)
    return [path]


def _save_features(explanation: Explanation, folder: Path, stem: str, options: SaveOptions) -> list[Path]:
    """The captured layers' activations, split into channels: arrays, and a sheet per level."""
    features = explanation.features or {}
    channels = {level: one.float().cpu().numpy() for level, one in features.items()}
    paths = [write_arrays(folder / f"{stem}_features.npz", channels, half=options.half)]
    for level, stack in channels.items():
        shown = range(min(len(stack), MOST_TILES))
        caption = f"{level} · {len(shown)} of {len(stack)} channels"
        style = TileStyle(colormap=options.style.colormap)
        sheet = tile_sheet(stack, shown, [str(channel) for channel in shown], style, caption)
        paths.append(write_picture(folder / f"{stem}_features_{_plain(level)}.jpg", sheet))
    return paths


EXTRAS: dict[str, Callable[[Explanation, Path, str, SaveOptions], list[Path]]] = {
    "levels": _save_levels,
    "boxes": _save_boxes,
    "maps": _save_maps,
    "features": _save_features,
    "figure": _save_figure,
}


def _plain(level: str) -> str:
    """A level's name as part of a file name."""
    return level.replace(":", "_")


def _names(paths: Path | Sequence[Path]) -> str | list[str]:
    return paths.name if isinstance(paths, Path) else [path.name for path in paths]
