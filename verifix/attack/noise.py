"""Attacks by noise: what no gradient can mislead, and what any serious attack has to beat."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifix.attack.base import Attack, per_input, whole
from verifix.attack.problem import Problem
from verifix.attack.steps import radius
from verifix.sets import LpBall


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Repeated draws, as large as the set allows until one is answered wrongly, and then at the smallest scale that any
    was; where one is wrong at that, the smallest scale of it that is.

    Args:
        repeats: draws for each input.
        searches: halvings of the scale of one that is answered wrongly.
    """

    nearest: ClassVar[bool] = True

    repeats: int = 20
    searches: int = 10

    def __post_init__(self) -> None:
        whole("repeats", self.repeats, 1)
        whole("searches", self.searches, 0)

    def run(self, problem: Problem) -> None:
        who = (~problem.clean.met).nonzero()[:, 0]
        smallest = torch.ones(len(who), dtype=torch.float64, device=who.device)
        for sample in range(self.repeats if len(who) else 0):
            wrong = problem.ask(self.points(problem, who, sample, smallest), who).met
            smallest[wrong] = self._shrink(problem, who[wrong], sample, smallest[wrong])

    def _shrink(self, problem: Problem, who: Tensor, sample: int, high: Tensor) -> Tensor:
        """Halve between the largest scale known to be answered rightly and the smallest known to be wrong, first
        ``high``; returns this, ``(k,)``."""
        low = torch.zeros_like(high)
        for _ in range(self.searches if len(who) else 0):
            middle = (low + high) / 2
            wrong = problem.ask(self.points(problem, who, sample, middle), who).met
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return high

    @abstractmethod
    def points(self, problem: Problem, who: Tensor, sample: int, share: Tensor) -> Tensor:
        """Points of the sets ``(k, *shape)``: a draw at a share ``(k,)`` of its full scale."""


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Noise):
    """Normal noise, scaled to the surface of the ball in its own norm, and then brought into the box.

    Args:
        repeats: draws for each input.
        searches: halvings of the scale of one that is answered wrongly.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.4]]), torch.tensor([0])
    >>> result = GaussianNoise()(lambda x: x, x, y, Ball("l2", eps=0.2))
    >>> result.success.tolist(), int(result.backwards)
    ([True], 0)
    """

    def points(self, problem: Problem, who: Tensor, sample: int, share: Tensor) -> Tensor:
        sets, x = problem.sets.select(who), problem.x[who].double()
        noise = problem.draws.normal(who, x, sample=sample)
        if isinstance(sets, LpBall):
            noise = torch.where(sets.eps > 0, noise, 0.0)
            order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[sets.norm]
            size = torch.linalg.vector_norm(noise.flatten(1), ord=order, dim=1)
            noise = sets.eps * noise / per_input(torch.where(size > 0, size, 1.0), noise)
        else:
            noise = noise * per_input(radius(sets), noise)
        return sets.project((x + per_input(share, noise) * noise).to(problem.x.dtype))


@dataclass(frozen=True, kw_only=True)
class SaltAndPepper(Noise):
    """Pixels in random order go to the smallest or largest value that the set allows, as many as it allows.

    All channels of a pixel go together where inputs are ``(channels, height, width)``. In l2 and l1 the number of
    pixels is limited by eps, in l_inf every pixel may go; the scale is their number.

    Args:
        repeats: draws for each input.
        searches: halvings of the scale of one that is answered wrongly.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.4]]), torch.tensor([0])
    >>> SaltAndPepper()(lambda x: x, x, y, Ball("l1", eps=0.7, box=(0, 1))).success.tolist()
    [True]
    """

    def points(self, problem: Problem, who: Tensor, sample: int, share: Tensor) -> Tensor:
        sets, x = problem.sets.select(who), problem.x[who]
        k, channels = len(who), x.shape[1] if x.dim() == 4 else 1
        pixels = x[0].numel() // channels
        order = problem.draws.words(who, pixels, sample=sample).sort(dim=1, stable=True).indices
        salt = problem.draws.words(who, pixels, sample=sample, tag=1) % 2 == 0
        lower, upper = (side.reshape(k, channels, pixels) for side in sets.hull())
        flat = x.reshape(k, channels, pixels)
        targets = torch.where(salt[:, None], upper, lower)
        allowed = torch.full((k,), pixels, dtype=torch.int64, device=x.device)
        if isinstance(sets, LpBall) and sets.norm != "linf":
            eps = sets.eps.expand_as(x).reshape(k, channels, pixels)
            ratio = torch.where(eps > 0, (targets.double() - flat.double()) / torch.where(eps > 0, eps, 1.0), 0.0)
            costs = (ratio.square() if sets.norm == "l2" else ratio.abs()).sum(1)
            allowed = (costs.gather(1, order).cumsum(1) <= 1 + 1e-6).sum(1)  # rounding is mended by the projection
        count = (share * allowed).ceil().long()
        places = torch.arange(pixels, device=x.device).expand(k, pixels)
        chosen = torch.zeros_like(salt).scatter(1, order, places < count[:, None])
        points = torch.where(chosen[:, None], targets, flat).reshape(x.shape)
        return torch.where(per_input(sets.contains(points), points), points, sets.project(points))
