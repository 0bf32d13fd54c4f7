"""Networks that the tests of capture share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Wrapped(nn.Module):
    """Not an nn.Sequential, so that torch.export captures it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2), nn.Dropout(0.5)),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.Hardtanh(),
        nn.Linear(5, 3),
    )


class Residual(nn.Module):
    """A shortcut, one with a projection, and a dense connection, with functional and in-place operations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(3, 4, 1, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(7, 3)
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).reshape(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem((x - self.mean) / 0.25)))
        x = F.relu(x + self.body(x), inplace=True)
        y = self.act(self.down(x)) + self.shortcut(x)
        y += 0.1
        y.mul_(2.0)
        pooled = torch.cat([F.adaptive_avg_pool2d(y, 1).flatten(1), x.mean((2, 3))], dim=1)
        return self.head(pooled)
