"""Runs that are killed at random moments and resumed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def wait_for_results(process: subprocess.Popen[str], run: Path, size: int) -> None:
    """Until there are more than ``size`` bytes of results, or the process is done."""
    results = run / "results.jsonl"
    while process.poll() is None and not (results.exists() and results.stat().st_size > size):
        time.sleep(0.002)


def wait_until(process: subprocess.Popen[str], done: Callable[[], bool]) -> None:
    """Until something has come about, which the process must not end without."""
    while not done():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def check_killed_run(
    start: Callable[..., subprocess.Popen[str]], place: Path, command: tuple[str, ...], most: int
) -> int:
    """Run a command into ``whole``, and again into ``killed`` with up to ``most`` kills: their results are the same
    bytes, and so are their summaries but for the seconds. How often it was killed."""
    draw = random.Random(0)
    whole = start(*command, "--out", "whole", cwd=place)
    whole.communicate()
    assert whole.returncode == 0
    expected = (place / "whole" / "results.jsonl").read_bytes()
    results, kills = place / "killed" / "results.jsonl", 0
    while True:
        process = start(*command, "--out", "killed", "--resume", cwd=place)
        if kills < most:
            done = results.stat().st_size if kills else 0
            wait_for_results(process, results.parent, done + draw.randrange(len(expected) // (most + most // 4 + 1)))
            time.sleep(draw.random() / 20)
        if kills == most or process.poll() is not None:
            break
        kill(process)
        kills += 1
        assert expected.startswith(results.read_bytes())
    process.communicate()
    assert process.returncode == 0
    assert results.read_bytes() == expected
    one, other = (json.loads((place / name / "summary.json").read_text()) for name in ("whole", "killed"))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    return kills
