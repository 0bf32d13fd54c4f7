"""The attack of Carlini and Wagner in l2: a penalty for the right answer, weighed by a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifix.attack.base import Attack, per_input, real, whole
from verifix.attack.nearest import box_sides, into_box, lp_sets, weights
from verifix.attack.problem import Problem, Query
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import InputSet

_INSIDE = 0.999999
"""How far inputs start inside the box, of half its width: at its sides the tangent is infinite."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """The l2 attack of Carlini and Wagner (2017): an attack of minimum norm.

    Minimises ``||x' - x||^2 + c max(margin + confidence, 0)`` by Adam over a variable whose tanh is the place in the
    box, and searches for the smallest c that leads to wrong answers, for each input by itself: ten times larger until
    one does, then halfway. Every wrong point on the way is a candidate. An input whose objective stalls waits for the
    next c; the state of Adam is its own, so no input has an effect on another.

    The eps of the ball decides what counts as success, not where it looks; see :class:`DeepFool`.

    Args:
        searches: so many values of c.
        steps: of Adam for each; the paper's 10,000 are seldom worth their time.
        learning_rate: of Adam.
        initial_constant: the first c. Distances count in raw units: it is for images in [0, 1].
        confidence: by how much the wrong class has to win (for transfer to other models; to measure robustness, 0). The
            attack keeps the nearest point that does; success does not ask for it.
        abort_early: whether an input stops at a tenth of the steps in which its objective did not fall.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no l2 balls, or have no box.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2]], dtype=torch.float64), torch.tensor([0])
    >>> result = CarliniWagner(steps=200)(lambda x: x, x, y, Ball("l2", eps=1e6, box=(0, 1)))
    >>> result.success.tolist(), abs(float(result.distance) - 0.3 / 2**0.5) < 0.01
    ([True], True)
    """

    nearest: ClassVar[bool] = True

    searches: int = 9
    steps: int = 1000
    learning_rate: float = 0.01
    initial_constant: float = 1e-3
    confidence: float = 0.0
    abort_early: bool = True

    def __post_init__(self) -> None:
        whole("searches", self.searches, 1)
        whole("steps", self.steps, 1)
        real("learning_rate", self.learning_rate, above=True)
        real("initial_constant", self.initial_constant, above=True)
        real("confidence", self.confidence)
        if not isinstance(self.abort_early, bool):
            raise InvalidType("abort_early", self.abort_early, "True or False")

    def least_confidence(self) -> float:
        return float(self.confidence)

    def check(self, sets: InputSet) -> None:
        if lp_sets("CarliniWagner", sets, ("l2",)).box is None:
            raise InvalidValue("inputs", sets, "CarliniWagner searches in a box: give the Ball one, such as (0, 1)")

    def run(self, problem: Problem) -> None:
        who = (~problem.clean.met).nonzero()[:, 0]
        constant = torch.full((len(who),), self.initial_constant, dtype=torch.float64, device=who.device)
        least, most = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
        for _ in range(self.searches):
            if not len(who):
                return
            found = self._search(problem, who, constant)
            most, least = torch.where(found, constant, most), torch.where(found, least, constant)
            constant = torch.where(torch.isinf(most), 10 * constant, (least + most) / 2)

    def _search(self, problem: Problem, who: Tensor, constant: Tensor) -> Tensor:
        """Minimise with one constant each; returns whether a wrong answer was found, ``(k,)``."""
        found = torch.zeros(len(who), dtype=torch.bool, device=who.device)
        state = _State(problem, who)
        rows = torch.arange(len(who), device=who.device)
        before = torch.full_like(constant, torch.inf)
        every = max(self.steps // 10, 1)
        for step in range(1, self.steps + 1):
            points, stretch = state.points()
            query = problem.differentiate(points, who[rows], _Margin(problem, who[rows]))
            found[rows] |= query.met
            away = points.double() - state.x.double()
            gap = torch.where(state.free, away / state.weight, 0.0)
            pull = per_input(constant[rows] * ~query.met, gap) * query.slope.double()
            state.descend((2 * gap / state.weight - pull) * stretch, step, self.learning_rate)
            if self.abort_early and step % every == 0:
                objective = gap.flatten(1).square().sum(1) + constant[rows] * self._penalty(query)
                going = objective <= 0.9999 * before[rows]
                before[rows] = objective
                rows = rows[going]
                state.keep(going)
                if not len(rows):
                    break
        return found

    def _penalty(self, query: Query) -> Tensor:
        return (query.margins.double() + self.confidence).clamp(min=0)


class _Margin:
    """The negated margin, as a loss."""

    def __init__(self, problem: Problem, who: Tensor) -> None:
        self.criterion, self.numbers = problem.criterion, problem.numbers[who]

    def __call__(self, logits: Tensor, points: Tensor) -> Tensor:
        return -self.criterion.margins(logits, self.numbers)


class _State:
    """The variable of each input that is left, ``(k, *shape)`` float64, and its Adam (Kingma and Ba 2015)."""

    def __init__(self, problem: Problem, who: Tensor) -> None:
        sets = lp_sets("CarliniWagner", problem.sets, ("l2",)).select(who)
        sides = box_sides(sets)
        if sides is None:
            raise InvalidValue("inputs", sets, "needs a box")
        self.x, self.low, self.high = problem.x[who], *sides
        middle, half = self._middle()
        weight = weights(sets)
        self.free = (weight > 0) & (half > 0)
        self.weight = torch.where(self.free, weight, 1.0)
        place = torch.where(self.free, (self.x.double() - middle) / torch.where(half > 0, half, 1.0), 0.0)
        self.variable = torch.atanh(place.clamp(-1, 1) * _INSIDE)
        self.mean, self.square = torch.zeros_like(self.variable), torch.zeros_like(self.variable)

    def _middle(self) -> tuple[Tensor, Tensor]:
        low, high = self.low.double(), self.high.double()
        return (low + high) / 2, (high - low) / 2

    def points(self) -> tuple[Tensor, Tensor]:
        """The points, and their derivatives by the variable."""
        middle, half = self._middle()
        place = torch.tanh(self.variable)
        points = into_box((middle + half * place).to(self.x.dtype), (self.low, self.high))
        return torch.where(self.free, points, self.x), torch.where(self.free, half * (1 - place.square()), 0.0)

    def descend(self, slope: Tensor, step: int, rate: float) -> None:
        """A step of Adam with the usual decays 0.9 and 0.999."""
        self.mean = 0.9 * self.mean + 0.1 * slope
        self.square = 0.999 * self.square + 0.001 * slope.square()
        mean, square = self.mean / (1 - 0.9**step), self.square / (1 - 0.999**step)
        self.variable = self.variable - rate * mean / (square.sqrt() + 1e-8)

    def keep(self, going: Tensor) -> None:
        """Go on with some of the inputs."""
        for name in ("x", "low", "high", "free", "weight", "variable", "mean", "square"):
            setattr(self, name, getattr(self, name)[going])
