"""How far a run is, in a log."""

import pytest

from detcam.cli import words


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    now = iter((0.0, 20.0, 70.0, 90.0, 140.0))
    monkeypatch.setattr(words.time, "monotonic", lambda: next(now))
    assert list(words.counted(iter("abcd"), 4)) == list("abcd")
    lines = capsys.readouterr().err.splitlines()
    # After 70 s two of four are done, and after 140 s all of them; 20 s and 90 s are no minute after a line.
    assert lines == [
        "2 of 4 pictures, 0.029 pictures/s, 0:01:10 left",
        "4 of 4 pictures, 0.029 pictures/s, 0:00:00 left",
    ]


@pytest.mark.parametrize("total", [0, 1])
def test_a_single_picture_needs_no_line(total, capsys, monkeypatch):
    monkeypatch.setattr(words, "_SECONDS_BETWEEN_LINES", 0)
    assert list(words.counted(iter("a" * total), total)) == ["a"] * total
    assert capsys.readouterr().err == ""
