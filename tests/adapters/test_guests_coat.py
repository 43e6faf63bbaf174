"""The model of every family is left as it was: by every method, and by whatever stops one in the middle."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch
from detector_checks import noise
from guests_coat import unchanged
from small_detectors import GENERIC, KINDS
from test_contract import ALL, TroubleError, explained, in_the_middle_of_training, marked, seen, small

import detcam
from detcam.adapters.choosing import chosen_layers
from detcam.cam.capture import borrowed
from detcam.cam.methods import METHODS
from detcam.errors import DetcamError, InputError
from detcam.targets import TARGETS

__all__ = ["small"]  # a fixture

REPRESENTATIVES = ("yolov5", "regions", "transformers-detr", "generic-head")
"""Anchors, proposals, queries, and a head of the user's."""

STOPS = pytest.mark.parametrize("stop", [TroubleError, KeyboardInterrupt])


def raising(stop):
    def trouble(*_args, **_options):
        raise stop

    return trouble


def captured(one):
    """The layers that the default explanation captures."""
    names = chosen_layers(one.model, one.detector.layers(), "evidence")
    return [one.model.get_submodule(name) for name in names]


@ALL
@STOPS
def test_what_raises_in_any_captured_layer_leaves_the_model_as_it_was(small, kind, stop):
    one = small(kind)
    for layer in captured(one):
        handle = layer.register_forward_pre_hook(raising(stop))
        try:
            with in_the_middle_of_training(one.model), unchanged(one.model), pytest.raises(stop):
                explained(one, noise())
        finally:
            handle.remove()


@ALL
@STOPS
def test_a_users_target_that_raises_leaves_the_model_as_it_was(small, kind, stop, monkeypatch):
    one = small(kind)
    seen(one)
    monkeypatch.setitem(TARGETS, "class-logit", lambda *_: raising(stop))
    with in_the_middle_of_training(one.model), unchanged(one.model), pytest.raises(stop):
        explained(one, noise())


@ALL
@pytest.mark.parametrize(
    "asked",
    [{"layers": "no.such.layer"}, {"method": "no-such-method"}, {"target": "no-such"}, {"classes": [10**6]}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_does_not_exist_leaves_the_model_as_it_was(small, kind, asked):
    one = small(kind)
    with in_the_middle_of_training(one.model), unchanged(one.model), pytest.raises(InputError):
        explained(one, noise(), **asked)


def explain_in_any_case(one, method):
    """Some methods cannot be had from some detectors: that, too, is to leave no trace."""
    with contextlib.suppress(DetcamError):
        explained(one, noise(), method=method, max_boxes=1, masks=4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [marked(kind) for kind in REPRESENTATIVES])
def test_every_method_leaves_the_model_as_it_was(small, kind, method):
    one = small(kind)
    with in_the_middle_of_training(one.model), unchanged(one.model):
        explain_in_any_case(one, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [marked(kind) for kind in KINDS if kind not in REPRESENTATIVES])
def test_every_method_leaves_the_model_of_every_family_as_it_was(small, kind, method):
    one = small(kind)
    with in_the_middle_of_training(one.model), unchanged(one.model):
        explain_in_any_case(one, method)


# --- several threads --------------------------------------------------------------------------------------


def at_once(*calls):
    """Results of calls, each in a thread of its own, all begun together; what one raises is raised."""
    begin, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(number, call):
        begin.wait()
        try:
            results[number] = call()
        except BaseException as error:  # noqa: BLE001 -- handed on below
            results[number] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("kind", [marked(kind) for kind in KINDS if KINDS[kind].family != GENERIC])
def test_explanations_in_two_threads_on_one_model_do_not_mix(small, kind):
    one, pictures = small(kind), (noise(seed=3), noise(seed=4))
    one.detector.layers()

    def maps(picture, layers):
        found = explained(one, picture, layers=layers, conf=0.0, max_boxes=2)
        return [*found.levels.values(), found.detections.boxes]

    asked = [(pictures[0], "evidence"), (pictures[1], "backbone")] * 2
    alone = [maps(*one) for one in asked]
    with unchanged(one.model):
        together = at_once(*(lambda one=one: maps(*one) for one in asked))
    for expected, found in zip(alone, together, strict=True):
        assert len(expected) == len(found)
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_two_models_in_two_threads_leave_the_random_state_as_it_was():
    """Each in the other's time: the first in is the first out."""
    inside, over = threading.Event(), threading.Event()
    models = [torch.nn.Conv2d(1, 1, 1) for _ in range(2)]
    before = torch.get_rng_state()

    def first():
        with borrowed(models[0]):
            torch.rand(1)
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    with borrowed(models[1]):
        torch.rand(1)
        over.set()
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_thread_that_waits_for_a_model_goes_on_when_the_other_failed(small):
    one = small("yolov5")
    handle = captured(one)[0].register_forward_pre_hook(raising(TroubleError))
    try:
        with unchanged(one.model), pytest.raises(TroubleError):
            at_once(*[lambda: explained(one, noise())] * 3)
    finally:
        handle.remove()
    assert len(detcam.explain(one.detector, noise(), imgsz=one.imgsz, conf=seen(one)[-1])) > 0
