"""The picture of estimated norms, and its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from verifix.bounds import NAMED
from verifix.data import Dataset
from verifix.report import draw_network
from verifix.sets import Ball


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_network_that_is_wide_enough(norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(120, 130), nn.ReLU(), nn.Linear(130, 110), nn.ReLU(), nn.Linear(110, 3))
    data = Dataset("drawn", "test", torch.rand(4, 120), torch.tensor([0, 1, 2, 0]), 3)
    drawn = draw_network(tmp_path, model, data, Ball(norm, 0.05), NAMED["cap"], programs=0)  # type: ignore[arg-type]
    assert tmp_path / "estimates.png" in drawn.written
    parts = json.loads((tmp_path / "estimates.json").read_text())
    kind = "median" if norm == "linf" else "gaussian"
    assert [(part["node"], part["estimator"]) for part in parts] == [("2", f"{kind}:{k}") for k in (10, 50, 100)]
    coarse, middle, fine = (part["deviation"] for part in parts)
    assert coarse > 1.3 * middle > 1.3 * fine
    assert all(part["quantiles"] == sorted(part["quantiles"]) for part in parts)
    assert all(part["estimates"] == 20 * 4 * 110 for part in parts)
