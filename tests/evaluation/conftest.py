"""What the tests of evaluation share."""

from __future__ import annotations

from typing import Any

import pytest
from known_truth import found_in, truth_of
from small_yolo import pictures

from detcam.images import Picture


@pytest.fixture(scope="session")
def scene() -> tuple[Picture, Any]:
    """A picture in which the small detector finds several things, and these as its truth."""
    picture = Picture(pictures(3)[2])
    return picture, truth_of(found_in(picture))
