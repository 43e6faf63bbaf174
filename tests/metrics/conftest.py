"""What the tests of the metrics share: one table of tolerances, nan equal to nan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-9, 1e-12), torch.int32: (0, 0)}


@pytest.fixture
def assert_close():
    def check(actual: Tensor, expected) -> None:
        rtol, atol = TOLERANCES[actual.dtype]
        expected = torch.as_tensor(expected, dtype=actual.dtype)
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)

    return check
