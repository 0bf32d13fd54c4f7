"""A small network and settings that train it in a blink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from verifix.data import Dataset, load
from verifix.train import Epoch, Progress, TrainSettings


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def digits(n: int = 90) -> Dataset:
    return load("digits:train").first(n)


def settings(**changes: Any) -> TrainSettings:
    usual: dict[str, Any] = {"eps": 0.03, "box": (0, 1), "method": "crown-ibp", "epochs": 3, "batch": 20}
    return TrainSettings(**{**usual, **changes})


def stop_after(steps: int) -> Callable[[Progress], None]:
    """A progress that interrupts training after so many steps."""
    count = 0

    def show(_: Progress) -> None:
        nonlocal count
        count += 1
        if count == steps:
            raise KeyboardInterrupt

    return show


def same_weights(a: nn.Module | dict[str, torch.Tensor], b: nn.Module | dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    first, second = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def same_history(a: tuple[Epoch, ...], b: tuple[Epoch, ...]) -> bool:
    """In all but what it cost: costs take no part in comparisons of epochs."""
    return a == b
