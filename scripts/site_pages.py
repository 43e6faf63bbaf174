"""What the documentation site shows besides `docs/`; mkdocs calls the functions named `on_…` (mkdocs.yml).

- Files beside `docs/` become pages: the changelog, the promises of security, the notes on the weights, the
  examples as notebooks.
- Links to such files, which lead out of `docs/` in the repository, lead to those pages on the site.
- Comments such as `<!-- facts -->` become what `METHODS`, `ADAPTERS` and docstrings say, so that no page
  repeats it by hand.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import textwrap
from pathlib import Path

import click
import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from detcam.adapters import ADAPTERS, Family
from detcam.adapters.options import flag
from detcam.cam.methods import ALIASES, METHODS, Method
from detcam.cli import cli

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*.py"))

# In the repository -> on the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "weights/README.md": "weights.md",
    "examples/README.md": "examples/index.md",
    **{path: str(Path(path).with_suffix(".md")) for path in EXAMPLES},
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(
    r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)"
)  # what a Markdown link names, anchors and schemes left out

_COSTS = {
    None: "nothing beside the forward pass",
    "masked": "a forward pass for each channel of each layer, shared by all boxes",
    "ablated": "a pass through what lies behind the layer for each of its channels, shared by all boxes",
    "sampled": "thousands of forward passes (`--masks`), shared by all boxes",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files beside `docs/`."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = notebook(text, Path(source).name) if source.endswith(".py") else text
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the tables, and let links lead to pages of the site."""
    name = page.file.src_uri
    for comment, table in _tables(name).items():
        markdown = markdown.replace(f"<!-- {comment} -->", table)
    return relink(markdown, name)


def notebook(script: str, name: str) -> str:
    """An example as a page: its text as it is, its code in blocks; a mere script is no search result."""
    cells = jupytext.reads(script, fmt="py:percent").cells
    cells[0].source = re.sub(r"\A(# .*)\.$", r"\1", cells[0].source, flags=re.MULTILINE)  # no sentence
    blocks = [one.source if one.cell_type == "markdown" else f"```python\n{one.source}\n```" for one in cells]
    if cells[0].cell_type == "code":
        blocks = ["---\nsearch:\n  exclude: true\n---", f"# {name}", *blocks]
    return "\n\n".join(blocks)


def relink(markdown: str, page: str) -> str:
    """Links as they are in the repository, turned into links between pages of the site.

    Args:
        markdown: of a file that lies in `docs/`, or is one of `PAGES`.
        page: its place on the site.
    """
    home = posixpath.dirname(_SOURCES.get(page, f"docs/{page}"))

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, link[1]))
        place = PAGES.get(target, target.removeprefix("docs/"))
        return os.path.relpath(place, posixpath.dirname(page) or ".").replace(os.sep, "/")

    return _LINK.sub(on_site, markdown)


def method_page(name: str) -> str:
    """Where a method's page lies on the site: `methods/grad-cam-plus-plus.md`."""
    return f"methods/{name.replace('++', '-plus-plus')}.md"


def family_page(name: str) -> str:
    """Where a detector family's page lies on the site."""
    return f"families/{name}.md"


def _tables(page: str) -> dict[str, str]:
    """What stands in place of a page's comments."""
    tables = {}
    if page == "methods/index.md":
        tables = {
            "methods": _methods([one for one in METHODS.values() if not one.is_control]),
            "controls": _methods([one for one in METHODS.values() if one.is_control]),
        }
    if page == "cli.md":
        tables = {"commands": _commands()}
    for name, method in METHODS.items():
        if page == method_page(name):
            tables["facts"] = _table(*_method_facts(method))
            tables["departures"] = _departures(method)
    for name, family in ADAPTERS.items():
        if page == family_page(name):
            tables["facts"] = _table(*_family_facts(name, family))
    return tables


def _methods(methods: list[Method]) -> str:
    rows = []
    for one in methods:
        link = f"[`{one.name}`]({method_page(one.name)})".replace("(methods/", "(")
        rows.append([link, one.summary, _passes(one), one.source])
    return _table(["`--method`", "what it draws", "costs", "source"], *rows)


def _method_facts(method: Method) -> list[list[str]]:
    aliases = [f"`{alias}`" for alias, name in ALIASES.items() if name == method.name]
    return [
        ["name", ", also ".join([f"`{method.name}`", *aliases])],
        ["draws", method.summary],
        ["source", method.source],
        ["needs", ", ".join(name.replace("_", " ") for name in method.needs)],
        ["costs", _passes(method)],
        [
            "default layers",
            "`evidence`" if method.is_by_cell else "none" if method.is_sampled else "`backbone`",
        ],
        ["can be smoothed (`eigen_smooth`)", "yes" if method.weigh else "no"],
    ]


def _departures(method: Method) -> str:
    """What the formula's docstring says about how it differs from the paper."""
    said = " ".join((inspect.getdoc(method.compute) or "").replace("\n\n", " \0").split())
    found = re.search(r"(Differs from the paper:)([^\0]*)", said)
    return f"**{found[1]}**{found[2]}" if found else ""


def _passes(method: Method) -> str:
    return "a backward pass for each box" if method.uses_gradients else _COSTS[method.rescores]


def _family_facts(name: str, family: Family) -> list[list[str]]:
    def options(names: frozenset[str]) -> str:
        return ", ".join(f"`{flag(one)}`" for one in sorted(names)) or "none"

    return [
        ["key in `ADAPTERS`", f"`{name}`"],
        ["what", family.summary],
        ["from a file, on the command line", "yes" if family.load else "no: the live model, in Python"],
        ["options", options(family.uses | family.file_uses)],
    ]


def _table(*rows: list[str]) -> str:
    """Rows as a Markdown table; the first is its head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def _commands() -> str:
    """Every command with its usage, examples and options, as click knows them."""
    context = click.Context(cli, info_name="detcam")
    parts = []
    for name in cli.list_commands(context):
        command = cli.commands[name]
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(["detcam", name, *command.collect_usage_pieces(inner)])
        asked = [one for one in command.get_params(inner) if isinstance(one, click.Option)]
        options = [record for one in asked if (record := one.get_help_record(inner))]
        rows = [[f"`{option.replace('|', ' or ')}`", text.replace("|", "or")] for option, text in options]
        parts += [f"## detcam {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
        parts.append(_table(["option", "what it says"], *rows))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> str:
    """A command's help; what click was told not to wrap (its mark is a backspace) is a block."""
    parts = [part.strip("\n") for part in inspect.cleandoc(text).split("\n\n")]
    blocks = []
    for part in parts:
        head, mark, lines = part.partition("\b\n")
        title, _, block = lines.partition("\n")
        blocks.append(f"{title}\n\n```sh\n{textwrap.dedent(block)}\n```" if mark else head)
    return "\n\n".join(blocks)
