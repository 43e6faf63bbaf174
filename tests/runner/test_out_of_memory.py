"""Memory that does not suffice: fewer pictures at a time, then fewer boxes, then the picture's name."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killable import SHAPES, draw

import detcam
from detcam.explainer import Explainer, ExplainOptions, explain_piecemeal
from detcam.explainer import passes as passes_module
from detcam.explanation import SaveOptions
from detcam.images import read_picture
from detcam.outputs import RunFolder
from detcam.runner import ExplainBatch, Job, jobs_of, run
from detcam.runner import batch as batch_module

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.fixture
def explainer() -> Explainer:
    detector = detcam.load(SHAPES, device="cpu")
    return Explainer.of(detector, ExplainOptions(method="layer-cam", layers="backbone"))


@pytest.fixture
def work(explainer, tmp_path) -> Callable[[str], ExplainBatch]:
    def make(name: str) -> ExplainBatch:
        folder = RunFolder.create(tmp_path, name, exist_ok=False)
        return ExplainBatch(lambda: explainer, folder, SaveOptions())

    return make


def limited(explainer: Explainer, monkeypatch: Any, pictures: int, error: Exception) -> list[int]:
    """A network that holds only so many pictures; the sizes of the batches it was given."""
    forward, sizes = type(explainer.detector).forward, []

    def run_out(self: Any, batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        if len(batch) > pictures:
            raise error
        return forward(self, batch)

    monkeypatch.setattr(type(explainer.detector), "forward", run_out)
    return sizes


@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError()])
def test_the_batch_is_halved_for_good_and_the_rows_are_the_same(
    explainer, work, tmp_path, monkeypatch, error
):
    jobs = jobs_of(draw(tmp_path / "pictures", 10))
    expected = [row.record() | {"ms": 0} for row in run(work("plain"), jobs)]
    sizes = limited(explainer, monkeypatch, 2, error)
    found = [row.record() | {"ms": 0} for row in run(work("short"), jobs, batch=8)]
    assert found == expected
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) == 2  # 8 is not tried again
    for path in (tmp_path / "plain").glob("*_cam.npz"):
        with np.load(path) as one, np.load(tmp_path / "short" / path.name) as other:
            assert one.files == other.files
            for name in one.files:  # a convolution sums in another order for more pictures
                np.testing.assert_allclose(one[name], other[name], atol=1e-5)


def test_what_the_pass_that_failed_held_is_free_when_the_smaller_one_begins(
    explainer, work, tmp_path, monkeypatch
):
    forward, held, alive = type(explainer.detector).forward, [], []

    def run_out(self: Any, batch: torch.Tensor) -> Any:
        alive.extend(one() is not None for one in held)
        if len(batch) == 1:
            return forward(self, batch)
        activations = torch.zeros(1)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(explainer.detector), "forward", run_out)
    short = work("short")
    rows = short.explain(short.read(jobs_of(draw(tmp_path / "pictures", 2)[:2])))
    assert [row.status for row in rows] == ["ok", "ok"]
    assert alive == [False, False]


def few_boxes(monkeypatch: Any, boxes: int, error: Exception = CUDA) -> list[int]:
    """Gradients that can be had of so many boxes at a time; the numbers that were tried."""
    explain, tried = passes_module.explain_by_gradients, []

    def run_out(plan: Any, caught: Any, layouts: Any, maps: Any, subjects: Any) -> None:
        tried.append(sum(len(subject.chosen) for subject in subjects))
        if tried[-1] > boxes:
            raise error
        explain(plan, caught, layouts, maps, subjects)

    monkeypatch.setattr(passes_module, "explain_by_gradients", run_out)
    return tried


def test_a_picture_whose_boxes_do_not_fit_is_explained_a_few_at_a_time(
    explainer, work, tmp_path, monkeypatch
):
    picture = draw(tmp_path / "pictures", 3)[2]
    (whole,) = explainer.explain([read_picture(picture)])
    assert len(whole) == 5
    tried = few_boxes(monkeypatch, 1)
    (row,) = work("short")([Job(picture, "002")])
    assert tried == [5, 2, 1, 1, 1, 1, 1]
    parts = row.explanation
    assert row.status == "ok"
    assert torch.equal(parts.detections.boxes, whole.detections.boxes)
    assert torch.equal(parts.detections.scores, whole.detections.scores)
    assert (parts.found, parts.deciding, parts.target_values) == (
        whole.found,
        whole.deciding,
        whole.target_values,
    )
    for level, maps in whole.levels.items():
        torch.testing.assert_close(parts.levels[level], maps)
        assert torch.equal(parts.involved[level], whole.involved[level])


def test_near_misses_survive_being_explained_a_few_at_a_time(tmp_path, monkeypatch):
    detector = detcam.load(SHAPES, device="cpu")
    options = ExplainOptions(method="layer-cam", layers="backbone", conf=0.9, near_misses=1)
    near, picture = Explainer.of(detector, options), read_picture(draw(tmp_path / "pictures", 4)[3])
    (whole,) = near.explain([picture])
    few_boxes(monkeypatch, 2)
    assert explain_piecemeal(near, picture).verdicts == whole.verdicts
    assert len(whole.verdicts) == len(whole)


def test_masked_boxes_keep_their_convergence_a_few_at_a_time(tmp_path):
    detector, picture = detcam.load(SHAPES, device="cpu"), read_picture(draw(tmp_path / "pictures", 3)[2])
    masked = Explainer.of(detector, ExplainOptions(method="d-rise", masks=128))
    (whole,) = masked.explain([picture])
    parts = explain_piecemeal(masked, picture)
    assert len(whole.sampling.convergence) == 5
    assert any(whole.sampling.convergence)
    assert parts.sampling.masks == 128
    assert parts.sampling.convergence == pytest.approx(whole.sampling.convergence, abs=1e-5, nan_ok=True)


def test_a_picture_of_which_not_even_one_box_fits_is_named_and_the_rest_goes_on(
    explainer, work, tmp_path, monkeypatch
):
    jobs = jobs_of(draw(tmp_path / "pictures", 2))
    few_boxes(monkeypatch, 0)
    rows = list(run(work("short"), jobs))
    assert {row.status for row in rows} == {"error"}
    assert rows[0].error == "not enough memory for one box: give a smaller --imgsz or another --device"
    assert str(rows[0].job.path).endswith("000.png")


@pytest.mark.parametrize("error", [CPU, MemoryError()])
def test_a_picture_whose_maps_cannot_be_drawn_is_named_and_the_rest_goes_on(
    work, tmp_path, monkeypatch, error
):
    jobs, save = jobs_of(draw(tmp_path / "pictures", 2)[:2]), batch_module.save

    def run_out(explanation: Any, folder: Path, stem: str, options: SaveOptions) -> Any:
        if stem == "000":
            raise error
        return save(explanation, folder, stem, options)

    monkeypatch.setattr(batch_module, "save", run_out)
    rows = list(run(work("short"), jobs))
    assert [row.status for row in rows] == ["error", "ok"]
    assert rows[0].error.startswith("not enough memory to draw and store its maps")


def test_a_network_that_does_not_fit_at_all_is_told_apart(explainer, work, tmp_path, monkeypatch):
    limited(explainer, monkeypatch, 0, CPU)
    (row,) = work("short")([Job(draw(tmp_path / "pictures", 1)[0], "000")])
    assert row.error == "not enough memory for the network alone: give a smaller --imgsz or another --device"


def test_another_failure_of_the_network_is_a_row_and_no_lack_of_memory(
    explainer, work, tmp_path, monkeypatch
):
    sizes = limited(explainer, monkeypatch, 0, RuntimeError("shapes do not match\nat line 3"))
    paths: list[Path] = draw(tmp_path / "pictures", 2)
    rows = list(run(work("broken"), jobs_of(paths), batch=2))
    assert [row.error for row in rows[:2]] == ["the network failed: RuntimeError: shapes do not match"] * 2
    assert sizes == [2, 1, 1]
