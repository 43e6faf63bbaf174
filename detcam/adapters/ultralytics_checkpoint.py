"""A model from an ultralytics checkpoint, without running anything in the file.

Says which names such a file may use (`detcam.checkpoints` does the reading) and makes what comes out ready to
be explained. The vendor's own loading is not used: it runs the file and installs packages that it names.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from detcam.adapters.weights import check_weights_are_finite
from detcam.checkpoints import (
    Checkpoint,
    CheckpointFile,
    Ignored,
    find_model,
    imported_module_class,
    read_checkpoint,
)
from detcam.checkpoints.files import printable
from detcam.errors import CheckpointError, UnsafeCheckpointError

logger = logging.getLogger(__name__)

_MODEL_PACKAGES = ("ultralytics.nn.tasks", "ultralytics.nn.modules")

# Classes that were renamed or dropped, and what does their work now.
_RENAMED = {
    "ultralytics.nn.modules.block.Silence": "torch.nn.modules.linear.Identity",
    "ultralytics.nn.tasks.YOLOv10DetectionModel": "ultralytics.nn.tasks.DetectionModel",
}

# Training losses and text encoders: saved along with some models, of no use to an explanation, never built.
_IGNORED_PACKAGES = (
    "ultralytics.utils.loss.",
    "ultralytics.utils.tal.",
    "ultralytics.yolo.utils.loss.",
    "ultralytics.yolo.utils.tal.",
    "ultralytics.models.utils.",
    "ultralytics.nn.text_model.",
    "clip.",
    "torchvision.transforms.",
)
# Where they hang. "detect" is `Detect.forward`, which segmentation and pose heads before 8.3 kept at hand;
# "transforms" prepare a classifier's pictures.
_IGNORED_ATTRIBUTES = ("criterion", "clip_model", "detect", "transforms")


def load_ultralytics(
    file: CheckpointFile, *, allow_globals: Sequence[str] = (), unsafe: bool = False
) -> tuple[nn.Module, Checkpoint]:
    """Load a detector from an ultralytics `.pt` file: on the CPU, float32, eval mode, nothing in place.

    Args:
        file: from `open_checkpoint`. Nothing is ever downloaded.
        allow_globals: see `detcam.checkpoints.read_checkpoint`.
        unsafe: let the file run whatever it likes.

    Raises:
        UnsafeCheckpointError: the file needs a name nobody vouched for, or would act while it is read.
        CheckpointError: the file cannot be read, or holds no usable detector.
    """
    _import_vendor()
    try:
        checkpoint = read_checkpoint(
            file,
            resolve=_resolve,
            ignore_attributes=_IGNORED_ATTRIBUTES,
            allow_globals=allow_globals,
            unsafe=unsafe,
        )
    except UnsafeCheckpointError as error:
        raise _with_vendor_hint(error) from error
    model = _make_ready(_detector_in(checkpoint), checkpoint)
    check_weights_are_finite(model, file.path)
    _warn_if_newer(checkpoint)
    return model, checkpoint


def _warn_if_newer(checkpoint: Checkpoint) -> None:
    """Say so if a later release saved the file: layers of one name may compute something else by then.

    YOLO26 in ultralytics 8.3.0, for one, loads without an error and finds the wrong boxes.
    """
    import ultralytics

    content = checkpoint.content
    saved = content.get("version") if isinstance(content, dict) else None
    if isinstance(saved, str) and _release(saved) > _release(ultralytics.__version__):
        logger.warning(
            "%s was saved by ultralytics %s, installed is %s: its boxes may be wrong, so update ultralytics",
            checkpoint.path,
            printable(saved),
            ultralytics.__version__,
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall("[0-9]+", version)[:3])


def _import_vendor() -> Any:
    """ultralytics.nn.tasks; the first import greets on stdout, which belongs to a command's result."""
    with contextlib.nullcontext() if "ultralytics" in sys.modules else contextlib.redirect_stdout(sys.stderr):
        import ultralytics.nn.tasks

        return ultralytics.nn.tasks


def resolve(name: str) -> type | None:
    """The class behind a dotted name in an ultralytics file, or None; imports the vendor's package."""
    _import_vendor()
    return _resolve(name)


def _resolve(name: str) -> type | None:
    if name.startswith(_IGNORED_PACKAGES):
        return Ignored
    if name.startswith("ultralytics.") and name.endswith(".IterableSimpleNamespace"):
        return SimpleNamespace
    return imported_module_class(_RENAMED.get(name, name), "torch.nn.modules", *_MODEL_PACKAGES)


def _with_vendor_hint(error: UnsafeCheckpointError) -> UnsafeCheckpointError:
    if not any(name.startswith(_MODEL_PACKAGES) and not _resolve(name) for name in error.unsafe_globals):
        return error
    import ultralytics

    hint = f"ultralytics {ultralytics.__version__} has no such class: it is a fork's, or another release's"
    return UnsafeCheckpointError(f"{error} ({hint})", error.unsafe_globals)


def _detector_in(checkpoint: Checkpoint) -> nn.Module:
    content = checkpoint.content
    found: object = find_model(content)
    vendor = _import_vendor()
    if isinstance(found, vendor.DetectionModel | vendor.ClassificationModel):
        return cast(nn.Module, found)
    if found is None:
        found = content.get("model") if isinstance(content, dict) else content
    for part in (found, content):
        if isinstance(part, dict) and part and all(isinstance(value, Tensor) for value in part.values()):
            found = part
    raise CheckpointError(
        f"{checkpoint.path} holds {_describe(found)}. Give the .pt file that ultralytics training wrote"
    )


def _describe(found: object) -> str:
    if found is None:
        return "no model"
    if isinstance(found, dict) and found:
        return f"weights without a model ({len(found)} entries, the first {next(iter(found))!r})"
    if isinstance(found, nn.Module):
        return f"a {type(found).__name__}, which is no ultralytics detector"
    return f"a {type(found).__name__} where the model should be"


def _make_ready(model: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """Bring a model to the state that explanations rely on, whichever release saved it."""
    details: Any = model
    details.args = _arguments(getattr(model, "args", None), checkpoint.content)
    if not hasattr(model, "task"):
        details.task = _task_of(model)
    if not hasattr(model, "stride"):
        details.stride = torch.tensor([32.0])  # RT-DETR and classifiers, whose heads have none of their own
    module: Any
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # an activation in place would overwrite what a hook has captured
    return model.float().eval()


def _task_of(model: nn.Module) -> str:
    tasks = _import_vendor()
    kinds = {"segment": tasks.SegmentationModel, "pose": tasks.PoseModel, "obb": tasks.OBBModel}
    return next((task for task, kind in kinds.items() if isinstance(model, kind)), "detect")


def _arguments(own: object, content: object) -> dict[str, Any]:
    """Merge the training arguments: those saved beside the model go over those saved in it."""
    beside = content.get("train_args") if isinstance(content, dict) else None
    parts = [vars(part) if isinstance(part, SimpleNamespace) else part for part in (own, beside)]
    return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


def has_safe_mode() -> bool:
    """Whether the installed ultralytics can be told to load a checkpoint without running what is in it."""
    from ultralytics.nn import tasks

    parameters = inspect.signature(tasks.torch_safe_load).parameters
    return hasattr(tasks, "SAFE_LOAD") or "safe_only" in parameters
