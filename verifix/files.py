"""Files that are there whole or not at all, and the folders of runs."""

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

    A link stays one, and a device or pipe, such as ``/dev/stdout``, is written to: neither is replaced by a file.

    Raises:
        OSError: it cannot be written, for instance on a full disk; the old content stays then.
    """
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(content)
        except OSError as error:
            error.filename = str(path)  # writing knows none
            raise
        return
    given, path = path, path.resolve()
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        error.filename, error.filename2 = str(given), None  # what the user named
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The same for a JSON file."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


_ABSENT = "absent"
RUNS = {
    "results.jsonl": "results of certify, attack, radius or detect",
    "checkpoint.pt": "a training run",
    "cascade.json": "a cascade",
    "comparison.json": "a comparison",
}
"""The file that each kind of run is known by, and what it is."""


def refuse_other_run(folder: Path, own: str = "") -> None:
    """Refuse a folder with a run of another kind than ``own``: they write files of the same names. And one whose own
    is no file: a device may have no end.

    Raises:
        InvalidValue: there is one.
    """
    for name, what in RUNS.items():
        if name == own and (folder / name).exists() and not (folder / name).is_file():
            raise InvalidValue("out", folder, f"holds {name}, which is no file: choose another folder")
        if name != own and (folder / name).exists():
            raise InvalidValue("out", folder, f"holds {what}: choose another folder")


def require_same_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run by other settings than it began with.

    Raises:
        InvalidValue: they differ; each that does is named with both values.
    """
    keys = [*before, *(key for key in now if key not in before)]
    differ = [key for key in keys if before.get(key, _ABSENT) != now.get(key, _ABSENT)]
    if differ:
        pairs = (f"{key} was {_shown(before, key)}, now {_shown(now, key)}" for key in differ)
        remedy = f"cannot be resumed with other settings ({'; '.join(pairs)}): use the same, or another folder"
        raise InvalidValue("out", folder, remedy)


def _shown(settings: Mapping[str, Any], key: str) -> str:
    text = str(settings.get(key, _ABSENT))
    return text if len(text) <= 60 else f"{text[:12]}..."  # a digest, or a radius for every coordinate


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
