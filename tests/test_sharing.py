"""Boxes that share a backward pass get exactly the maps they get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_yolo import detector, pictures

import detcam
from detcam.cam.capture import Capture
from detcam.cam.methods import METHODS
from detcam.explainer import Explainer, ExplainOptions
from detcam.explainer.sharing import Queue, Reach, Seat
from detcam.images import as_picture

WITH_GRADIENTS = [name for name, method in METHODS.items() if method.uses_gradients]
GRID = {"fine": (40, 60), "coarse": (20, 30)}


def touched(rows: slice, columns: slice, coarse: tuple[slice, slice]) -> dict[str, np.ndarray]:
    found = {layer: np.zeros(grid, bool) for layer, grid in GRID.items()}
    found["fine"][rows, columns] = True
    found["coarse"][coarse] = True
    return found


def seat(box: int, row: float, column: float, level: str = "P3") -> Seat:
    """The candidate of a cell of the fine grid."""
    return Seat(box, level, (column + 0.5) / 60, (row + 0.5) / 40)


def window_of(row: int, column: int, radius: int) -> dict[str, np.ndarray]:
    rows, columns = slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1)
    coarse = tuple(slice(one.start // 2, (one.stop + 1) // 2) for one in (rows, columns))
    return touched(rows, columns, coarse)


def test_a_window_is_learnt_from_one_box_and_laid_around_another():
    reach = Reach()
    assert reach.windows(seat(0, 10, 10), GRID) == {}
    assert reach.learn(seat(0, 10, 10), window_of(10, 10, 4))
    assert reach.radii["P3", "fine"] == pytest.approx((4.5, 4.5))
    assert reach.windows(seat(1, 30, 40), GRID)["fine"] == (slice(26, 35), slice(36, 45))
    assert reach.windows(seat(1, 30, 40), GRID)["coarse"] == (slice(12, 18), slice(17, 23))  # one too many
    assert reach.windows(seat(1, 30, 40, "P5"), GRID) == {}
    assert not reach.learn(seat(2, 20, 20), window_of(20, 20, 3))


def test_a_window_that_the_edge_cut_off_counts_by_its_other_side():
    reach = Reach()
    reach.learn(seat(0, 1, 2), touched(slice(0, 6), slice(0, 7), (slice(0, 3), slice(0, 4))))
    assert reach.windows(seat(1, 20, 30), GRID)["fine"] == (slice(16, 25), slice(26, 35))


def test_a_window_that_both_edges_cut_off_may_be_of_any_size():
    reach = Reach()
    reach.learn(seat(0, 20, 30), touched(slice(0, 40), slice(28, 33), (slice(0, 20), slice(14, 17))))
    assert reach.windows(seat(1, 39, 10), GRID)["fine"] == (slice(0, 40), slice(8, 13))


def test_boxes_share_a_pass_where_their_windows_lie_a_cell_apart_on_every_layer():
    reach = Reach()
    reach.learn(seat(0, 20, 30), window_of(20, 30, 4))
    rows = [(10, 10), (10, 19), (10, 20), (30, 50)]  # windows 9 wide: 19 touches the first, 20 is a cell away
    queue = Queue([seat(box, *place) for box, place in enumerate(rows)], {"fine": (40, 60)}, reach)
    first = queue.next()
    assert [one.box for one in first.seats] == [0, 2, 3]
    assert [one.box for one in queue.next().seats] == [1]
    assert len(queue.next()) == 0


def test_boxes_whose_gradients_reach_beyond_their_windows_come_again_alone():
    reach = Reach()
    reach.learn(seat(0, 20, 30), window_of(20, 30, 2))
    queue = Queue([seat(0, 10, 10), seat(1, 30, 50), seat(2, 30, 10)], GRID, reach)
    group = queue.next()
    assert len(group) == 3
    cells = {
        layer: np.logical_or.reduce(
            [
                window_of(*place, radius)[layer]
                for place, radius in (((10, 10), 3), ((30, 50), 2), ((30, 10), 2))
            ]
        )
        for layer in GRID
    }
    assert not queue.settle(group, cells)
    for box in range(3):
        alone = queue.next()
        assert [one.box for one in alone.seats] == [box]
        assert queue.settle(alone, window_of(10, 10, 3) if box == 0 else window_of(30, 50, 2))
    assert reach.radii["P3", "fine"][0] > 3


def test_predictions_that_sit_in_no_grid_are_always_alone():
    reach = Reach()
    reach.learn(seat(0, 20, 30), window_of(20, 30, 1))
    queue = Queue([seat(0, 5, 5), seat(1, 30, 50)], GRID, reach, may_share=False)
    assert [len(queue.next()) for _ in range(3)] == [1, 1, 0]


@pytest.fixture(scope="module")
def small() -> Any:
    return detector()


@pytest.fixture(scope="module")
def wide() -> Any:
    rng = np.random.default_rng(5)
    return as_picture(rng.integers(0, 256, (331, 509, 3), dtype=np.uint8))


def alone(small: Any, picture: Any, together: Any, **options: Any) -> list[Any]:
    """Each box explained by itself, in a pass of its own."""
    explainer = Explainer.of(small, ExplainOptions(**options))
    boxes = together.detections
    return [explainer.explain_boxes(picture, boxes[[box]]) for box in range(len(boxes))]


@pytest.mark.parametrize("layers", ["head", "backbone"])
@pytest.mark.parametrize("path", ["direct", "total"])
@pytest.mark.parametrize("method", WITH_GRADIENTS)
def test_maps_together_are_maps_alone(small, wide, method, path, layers, monkeypatch):
    passes = []
    gradients = Capture.gradients
    monkeypatch.setattr(Capture, "gradients", lambda *a: passes.append(1) or gradients(*a))
    options = {"method": method, "path": path, "layers": layers, "imgsz": 512, "conf": 0.01, "max_boxes": 40}
    together = detcam.explain(small, wide, **options)
    assert len(together) == 40
    if layers == "head" and path == "direct":
        assert len(passes) < 30  # shared, or this would test nothing
    # These divide by sums that nearly cancel: the order of summation shows.
    exact = 1e-3 if method.endswith("++") else 1e-5
    for box, one in enumerate(alone(small, wide, together, **options)):
        for level, maps in together.levels.items():
            largest = float(one.levels[level].abs().max())
            torch.testing.assert_close(maps[box], one.levels[level][0], rtol=0, atol=exact * largest + 1e-30)
            assert bool(together.involved[level][box]) == bool(one.involved[level][0])


def test_pictures_of_a_batch_share_passes_and_do_not_mix(small):
    photos = [as_picture(one) for one in pictures(3)]
    options = {"conf": 0.01, "max_boxes": 12, "imgsz": 256}
    together = detcam.explain(small, photos, batch=3, **options)
    for picture, explanation in zip(photos, together, strict=True):
        one = detcam.explain(small, picture, **options)
        assert len(one) == len(explanation) > 3
        for level, maps in explanation.levels.items():
            torch.testing.assert_close(
                maps, one.levels[level], rtol=1e-3, atol=1e-5 * float(maps.abs().max())
            )


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].is_by_cell])
def test_methods_by_cell_are_such(name):
    generator = torch.Generator().manual_seed(0)
    activations, gradients = torch.randn(2, 2, 5, 7, 11, generator=generator)
    gradients[:, :, 2, 3] = 0
    whole = METHODS[name].compute(activations=activations, gradients=gradients)
    part = METHODS[name].compute(activations=activations[..., 1:6, 3:9], gradients=gradients[..., 1:6, 3:9])
    torch.testing.assert_close(whole[:, 1:6, 3:9], part)
    assert not whole[:, 2, 3].any()
    assert METHODS[name].needs == ("activations", "gradients")
