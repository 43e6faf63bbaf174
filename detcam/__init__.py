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
    from detcam.anatomy import features as features
    from detcam.anatomy import kernels as kernels
    from detcam.anatomy import output_maps as output_maps
    from detcam.cam import activation_maps as activation_maps
    from detcam.cam.methods import METHODS as METHODS
    from detcam.checkpoints import load_weights as load_weights
    from detcam.errors import DetcamError as DetcamError
    from detcam.explainer import d_rise as d_rise
    from detcam.explainer import explain as explain
    from detcam.explanation import Explanation as Explanation
    from detcam.overlays import OverlayStyle as OverlayStyle
    from detcam.overlays import overlay as overlay

__version__ = "0.1.0"

_PLACES = {
    "DetcamError": "detcam.errors",
    "Explanation": "detcam.explanation",
    "METHODS": "detcam.cam.methods",
    "OverlayStyle": "detcam.overlays",
    "activation_maps": "detcam.cam",
    "d_rise": "detcam.explainer",
    "explain": "detcam.explainer",
    "features": "detcam.anatomy",
    "kernels": "detcam.anatomy",
    "load": "detcam.adapters",
    "load_weights": "detcam.checkpoints",
    "output_maps": "detcam.anatomy",
    "overlay": "detcam.overlays",
    "wrap": "detcam.adapters",
}

__all__ = [
    "METHODS",
    "DetcamError",
    "Explanation",
    "OverlayStyle",
    "activation_maps",
    "d_rise",
    "explain",
    "features",
    "kernels",
    "load",
    "load_weights",
    "output_maps",
    "overlay",
    "wrap",
]


def __getattr__(name: str) -> Any:
    # `import detcam` stays instant: torch comes with the first thing that needs it.
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'detcam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
