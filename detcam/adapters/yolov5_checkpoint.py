"""A network from a YOLOv5, v3 or v7 checkpoint, without its repository and without running the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from detcam.adapters import yolov5_modules as ours
from detcam.checkpoints import Checkpoint, CheckpointFile, Ignored, find_model, read_checkpoint
from detcam.errors import CheckpointError, UnsafeCheckpointError

_COMMON: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("Conv", "DWConv"), ours.Convolution),
    **dict.fromkeys(("Bottleneck", "RepBottleneck", "CrossConv"), ours.Bottleneck),
    **dict.fromkeys(("Res", "ResX", "RepRes", "RepResX"), ours.ResidualBottleneck),
    **dict.fromkeys(("C3", "C3x", "C3TR", "C3SPP", "C3Ghost"), ours.PartialA),
    **{
        f"{block}CSP{kind}": base
        for block in ("Bottleneck", "RepBottleneck", "Res", "RepRes", "ResX", "RepResX", "Ghost")
        for kind, base in (("A", ours.PartialA), ("B", ours.PartialB), ("C", ours.PartialC))
    },
    **dict.fromkeys(("GhostBottleneck", "Ghost"), ours.GhostBottleneck),
    **dict.fromkeys(("SPPCSPC", "GhostSPPCSPC"), ours.PartialPyramidPooling),
    **dict.fromkeys(("Stem", "GhostStem"), ours.Stem),
    **dict.fromkeys(("MP", "SP"), ours.Pool),
    "GhostConv": ours.GhostConvolution,
    "BottleneckCSP": ours.NormalisedPartialC,
    "SPP": ours.PyramidPooling,
    "SPPF": ours.SerialPyramidPooling,
    "Focus": ours.Focus,
    "ReOrg": ours.Reorganised,
    "Contract": ours.Contract,
    "Expand": ours.Expand,
    "DownC": ours.DownC,
    "Concat": ours.Concat,
    "Chuncat": ours.Chuncat,
    "Shortcut": ours.Shortcut,
    "Foldcut": ours.Foldcut,
    "RepConv": ours.RepConvolution,
    "ImplicitA": ours.ImplicitAddition,
    "ImplicitM": ours.ImplicitProduct,
    "TransformerLayer": ours.TransformerLayer,
    "TransformerBlock": ours.TransformerBlock,
    "DWConvTranspose2d": nn.ConvTranspose2d,
    "Proto": nn.Module,  # of masks: boxes do without, so it never runs
}

_YOLO: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("Model", "DetectionModel", "SegmentationModel"), ours.Graph),
    **dict.fromkeys(("Detect", "Segment", "IDetect", "IAuxDetect"), ours.Head),
}

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "SiLU": nn.SiLU,
    "Hardswish": nn.Hardswish,
    "Mish": ours.Mish,
    "MemoryEfficientMish": ours.Mish,
    "FReLU": ours.FunnelActivation,
}

# Some layers stood among the experiments before they were common.
_EXPERIMENTAL = {name: _COMMON[name] for name in ("CrossConv", "C3", "GhostConv", "GhostBottleneck")}

# Pickled dotted name -> what is made instead: a class of the same name, for people look for "C3".
MODULES: dict[str, type[nn.Module]] = {
    f"{home}.{name}": type(name, (kind,), {"__doc__": kind.__doc__})
    for home, kinds in (
        ("models.common", _COMMON),
        ("models.experimental", _EXPERIMENTAL),
        ("models.yolo", _YOLO),
        ("utils.activations", _ACTIVATIONS),
    )
    for name, kind in kinds.items()
}

# "detect" is `Detect.forward`, which segmentation heads keep at hand.
_IGNORED_ATTRIBUTES = ("detect",)


def load_network(
    file: CheckpointFile, *, allow_globals: Sequence[str] = (), unsafe: bool = False
) -> tuple[nn.Module, Checkpoint]:
    """The network in the file: on the CPU, float32, eval mode, nothing in place; EMA weights if it has them.

    Args:
        file: from `open_checkpoint`.
        allow_globals: see `detcam.checkpoints.read_checkpoint`.
        unsafe: let the file run whatever it likes; it then needs its repository.

    Raises:
        UnsafeCheckpointError: the file needs a name nobody vouched for, or would act while it is read.
        CheckpointError: the file cannot be read, or holds no such network.
    """
    try:
        checkpoint = read_checkpoint(
            file,
            resolve=resolve,
            ignore_attributes=_IGNORED_ATTRIBUTES,
            allow_globals=allow_globals,
            unsafe=unsafe,
        )
    except UnsafeCheckpointError as error:
        raise _with_hint(error) from error
    model = _network_in(checkpoint)
    for module in model.modules():
        _modernise(module)
    return model.float().eval(), checkpoint


def resolve(name: str) -> type | None:
    """The class behind a dotted name in such a file, or None."""
    # What training keeps beside the network, such as losses, is of no use to an explanation.
    return MODULES.get(name) or (Ignored if name.startswith(("utils.loss.", "utils.autoanchor.")) else None)


def _with_hint(error: UnsafeCheckpointError) -> UnsafeCheckpointError:
    unknown = [name for name in error.unsafe_globals if name.startswith(("models.", "utils."))]
    if not unknown:
        return error
    hint = "such layers are a fork's, or of another repository that calls its package `models`"
    return UnsafeCheckpointError(f"{error} ({hint})", error.unsafe_globals)


def _network_in(checkpoint: Checkpoint) -> nn.Module:
    found = find_model(checkpoint.content)
    if found is not None:
        return found
    content = checkpoint.content
    model = content.get("model") if isinstance(content, Mapping) else content
    what = "no model" if model is None else f"a {type(model).__name__} where the model should be"
    raise CheckpointError(
        f"{checkpoint.path} holds {what}. Give the .pt file that the training of YOLOv5, v3 or v7 wrote"
    )


def _modernise(module: Any) -> None:
    """Bring a module to what today's torch expects, and keep it from writing over what a hook captured."""
    if hasattr(module, "inplace"):
        module.inplace = False
    if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
        module.recompute_scale_factor = None  # newer than torch 1.10
    if isinstance(module, nn.Hardswish | nn.SiLU) and not hasattr(module, "inplace"):
        module.inplace = False  # the repositories' own had no such attribute


def trained_size(checkpoint: Checkpoint) -> int | None:
    """Side of the square it was trained on, in pixels, where the file says so."""
    content = checkpoint.content
    options = content.get("opt") if isinstance(content, Mapping) else None
    size = options.get("imgsz") if isinstance(options, Mapping) else None
    return size if isinstance(size, int) and size > 0 else None
