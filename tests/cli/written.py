"""What commands have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def files(folder: Path) -> dict[str, bytes]:
    """All that there is in a folder by its path; a folder has no content. Python's own caches do not count."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


def lines(run: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    """The results of a run, one for each input, or another of its files of lines."""
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())
