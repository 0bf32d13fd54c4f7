from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from verifix.bounds import NAMED, Method
from verifix.data import Dataset
from verifix.errors import InvalidValue, UnsupportedOperation
from verifix.report import draw_network
from verifix.sets import Ball

CAP = NAMED["cap"]


def images(n: int = 6) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 6, 6, generator=generator)
    return Dataset("npz", "test", x, torch.randint(3, (n,), generator=generator), classes=3)


def convolutional(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), activation or nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3),
    ).eval()  # fmt: skip


def test_every_picture(tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    drawn = draw_network(
        tmp_path, convolutional(), images(), Ball("linf", 0.05, (0, 1)), CAP, programs=2,
        progress=lambda *stage: stages.append(stage),
    )  # fmt: skip
    names = ["filters_0", "filters_1", "units", "tightness"]
    assert drawn.written == [tmp_path / f"{name}.png" for name in names]
    assert list(drawn.left_out) == ["estimates"]  # too narrow for projections
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{n}.{s}" for n in names for s in ("png", "json")
    )
    assert stages[-1] == ("linear programs", 2, 2)
    numbers = json.loads((tmp_path / "tightness.json").read_text())["panels"][0]
    assert len(numbers["dual"]) == 4  # two inputs, two other classes each
    assert (np.array(numbers["dual"]) <= numbers["program"]).all()
    layers = json.loads((tmp_path / "units.json").read_text())["layers"]
    assert [(layer["node"], layer["units"], len(layer["active"])) for layer in layers] == [("1", 64, 6), ("3", 27, 6)]


def test_left_out_with_the_reason(tmp_path: Path) -> None:
    drawn = draw_network(tmp_path, convolutional(nn.Tanh()), images(), Ball("linf", 0.05), CAP)
    assert [path.stem for path in drawn.written] == ["filters_0", "filters_1", "units"]
    assert drawn.left_out["tightness"].startswith("node 1: Tanh (layer 1: Tanh()) has no place in the linear program")
    drawn = draw_network(tmp_path, convolutional(), images(), Ball("l2", 0.05), CAP)
    assert drawn.left_out.pop("estimates").startswith("no layer")
    assert drawn.left_out == {"tightness": "inputs = l2 balls: the linear program takes l_inf balls and boxes"}
    drawn = draw_network(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), images(), Ball("linf", 0.05), CAP)
    assert [path.stem for path in drawn.written] == ["tightness"]
    assert sorted(drawn.left_out) == ["estimates", "filters", "units"]
    drawn = draw_network(tmp_path, convolutional(), images(), Ball("linf", 0.05), CAP, programs=0)
    assert list(drawn.left_out) == ["estimates"]


def test_refused(tmp_path: Path) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(InvalidValue, match="network = Sequential: nothing to draw: the network has no convolution; "):
        draw_network(tmp_path, linear, images(), Ball("linf", 0.05), CAP, programs=0)
    with pytest.raises(InvalidValue, match="6 of 6 inputs outside the box"):
        draw_network(tmp_path, convolutional(), images(), Ball("linf", 0.05, (0, 0.1)), CAP)
    with pytest.raises(UnsupportedOperation):
        draw_network(tmp_path, convolutional(nn.GELU()), images(), Ball("linf", 0.05), CAP)
    with pytest.raises(InvalidValue, match="has 3 classes"):
        draw_network(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), images(), Ball("linf", 0.05), CAP)
    with pytest.raises(InvalidValue, match="does not bound for certain"):
        draw_network(tmp_path, convolutional(), images(), Ball("linf", 0.05), Method("backward", "same", "median:5"))
    with pytest.raises(InvalidValue, match="memory = 1: this network needs at least"):
        draw_network(tmp_path, convolutional(), images(), Ball("linf", 0.05), CAP, memory=1)
    assert list(tmp_path.iterdir()) == []
