"""Shows why an object detector fired: heatmaps per box, per class and per receptive-field level.

>>> detector = detcam.load("yolo.pt")
>>> explanation = detcam.explain(detector, "street.jpg", classes=["person"])
>>> explanation.levels["P3"], explanation.heatmap, explanation.save("out")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detcam.adapters import load as load
    from detcam.adapters import wrap as wrap
    from detcam.cam.methods import METHODS as METHODS
    from detcam.errors import DetcamError as DetcamError
    from detcam.explainer import explain as explain
    from detcam.explanation import Explanation as Explanation

__version__ = "0.1.0"

_PLACES = {
    "DetcamError": "detcam.errors",
    "Explanation": "detcam.explanation",
    "METHODS": "detcam.cam.methods",
    "explain": "detcam.explainer",
    "load": "detcam.adapters",
    "wrap": "detcam.adapters",
}

__all__ = ["METHODS", "DetcamError", "Explanation", "explain", "load", "wrap"]


def __getattr__(name: str) -> Any:
    # `import detcam` stays instant: torch comes with the first thing that needs it.
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'detcam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
