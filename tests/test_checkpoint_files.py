"""Files that are no torch checkpoint: one line says what they are and what to do."""

import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from detcam.checkpoints import open_checkpoint
from detcam.errors import CheckpointError


class ShellCommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


FILES = {
    "empty": (b"", "is empty.*again"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(32), "a PNG picture.*best.pt"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(32), "a JPEG picture"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "pickle": (pickle.dumps({"model": 1}), "a bare pickle.*again"),
    "safetensors": (b"\x40" + bytes(7) + b'{"a":{"dtype":"F32"}}', "safetensors"),
    "noise": (b"\x00\x00\x00\x02 weights", "not a torch checkpoint.*begins with"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_named_for_what_it_is(path, kind):
    data, message = FILES[kind]
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_torch_before_1_6_is_not_unpickled(path, tmp_path):
    marker = tmp_path / "the attack ran"
    torch.save(ShellCommand(f"touch '{marker}'"), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6.*save it again"):
        open_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_newer_pickle_is_not_called_damaged(path, protocol):
    torch.save({"model": torch.ones(2)}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"saved with pickle_protocol.*save it again") as caught:
        open_checkpoint(path)
    assert "damaged" not in str(caught.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file .*nowhere\.pt.*Check the path"):
        open_checkpoint(tmp_path / "nowhere.pt")


def test_a_bare_name_is_never_downloaded():
    with pytest.raises(
        CheckpointError, match=r"no file 'yolov8n-that-is-not-here\.pt' in .* never downloaded"
    ):
        open_checkpoint("yolov8n-that-is-not-here.pt")


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        open_checkpoint(tmp_path)


def test_a_zip_of_something_else_is_an_error(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"a zip archive without data\.pkl"):
        open_checkpoint(path)


def test_a_zip_cut_short_is_an_error(path):
    torch.save(nn.Conv2d(3, 64, 3), path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(CheckpointError, match="cut short at 4000 bytes"):
        open_checkpoint(path)


def test_a_torchscript_export_is_an_error(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"")
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_checkpoint(path)
