"""Whether the weights of a network can be used at all."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from detcam.errors import CheckpointError


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
