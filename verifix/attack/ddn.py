"""DDN: the direction of a perturbation and its norm, each improved by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifix.attack.base import Attack, choice, per_input, real, whole
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.nearest import Sides, box_sides, into_box, lp_sets, pick, weights
from verifix.attack.problem import Problem
from verifix.errors import InvalidValue
from verifix.sets import InputSet


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Decoupled direction and norm (Rony et al. 2019) in l2: an attack of minimum norm.

    Each step goes along the normalised gradient; then the perturbation is brought to a norm that shrinks by a factor
    where the point is answered wrongly, and grows by it where it is not. Every wrong point is a candidate.

    The eps of the ball decides what counts as success, not where it looks; see :class:`DeepFool`.

    Args:
        steps: so many points are asked about.
        norm_factor: by which fraction the norm changes at each step; the paper's gamma of 0.05.
        start_norm: the norm of the first step's perturbation, in raw units; 1, as in the paper, is for images in
            [0, 1].
        step_size, final_step_size: of the direction, in raw units, from the first step to the last along a cosine.
        levels: round points to so many equidistant values from one side of the box to the other, as in image files
            (256); not rounded if None.
        loss: what is maximised.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no l2 balls; levels without a box.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2]], dtype=torch.float64), torch.tensor([0])
    >>> result = DDN()(lambda x: x, x, y, Ball("l2", eps=1e6))
    >>> result.success.tolist(), abs(float(result.distance) - 0.3 / 2**0.5) < 0.01
    ([True], True)
    """

    nearest: ClassVar[bool] = True

    steps: int = 100
    norm_factor: float = 0.05
    start_norm: float = 1.0
    step_size: float = 1.0
    final_step_size: float = 0.01
    levels: int | None = None
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        for name in ("start_norm", "step_size", "final_step_size"):
            real(name, getattr(self, name), above=True)
        real("norm_factor", self.norm_factor, 0.0, 1.0, above=True)
        if self.norm_factor == 1:
            raise InvalidValue("norm_factor", self.norm_factor, "must be below 1: the norm would fall to zero")
        if self.levels is not None:
            whole("levels", self.levels, 2)
        choice("loss", self.loss, LOSSES)

    def check(self, sets: InputSet) -> None:
        if lp_sets("DDN", sets, ("l2",)).box is None and self.levels is not None:
            raise InvalidValue("levels", self.levels, "needs a box whose sides the levels lie between")

    def run(self, problem: Problem) -> None:
        sets = lp_sets("DDN", problem.sets, ("l2",))
        who = (~problem.clean.met).nonzero()[:, 0]
        if not len(who):
            return
        x, weight, sides = problem.x[who], weights(sets)[who], pick(box_sides(sets), who)
        safe = torch.where(weight > 0, weight, 1.0)
        norm = torch.full((len(who),), self.start_norm, dtype=torch.float64, device=x.device)
        most = torch.full_like(norm, torch.inf)
        if sides is not None:
            room = torch.maximum(x.double() - sides[0].double(), sides[1].double() - x.double())
            most = _size(torch.where(weight > 0, room / safe, 0.0))
        points, step = x, torch.zeros_like(x, dtype=torch.float64)
        for number in range(self.steps):
            query = problem.gradient(points, who, self.loss)
            share = (1 + math.cos(math.pi * number / self.steps)) / 2
            length = self.final_step_size + (self.step_size - self.final_step_size) * share
            step = step + length * self._direction(problem, who, weight * query.slope.double(), number)
            norm = norm * torch.where(query.met, 1 - self.norm_factor, 1 + self.norm_factor)
            norm = torch.minimum(norm, most)
            size = _size(step)
            step = step * per_input(norm / torch.where(size > 0, size, 1.0), step)
            points = self._rounded(into_box((x.double() + weight * step).to(x.dtype), sides), sides)
            points = torch.where(weight > 0, points, x)
            step = torch.where(weight > 0, (points.double() - x.double()) / safe, 0.0)
        problem.ask(points, who)

    def _direction(self, problem: Problem, who: Tensor, slope: Tensor, number: int) -> Tensor:
        """The normalised gradient; a random direction where there is none."""
        flat = _size(slope) == 0
        if bool(flat.any()):
            slope = slope.clone()
            slope[flat] = problem.draws.normal(who[flat], slope[flat], sample=number)
        largest = per_input(slope.flatten(1).abs().amax(1), slope)
        slope = slope / torch.where(largest > 0, largest, 1.0)  # the squares can neither underflow nor overflow
        return slope / per_input(_size(slope).clamp(min=1.0), slope)

    def _rounded(self, points: Tensor, sides: Sides | None) -> Tensor:
        if self.levels is None or sides is None:
            return points
        low, high = sides
        width = (high - low).double() / (self.levels - 1)
        places = torch.where(width > 0, (points - low).double() / torch.where(width > 0, width, 1.0), 0.0).round()
        return into_box((low.double() + places * width).to(points.dtype), sides)


def _size(step: Tensor) -> Tensor:
    return torch.linalg.vector_norm(step.flatten(1), dim=1)
