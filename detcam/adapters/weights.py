"""Whether a network out of a file can be used at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from detcam.adapters.base import Detector
from detcam.errors import CheckpointError, InputError, UnsupportedModelError

Made = TypeVar("Made", bound=Detector)

# What a network raises whose parts do not fit together.
_BROKEN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def made_to_run(path: Path, make: Callable[[], Made]) -> Made:
    """The detector that `make` makes around a network out of a file, once it has run.

    Args:
        path: of the file, for the message.
        make: wraps the network.

    Raises:
        CheckpointError: the network lacks something, or does not run.
        InputError: `make` cannot use what was said about it.
    """
    try:
        detector = make()
        detector.layers()  # runs it once
    except InputError:
        raise
    except UnsupportedModelError as error:
        raise CheckpointError(f"{path} cannot be explained: {error}") from error
    except _BROKEN as error:
        raise CheckpointError(
            f"{path} holds a network that does not run: it is damaged, or from a release that is not "
            f"supported ({type(error).__name__}: {said_by(error)})"
        ) from error
    return detector


def said_by(error: BaseException) -> str:
    """What an error of torch says: in one line, cut, without the stop at its end."""
    return " ".join(str(error).split())[:300].rstrip(".")


def check_weights_are_finite(model: nn.Module, path: Path) -> None:
    """Refuse a network that has diverged.

    Args:
        model: the network.
        path: of its file, for the message.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            raise CheckpointError(
                f"{path} has NaN or infinite weights (first in {name!r}): the training diverged. "
                "Take an earlier checkpoint, or train again with a lower learning rate or with amp=False"
            )
