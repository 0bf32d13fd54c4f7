from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.written import files
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
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a user's own module ``networks``: the ``NETWORKS`` of the file of tests."""
    (tmp_path / "networks.py").write_text(request.module.NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    sys.modules.pop("networks", None)
    yield tmp_path
    sys.modules.pop("networks", None)


@pytest.fixture
def refuses(verifix: Callable[..., Outcome], place: Path) -> Callable[[Sequence[object], str], None]:
    """Check that a command line is answered by one line, which holds a message, and status 2, and that nothing is
    written, to a run that is there already neither."""

    def check(args: Sequence[object], message: str) -> None:
        before = files(place)
        status, out, err = verifix(*args)
        assert (status, out) == (2, "")
        assert err.startswith("verifix: error: ")
        assert message in err
        assert err.count("\n") == 1
        assert files(place) == before

    return check


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
