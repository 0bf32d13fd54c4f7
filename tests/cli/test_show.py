from __future__ import annotations

import io
import sys

import pytest

from verifix.certify.run import Progress, summarise
from verifix.certify.store import Record
from verifix.cli import show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Within the test: pytest sets the streams anew between a fixture and its test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


class TestProgress:
    def test_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = on_a_terminal(monkeypatch)
        with show.progress_meter() as progress:
            progress(Progress(0, 8, 0))
            progress(Progress(6, 8, 3))
        assert "6/8" in terminal.getvalue()
        assert "50.00% verified" in terminal.getvalue()

    def test_nothing_before_the_first_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = on_a_terminal(monkeypatch)
        with pytest.raises(ValueError, match="wrong"), show.progress_meter():
            raise ValueError("wrong")
        assert terminal.getvalue() == ""

    def test_lines_elsewhere(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(show, "EVERY", 0.0)
        with show.progress_meter() as progress:
            progress(Progress(0, 8, 0))
            progress(Progress(6, 8, 3))
        assert capsys.readouterr().err == "0 of 8 decided, 0.00% verified\n6 of 8 decided, 50.00% verified\n"

    def test_no_lines_for_a_short_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        with show.progress_meter() as progress:
            progress(Progress(0, 8, 0))
            progress(Progress(8, 8, 8))
        assert capsys.readouterr().err == ""


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "model": "users:net([3])",
        "data": "npz:test",
        "method": "cap",
        "norm": "l2",
        "eps": 0.25,
        "box": [0.0, 1.0],
    }
    records = [Record(0, 7, 7, "verified", 1.5), Record(1, 2, 3, "falsified", None), Record(2, 0, 0, "unknown", -1.0)]
    show.show_summary(summarise(records, 3.0, settings), "runs/[red]a", "something is missing")
    out, err = capsys.readouterr()
    assert err == ""
    cells = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in out.splitlines()]
    assert cells[0] == ["users:net([3]) on npz:test"]
    rows = dict(cell for cell in cells if len(cell) == 2)
    assert rows == {
        "perturbation": "l2 ball of radius 0.25 within [0, 1]",
        "method": "cap",
        "inputs": "3 (something is missing)",
        "clean error": "33.33%",
        "certified error": "66.67%",
        "verified": "1",
        "falsified": "1",
        "unknown": "1",
        "seconds": "3.0 (1.000 per input)",
        "results": "runs/[red]a",
    }
