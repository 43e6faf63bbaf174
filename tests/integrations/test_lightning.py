"""Explanations during a training with Lightning, the real one."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from guests_coat import unchanged
from PIL import Image
from small_yolo import network, pictures

import detcam
from detcam.errors import InputError
from detcam.explainer import Explainer, ExplainOptions
from detcam.images import as_picture

pytest.importorskip("tensorboard", reason="no tensorboard: pip install tensorboard")
L = pytest.importorskip("lightning.pytorch", reason="no lightning: pip install lightning")

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger  # noqa: E402

from detcam.integrations.lightning import ExplainCallback  # noqa: E402

OPTIONS = ExplainOptions(method="layer-cam", layers="backbone", max_boxes=2)


class Guarded(ExplainCallback):
    """Fails if the network, or the state of the process, is left other than it was found."""

    calls = 0

    def on_validation_batch_end(self, trainer, pl_module, *rest) -> None:
        assert not torch.is_grad_enabled()
        self.inference = torch.is_inference_mode_enabled()
        before = copy.deepcopy(pl_module.state_dict())
        with unchanged(pl_module):
            super().on_validation_batch_end(trainer, pl_module, *rest)
        after = pl_module.state_dict()
        assert all(torch.equal(after[name], one) for name, one in before.items())
        self.calls += 1


class Training(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch, _):
        return self.network.model[0](batch["img"]).square().mean()

    def validation_step(self, batch, _):
        assert not torch.is_grad_enabled()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Pairs(torch.utils.data.Dataset):
    """Batches of two pictures, made while they are loaded."""

    def __init__(self, count: int) -> None:
        self.pixels = np.stack(pictures(2 * count, 96, 96))

    def __len__(self) -> int:
        return len(self.pixels) // 2

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        pair = torch.from_numpy(self.pixels[2 * number : 2 * number + 2])
        return {"img": pair.permute(0, 3, 1, 2).float() / 255}


def batches(count: int = 2) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(Pairs(count), batch_size=None)


def trainer(logger, callback, **changes) -> L.Trainer:
    facts = {
        "accelerator": "cpu",
        "logger": logger,
        "callbacks": [callback],
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**facts | changes)


def explain(**changes) -> Guarded:
    return Guarded(lambda module: detcam.wrap(module.network), **{"options": OPTIONS} | changes)


def test_chosen_batches_are_explained_in_tensorboard_and_the_network_is_as_it_was(at_home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = explain(batches=[1], levels=("P3", "merged"))
    logger = TensorBoardLogger(at_home)
    module = Training()
    trainer(logger, callback).validate(module, batches(), verbose=False)
    assert callback.calls == 2
    assert callback.inference
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    names = [f"explained/1-{picture}/{level}" for picture in (0, 1) for level in ("P3", "merged")]
    assert sorted(events.Tags()["images"]) == names
    (image,) = events.Images("explained/1-1/merged")
    logged = np.array(Image.open(io.BytesIO(image.encoded_image_string)))
    explainer = Explainer.of(detcam.wrap(network()), OPTIONS)
    asked = list(explainer.explain(map(as_picture, pictures(4, 96, 96)[2:]), batch=2))
    assert np.array_equal(logged, asked[1].overlay())


def test_a_training_explains_each_epoch_that_is_due_and_logs_no_sanity_check(at_home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Counting(Guarded):
        explained = 0

        def _explained(self, *given):
            type(self).explained += 1
            return super()._explained(*given)

    callback = Counting(lambda module: detcam.wrap(module.network), most=1, every=2, options=OPTIONS)
    logger = TensorBoardLogger(at_home)
    run = trainer(logger, callback, max_epochs=3, num_sanity_val_steps=1)
    run.fit(Training(), batches(1), batches(1))
    logger.finalize("success")
    assert Counting.explained == 1 + 2  # the sanity check, epochs 0 and 2
    events = EventAccumulator(logger.log_dir).Reload()
    assert [image.step for image in events.Images("explained/0-0/merged")] == [1, 3]
    assert events.Tags()["images"] == ["explained/0-0/merged"]


def test_explanations_are_logged_to_wandb_with_their_boxes(at_home):
    pytest.importorskip("wandb", reason="no wandb: pip install wandb")
    logger = WandbLogger(project="detcam", save_dir=at_home, offline=True)
    trainer(logger, explain(most=1)).validate(Training(), batches(1), verbose=False)
    logger.experiment.finish()
    assert len(list(at_home.rglob("media/images/explained/0-0/merged_*.png"))) == 1
    assert len(list(at_home.rglob("*boxes2D.json"))) == 1


def test_a_trainer_whose_loggers_take_no_pictures_is_refused(at_home):
    for logger, named in ((CSVLogger(at_home), "CSVLogger"), (False, "no logger")):
        with pytest.raises(InputError, match=f"the trainer has {named}, which takes no pictures"):
            trainer(logger, explain()).validate(Training(), batches(1), verbose=False)


@pytest.mark.parametrize(
    "wrapped",
    [lambda img: (img, torch.zeros(2)), lambda img: img, lambda img: {"image": img}],
    ids=["tuple", "tensor", "dict"],
)
def test_pictures_are_found_in_the_usual_batches(wrapped, explained):
    from detcam.integrations.lightning import pictures_of

    img = Pairs(1)[0]["img"]
    assert pictures_of(wrapped(img)) is img


def test_a_batch_without_pictures_is_one_line():
    from detcam.integrations.lightning import pictures_of

    with pytest.raises(InputError, match="no pictures in a batch of x, y: give `pictures`"):
        pictures_of({"x": 1, "y": 2})
