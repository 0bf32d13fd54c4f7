"""What the documents tell to type is what there is."""

from __future__ import annotations

import argparse
import doctest
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from verifix.cli.compare import _comparison
from verifix.cli.main import build_parser
from verifix.cli.train import _settings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def commands(text: str) -> list[str]:
    """Whole commands, in blocks that are indented or fenced; no patterns of them, which have dots."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.strip() for line in lines if re.match(r"(    )?verifix [a-z]", line) and "..." not in line]


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All of a parser, and of the parsers of its commands."""
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= {option for below in action.choices.values() for option in options(below)}
    return found


def sessions() -> list[Path]:
    return [path for path in DOCUMENTS if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", sessions(), ids=lambda path: path.stem)
def test_python_sessions(path: Path) -> None:
    found = doctest.testfile(str(path), module_relative=False, optionflags=FLAGS)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_have_options_that_there_are(path: Path) -> None:
    for line in commands(path.read_text(encoding="utf-8")):
        args = build_parser().parse_args(shlex.split(line)[1:])
        if args.command == "train":
            assert _settings(args).method == args.method
        if args.command == "compare":
            assert _comparison(args).cells


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_options_are_some_command_s(path: Path) -> None:
    found = re.findall(r"`(--[a-z][a-z0-9-]*)", path.read_text(encoding="utf-8"))
    assert set(found) <= options(build_parser()), path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_names_are_there(path: Path) -> None:
    for name in set(re.findall(r"`(verifix(?:\.[A-Za-z_]+)+)[`(:]", path.read_text(encoding="utf-8"))):
        assert pkgutil.resolve_name(name) is not None, name


def test_there_are_some() -> None:
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    assert len(sessions()) >= 1
    assert sum(len(commands(text)) for text in texts) >= 30
