"""Giving a stranger's module back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_attributes(module: nn.Module) -> Iterator[None]:
    """Give a module the attributes back that its forward pass sets: grids, shapes, anchors, class counts."""
    kept = dict(vars(module))
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(kept)
