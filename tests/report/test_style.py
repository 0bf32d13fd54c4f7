from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from verifix.report.style import new_figure, plain, save_figure


@dataclass(frozen=True)
class Example:
    name: str
    numbers: torch.Tensor
    also: dict[str, np.ndarray]


def test_picture_and_numbers(tmp_path: Path) -> None:
    numbers = Example("one", torch.tensor([[1, 2]]), {"x": np.array([0.1])})
    save_figure(tmp_path / "a.png", new_figure(2, 1), numbers)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "one", "numbers": [[1, 2]], "also": {"x": [0.1]}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]


def test_plain() -> None:
    assert plain((np.float64(0.5), np.bool_(True), Path("a"), None)) == [0.5, True, "a", None]


def test_numbers_are_exact(tmp_path: Path) -> None:
    values = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    save_figure(tmp_path / "a.png", new_figure(1, 1), {"values": values})
    assert json.loads((tmp_path / "a.json").read_text())["values"] == values.tolist()


def test_the_old_stays_until_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_figure(tmp_path / "a.png", new_figure(1, 1), {"n": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(tmp_path / "a.png", new_figure(2, 2), {"n": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_figure(tmp_path / "a.png", new_figure(1, 1), {"n": float("nan")})
    assert list(tmp_path.iterdir()) == []
