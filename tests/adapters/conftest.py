"""The zoo of networks, and the check that the release under test is the one that was asked for."""

import os

import pytest
from vendor_zoo import Zoo


@pytest.fixture(scope="session", autouse=True)
def _the_release_asked_for():
    """`make compat` says which release it means; a wrong import path must not pass as another's success."""
    wanted = os.environ.get("DETCAM_COMPAT_RELEASE")
    if wanted:
        import ultralytics

        assert ultralytics.__version__ == wanted, f"asked for {wanted}, imported {ultralytics.__file__}"


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    return Zoo(tmp_path_factory.mktemp("zoo"))
