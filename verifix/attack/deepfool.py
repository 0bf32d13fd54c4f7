"""DeepFool: steps to the nearest side of the linearised region of the right answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from verifix.attack.base import Attack, per_input, real, whole
from verifix.attack.nearest import Sides, box_sides, into_box, lp_sets, pick, weights
from verifix.attack.problem import Problem
from verifix.sets import InputSet


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """DeepFool (Moosavi-Dezfooli et al. 2016) in l2 and l_inf: an attack of minimum norm.

    At each step the model is linearised, and the input goes to the nearest of the planes on which another class draws
    level, and a little beyond. It leaves at the first point that is answered wrongly. Each step is clipped to the box
    (the paper has none). Where that leaves less than half of it, or where little of the way is left, coordinates that
    are at a side and would leave take no part: clipped steps alone come ever nearer to the plane and never beyond.

    Like all attacks of minimum norm it looks as far as it takes: the eps of the ball decides what counts as success,
    not where it looks, and the result's ``examples`` and ``distance`` are those of the nearest wrong points found,
    inside or not. For these alone, give an eps that nothing exceeds, such as 1e6. With radii per coordinate the
    distance is in the units of the largest.

    Args:
        steps: at most.
        overshoot: how far each step goes beyond its plane, as a fraction of the way to it; the paper's 0.02.
        candidates: of the closest classes (by logit, or the rows of a specification) so many are considered, each at
            the price of a pass backwards.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no l2 or l_inf balls.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2]], dtype=torch.float64), torch.tensor([0])
    >>> result = DeepFool(overshoot=0.001)(lambda x: x, x, y, Ball("linf", eps=1e6))
    >>> result.success.tolist(), round(float(result.distance), 3)
    ([True], 0.15)
    """

    nearest: ClassVar[bool] = True

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        real("overshoot", self.overshoot)
        whole("candidates", self.candidates, 1)

    def check(self, sets: InputSet) -> None:
        lp_sets("DeepFool", sets, ("l2", "linf"))

    def run(self, problem: Problem) -> None:
        sets = lp_sets("DeepFool", problem.sets, ("l2", "linf"))
        sides, weight = box_sides(sets), weights(sets)
        who = (~problem.clean.met).nonzero()[:, 0]
        points = problem.x[who]
        for _ in range(self.steps):
            if not len(who):
                return
            query, values, slopes = problem.jacobian(points, who, partial(self._closest, problem, who))
            # a plane that rounding does not tell from the point is passed too
            unsure = 8 * torch.finfo(query.logits.dtype).eps * query.logits.double().abs().amax(1, keepdim=True)
            far = points.double() - problem.x[who].double()
            here, values, slopes = pick(sides, who), values.double() + unsure, slopes.double()
            moved = self._move(far, points, values, slopes, weight[who], here, sets.norm)
            going = torch.isfinite(moved).flatten(1).all(1)
            going &= (moved != points).flatten(1).any(1)
            who, points = who[going], moved[going]
            wrong = problem.ask(points, who).met
            who, points = who[~wrong], points[~wrong]

    def _closest(self, problem: Problem, who: Tensor, logits: Tensor) -> Tensor:
        """The smallest of the numbers one of which has to fall below zero, ``(k, candidates)``."""
        forms = problem.criterion.forms(logits, problem.numbers[who])
        return forms.sort(dim=1, stable=True).values[:, : self.candidates]

    def _move(
        self,
        far: Tensor,
        points: Tensor,
        values: Tensor,
        slopes: Tensor,
        weight: Tensor,
        sides: Sides | None,
        norm: str,
    ) -> Tensor:
        """Points ``(k, *shape)``, that have come ``far`` already, after a step, in the box."""
        step = weight * self._step(values, slopes * weight[:, None], norm)
        moved = into_box((points.double() + step).to(points.dtype), sides)
        if sides is None:
            return moved
        low, high = (side[:, None] for side in sides)
        place = points[:, None]
        stuck = ((slopes > 0) & (place <= low)) | ((slopes < 0) & (place >= high))
        step_of_others = weight * self._step(values, torch.where(stuck, 0.0, slopes * weight[:, None]), norm)
        others = into_box((points.double() + step_of_others).to(points.dtype), sides)
        gone, meant, far = (move.flatten(1).norm(dim=1) for move in (moved.double() - points.double(), step, far))
        short = ((gone < 0.5 * meant) | (meant < 0.02 * far)) & torch.isfinite(others).flatten(1).all(1)
        return torch.where(per_input(short, points), others, moved)

    def _step(self, values: Tensor, slopes: Tensor, norm: str) -> Tensor:
        """The shortest step ``(k, *shape)`` that brings one of the values ``(k, r)`` to zero, lengthened; NaN where no
        step does."""
        size = torch.linalg.vector_norm(slopes.flatten(2), ord=2.0 if norm == "l2" else 1.0, dim=2)
        distance = torch.where(size > 0, values / size, torch.inf)
        rows = torch.arange(len(slopes), device=slopes.device)
        best = distance.argmin(1)
        chosen, length = slopes[rows, best], (1 + self.overshoot) * distance[rows, best]
        unit = chosen / per_input(size[rows, best], chosen) if norm == "l2" else chosen.sign()
        return -per_input(length, chosen) * unit
