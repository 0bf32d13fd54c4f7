"""The loss landscape along the gradient: how far loss and gradient move within some steps of gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from verifix.errors import InvalidType, InvalidValue

POINTS = 10
SHORTEST, LONGEST = 0.5, 5.0
"""The range of steps, in learning rates: that of the authors' program."""

Evaluate = Callable[[float, int], float]
"""The loss at the parameters as they are, its gradient added to theirs: from eps, and the number of the random draws.
Calls with the same number draw the same."""


@dataclass(frozen=True)
class Curve:
    """Loss and gradient at ``theta - c lr g`` for every multiple ``c``, where ``g`` is the direction.

    Everything is in the order of the multiples, the first of which is 0. ``g_c`` is the gradient there, at the eps of
    this curve, and ``g_0`` that at ``theta``.

    Attributes:
        eps: of loss and gradient.
        loss: may be infinite or NaN, far out.
        gradient: the norm of ``g_c``.
        distance: ``||g_c - g_0||_2``, over all parameters.
        rms: the same divided by the square root of the number of parameters.
        cosine: the cosine distance ``1 - <g_c, g_0> / (||g_c|| ||g_0||)``; NaN where one of them is zero.
    """

    eps: float
    loss: tuple[float, ...]
    gradient: tuple[float, ...]
    distance: tuple[float, ...]
    rms: tuple[float, ...]
    cosine: tuple[float, ...]

    @property
    def variation(self) -> tuple[float, float]:
        """The smallest and the largest loss: zeroth-order smoothness is their difference (Santurkar et al.)."""
        if any(math.isnan(value) for value in self.loss):
            return math.nan, math.nan
        return min(self.loss), max(self.loss)

    def to_json(self) -> dict[str, Any]:
        """As values of JSON, but for numbers that are not finite."""
        lowest, highest = self.variation
        lists = {name: list(getattr(self, name)) for name in ("gradient", "distance", "rms", "cosine")}
        return {"eps": self.eps, "lowest": lowest, "highest": highest, "loss": list(self.loss), **lists}


@dataclass(frozen=True)
class Landscape:
    """What :func:`landscape` finds: one curve for each eps, and for fresh draws as many again.

    Attributes:
        multiples: of the learning rate, from 0 on.
        curves: with the same random draws at every multiple: they are of the landscape.
        fresh: with draws of their own at every multiple, so that they hold the noise of sampling too; None where that
            was not asked for.
    """

    multiples: tuple[float, ...]
    curves: tuple[Curve, ...]
    fresh: tuple[Curve, ...] | None


def multiples(points: int = POINTS) -> tuple[float, ...]:
    """0, 1, and ``points`` numbers from 0.5 to 5 that grow by the same factor, sorted.

    Raises:
        InvalidType, InvalidValue: ``points`` is no whole number of at least 2.

    >>> [round(c, 3) for c in multiples(4)]
    [0.0, 0.5, 1.0, 1.077, 2.321, 5.0]
    """
    if isinstance(points, bool) or not isinstance(points, int):
        raise InvalidType("landscape_points", points, "a whole number")
    if points < 2:
        raise InvalidValue("landscape_points", points, "must be at least 2")
    ratio = LONGEST / SHORTEST
    return tuple(sorted([0.0, 1.0, *(SHORTEST * ratio ** (k / (points - 1)) for k in range(points))]))


