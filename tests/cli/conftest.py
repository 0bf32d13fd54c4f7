from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from verifix.cli.main import main


class Outcome(NamedTuple):
    """What a command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


@pytest.fixture
def verifix(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process; whatever reaches the two streams, from C too, is seen."""

    def run(*args: object) -> Outcome:
        capfd.readouterr()
        status = main([str(arg) for arg in args])
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start a command line in a process of its own."""

    def run(*args: object, cwd: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "verifix", *(str(arg) for arg in args)]
        path = [entry for entry in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if entry]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        pipe = subprocess.PIPE

        def heed_interrupts() -> None:  # which a shell makes its background jobs ignore, and these tests with them
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        return subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed_interrupts
        )

    return run
