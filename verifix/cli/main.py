"""The command ``verifix``: picks the subcommand and turns every error of the user's into one line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn

from verifix._version import __version__
from verifix.errors import UserError
from verifix.process_memory import keep_freed_memory

COMMANDS = (
    "info", "demo", "train", "compare", "certify", "attack", "radius", "detect", "figures", "landscape", "smooth"
)  # fmt: skip
DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


class _Parser(argparse.ArgumentParser):
    """Like argparse's, but an error is one line without the usage."""

    def error(self, message: str) -> NoReturn:
        _complain(f"error: {message} (see {self.prog} --help)")
        self.exit(BAD_INPUT)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each module of ``COMMANDS`` adds its own part."""
    parser = _Parser(
        prog="verifix", description="Certify, train and attack neural networks, with guarantees that hold."
    )
    parser.add_argument("--version", action="version", version=f"verifix {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        import_module(f"verifix.cli.{command}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv[1:]`` if None) and return the exit status.

    0: done; 1: the question asked is answered with no; 2: bad input, with one line on stderr; 130: interrupted, by
    Ctrl-C or SIGTERM, likewise with one line.
    """
    if argv is None:
        keep_freed_memory()  # this process is ours
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # after --help, or a wrong argument
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    try:
        with _sigterm_as_interrupt(), warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # of the libraries below: not for the user of a command
            status: int = import_module(f"verifix.cli.{args.command}").run(args)
            sys.stdout.flush()
            return status
    except UserError as error:
        return _complain(f"error: {error}")
    except (BrokenPipeError, SystemExit):  # whoever read our output has seen enough; rich makes the second of the first
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"error: {where}{error.strerror or error}")
    except KeyboardInterrupt as stop:
        _complain(f"interrupted: {stop}" if str(stop) else "interrupted")
        return INTERRUPTED


def _complain(message: str) -> int:
    print("verifix:", " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
