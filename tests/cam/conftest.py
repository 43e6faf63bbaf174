"""What the tests of the core share: one table of tolerances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

# (rtol, atol) by the dtype a map was computed in. Half precision is not here: a formula casts it to
# float32 before anything else, so its map must be that of the same numbers in float32, bit for bit.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-9, 1e-12)}


@pytest.fixture
def assert_close():
    def check(actual: Tensor, expected) -> None:
        rtol, atol = TOLERANCES[actual.dtype]
        expected = torch.as_tensor(expected, dtype=actual.dtype)
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)

    return check
