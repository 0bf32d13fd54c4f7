"""Files that are there whole or not at all, and folders for them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from verifix.errors import InvalidValue


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new one and nothing in between.

    Raises:
        OSError: it cannot be written, for instance on a full disk; the old content stays then.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The same for a JSON file."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


RUNS = {
    "results.jsonl": "results of certify, radius or detect",
    "checkpoint.pt": "a training run",
    "cascade.json": "a cascade",
}
"""The file that each kind of run is known by, and what it is."""


def refuse_other_run(folder: Path, own: str = "") -> None:
    """Refuse a folder with a run of another kind than ``own``: they write files of the same names.

    Raises:
        InvalidValue: there is one.
    """
    for name, what in RUNS.items():
        if name != own and (folder / name).exists():
            raise InvalidValue("out", folder, f"holds {what}: choose another folder")


def make_folder(folder: Path) -> list[Path]:
    """Make the folder and those above it; the new ones, deepest first.

    Raises:
        InvalidValue: it is a file, or cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidValue("out", folder, "is a file, or lies under one: name a folder") from None
    except OSError as error:
        remove_empty(missing)
        raise InvalidValue("out", folder, f"cannot be made: {error.strerror}") from None
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are there and empty."""
    for folder in folders:
        with suppress(OSError):  # not there, or not empty after all
            folder.rmdir()
