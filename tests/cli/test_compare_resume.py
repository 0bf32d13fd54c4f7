"""``verifix compare``: cell by cell, killed, and resumed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli import comparing
from tests.cli.comparing import cells, compare, found, results
from tests.cli.killing import kill, wait_until

NETWORKS = comparing.NETWORKS


def size(folder: Path) -> int:
    """How much a comparison has written that only grows: lines of logs and of results."""
    return sum(path.stat().st_size for path in folder.glob("*/*/*.jsonl")) if folder.exists() else 0


class TestOnly:
    def test_one_cell_after_the_other_gives_the_same_table(self, verifix: Callable[..., Any], place: Path) -> None:
        options = ["--methods", "ibp,both:zero,crown-ibp", "--eps", "8/255"]
        assert verifix(*compare(*options, out="whole")).status == 0
        two = ["--only", "both:zero:8/255:0", "--only", "crown-ibp:8/255:0"]
        assert verifix(*compare(*options, "--resume", *two, out="parts")).status == 0
        states = [cell["status"] for cell in cells(place / "parts").values()]
        assert states == ["not done", "done", "done"]
        assert "| 0 (not done) |" in (place / "parts" / "table.md").read_text()
        assert verifix(*compare(*options, "--resume", "--only", "ibp:8/255:0", out="parts")).status == 0
        assert found(place / "parts") == found(place / "whole")
        assert results(place / "parts") == results(place / "whole")


class TestInterrupted:
    options = ("--methods", "ibp,crown-ibp", "--epochs", "6", "--threads", "1", "--checkpoint-seconds", "0.02")

    @pytest.mark.parametrize("most", [2, pytest.param(12, marks=pytest.mark.slow)])
    def test_sigkill_changes_nothing(
        self, most: int, start: Callable[..., subprocess.Popen[str]], verifix: Callable[..., Any], place: Path
    ) -> None:
        assert verifix(*compare(*self.options, out="whole")).status == 0
        draw, kills, before = random.Random(0), 0, 0
        while kills < most:
            process = start(*compare(*self.options, "--resume", out="killed"), cwd=place)
            while process.poll() is None and size(place / "killed") <= before:
                time.sleep(0.002)
            time.sleep(draw.random() / 5)
            if process.poll() is not None:
                break
            kill(process)
            kills, before = kills + 1, size(place / "killed")
        assert kills
        stamps = {path: path.stat().st_mtime_ns for path in (place / "killed").glob("*/cell.json")}
        assert verifix(*compare(*self.options, "--resume", out="killed")).status == 0
        assert found(place / "killed") == found(place / "whole")
        assert results(place / "killed") == results(place / "whole")
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())

    def test_sigint_says_how_to_go_on(self, start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
        process = start(*compare("--methods", "ibp,crown-ibp", "--epochs", "5000"), cwd=place)
        wait_until(process, (place / "run" / "ibp-0.05-0" / "train" / "checkpoint.pt").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
        assert "run: 0 of 2 cells are done; run the same command with --resume to continue" in err.splitlines()[-1]

    def test_cells_that_are_done_are_not_repeated(
        self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert verifix(*compare()).status == 0
        before = results(place / "run")
        (place / "run" / "table.md").unlink()

        def refuse(*args: object, **named: object) -> None:
            raise AssertionError("a cell is done again")

        for name in ("train", "certify_run", "attack_run"):
            monkeypatch.setattr(f"verifix.compare.cell.{name}", refuse)
            monkeypatch.setattr(f"verifix.compare.rehearse.{name}", refuse)
        assert verifix(*compare("--resume")).status == 0
        assert results(place / "run") == before and (place / "run" / "table.md").exists()

    def test_a_result_of_other_settings_is_refused(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp")).status == 0
        path = place / "run" / "ibp-0.05-0" / "cell.json"
        content = json.loads(path.read_text())
        content["settings"]["lr"] = 0.5
        path.write_text(json.dumps(content))
        assert "lr was 0.5, now 0.01" in verifix(*compare("--methods", "ibp", "--resume")).err
        path.write_text("{")
        assert "remove it, and the cell is done again" in verifix(*compare("--methods", "ibp", "--resume")).err
        path.unlink()
        assert verifix(*compare("--methods", "ibp", "--resume")).status == 0
