"""Projected gradient descent over any input set, with and without momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verifix.attack.base import Attack, choice, per_input, real, whole
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.problem import Problem
from verifix.attack.steps import radius, random_start, steepest
from verifix.errors import InvalidType, InvalidValue

Start = Literal["random", "inside", "input", "both"]
STARTS: tuple[Start, ...] = ("random", "inside", "input", "both")


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018; thesis, section 2.1.2): steepest steps, each projected into the
    set.

    Each step goes along the steepest direction of the set's own norm: signs for l_inf, the normalised gradient for l2,
    the largest k coordinates for l1 with k drawn anew at every step (thesis, section 5.3.4). Of all points seen, the
    best is kept. An input that is fooled leaves; restarts are for those that are not.

    Args:
        steps: per start.
        step_size: length of a step, in the units of eps: the alpha of the literature. Or
        relative_step_size: the same as a fraction of eps; 2.5 / steps if neither is given.
        final_step: the length of the last step as a fraction of the first, falling linearly; 1 for constant steps.
        restarts: starts per input.
        start_from: ``random`` points of the ball, clipped to the box, as in the literature; points ``inside`` the box
            at once, which leave less where much of the ball is outside (of one MNIST network at 0.3, 87.2 % where the
            others leave 88.1 %); the ``input`` itself; or ``both``, the input first and then as ``random``.
        loss: what is maximised.
        sparsity: in l1, the smallest and largest k.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    >>> result = PGD(steps=10)(lambda x: x, x, y, Ball("linf", eps=0.2), stop=False)
    >>> result.success.tolist(), result.examples
    ([True], tensor([[0.3000, 0.4000]]))
    """

    steps: int = 50
    step_size: float | None = None
    relative_step_size: float | None = None
    final_step: float = 1.0
    restarts: int = 1
    start_from: Start = "random"
    loss: Loss = "cross-entropy"
    sparsity: tuple[int, int] = (5, 20)

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        for name in ("step_size", "relative_step_size"):
            if getattr(self, name) is not None:
                real(name, getattr(self, name), above=True)
        if self.step_size is not None and self.relative_step_size is not None:
            raise InvalidValue("relative_step_size", self.relative_step_size, "give it or step_size, not both")
        real("final_step", self.final_step)
        choice("start_from", self.start_from, STARTS)
        choice("loss", self.loss, LOSSES)
        if not isinstance(self.sparsity, (tuple, list)) or len(self.sparsity) != 2:
            raise InvalidType("sparsity", self.sparsity, "a pair (smallest, largest) of whole numbers")
        whole("sparsity", self.sparsity[0], 1)
        whole("sparsity", self.sparsity[1], self.sparsity[0])

    def run(self, problem: Problem) -> None:
        length = self.lengths(problem)
        for restart in range(self.restarts):
            who = problem.open()
            if not len(who):
                return
            self.descend(problem, who, self.begin(problem, who, restart), length, restart)

    def lengths(self, problem: Problem) -> Tensor:
        """The length of the first step for each input, ``(n,)``."""
        if self.step_size is not None:
            return torch.full((len(problem),), self.step_size, dtype=problem.x.dtype, device=problem.x.device)
        share = 2.5 / self.steps if self.relative_step_size is None else self.relative_step_size
        return share * radius(problem.sets).to(problem.x)

    def begin(self, problem: Problem, who: Tensor, restart: int) -> Tensor:
        """Where a restart begins."""
        if restart == 0 and problem.start is not None:
            return problem.start[who]
        if self.start_from == "input" or (self.start_from == "both" and restart == 0):
            return problem.x[who]
        inside = self.start_from == "inside"
        return random_start(problem.sets.select(who), problem.draws, who, sample=restart, inside=inside)

    def descend(self, problem: Problem, who: Tensor, points: Tensor, length: Tensor, restart: int) -> None:
        """One start, until every input is done or the steps are."""
        memory = torch.zeros_like(points)
        for step in range(self.steps):
            query = problem.gradient(points, who, self.loss)
            memory = self.direction(query.slope, memory)
            going = torch.isin(who, problem.open(who))
            if not bool(going.any()):
                return
            who, points, memory = who[going], points[going], memory[going]
            sets = problem.sets.select(who)
            kept = self.kept(problem, who, restart * self.steps + step)
            share = 1 - (1 - self.final_step) * step / self.steps
            move = steepest(sets, points, memory, kept, projected=True) * share * per_input(length[who], points)
            points = sets.project(points + move)
        problem.ask(points, who)

    def direction(self, gradient: Tensor, memory: Tensor) -> Tensor:
        """What the step is steepest for, from the gradient and what the last step was steepest for."""
        return gradient

    def kept(self, problem: Problem, who: Tensor, sample: int) -> Tensor:
        """How many coordinates an l1 step has, ``(k,)``."""
        low, high = self.sparsity
        words = problem.draws.words(who, 1, sample=sample, tag=2)[:, 0]
        return low + words % (high - low + 1)


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """The basic iterative method (Kurakin et al. 2017): PGD from the input itself, with steps that add up to eps.

    >>> BIM(steps=10).start_from
    'input'
    """

    start_from: Start = "input"

    def lengths(self, problem: Problem) -> Tensor:
        if self.step_size is None and self.relative_step_size is None:
            return radius(problem.sets).to(problem.x) / self.steps
        return super().lengths(problem)


@dataclass(frozen=True, kw_only=True)
class MIM(BIM):
    """The momentum iterative method (Dong et al. 2018): steps along a decaying sum of gradients, each of l1 norm 1.

    Args:
        decay: of the sum at each step; the paper's 1.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    >>> MIM(steps=10)(lambda x: x, x, y, Ball("linf", eps=0.2)).success.tolist()
    [True]
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real("decay", self.decay)

    def direction(self, gradient: Tensor, memory: Tensor) -> Tensor:
        size = per_input(gradient.flatten(1).abs().sum(1), gradient)
        unit = gradient / torch.where(size > 0, size, 1.0)
        return self.decay * memory + unit
