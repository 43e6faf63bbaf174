"""Scores without each channel of a layer, against one channel after the other in the full network."""

from __future__ import annotations

import pytest
import torch
from replayed_networks import HARD_NETWORKS, Small, full, small_picture
from torch import Tensor

from detcam.cam.replay import replayed
from detcam.cam.rescoring import ablated_scores


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_ablated_scores_are_those_of_one_channel_after_the_other(batch_size, assert_close):
    model, picture = Small().eval(), small_picture()
    with replayed(model, "layer", lambda pictures: model(pictures).T, picture) as replay:
        found = ablated_scores(replay, batch_size=batch_size)
        for channel in range(4):
            output = replay.output().clone()
            output[:, channel] = 0
            assert_close(found[:, channel], full(model, "layer", output, replay.run, picture)[:, 0])
    assert found.shape == (3, 4)


def test_on_the_cpu_eight_channels_are_ablated_at_a_time_unless_told_otherwise(assert_close):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 20, 3), torch.nn.ReLU()).eval()
    sizes = []

    def run(pictures):
        sizes.append(len(pictures))
        return model(pictures).square().sum(dim=(1, 2, 3))[None]

    with replayed(model, "0", run, torch.rand(1, 3, 6, 6)) as replay:
        sizes.clear()
        found = ablated_scores(replay)
        assert sizes == [8, 8, 4]
        assert_close(found, ablated_scores(replay, batch_size=20))


@pytest.mark.parametrize("name", ["Windowed", "SequenceFirst"])
def test_a_channel_of_tokens_is_ablated_where_it_lies(name, assert_close):
    # Windows: channel c of all 16 cells of all four. Sequence: of all tokens but the class token.
    model, picture = {one.__name__: one for one in HARD_NETWORKS}[name]().eval(), small_picture()

    def unfold(output: Tensor) -> Tensor:
        if name == "SequenceFirst":
            return output[1:].permute(1, 2, 0).unflatten(2, (8, 8))
        return (
            output.unflatten(0, (-1, 2, 2))
            .unflatten(3, (4, 4))
            .permute(0, 5, 1, 3, 2, 4)
            .flatten(4)
            .flatten(2, 3)
        )

    with replayed(model, "layer", lambda pictures: model(pictures).T, picture) as replay:
        assert unfold(replay.output()).shape == (1, 4, 8, 8)
        found = ablated_scores(replay, unfold, batch_size=3)
        for channel in range(4):
            output = replay.output().clone()
            output[1 if name == "SequenceFirst" else 0 :, ..., channel] = 0
            assert_close(found[:, channel], full(model, "layer", output, replay.run, picture)[:, 0])


def test_progress_and_memory_are_handed_on():
    model, told = Small().eval(), []
    sizes: list[int] = []

    def run(pictures: Tensor) -> Tensor:
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(pictures).T

    with replayed(model, "layer", run, small_picture()) as replay:
        sizes.clear()
        ablated_scores(replay, batch_size=4, progress=lambda batches: told.append(list(batches)) or told[0])
    assert told == [[0]]
    assert sizes == [4, 2, 2]
