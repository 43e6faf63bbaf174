"""A folder of drawn scenes, and detcam in processes that can be killed, which start at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killable import FAST, SHAPES, draw, run_cli


@pytest.fixture(scope="session")
def processes() -> Any:
    """Processes forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "torchvision", "ultralytics", "detcam.cli", "detcam.runner", "detcam.report"]
    )
    return context


@pytest.fixture
def start(processes, tmp_path) -> Callable[..., Any]:
    """Start `detcam explain shapes.pt pictures …` in the temporary folder."""

    def start_one(*arguments: str, before: Callable[[], None] | None = None, **environment: str) -> Any:
        command = ["explain", str(SHAPES), "pictures", *FAST, *arguments]
        process = processes.Process(target=run_cli, args=(command, tmp_path, environment, before))
        process.start()
        return process

    return start_one


@pytest.fixture
def finish(start) -> Callable[..., int]:
    """The same, waited for: its exit code."""

    def finish_one(*arguments: str, wait: float = 240, **more: Any) -> int:
        process = start(*arguments, **more)
        process.join(wait)
        assert process.exitcode is not None
        return process.exitcode

    return finish_one


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Ten scenes and a file that is none, in the folder `pictures`."""
    return draw(tmp_path / "pictures", 10)
