"""One-step attacks: the fast gradient sign method and its random starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from verifix.attack.base import Attack, choice, per_input, real
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.problem import Problem
from verifix.attack.steps import radius, random_start, steepest
from verifix.errors import InvalidValue
from verifix.sets import InputSet, LpBall


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length eps from the input, then into the box.

    The point that it reaches is what it returns, whether or not it is better than the input. In l2 and l1 the step goes
    along the steepest direction of that norm: the normalised gradient, or its largest coordinate. The loss is computed
    in the precision of the model, as everywhere, so that published figures can be compared; of confident networks
    that makes the step a weaker one than it could be.

    Args:
        loss: what is maximised.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.4]]), torch.tensor([0])
    >>> result = FGSM()(lambda x: x, x, y, Ball("linf", eps=0.1))
    >>> result.success.tolist(), result.examples
    ([True], tensor([[0.4000, 0.5000]]))
    """

    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        choice("loss", self.loss, LOSSES)

    def run(self, problem: Problem) -> None:
        who = torch.arange(len(problem), device=problem.x.device)
        query = problem.gradient(problem.x, who, self.loss, plain=True)
        length = per_input(radius(problem.sets).to(problem.x), problem.x)
        step = length * steepest(problem.sets, problem.x, query.slope)
        problem.settle(problem.sets.project(problem.x + step), who)


@dataclass(frozen=True, kw_only=True)
class UniformFGSM(Attack):
    """FGSM from a random point of the set (thesis, algorithm 7; "fast" adversarial training, Wong et al. 2020).

    Args:
        relative_step_size: length of the step as a fraction of eps; the paper's 1.25.
        loss: what is maximised.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.4]]), torch.tensor([0])
    >>> UniformFGSM()(lambda x: x, x, y, Ball("linf", eps=0.1)).success.tolist()
    [True]
    """

    relative_step_size: float = 1.25
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        real("relative_step_size", self.relative_step_size, above=True)
        choice("loss", self.loss, LOSSES)

    def run(self, problem: Problem) -> None:
        who = torch.arange(len(problem), device=problem.x.device)
        points = random_start(problem.sets, problem.draws, who, sample=0, inside=False)
        query = problem.gradient(points, who, self.loss)
        length = self.relative_step_size * per_input(radius(problem.sets).to(points), points)
        problem.settle(problem.sets.project(points + length * steepest(problem.sets, points, query.slope)), who)


@dataclass(frozen=True, kw_only=True)
class RandomFGSM(Attack):
    """R+FGSM (Tramer et al. 2017): a step along random signs, then FGSM with what is left of eps; l_inf only.

    Args:
        share: which part of eps the random step takes; the paper's half.
        loss: what is maximised.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.3]]), torch.tensor([0])
    >>> RandomFGSM()(lambda x: x, x, y, Ball("linf", eps=0.3)).examples.shape
    torch.Size([1, 2])
    """

    share: float = 0.5
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        real("share", self.share, 0.0, 1.0)
        choice("loss", self.loss, LOSSES)

    def check(self, sets: InputSet) -> None:
        if not isinstance(sets, LpBall) or sets.norm != "linf":
            raise InvalidValue("inputs", sets, "R+FGSM steps along signs: use an l_inf ball, or UniformFGSM")

    def run(self, problem: Problem) -> None:
        sets, x = problem.sets, problem.x
        who = torch.arange(len(problem), device=x.device)
        length = per_input(radius(sets).to(x), x)
        points = sets.project(x + self.share * length * problem.draws.normal(who, x, sample=0).sign())
        query = problem.gradient(points, who, self.loss)
        step = (1 - self.share) * length * steepest(sets, points, query.slope)
        problem.settle(sets.project(points + step), who)