def landscape(
    parameters: Sequence[nn.Parameter],
    evaluate: Evaluate,
    *,
    lr: float,
    eps: Sequence[float],
    points: int = POINTS,
    fresh: bool = False,
    buffers: Iterable[Tensor] = (),
) -> Landscape:
    """Follow the gradient of the loss at ``eps[0]`` for up to five learning rates, and measure on the way.

    The direction is the plain gradient, before clipping and whatever the optimiser makes of it (Lee et al., section
    4.1). It is the same for every eps, as it is the way that training goes: at the target eps the curve says what a
    step at the scheduled eps does to the loss that is wanted in the end, which is what theorem 1 is about.

    Parameters, their gradients, and buffers are what they were afterwards, bit for bit, also after an exception.

    Args:
        parameters: the point.
        evaluate: see :data:`Evaluate`; draw 0 is that of the common curves.
        lr: the learning rate.
        eps: one curve for each; the first one decides the direction.
        points: of the multiples, see :func:`multiples`.
        fresh: whether to measure with fresh draws too, for as much again.
        buffers: what ``evaluate`` may change beside, such as statistics of batch norm.

    >>> weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    >>> def bowl(eps, draw):  # (1 + eps) / 2 |weight|^2
    ...     loss = (1 + eps) / 2 * weight.square().sum()
    ...     loss.backward()
    ...     return loss.item()
    >>> found = landscape([weight], bowl, lr=0.1, eps=[0.0], points=2)
    >>> found.multiples, [round(loss, 4) for loss in found.curves[0].loss]
    ((0.0, 0.5, 1.0, 5.0), [12.5, 11.2812, 10.125, 3.125])
    >>> [round(distance, 4) for distance in found.curves[0].distance]
    [0.0, 0.25, 0.5, 2.5]
    """
    along = multiples(points)
    wanted = [(radius, False) for radius in eps] + [(radius, True) for radius in eps if fresh]
    kept = [parameter.detach().clone() for parameter in parameters]
    beside = [(buffer, buffer.detach().clone()) for buffer in buffers]
    gradients = [parameter.grad for parameter in parameters]
    direction: list[Tensor | None] = []
    found = [_Walk(radius) for radius, _ in wanted]
    try:
        for number, c in enumerate(along):
            for parameter, value, slope in zip(parameters, kept, direction, strict=False):  # no direction yet at 0
                if slope is not None:
                    with torch.no_grad():
                        parameter.copy_(torch.add(value, slope, alpha=-c * lr))
            for walk, (radius, anew) in zip(found, wanted, strict=True):
                for parameter in parameters:
                    parameter.grad = None
                loss = evaluate(radius, number if anew else 0)
                gradient = [parameter.grad for parameter in parameters]
                direction = direction or gradient
                walk.add(loss, gradient)
    finally:
        with torch.no_grad():
            for parameter, value, gradient_before in zip(parameters, kept, gradients, strict=True):
                parameter.copy_(value)
                parameter.grad = gradient_before
            for buffer, value in beside:
                buffer.copy_(value)
    curves = [walk.curve() for walk in found]
    return Landscape(along, tuple(curves[: len(eps)]), tuple(curves[len(eps) :]) if fresh else None)


class _Walk:
    """One curve while it is being measured; only its first gradient is kept."""

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self.first: list[Tensor | None] = []
        self.loss: list[float] = []
        self.inner: list[tuple[float, float, float]] = []
        self.entries = 0

    def add(self, loss: float, gradient: list[Tensor | None]) -> None:
        if not self.loss:
            self.first = gradient
            self.entries = sum(part.numel() for part in gradient if part is not None)
        pairs = [
            (here.double(), start.double())
            for here, start in zip(gradient, self.first, strict=True)
            if here is not None and start is not None
        ]
        sums = [sum(float(part) for part in parts) for parts in _products(pairs)]
        self.loss.append(loss)
        self.inner.append((sums[0], sums[1], sums[2]))

    def curve(self) -> Curve:
        start = math.sqrt(self.inner[0][0])
        norms = [math.sqrt(own) for own, _, _ in self.inner]
        distance = [math.sqrt(apart) for _, apart, _ in self.inner]
        cosine = [
            1 - product / (norm * start) if norm * start else math.nan
            for norm, (_, _, product) in zip(norms, self.inner, strict=True)
        ]
        rms = [length / math.sqrt(max(self.entries, 1)) for length in distance]
        return Curve(self.eps, tuple(self.loss), tuple(norms), tuple(distance), tuple(rms), tuple(cosine))


def _products(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Of each tensor the square, the squared distance from the first, and the product with it, in float64."""
    own = [here.square().sum() for here, _ in pairs]
    apart = [(here - start).square().sum() for here, start in pairs]
    return own, apart, [(here * start).sum() for here, start in pairs]
