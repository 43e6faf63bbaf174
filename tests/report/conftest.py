"""A run folder with one small picture, and a Chromium that is already there."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_yolo import explained_street

from detcam.cli import main
from detcam.explanation import Explanation, Verdict


@pytest.fixture(scope="session")
def explained(tmp_path_factory) -> Explanation:
    """A picture with prime sides, and what a small detector finds in it."""
    return explained_street(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def write_run(explained) -> Callable[..., Path]:
    """Write a run folder as `detcam explain` does: one picture, whose class names may be chosen."""

    def write(
        folder: Path, names: dict[int, str] | None = None, verdicts: tuple[Verdict, ...] = (), **question: Any
    ) -> Path:
        explanation = replace(
            explained,
            verdicts=verdicts,
            class_names=names or explained.class_names,
            question=replace(explained.question, **question),
        )
        files = [path.name for path in explanation.save(folder, "street", scale="box")]
        manifest = {"schema": "detcam.run/1", "versions": {"python": "3"}, "command": ["detcam", "explain"]}
        (folder / "run.json").write_text(
            json.dumps(manifest | {"model": {"path": "small.pt"}, "device": "cpu"})
        )
        row = {"source": str(explained.picture.path), "status": "ok", "files": files, "error": None}
        (folder / "index.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    return write


@pytest.fixture
def detcam_(capsys, monkeypatch, tmp_path):
    """Run the command line in this process and an empty folder: exit code, stdout, stderr."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return int(end.value.code or 0), *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; neither is downloaded here."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium: scripts/browser.sh installs it where it can")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox to be in
        chromium = driver.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()
