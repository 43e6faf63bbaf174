"""Ways of making a map: a method at a layer set along a gradient path, of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detcam.adapters.base import Detector
from detcam.cam.capture import GradientPath
from detcam.cam.methods import METHODS, get_method
from detcam.errors import InputError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explanation import Merge

BASELINE = "gaussian-in-box"
"""The control that every way is compared with: a map that only knows the box."""


@dataclass(frozen=True)
class Way:
    """What is asked of the explainer for one of the maps that are compared.

    Attributes:
        method: key of `METHODS`.
        layers: as `detcam.explain` takes them.
        path: "direct" or "total".
        target: as `detcam.explain` takes it.
        merge: as `detcam.explain` takes it.
    """

    method: str
    layers: str
    path: GradientPath
    target: str
    merge: Merge | None = None

    @property
    def is_control(self) -> bool:
        """Whether the map knows nothing of the network."""
        return get_method(self.method).is_control

    @property
    def name(self) -> str:
        """What tells it from the others: "layer-cam head direct class-logit"; or the method alone."""
        if self.is_control or get_method(self.method).is_sampled:
            return self.method
        parts = (self.method, self.layers, self.path, self.target, self.merge)
        return " ".join(part for part in parts if part)

    def explainer(self, detector: Detector, imgsz: int | None) -> Explainer:
        """Ready to be asked.

        Raises:
            InputError: the detector has no such layers, or something asked for does not exist.
        """
        if get_method(self.method).is_sampled:
            return Explainer.of(detector, ExplainOptions(method=self.method, imgsz=imgsz))
        options = ExplainOptions(
            method=self.method,
            layers=self.layers,
            path=self.path,
            target=self.target,
            merge=self.merge,
            imgsz=imgsz,
        )
        return Explainer.of(detector, options)


def ways_for(
    methods: Sequence[str], layers: Sequence[str], paths: Sequence[GradientPath], targets: Sequence[str]
) -> list[Way]:
    """Every combination, and behind them all controls, each once.

    Args:
        methods: keys of `METHODS`, none of them a control.
        layers: layer sets; the first is also the grid on which controls are drawn.
        paths: "direct", "total".
        targets: as `detcam.explain` takes them.

    Raises:
        InputError: a list is empty, or a name unknown.
    """
    for what, given in (("methods", methods), ("layers", layers), ("paths", paths), ("targets", targets)):
        if not given:
            raise InputError(f"no {what} given")
    asked = [
        Way(get_method(method).name, one, path, target)
        for method in methods
        for one in layers
        for path in paths
        for target in targets
    ]
    controls = [
        Way(name, layers[0], paths[0], targets[0]) for name, method in METHODS.items() if method.is_control
    ]
    return list({way.name: way for way in (*asked, *controls)}.values())
