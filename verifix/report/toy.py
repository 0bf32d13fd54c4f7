"""The toy problem of the thesis' section 3.2: a few points of the unit square with random labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.train import TrainSettings, train


@dataclass(frozen=True)
class ToySettings:
    """Of the problem and of its pictures; the defaults are the thesis' where it gives any, and take about a minute.

    Attributes:
        eps, points, separation: the radius of the l_inf balls; how many points, and how far apart at least.
        widths: of the networks that are trained, inputs and outputs included.
        lr, steps, warm_up: of Adam on all points at once; eps rises linearly over the first ``warm_up`` robust steps.
        method: the bounds that training and certificates use.
        random_widths, radii, random_networks: of the random networks whose polytopes are drawn, one row per radius.
        parts: of eps, at which bounds are compared with the linear program around every point.
        cascade_separation, cascade_widths, cascade_lr, cascade_steps: of a cascade of two smaller networks, on points
            that may be closer together: more than one such network can keep apart.
        seed: of everything random.
    """

    eps: float = 0.08
    points: int = 12
    separation: float = 0.2
    widths: tuple[int, ...] = (2, 100, 100, 100, 100, 2)
    lr: float = 1e-3
    steps: int = 1200
    warm_up: int = 500
    method: str = "cap"
    random_widths: tuple[int, ...] = (2, 100, 100, 100, 2)
    radii: tuple[float, ...] = (0.05, 0.1, 0.25)
    random_networks: int = 3
    parts: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    cascade_separation: float = 0.16
    cascade_widths: tuple[int, ...] = (2, 50, 50, 2)
    cascade_lr: float = 1e-2
    cascade_steps: int = 200
    seed: int = 0


def toy_points(points: int = 12, separation: float = 0.2, seed: int = 0) -> Dataset:
    """Points of the unit square, each at least so far (l_inf) from those before it, with random labels of two classes.

    Raises:
        InvalidValue: so many points that far apart were not found in 100,000 draws.

    >>> toy_points().images.shape
    torch.Size([12, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(0, 2)
    for _ in range(100_000):
        point = torch.rand(2, generator=generator)
        if bool(((found - point).abs().amax(1) >= separation).all()):
            found = torch.cat([found, point[None]])
        if len(found) == points:
            return Dataset("toy", "train", found, torch.randint(2, (points,), generator=generator), classes=2)
    raise InvalidValue("separation", separation, f"leaves no room for {points} points in the unit square")


def untrained_network(widths: Sequence[int], seed: int = 0) -> nn.Sequential:
    """A fully connected ReLU network as torch initialises it."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def random_network(widths: Sequence[int], seed: int = 0) -> nn.Sequential:
    """The same with weights of standard deviation ``1 / sqrt(inputs)`` and biases of 1 (thesis, section 3.2.2)."""
    model = untrained_network(widths, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
                layer.bias.normal_(0, 1, generator=generator)
    return model


def fit(
    model: nn.Module, data: Dataset, settings: ToySettings, robust: bool, progress: Callable[[int, int], None]
) -> None:
    """Train on all points at once: the robust loss with eps rising, or plain cross-entropy."""
    method: dict[str, Any] = {"method": "none"}
    if robust:
        method = {"method": settings.method, "eps": settings.eps, "eps_start": 0, "eps_ramp": settings.warm_up}
    how = TrainSettings(
        epochs=settings.steps, batch=len(data), lr=settings.lr, validation=0, seed=settings.seed, **method
    )
    train(model, data, how, on_epoch=lambda history: progress(len(history), settings.steps))
