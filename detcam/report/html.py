"""Templates filled in so that nothing a stranger wrote can be more than text."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

_ASSETS = resources.files("detcam.report") / "assets"


def render(
    template: str, styles: Sequence[str], scripts: Sequence[str], *, images: str, **values: Any
) -> bytes:
    """One page, UTF-8: style sheets and script inside, and a policy that lets nothing else run or load.

    Args:
        template: name in the room's assets, and so are `styles` and `scripts`.
        styles: joined in this order.
        scripts: likewise.
        images: the policy's sources of pictures: "data:", or "'self' data:".
        values: what the template shows; each is escaped. `data` becomes the JSON that the script reads.
    """
    style, code = ("\n".join(map(_asset, names)) for names in (styles, scripts))
    policy = (
        f"default-src 'none'; img-src {images}; style-src {_source(style)}; script-src {_source(code)}; "
        "base-uri 'none'; form-action 'none'"
    )
    values["data"] = htmlsafe_json_dumps(values["data"], allow_nan=False, separators=(",", ":"))
    page = _environment().get_template(template)
    # Only our own files are taken as they are.
    text = page.render(policy=policy, style=Markup(style), script=Markup(code), **values)
    return text.encode("utf-8", "backslashreplace")  # a file's name may hold bytes that are no letters


def data_url(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


def _source(inlined: str) -> str:
    """What a policy calls an inlined script or style: the hash of its very bytes."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode('ascii')}'"
