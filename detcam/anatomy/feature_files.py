"""The files of one picture's feature maps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detcam.files import make_folder, plain_names, write_arrays, write_json, write_picture
from detcam.render import TileStyle, magnify, tile_sheet

if TYPE_CHECKING:
    from detcam.anatomy.activations import FeatureLayer, FeatureMaps

FEATURES_SCHEMA = "detcam.features/1"
_LONGEST_LABEL = 60  # bytes
_SPLIT_SIDE = 256  # pixels that a channel's picture is magnified to at most


def sheet_of(layer: FeatureLayer, style: TileStyle) -> npt.NDArray[np.uint8]:
    """A layer's contact sheet: its chosen channels, numbered, and what the colours mean."""
    count, height, width = layer.values.shape
    shown = layer.on_sheet
    places = [layer.name, layer.level, f"{count}×{height}×{width}", f"{len(shown)} of {count} channels"]
    caption = " · ".join([*filter(None, places), f"scale: {style.scale}"])
    titles = [str(channel) for channel in shown]
    return tile_sheet(layer.values.cpu().numpy(), shown, titles, style, caption)


def save_features(
    maps: FeatureMaps, folder: Path, stem: str, style: TileStyle, *, split: bool, half: bool
) -> list[Path]:
    """Write what `FeatureMaps.save` promises; everything is drawn before anything is written."""
    labels = plain_names(
        [f"{one.level}_{one.name}" if one.level else one.name for one in maps.layers], _LONGEST_LABEL
    )
    sheets = [sheet_of(layer, style) for layer in maps.layers]
    make_folder(folder)
    raw = {layer.name: layer.values.cpu().numpy() for layer in maps.layers}
    written = [write_arrays(folder / f"{stem}_features.npz", raw, half=half)]
    rows = []
    for layer, label, sheet in zip(maps.layers, labels, sheets, strict=True):
        files = [write_picture(folder / f"{stem}_features_{label}.png", sheet)]
        if split:
            files.append(_write_channels(folder / f"{stem}_channels_{label}", layer, style))
        rows.append(_row(layer, style, [path.name for path in files]))
        written += files
    document = {
        "schema": FEATURES_SCHEMA,
        "image": None if maps.picture is None else _image(maps),
        "geometry": maps.geometry and asdict(maps.geometry),
        "scale": style.scale,
        "grey": style.grey,
        "arrays": written[0].name,
        "layers": rows,
        "warnings": list(maps.picture.warnings) if maps.picture else [],
    }
    return [*written, write_json(folder / f"{stem}_features.json", document)]


def _write_channels(folder: Path, layer: FeatureLayer, style: TileStyle) -> Path:
    make_folder(folder)
    stack = layer.values.cpu().numpy()
    for channel, key in zip(layer.channels, style.keys(stack, layer.channels), strict=True):
        write_picture(folder / f"c{channel:04d}.png", magnify(key.paint(stack[channel]), _SPLIT_SIDE))
    return folder


def _image(maps: FeatureMaps) -> dict[str, Any]:
    picture = maps.picture
    return {
        "path": str(picture.path) if picture and picture.path else None,
        "sha256": picture and picture.sha256,
    }


def _row(layer: FeatureLayer, style: TileStyle, files: list[str]) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "level": layer.level,
        "stride": layer.stride,
        "shape": list(layer.values.shape),
        "npz": layer.name,
        "min": float(layer.values.min()),
        "max": float(layer.values.max()),
        "channels": [_channel(layer, channel) for channel in layer.channels],
        "sheet": files[0],
        "split": files[1] if len(files) > 1 else None,
    }


def _channel(layer: FeatureLayer, channel: int) -> dict[str, Any]:
    values = layer.values[channel]
    return {
        "channel": channel,
        "mean_abs": float(values.abs().mean()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
