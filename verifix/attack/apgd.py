"""Auto-PGD: projected gradient ascent that finds its own step sizes, and in l1 its own sparsity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verifix.attack.base import Attack, choice, per_input, real, whole
from verifix.attack.criteria import LOSSES, Loss, Targeted, Untargeted
from verifix.attack.problem import Problem, Query
from verifix.attack.steps import radius, random_start, steepest
from verifix.errors import InvalidValue
from verifix.sets import InputSet, LpBall

Gradient = Callable[[Tensor, Tensor], Query]
"""From points and the numbers of their inputs: the loss that is maximised, and its gradient."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD (Croce and Hein 2020, algorithm 1); in l1 the sparse one of Croce and Hein 2021.

    Steps of 2 eps with momentum. At checkpoints that come faster and faster, an input whose loss grew too rarely since
    the last one, or whose best loss and step have not changed, halves its step and goes on from its best point. In l1
    there is no momentum: steps share their length among the largest coordinates of the gradient, as many as two thirds
    of those in which the best point differs from the input; while that number falls, the step is eps, from the best
    point; else it shrinks by 1.5, down to eps / 10. Projections onto the l1 ball are exact and respect the box.

    With labels or :class:`verifix.attack.Targeted` every loss can be had; with a specification, ``margin`` only.

    Args:
        steps: per start; each is one forward and one backward pass, and the start is one more.
        restarts: starts per input, each at a random point of the set.
        loss: what is maximised. ``dlr`` is the paper's difference of logits ratio, which no scaling of the logits
            hides, and needs 3 classes (4 for a target).
        momentum: how much of a step is new, the paper's alpha.
        progress: which share of the steps between checkpoints has to raise the loss, the paper's rho.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; a loss that the criterion does not have.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2, 0.0]]), torch.tensor([0])
    >>> result = APGD(steps=20, loss="dlr")(lambda x: x, x, y, Ball("linf", eps=0.2))
    >>> result.success.tolist()
    [True]
    """

    steps: int = 100
    restarts: int = 1
    loss: Loss = "cross-entropy"
    momentum: float = 0.75
    progress: float = 0.75

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        choice("loss", self.loss, LOSSES)
        real("momentum", self.momentum, 0.0, 1.0, above=True)
        real("progress", self.progress, 0.0, 1.0)

    def run(self, problem: Problem) -> None:
        for restart in range(self.restarts):
            self.climb(problem, lambda points, who: problem.gradient(points, who, self.loss), restart)

    def climb(self, problem: Problem, gradient: Gradient, start: int) -> None:
        """Maximise one loss from one start, for every input that is not done."""
        who = problem.open()
        if not len(who):
            return
        if start == 0 and problem.start is not None:
            points = problem.start[who]
        else:
            points = random_start(problem.sets.select(who), problem.draws, who, sample=start)
        sparse = isinstance(problem.sets, LpBall) and problem.sets.norm == "l1"
        checks = set(range(0, self.steps, max(int(0.04 * self.steps), 1))) if sparse else checkpoints(self.steps)
        query = gradient(points, who)
        state = _Climb.start(who, points, query, radius(problem.sets.select(who)).to(points), sparse=sparse)
        last = 0
        for step in range(1, self.steps + 1):
            state = state.select(torch.isin(state.who, problem.open(state.who)))
            if not len(state.who):
                return
            points = self._move(problem.sets.select(state.who), state, first=step == 1, sparse=sparse)
            if step == self.steps:
                problem.ask(points, state.who)
                return
            state.take(points, gradient(points, state.who))
            if step in checks:
                if sparse:
                    state.adapt_sparsity(problem.x[state.who])
                else:
                    state.adapt_step(self.progress * (step - last))
                last = step

    def _move(self, sets: InputSet, state: _Climb, *, first: bool, sparse: bool) -> Tensor:
        """The next points."""
        now = state.points
        step = per_input(state.step, now) * steepest(sets, now, state.slope, state.kept, projected=True)
        ahead = sets.project(now + step)
        if first or sparse or self.momentum == 1:
            return ahead
        return sets.project(now + self.momentum * (ahead - now) + (1 - self.momentum) * (now - state.previous))


@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(APGD):
    """Auto-PGD towards one other class after the other: those with the largest logits at the input, the largest first.

    Of the targeted losses, ``dlr`` is the paper's (equation 7). Any other class counts as success, the target or not.
    Labels only: with a target of one's own, use :class:`APGD`.

    Args:
        targets: how many classes are tried, each from starts of its own; all, where there are fewer.

    Raises:
        InvalidValue: what :class:`APGD` refuses; ``dlr`` of a network with fewer than 4 classes.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2, 0.0]]), torch.tensor([0])
    >>> result = TargetedAPGD(steps=20, loss="margin")(lambda x: x, x, y, Ball("l2", eps=0.25))
    >>> result.success.tolist()
    [True]
    """

    loss: Loss = "dlr"
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("targets", self.targets, 1)

    def run(self, problem: Problem) -> None:
        if not isinstance(problem.criterion, Untargeted):
            name = type(problem.criterion).__name__
            raise InvalidValue("y", name, "TargetedAPGD chooses its targets: give it labels, or use APGD")
        labels = problem.criterion.labels[problem.numbers]
        others = problem.clean.logits.scatter(1, labels[:, None], -torch.inf)
        order = others.nan_to_num(nan=-torch.inf, neginf=-torch.inf).sort(dim=1, descending=True, stable=True).indices
        for rank in range(min(self.targets, order.shape[1] - 1)):
            criterion = Targeted(order[:, rank], labels)

            def gradient(points: Tensor, who: Tensor, criterion: Targeted = criterion) -> Query:
                def loss(logits: Tensor, _: Tensor) -> Tensor:
                    return criterion.loss(self.loss, logits.double(), who)

                return problem.differentiate(points, who, loss)

            for restart in range(self.restarts):
                self.climb(problem, gradient, rank * self.restarts + restart)


def checkpoints(steps: int) -> set[int]:
    """After which steps an input may change its step size: ``ceil(p_j steps)`` with ``p_0 = 0``, ``p_1 = 0.22`` and
    ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``.

    >>> sorted(checkpoints(100))
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    marks, before, now = set(), 0, 22  # in hundredths, which are exact
    while now <= 100:
        marks.add(math.ceil(now * steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return marks


@dataclass
class _Climb:
    """The state of an ascent for ``k`` inputs, whose numbers are ``who``.

    Attributes:
        points, previous: where each is, and where it was a step ago, ``(k, *shape)``.
        slope, loss: of the loss at ``points``.
        best_points, best_slope, best_loss: where the loss was largest.
        step, largest: lengths of the step, now and at first, ``(k,)``.
        rises: how many steps since the last checkpoint raised the loss, ``(k,)``.
        marked_loss, halved: the best loss at the last checkpoint, and whether the step was halved there, ``(k,)``.
        kept, support: in l1, how many coordinates a step has, and how many differed from the input at the last
            checkpoint, ``(k,)``.
    """

    who: Tensor
    points: Tensor
    previous: Tensor
    slope: Tensor
    loss: Tensor
    best_points: Tensor
    best_slope: Tensor
    best_loss: Tensor
    step: Tensor
    largest: Tensor
    rises: Tensor
    marked_loss: Tensor
    halved: Tensor
    kept: Tensor
    support: Tensor

    @staticmethod
    def start(who: Tensor, points: Tensor, query: Query, eps: Tensor, *, sparse: bool) -> _Climb:
        length, count = eps if sparse else 2 * eps, points[0].numel()
        return _Climb(
            who=who, points=points, previous=points, slope=query.slope, loss=query.loss,
            best_points=points, best_slope=query.slope, best_loss=query.loss, step=length, largest=length,
            rises=torch.zeros_like(who), marked_loss=query.loss, halved=torch.zeros_like(who, dtype=torch.bool),
            kept=torch.full_like(who, math.ceil(count / 5)), support=torch.full_like(who, count),
        )  # fmt: skip

    def select(self, going: Tensor) -> _Climb:
        """Only some of the inputs."""
        if bool(going.all()):
            return self
        return _Climb(**{field.name: getattr(self, field.name)[going] for field in fields(self)})

    def take(self, points: Tensor, query: Query) -> None:
        """Go to new points."""
        self.rises = self.rises + (query.loss > self.loss)
        self.previous, self.points, self.slope, self.loss = self.points, points, query.slope, query.loss
        better = (query.loss > self.best_loss) | (self.best_loss.isnan() & ~query.loss.isnan())
        self.best_loss = torch.where(better, query.loss, self.best_loss)
        self.best_points = torch.where(per_input(better, points), points, self.best_points)
        self.best_slope = torch.where(per_input(better, points), query.slope, self.best_slope)

    def adapt_step(self, enough: float) -> None:
        """A checkpoint (conditions 1 and 2 of the paper)."""
        stuck = ~self.halved & (self.best_loss == self.marked_loss)
        self.halved = (self.rises < enough) | stuck
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.marked_loss, self.rises = self.best_loss, torch.zeros_like(self.rises)
        self._return(self.halved)

    def adapt_sparsity(self, x: Tensor) -> None:
        """A checkpoint in l1 (Croce and Hein 2021, algorithm 1)."""
        support = (self.best_points != x).flatten(1).sum(1)
        sparser = support < 0.95 * self.support
        shorter = torch.maximum(self.step / 1.5, self.largest / 10)
        self.step = torch.where(sparser, self.largest, shorter)
        self.kept, self.support = (support / 1.5).floor().long().clamp(min=1), support
        self._return(sparser)

    def _return(self, chosen: Tensor) -> None:
        """Some go on from their best points."""
        where = per_input(chosen, self.points)
        self.points = torch.where(where, self.best_points, self.points)
        self.slope = torch.where(where, self.best_slope, self.slope)
        self.loss = torch.where(chosen, self.best_loss, self.loss)
