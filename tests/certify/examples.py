"""Small networks that the tests of certification share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear(weight: list[list[float]], bias: list[float] | None = None, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A layer with these very weights."""
    layer = nn.Linear(len(weight[0]), len(weight), dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        layer.bias.copy_(torch.tensor(bias or [0.0] * len(weight), dtype=torch.float64))
    return layer


def digits(n: int = 24) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small network, and inputs that it gets right and wrong."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Flatten(), nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip
    x = torch.rand(n, 1, 7, 7)
    model.train()
    model(x)
    model.eval()
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)  # so that every class is the answer for some
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4
    return model, x, y
