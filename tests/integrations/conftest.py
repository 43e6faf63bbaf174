"""A picture and what a small detector finds in it; packages kept from the network and the home folder."""

from __future__ import annotations

import os
import socket

import pytest
from small_yolo import explained_street

from detcam.explanation import Explanation

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"  # here and not in a fixture: read when it is first imported


@pytest.fixture(scope="session")
def explained(tmp_path_factory) -> Explanation:
    """A picture with prime sides, and what a small detector finds in it."""
    return explained_street(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """A home of its own for every test, which may not reach any other machine."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    folders = ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR")
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", *(f"WANDB_{folder}" for folder in folders)):
        monkeypatch.setenv(name, str(home))
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        is_here = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        assert is_here, f"a connection to {address}"
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return home
