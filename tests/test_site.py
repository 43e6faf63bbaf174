"""The documentation as a site: it builds without a warning, names all there is and fetches nothing."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detcam.adapters import ADAPTERS
from detcam.cam.methods import METHODS
from detcam.cli import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(values["href"])
        elif "src" in values:
            self.addresses.append(values["src"])


def pages(site):
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_no_page_fetches_anything_from_elsewhere(site):
    for path, text in pages(site).items():
        fetched = Fetched()
        fetched.feed(text)
        assert len(fetched.addresses) > 3, path
        outside = [address for address in fetched.addresses if "//" in address]
        assert not outside, path
        assert "@@" not in text, f"{path}: a figure that was to be measured is missing"
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("folder", "registry"), [("methods", METHODS), ("families", ADAPTERS)], ids=["methods", "families"]
)
def test_everything_in_a_registry_has_a_page_that_says_what_it_is(site, folder, registry):
    for name, entry in registry.items():
        text = (site / folder / name.replace("++", "-plus-plus") / "index.html").read_text(encoding="utf-8")
        assert f"<code>{name}</code>" in text, name
        assert entry.summary in text, name
    assert len(list((site / folder).glob("*/index.html"))) == len(registry)


def test_tables_stand_where_pages_ask_for_them(site):
    for path, text in pages(site).items():
        assert "<!-- " not in text.partition("<article")[2], path


def test_every_option_of_every_command_is_described(site):
    text = (site / "cli" / "index.html").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        section = text.partition(f'id="detcam-{name}"')[2].partition("<h2")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in section, (name, parameter.name)


def test_links_between_files_of_the_repository_lead_to_pages(site):
    examples = (site / "examples" / "index.html").read_text(encoding="utf-8")
    assert 'href="multi_input/"' in examples
    assert 'href="../images/towers.jpg"' in examples
    assert 'href="../weights/"' in (site / "labels" / "index.html").read_text(encoding="utf-8")


def test_links_of_the_readme_lead_somewhere(site):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 30
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).is_file(), link
        if anchor:
            page = site / path.removeprefix("docs/").removesuffix(".md") / "index.html"
            assert f'id="{anchor}"' in page.read_text(encoding="utf-8"), link
