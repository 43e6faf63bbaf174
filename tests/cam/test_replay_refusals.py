"""What cannot be run again from a layer on is refused in a sentence, never guessed."""

from __future__ import annotations

import pytest
import torch
from guests_coat import unchanged
from replayed_networks import GivesSeveral, LayerCalledTwice, Small, WithConstant, small_picture
from torch import Tensor, nn

from detcam.cam.replay import replayed
from detcam.errors import CaptureError, ShapeError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Fickle(Small):
    """Gives something else each time."""

    runs = 0

    def forward(self, x):
        Fickle.runs += 1
        return super().forward(x) * Fickle.runs


class Mixes(Small):
    """Pictures of a batch mix."""

    def forward(self, x):
        scores = super().forward(x)
        return scores - scores.mean(dim=0)


class HiddenState(Small):
    """A module leaves what it computed for another one to find: replayed, it leaves nothing."""

    class Leaves(nn.Conv2d):
        found: list[Tensor] = []  # noqa: RUF012

        def forward(self, x):
            HiddenState.Leaves.found[:] = [x.mean(dim=(1, 2, 3))[:, None]]
            return super().forward(x)

    def __init__(self):
        super().__init__(stem=HiddenState.Leaves(3, 4, 3, padding=1))

    def forward(self, x):
        scores = super().forward(x)
        return scores * HiddenState.Leaves.found.pop()


@pytest.mark.parametrize(
    ("network", "why"),
    [(Fickle, "depends on the others"), (Mixes, "depends on the others"), (HiddenState, "pop from empty")],
)
def test_a_network_that_cannot_be_replayed_is_refused_in_a_sentence(network, why):
    model = network().eval()
    with (
        pytest.raises(CaptureError, match=rf"cannot be run from layer 'layer' on: .*{why}"),
        replayed(model, "layer", lambda pictures: model(pictures).T, small_picture()),
    ):
        pass


class StaleState(Small):
    """A module notes how bright the picture was: replayed, the note is of the last pass."""

    class Notes(nn.Conv2d):
        brightness = torch.zeros(())

        def forward(self, x):
            StaleState.Notes.brightness = x[:1].mean()
            return super().forward(x)

    def __init__(self):
        super().__init__(stem=StaleState.Notes(3, 4, 3, padding=1))

    def forward(self, x):
        scores = super().forward(x) + StaleState.Notes.brightness
        StaleState.Notes.brightness = torch.tensor(5.0)
        return scores


def test_a_replay_that_would_give_other_scores_is_refused():
    model = StaleState().eval()
    with (
        pytest.raises(CaptureError, match="does not give what computing it gives"),
        replayed(model, "layer", lambda pictures: model(pictures).T, small_picture()),
    ):
        pass


@pytest.mark.parametrize(
    ("network", "layer", "sentence"),
    [
        (lambda: Small(unused=nn.Conv2d(1, 1, 1)), "unused", "layer 'unused' did not run"),
        (LayerCalledTwice, "layer", "ran more than once: name one call, such as 'layer#0'"),
        (GivesSeveral, "layer", r"gave 2 feature maps, one is wanted: name one of \[fine\], \[coarse.0\]"),
        (Small, "end", "gave 0 feature maps"),
    ],
)
def test_a_layer_that_cannot_be_replaced_is_refused_in_a_sentence(network, layer, sentence):
    model = network().eval()
    with (
        unchanged(model),
        pytest.raises(CaptureError, match=sentence),
        replayed(model, layer, lambda pictures: model(pictures).T, small_picture()),
    ):
        pass


def test_an_output_of_another_shape_is_refused():
    model = Small().eval()
    with (
        replayed(model, "layer", lambda pictures: model(pictures).T, small_picture()) as replay,
        pytest.raises(ShapeError, match=r"gives \(3, 4, 8, 8\) for 3 pictures, got \(2, 4, 8, 8\)"),
    ):
        replay(replay.output(2), 3)


def test_scores_that_are_not_one_for_each_picture_are_refused():
    model = Small().eval()
    with (
        pytest.raises(ShapeError, match=r"scores of 2 pictures must be \(T, 2\), got \(2, 3\)"),
        replayed(model, "layer", lambda p: model(p) if len(p) == 2 else model(p).T, small_picture()),
    ):
        pass


class Restless(Small):
    """Another module for two pictures than for one."""

    def __init__(self):
        super().__init__(other=nn.Conv2d(4, 4, 1))

    def forward(self, x):
        x = self.stem(x) if len(x) == 1 else self.other(self.stem(x))
        return self.scores(self.layer(x))


class Halves(nn.Module):
    """Half the cells for twice the pictures."""

    def forward(self, x):
        return x[..., : 8 // len(x)]


@pytest.mark.parametrize(
    ("model", "layer", "sentence"),
    [
        (Restless(), "layer", "calls other modules for two pictures"),
        (WithConstant(), "position", "is the same for any number of pictures"),
        (Small(layer=Halves()), "layer", r"\(1, 4, 8, 8\) for one picture is \(2, 4, 8, 4\) for two"),
    ],
)
def test_a_network_that_treats_two_pictures_otherwise_is_refused(model, layer, sentence):
    with (
        unchanged(model),
        pytest.raises(CaptureError, match=sentence),
        replayed(model, layer, lambda pictures: model(pictures).T, small_picture()),
    ):
        pass
