"""An explanation in the terms of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detcam.explanation.overlay import MERGED, Scale
from detcam.packages import optional

if TYPE_CHECKING:
    from detcam.explanation.core import Explanation


def to_supervision(explanation: Explanation) -> Any:
    """As `Explanation.to_detections` says."""
    found = explanation.detections
    labels = found.labels.cpu().numpy()
    data = {
        "class_name": np.array([explanation.class_names[label] for label in labels.tolist()], dtype=str),
        "level": np.array(explanation.deciding, dtype=object),
        "heatmap": explanation.merged.float().cpu().numpy(),
        "heatmap_top": np.array(Scale("energy").tops(explanation, MERGED)),
        "target_value": np.array(explanation.target_values),
        "energy_in_box": np.array(explanation.energy_in_box),
    }
    if found.corners is not None:
        data["xyxyxyxy"] = found.corners.cpu().numpy()
    return optional("supervision").Detections(
        xyxy=found.boxes.cpu().numpy(),
        confidence=found.scores.cpu().numpy(),
        class_id=labels,
        data=data,
        metadata={"geometry": explanation.geometry},
    )
