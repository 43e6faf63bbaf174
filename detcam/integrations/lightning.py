"""Explanations while a detector is trained with Lightning, in the trainer's own loggers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from detcam.adapters import Detector
from detcam.errors import InputError
from detcam.explainer import Explainer, ExplainOptions
from detcam.explanation import MERGED, Explanation
from detcam.images import as_picture
from detcam.integrations.tensorboard import add_explanation
from detcam.integrations.wandb import to_image
from detcam.packages import optional

# A trainer takes callbacks of its own package only, and both may be installed.
_IS_OLD_NAME = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
_lightning = optional("pytorch_lightning" if _IS_OLD_NAME else "lightning.pytorch")
_Callback: Any = _lightning.Callback


def pictures_of(batch: Any) -> Any:
    """The pictures of a batch: what "img" or "image" names in a dict, the first of a tuple, or all of it."""
    if isinstance(batch, dict):
        named = [batch[name] for name in ("img", "image", "images") if name in batch]
        if not named:
            raise InputError(f"no pictures in a batch of {', '.join(map(str, batch))}: give `pictures`")
        return named[0]
    return batch[0] if isinstance(batch, list | tuple) else batch


class ExplainCallback(_Callback):  # type: ignore[misc]  # known when it is imported
    """Explains pictures of chosen validation batches and logs them as `tag`/batch-picture/level.

    In the sanity check they are explained and not logged, so that what fails does so before the training. On
    several devices the first one explains. The network is left exactly as it was.

    Args:
        detector: makes the detector of the Lightning module: `lambda module: detcam.wrap(module.network)`.
        batches: numbers of the batches whose pictures are explained, of the first data loader.
        most: pictures of each batch that are explained.
        every: epochs of validation from one explanation to the next.
        tag: how names in the logger begin.
        levels: keys of `Explanation.levels`, or "merged".
        options: what is asked, as in `detcam.explain`.
        pictures: finds a batch's pictures: each (C, H, W), RGB, uint8 or floats in 0..1. Pictures that were
            normalised have to be given back their mean and deviation here.
    """

    def __init__(
        self,
        detector: Callable[[Any], Detector],
        *,
        batches: Collection[int] = (0,),
        most: int = 4,
        every: int = 1,
        tag: str = "explained",
        levels: Sequence[str] = (MERGED,),
        options: ExplainOptions | None = None,
        pictures: Callable[[Any], Sequence[Any]] = pictures_of,
    ) -> None:
        self.detector = detector
        self.batches = frozenset(batches)
        self.most = most
        self.every = every
        self.tag = tag
        self.levels = tuple(levels)
        self.options = options or ExplainOptions()
        self.pictures = pictures

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse a trainer none of whose loggers takes pictures.

        Raises:
            InputError: there is none.
        """
        if not any(map(_takes_pictures, trainer.loggers)):
            named = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "no logger"
            raise InputError(
                f"the trainer has {named}, which takes no pictures: use TensorBoardLogger or WandbLogger"
            )

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain and log, if it is one of the batches."""
        is_due = trainer.sanity_checking or trainer.current_epoch % self.every == 0
        if dataloader_idx or batch_idx not in self.batches or not is_due or not trainer.is_global_zero:
            return
        for number, explanation in enumerate(self._explained(pl_module, batch)):
            if not trainer.sanity_checking:
                for logger in filter(_takes_pictures, trainer.loggers):
                    self._log(logger, f"{self.tag}/{batch_idx}-{number}", explanation, trainer.global_step)

    def _explained(self, pl_module: Any, batch: Any) -> list[Explanation]:
        # Validation may run in inference mode, whose tensors no graph can hold: copies made outside can be.
        with torch.inference_mode(False):
            chosen = [as_picture(one.clone()) for one in self.pictures(batch)[: self.most]]
            explainer = Explainer.of(self.detector(pl_module), self.options)
            return list(explainer.explain(chosen, batch=max(len(chosen), 1)))

    def _log(self, logger: Any, name: str, explanation: Explanation, step: int) -> None:
        if hasattr(logger.experiment, "add_image"):
            add_explanation(logger.experiment, name, explanation, step, levels=self.levels)
        else:
            images = {f"{name}/{level}": to_image(explanation, level=level) for level in self.levels}
            logger.log_metrics(images, step)


def _takes_pictures(logger: Any) -> bool:
    return isinstance(logger, _lightning.loggers.TensorBoardLogger | _lightning.loggers.WandbLogger)
