"""A page in a browser, watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class Page:
    """A page that is watched: what it asks for, and what it complains about."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1000, "height": 800}, **options)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complain(f"{message.type}: {message.text}"))
        self.go(path)

    def go(self, path: Path) -> Page:
        """Open a page, anew even if it is open."""
        self.path = path
        self.requests.clear()
        self.page.goto(path.as_uri())
        return self

    def complain(self, text: str) -> None:
        if "willReadFrequently" not in text:  # it is the tests that read the canvas so often
            self.complaints.append(text)

    def ready(self) -> Page:
        self.page.locator("body[data-ready]").wait_for(timeout=20_000)
        return self

    def array(self, expression: str) -> np.ndarray:
        """Numbers of a JavaScript expression."""
        return np.array(json.loads(self.page.evaluate(f"JSON.stringify(Array.from({expression}))")))

    def pixels(self) -> np.ndarray:
        """The drawn maps, (H, W, 4)."""
        drawn = self.array("heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data")
        return drawn.reshape(*self.page.evaluate("[heat.height, heat.width]"), 4)

    def set(self, name: str, value: object) -> None:
        """Move a slider or fill a field, as a hand would."""
        self.page.evaluate(
            "([id, value]) => { const it = document.getElementById(id); it.value = value; "
            "it.dispatchEvent(new Event('input', {bubbles: true})); }",
            [name, str(value)],
        )

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").inner_text()
