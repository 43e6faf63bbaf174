"""Activation maps of any network: whatever goes in, whatever comes out, whatever layers and target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from detcam.cam.capture import GradientPath, borrowed, capture
from detcam.cam.evidence import Evidence, Rescoring, class_weights
from detcam.cam.layers import Layers, select_layers, shift_of
from detcam.cam.methods import Method, get_method
from detcam.cam.network_inputs import NetworkInputs, unwrapped
from detcam.cam.rescoring import Progress
from detcam.cam.targets import Target, check_scalar, picture_of, settled, targets_for
from detcam.cam.tokens import Cells, InputFrame, TokenGrid, Unfold, flattened
from detcam.cam.views import PLAIN, SMOOTHING_VIEWS, View
from detcam.errors import CaptureError, InputError, NoGradientError, ShapeError

_MODES = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """Raw maps of a batch, layer by layer.

    Attributes:
        maps: layer name -> (B, h, w) float32, or (B, d, h, w) of volumes, in the units of the method.
        reached: layer name -> (B,) bool, whether each picture's target depends on the layer at all.
        values: (B,) the targets' values.
        input_size: (H, W) of the input, or (D, H, W).
        method: key of `METHODS`.
    """

    maps: dict[str, Tensor]
    reached: dict[str, Tensor]
    values: Tensor
    input_size: Cells
    method: str

    def heatmaps(self, size: Cells | None = None, merge: Literal["sum", "max"] = "sum") -> Tensor:
        """All layers' maps on one grid: (B, H, W) float32, raw.

        Args:
            size: (H, W), or (D, H, W); None for the input's.
            merge: how layers are put together.
        """
        size = self.input_size if size is None else tuple(size)
        if len(size) != len(self.input_size):
            raise ShapeError(f"a size of {len(self.input_size)} numbers is wanted, got {size}")
        if merge not in ("sum", "max"):
            raise InputError(f"layers are merged by 'sum' or 'max', got {merge!r}")
        mode = _MODES[len(size)]
        grown = torch.stack(
            [
                functional.interpolate(one[:, None], size, mode=mode, align_corners=False)[:, 0]
                for one in self.maps.values()
            ]
        )
        return grown.sum(dim=0) if merge == "sum" else grown.amax(dim=0)


def activation_maps(
    model: nn.Module,
    inputs: Any,
    target: Target | int | Sequence[Target | int] | None = None,
    *,
    layers: Layers = "last",
    method: str = "grad-cam",
    path: GradientPath = "total",
    forward: Callable[..., Any] | None = None,
    grid: Cells | TokenGrid | None = None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> ActivationMaps:
    """Explain the output of any network: where in its layers the evidence for a target lies.

    Args:
        model: any network; data-parallel and compiled wrappers are taken off. It is left as it was.
        inputs: what the network takes: a tensor (B, C, H, W) or (B, C, D, H, W), a tuple of arguments, a dict
            of keyword arguments, or `NetworkInputs` with both.
        target: what is explained: a class id, a target of `detcam.cam.targets`, any callable from one
            picture's output to a 0-dim tensor; or one of these for each picture. None for each picture's
            top class.
        layers: modules, dotted names, patterns, "last" or "stages".
        method: key of `METHODS`.
        path: "total" gradients run through deeper captured layers, "direct" ones do not.
        forward: called with the inputs instead of the model, such as `model.encode_image`.
        grid: (h, w) that tokens fill, or a `TokenGrid`, where it cannot be inferred.
        eigen_smooth: draw the first principal component of the weighted activations instead of their sum.
        aug_smooth: average over the picture and its mirror image, each darker, as it is, and brighter.
        batch_size: pictures per forward pass of methods that need many, halved when memory runs out; None for
            8 on the CPU, which is slower with more, and 32 elsewhere.
        progress: wraps the iterable of these passes, as `tqdm` does.

    Raises:
        InputError: something asked for does not exist or cannot be used.
        ShapeError: a target is no single number.
        CaptureError: the network did not give what was to be captured, something that is not finite, or a
            layer whose grid cannot be told.
        NoGradientError: a picture's target depends on none of the layers.
    """
    network = unwrapped(model)
    given = NetworkInputs.of(inputs).prepared(network)
    plan = _Plan(
        network=network,
        forward=forward or network,
        method=get_method(method),
        path=path,
        frame=InputFrame(given.batch, given.input_size, grid),
        is_eigen_smooth=eigen_smooth,
        batch_size=batch_size,
        progress=progress,
    )
    targets = targets_for(target, given.batch)
    with borrowed(network), torch.enable_grad():
        modules = select_layers(network, layers, plan.frame, partial(plan.probe, given, targets))
    others = [view for view in SMOOTHING_VIEWS if aug_smooth and view != PLAIN]
    with torch.inference_mode(False):
        plain, targets = _seen(plan, PLAIN, given, targets, modules)
        return _averaged([plain, *(_seen(plan, view, given, targets, modules)[0] for view in others)])


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is asked of a network, looked up."""

    network: nn.Module
    forward: Callable[..., Any]
    method: Method
    path: GradientPath
    frame: InputFrame
    is_eigen_smooth: bool
    batch_size: int | None
    progress: Progress | None

    def rows(self, inputs: NetworkInputs, count: int) -> tuple[Any, list[Any]]:
        """The output, and each picture's part of it."""
        output = inputs.called(self.forward)
        return output, [picture_of(output, i, count) for i in range(count)]

    def probe(self, inputs: NetworkInputs, targets: Sequence[Target]) -> tuple[Any, Tensor]:
        """The output and the targets' sum, with a graph that begins at the input."""
        output, rows = self.rows(inputs.map(_with_graph), len(targets))
        return output, _scores(targets, rows).sum()


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """What one forward and one backward pass left, without a graph.

    Attributes:
        activations: layer name -> (B, C, h, w) or (B, C, d, h, w).
        gradients: the same of the targets' sum; empty where the method asks for none.
        layouts: layer name -> how what it gives becomes feature maps.
        targets: settled on what the output says.
        scores: (B,) the targets' values.
    """

    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    layouts: dict[str, Unfold]
    targets: list[Target]
    scores: Tensor


