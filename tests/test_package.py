"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

import detcam

PACKAGE = Path(detcam.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 450


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text("utf-8")))


def imported_by(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found


def loaded_by(code: str) -> set[str]:
    """Top-level modules there are in a fresh interpreter after running `code`."""
    asked = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return {name.partition(".")[0] for name in asked.stdout.split()}


# The public surface


def test_importing_detcam_imports_nothing_heavy():
    loaded = loaded_by("import detcam")
    assert "detcam" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "cv2", "PIL", "ultralytics", "matplotlib", "click"})


def test_the_public_surface_is_what_the_readme_may_promise():
    assert detcam.__all__ == [
        *("METHODS", "DetcamError", "Explanation", "OverlayStyle", "activation_maps", "d_rise"),
        *("explain", "features", "kernels", "load", "load_weights", "output_maps", "overlay", "wrap"),
    ]


@pytest.mark.parametrize("name", detcam.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    found = getattr(detcam, name)
    assert found.__doc__
    assert name == "METHODS" or found.__name__ == name


def test_dir_shows_the_public_surface_only():
    assert set(dir(detcam)) == {*detcam.__all__, "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'detcam' has no attribute 'explian'"):
        detcam.explian  # noqa: B018


def test_the_version_is_the_packages():
    try:
        installed = importlib.metadata.version("detcam")
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        project = PACKAGE.parent / "pyproject.toml"
        installed = tomllib.loads(project.read_text("utf-8"))["project"]["version"]
    assert detcam.__version__ == installed


def test_the_package_says_that_it_is_typed():
    assert resources.files("detcam").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["explanation-1", "run-1", "index-1", "features-1", "maps-1"])
def test_schemas_ship_and_are_schemas(name):
    text = resources.files("detcam").joinpath(f"schemas/{name}.json").read_text("utf-8")
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"detcam.{name.replace('-', '/')}"
    assert schema["additionalProperties"] is False


def test_the_schemas_names_are_those_the_code_writes():
    from detcam.explanation import SCHEMA
    from detcam.outputs import RUN_SCHEMA

    assert (SCHEMA, RUN_SCHEMA) == ("detcam.explanation/1", "detcam.run/1")


# The rooms


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_the_command_line_prints(path):
    calls = [node.func for node in nodes(path) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    said = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)}
    assert "print" not in names
    if not name_of(path).startswith("cli/"):
        assert said.isdisjoint({"click.echo", "sys.exit", "sys.stdout.write", "sys.stderr.write"})


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_capture_hooks(path):
    hooking = {
        node.attr
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr.startswith("register_") and "hook" in node.attr
    }
    assert bool(hooking) == (name_of(path) == "cam/capture.py"), hooking


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_adapters_know_a_vendor(path):
    if not name_of(path).startswith("adapters/"):
        assert "ultralytics" not in imported_by(path)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_core_imports_nothing_of_the_house_but_the_errors(path):
    if name_of(path).startswith("cam/"):
        house = {
            node.module
            for node in nodes(path)
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("detcam")
        }
        assert {name for name in house if not name.startswith("detcam.cam")} <= {"detcam.errors"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_calls_backward(path):
    assert "backward" not in {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_outgrows_a_readers_patience(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_is_a_drawer(path):
    assert path.stem not in ("utils", "common", "helpers", "misc")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
