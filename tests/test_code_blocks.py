"""Every code block of the documentation runs, or a table here says why it does not."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from sybil import Document, Example, Lexeme, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from detcam.cli import cli

sys.path.append(str(Path(__file__).parent / "adapters"))

from documented import given, make_files  # whose neighbours are found by the line before

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "weights/README.md", "examples/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")),
)

NOT_RUN = {
    "pip install": "installs packages",
    "make ": "makes an environment of its own",
    "python examples/": "tests/test_examples.py runs them",
    "torchrun ": "starts processes: tests/runner/test_sharing_a_run.py",
    "detcam explain yolo.pt photos/ --name ray": "starts processes: tests/runner/test_sharing_a_run.py",
    "detcam report copied/run": "a run whose pictures moved: tests/report",
    "detcam explain frcnn.pth": "170 MB: tests/adapters/test_torchvision_loading.py runs a small one",
    "detcam explain leyolo.pt": "a fork's layers, which nobody has here: tests/adapters/test_leyolo.py",
}
"""How a command begins that is not run -> why."""

SHORTENED = {
    "--masks 5000": "--masks 20",
    'method="d-rise")': 'method="d-rise", masks=20)',
    "class_names=NAMES)": "class_names=NAMES, masks=20)",
    "detcam evaluate ": "detcam evaluate --methods layer-cam --max-boxes 1 --steps 2 ",
    "--planted 40": "--planted 1",
}
"""What would take minutes as it stands -> what is run instead."""

_fences = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))
_run_python = PythonEvaluator()


def evaluate(example: Example) -> None:
    """Run a block as its language says."""
    language = example.region.lexemes["language"]
    assert language in ("python", "sh", "text"), f"python, sh or text? got {language!r}"
    if language == "python":
        _run_python(example)
    elif language == "sh":
        for line in example.parsed.splitlines():
            run_command(line)
    else:
        commands = [line for line in example.parsed.splitlines() if line.startswith("detcam ")]
        assert not commands, f"a block of text is not run, and holds commands: {commands}"


def shortened(source: Lexeme) -> Lexeme:
    text = str(source)
    for long, short in SHORTENED.items():
        text = text.replace(long, short)
    return Lexeme(text, source.offset, source.line_offset)


def run_command(line: str) -> None:
    words = shlex.split(line, comments=True)
    if not words or line.startswith(tuple(NOT_RUN)):
        return
    assert words[0] == "detcam", f"neither a detcam command nor one of NOT_RUN: {line}"
    said = CliRunner().invoke(cli, words[1:])
    assert said.exit_code == 0, f"{line}\nexit {said.exit_code}: {said.output}{said.exception or ''}"


def blocks(document: Document) -> list[Region]:
    regions = list(_fences(document))
    for region in regions:
        region.parsed, region.evaluator = shortened(region.lexemes["source"]), evaluate
    return regions


def parsed(page: str) -> Document:
    return Document.parse(str(ROOT / page), blocks)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with everything that is opened."""
    folder = tmp_path_factory.mktemp("documented")
    with torch.random.fork_rng():
        make_files(folder)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if list(parsed(page))])
def test_the_blocks_of_a_page_run(page, files, monkeypatch):
    shutil.rmtree(files / "runs", ignore_errors=True)
    monkeypatch.chdir(files)
    document = parsed(page)
    with torch.random.fork_rng():
        document.namespace.update(given(page, files))
        for example in document:
            example.evaluate()


def test_nothing_is_excused_that_is_not_there():
    sources = "\n".join(example.region.lexemes["source"] for page in PAGES for example in parsed(page))
    for text in (*NOT_RUN, *SHORTENED):
        assert text in sources, text


def test_a_detector_of_ones_own_takes_thirty_lines():
    first = next(iter(parsed("docs/own-detector.md"))).region.parsed
    assert len([line for line in first.splitlines() if line.strip()]) <= 30