def _snapshot(
    plan: _Plan, inputs: NetworkInputs, targets: Sequence[Target], modules: Mapping[str, nn.Module]
) -> _Snapshot:
    with capture(plan.network, modules, plan.path) as caught:
        _, rows = plan.rows(inputs, len(targets))
        caught.check_all_ran()
        layouts = {
            name: plan.frame.layout(one, name, shift_of(plan.network, name))
            for name, one in caught.activations.items()
        }
        targets = [settled(target, row) for target, row in zip(targets, rows, strict=True)]
        scores = _scores(targets, rows)
        _check_finite(scores, caught.activations)
        found = caught.gradients(scores.sum()) if plan.method.uses_gradients else {}
    activations = {
        name: layouts[name](caught.activations[name].detach()).float()
        for name in _in_order(modules, caught.activations)
    }
    gradients = {
        name: torch.zeros_like(activations[name]) if one is None else layouts[name](one)
        for name, one in found.items()
    }
    return _Snapshot(activations, gradients, layouts, targets, scores.detach())


def _check_finite(scores: Tensor, activations: Mapping[str, Tensor]) -> None:
    """Check that there is something to draw: formulas hand NaN on, or drop it and leave a black picture.

    Raises:
        CaptureError: a target or a layer is not finite.
    """
    for picture, score in enumerate(scores.tolist()):
        if not math.isfinite(score):
            raise CaptureError(f"the target of picture {picture} is {score}: check the input and the weights")
    for name, one in activations.items():
        if not one.isfinite().all():
            raise CaptureError(
                f"layer {name!r} gives NaN or infinite values: check the input and the weights"
            )


def _in_order(asked: Iterable[str], caught: Iterable[str]) -> list[str]:
    """Names of what was caught, such as "head#1", in the order in which layers were asked for."""
    order = list(asked)

    def place(name: str) -> int:
        return next(
            i for i, one in enumerate(order) if name == one or name.startswith((f"{one}#", f"{one}["))
        )

    return sorted(caught, key=place)


def _seen(
    plan: _Plan,
    view: View,
    given: NetworkInputs,
    targets: Sequence[Target],
    modules: Mapping[str, nn.Module],
) -> tuple[ActivationMaps, list[Target]]:
    """The maps of one view of the input, laid back over the picture, and the view's settled targets."""
    inputs = view.inputs(given)
    seen = _snapshot(plan, inputs, [view.target(target) for target in targets], modules)
    rescoring = Rescoring(plan.network, plan.forward, inputs, seen.targets, plan.batch_size, plan.progress)
    maps, reached = {}, {}
    for name, activations in seen.activations.items():
        flat, cells = flattened(activations)
        gradient = seen.gradients.get(name)
        evidence = Evidence(
            activations=flat,
            gradients=torch.zeros_like(flat) if gradient is None else flattened(gradient)[0],
            scores=seen.scores,
            rescored={
                "masked_scores": partial(rescoring.masked, activations),
                "ablated_scores": partial(rescoring.ablated, name, seen.layouts[name]),
                "class_weights": partial(class_weights, plan.network, activations.shape[1], seen.targets),
            },
        )
        compute = plan.method.smoothed if plan.is_eigen_smooth else plan.method.compute
        maps[name] = view.restored(compute(**evidence.of(plan.method)).reshape(-1, *cells))
        everywhere = torch.ones(len(targets), dtype=torch.bool)
        reached[name] = everywhere if gradient is None else gradient.flatten(1).ne(0).any(dim=1).cpu()
    _check_reached(reached, seen.gradients)
    found = ActivationMaps(maps, reached, seen.scores, plan.frame.input_size, plan.method.name)
    return found, seen.targets


def _check_reached(reached: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    layers = ", ".join(reached)
    for name, gradient in gradients.items():
        if not gradient.isfinite().all():
            raise NoGradientError(f"the target's gradient at layer {name!r} is not finite: check the weights")
    for picture, is_reached in enumerate(torch.stack(list(reached.values())).any(dim=0).tolist()):
        if not is_reached:
            raise NoGradientError(
                f"the gradient of the target of picture {picture} is zero at {layers}: choose other layers "
                "or another target"
            )


def _averaged(views: Sequence[ActivationMaps]) -> ActivationMaps:
    """The mean of the views' maps; the values of the first."""
    first = views[0]
    return replace(
        first,
        maps={name: torch.stack([view.maps[name] for view in views]).mean(dim=0) for name in first.maps},
        reached={name: torch.stack([view.reached[name] for view in views]).any(dim=0) for name in first.maps},
    )


def _scores(targets: Sequence[Target], rows: Sequence[Any]) -> Tensor:
    return torch.stack([check_scalar(target(row)) for target, row in zip(targets, rows, strict=True)])


def _with_graph(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor
