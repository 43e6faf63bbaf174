"""Maps drawn by the side of supervision's annotators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from detcam.errors import InputError, ShapeError
from detcam.explanation import Style, lay_maps


class EvidenceAnnotator:
    """Draws the maps of `Explanation.to_detections()`, as supervision's annotators draw boxes and labels.

    Needs no supervision itself. What was filtered out of the detections is not drawn.

    Args:
        colormap: key of `detcam.render.COLORMAPS`.
        opacity: of the strongest evidence, 0..1.

    Raises:
        UnknownNameError: no such colour map.
    """

    requires_mask = False  # which supervision asks its annotators for

    def __init__(self, colormap: str = "inferno", opacity: float = 0.85) -> None:
        self.style = Style(colormap=colormap, opacity=opacity)

    def annotate(self, scene: Any, detections: Any) -> Any:
        """Lay the detections' merged maps over the picture, each on its own scale "energy".

        Args:
            scene: the picture that was explained, (H, W, 3) uint8 BGR or a PIL picture; changed in place, as
                supervision's annotators do.
            detections: `supervision.Detections` of `Explanation.to_detections()`, or some of them.

        Returns:
            The scene.

        Raises:
            InputError: the detections hold no maps.
            ShapeError: the picture has another size than the one that was explained.
        """
        if isinstance(scene, Image.Image):
            scene.paste(Image.fromarray(self._drawn(np.array(scene.convert("RGB")), detections)))
        else:
            scene[:] = self._drawn(np.ascontiguousarray(scene[..., ::-1]), detections)[..., ::-1]
        return scene

    def _drawn(self, pixels: npt.NDArray[np.uint8], detections: Any) -> npt.NDArray[np.uint8]:
        if not len(detections):
            return pixels
        geometry = detections.metadata.get("geometry")
        if geometry is None or "heatmap" not in detections.data:
            raise InputError("these detections hold no maps: make them with Explanation.to_detections()")
        if pixels.shape[:2] != geometry.image_size:
            raise ShapeError(
                f"the maps are of a picture of (H, W) = {geometry.image_size}, got one of {pixels.shape[:2]}"
            )
        maps = torch.from_numpy(np.stack(detections.data["heatmap"]))
        return lay_maps(pixels, maps, detections.data["heatmap_top"].tolist(), geometry, self.style)
