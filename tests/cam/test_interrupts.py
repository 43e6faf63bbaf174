"""An interrupt between any two lines of the code that borrows a network."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter

import pytest
import torch
from guests_coat import unchanged
from torch import nn

from detcam.cam import capture as capturing
from detcam.cam import turns

# Where it may come too late or too early: within a clean-up, or between taking something and noting that.
CLEAN_UPS = {
    *("capture", "_sound_batch_norm", "_frozen", "_evaluating", "_ordinary_tensors"),
    *("turn_with", "kept"),
}
MOST_PLACES = 28
FILES = (capturing.__file__, turns.__file__)


def guest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3)).train()
    model[3].half().weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    return model


def explain(model, at=None):
    """A pass, interrupted at a place; gives the places passed and the function that was interrupted."""
    passed, where = 0, None

    def line(frame, event, _argument):
        nonlocal passed, where
        if event == "line":
            passed += 1
            if passed == at:
                where = frame.f_code.co_name
                raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: line if frame.f_code.co_filename in FILES else None)
    try:
        with capturing.capture(model, {"a": model[0], "b": model[3]}) as caught:
            caught.gradients(model(torch.ones(1, 1, 9, 9)).sum())
    finally:
        sys.settrace(before)
        return passed, where  # noqa: B012 -- the interrupt is ours


@pytest.mark.slow
def test_an_interrupt_at_any_line_but_those_of_a_clean_up_leaves_everything_as_it_was(monkeypatch):
    places, _ = explain(guest())
    changed = Counter()
    for at in range(1, places + 1):
        monkeypatch.setattr(turns, "_TURNS", {})
        monkeypatch.setattr(turns, "_TURNS_LOCK", turns.threading.Lock())
        fresh = turns.Shared(turns._read_random, turns._write_random)
        monkeypatch.setattr(capturing, "RANDOM_STATE", fresh)
        model, where = guest(), None
        with contextlib.suppress(AssertionError), torch.random.fork_rng(devices=[]), torch.enable_grad():
            with unchanged(model):
                where = explain(model, at)[1]
            if not turns._TURNS_LOCK.locked() and not fresh._lock.locked():
                continue
        changed[where] += 1
    assert places > 300
    assert set(changed) <= CLEAN_UPS, changed
    assert changed.total() <= MOST_PLACES, changed
    print(f"{places} places, {changed.total()} of them change something: {dict(changed)}")  # noqa: T201
