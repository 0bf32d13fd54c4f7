from __future__ import annotations

import os
import signal
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verifix._version import __version__
from verifix.cli import certify
from verifix.cli.main import COMMANDS, main
from verifix.errors import InvalidValue

CERTIFY = ("certify", "users:net", "--data", "digits", "--eps", "0.1", "--out", "run")


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Put something else in the place of what ``verifix certify`` does."""

    def replace(function: Callable[[], Any]) -> None:
        monkeypatch.setattr(certify, "run", lambda args: function())

    return replace


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_help(verifix: Callable[..., Any], command: list[str]) -> None:
    status, out, err = verifix(*command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(" ".join(["usage: verifix", *command]))


def test_version(verifix: Callable[..., Any]) -> None:
    assert verifix("--version") == (0, f"verifix {__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["attak"], "invalid choice: 'attak'"),
        (["certify"], "the following arguments are required: MODEL, --data, --eps, --out"),
        ([*CERTIFY, "--eps"], "argument --eps: expected one argument"),
        ([*CERTIFY, "--eps", "tiny"], "argument --eps: 'tiny' is no number"),
        ([*CERTIFY, "--box", "0"], "argument --box: expected 2 arguments"),
        ([*CERTIFY, "--limit", "0"], "argument --limit: '0' is no whole number of at least 1"),
        ([*CERTIFY, "--batch", "x"], "argument --batch: 'x' is no whole number of at least 1"),
        ([*CERTIFY, "--memory", "2 potatoes"], "argument --memory: '2 potatoes' is no amount of memory"),
        ([*CERTIFY, "--seed", "-1"], "argument --seed: '-1' is no whole number"),
        ([*CERTIFY, "--dtype", "float16"], "argument --dtype: invalid choice: 'float16'"),
        ([*CERTIFY, "--colour", "red"], "unrecognized arguments: --colour red"),
        ([*CERTIFY, "--threads", "two\nlines"], "is no whole number of at least 1"),
    ],
)
def test_wrong_arguments(verifix: Callable[..., Any], args: list[str], message: str) -> None:
    status, out, err = verifix(*args)
    assert (status, out) == (2, "")
    assert err.startswith("verifix: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InvalidValue("eps", -1, "must be >= 0"), 2, "verifix: error: eps = -1: must be >= 0\n"),
        (InvalidValue("eps", "a\nb", "two\nlines"), 2, "verifix: error: eps = a b: two lines\n"),
        (PermissionError(13, "Permission denied", "/there"), 2, "verifix: error: /there: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "verifix: error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "verifix: interrupted\n"),
        (KeyboardInterrupt("3 of 4 are decided"), 130, "verifix: interrupted: 3 of 4 are decided\n"),
    ],
)
def test_errors(
    verifix: Callable[..., Any], body: Callable[..., None], error: BaseException, status: int, line: str
) -> None:
    body(raising(error))
    assert verifix(*CERTIFY) == (status, "", line)


def test_errors_of_ours_keep_their_trace(body: Callable[..., None]) -> None:
    body(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(CERTIFY)


@pytest.mark.parametrize("status", [0, 1])
def test_status(verifix: Callable[..., Any], body: Callable[..., None], status: int) -> None:
    body(lambda: status)
    assert verifix(*CERTIFY) == (status, "", "")


def test_sigterm_is_an_interrupt(verifix: Callable[..., Any], body: Callable[..., None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    body(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert verifix(*CERTIFY) == (130, "", "verifix: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_warnings_of_libraries_are_not_shown(verifix: Callable[..., Any], body: Callable[..., None]) -> None:
    def warn() -> int:
        warnings.warn("a library below changes soon", FutureWarning, stacklevel=1)
        return 0

    body(warn)
    assert verifix(*CERTIFY) == (0, "", "")


def test_as_a_program(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("certify", "users:net", "--data", "nothing", "--eps", "0.1", "--out", "run", cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err == (
        "verifix: error: data = nothing: use digits, mnist:DIR, cifar10:DIR or npz:FILE, each optionally followed by "
        ":train or :test\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_reader_that_has_seen_enough(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("info", cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
