"""Attacks on unions of threat models: one step after another over all members, or each member on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from verifix.attack.base import BATCH, Attack, choice, per_input, real
from verifix.attack.criteria import LOSSES, Criterion, Loss
from verifix.attack.problem import Classifier, Problem
from verifix.attack.projected_gradient import PGD
from verifix.attack.result import AttackResult
from verifix.attack.steps import radius, random_start, steepest
from verifix.certify import Specification
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import InputSet, Union, UnionSet

Returns = Literal["best", "last"]
RELATIVE_STEP_SIZES = {"linf": 1 / 30, "l2": 2 / 15, "l1": 1 / 15}
"""Steps of :class:`MultiSteepestDescent` as fractions of the radii: the thesis' 0.01 of 0.3 in l_inf and 0.2 of 1.5 in
l2; in l1 the 0.8 of 12 of its authors' programs, since the 0.05 that it prints makes a much weaker attack."""


@dataclass(frozen=True, kw_only=True)
class MultiSteepestDescent(Attack):
    """Multi steepest descent over a union (Maini, Wong and Kolter 2020; thesis, section 5.3.2 and algorithm 9).

    At each step every member makes a candidate from the same point: its own steepest step, projected into its own set.
    The one with the largest loss is the next point, of several the first; it lies in one of the members, and the next
    candidates in theirs. Made for :class:`verifix.sets.Union`.

    Args:
        steps: per start.
        step_sizes: of each member, in the units of its eps. Or
        relative_step_sizes: the same as fractions of its eps; :data:`RELATIVE_STEP_SIZES`, and at least 2.5 / steps, if
            neither is given.
        restarts: starts per input: the input itself, then random points, of the members in turn.
        loss: what is maximised.
        sparsity: in l1, the smallest and largest number of coordinates of a step, drawn anew for each.
        returns: the ``best`` of all points seen, as every attack; or the ``last``, as algorithm 9.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no union.

    >>> from verifix.sets import Ball, Union
    >>> x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    >>> result = MultiSteepestDescent(steps=20)(lambda x: x, x, y, Union(Ball("linf", 0.1), Ball("l1", 0.4)).around(x))
    >>> result.success.tolist()
    [True]
    """

    steps: int = 100
    step_sizes: tuple[float, ...] | None = None
    relative_step_sizes: tuple[float, ...] | None = None
    restarts: int = 1
    loss: Loss = "cross-entropy"
    sparsity: tuple[int, int] = (5, 20)
    returns: Returns = "best"

    def __post_init__(self) -> None:
        PGD(steps=self.steps, restarts=self.restarts, loss=self.loss, sparsity=self.sparsity)  # has the same checks
        for name in ("step_sizes", "relative_step_sizes"):
            sizes = getattr(self, name)
            if sizes is not None and not isinstance(sizes, (tuple, list)):
                raise InvalidType(name, sizes, "a number for each member of the union")
            for size in sizes or ():
                real(name, size, above=True)
        if self.step_sizes is not None and self.relative_step_sizes is not None:
            raise InvalidValue("relative_step_sizes", self.relative_step_sizes, "give them or step_sizes, not both")
        choice("returns", self.returns, ("best", "last"))

    def check(self, sets: InputSet) -> None:
        members = _members(sets)
        for name in ("step_sizes", "relative_step_sizes"):
            sizes = getattr(self, name)
            if sizes is not None and len(sizes) != len(members):
                raise InvalidValue(name, sizes, f"must be {len(members)} numbers, one for each member of the union")

    def run(self, problem: Problem) -> None:
        members = _members(problem.sets)
        lengths = [self._lengths(problem, number, member) for number, member in enumerate(members)]
        for restart in range(self.restarts):
            who = problem.open()
            if not len(who):
                return
            self._descend(problem, who, self._begin(problem, who, restart), lengths, restart)

    def _lengths(self, problem: Problem, number: int, member: InputSet) -> Tensor:
        if self.step_sizes is not None:
            return torch.full((len(problem),), self.step_sizes[number], dtype=problem.x.dtype, device=problem.x.device)
        if self.relative_step_sizes is not None:
            share = self.relative_step_sizes[number]
        else:
            share = max(RELATIVE_STEP_SIZES.get(getattr(member, "norm", ""), 0.0), 2.5 / self.steps)
        return share * radius(member).to(problem.x)

    def _begin(self, problem: Problem, who: Tensor, restart: int) -> Tensor:
        if restart == 0:
            return problem.x[who] if problem.start is None else problem.start[who]
        members = _members(problem.sets)
        member = members[(restart - 1) % len(members)]
        return random_start(member.select(who), problem.draws, who, sample=restart)

    def _descend(self, problem: Problem, who: Tensor, points: Tensor, lengths: list[Tensor], restart: int) -> None:
        for step in range(self.steps):
            slope = problem.gradient(points, who, self.loss).slope
            going = torch.isin(who, problem.open(who))
            who, points, slope = who[going], points[going], slope[going]
            if not len(who):
                return
            points = self._step(problem, who, points, slope, lengths, restart * self.steps + step)
        if self.returns == "last" and restart == self.restarts - 1:
            problem.settle(points, who)

    def _step(
        self, problem: Problem, who: Tensor, points: Tensor, slope: Tensor, lengths: list[Tensor], sample: int
    ) -> Tensor:
        """Of the members' candidates the one with the largest loss, ``(k, *shape)``."""
        low, high = self.sparsity
        kept = low + problem.draws.words(who, 1, sample=sample, tag=2)[:, 0] % (high - low + 1)
        candidates, losses = [], []
        for member, length in zip(_members(problem.sets), lengths, strict=True):
            sets = member.select(who)
            move = steepest(sets, points, slope, kept, projected=True) * per_input(length[who], points)
            candidates.append(sets.project(points + move))
            logits = problem.ask(candidates[-1], who).logits
            loss = problem.criterion.loss(self.loss, logits.double(), problem.numbers[who])
            losses.append(loss.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf))
        return torch.stack(candidates)[torch.stack(losses).argmax(0), torch.arange(len(who), device=who.device)]


@dataclass(frozen=True, kw_only=True)
class WorstOf(Attack):
    """An attack on each member of a union by itself; of what they find, the worst for each input (thesis, section
    5.3.1; Tramer and Boneh 2019).

    Args:
        attacks: one for each member of the union; or a single one, for all.
        loss: what the worst is by: ``margin``, or that of the thesis, ``cross-entropy``, by which the worst may be a
            point that is right where another one is wrong.

    Raises:
        InvalidValue, InvalidType: as many attacks as members are needed; sets that are no union.

    >>> from verifix.sets import Ball, Union
    >>> x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    >>> union = Union(Ball("linf", 0.1), Ball("l1", 0.4)).around(x)
    >>> WorstOf(attacks=(PGD(steps=20), PGD(steps=20)))(lambda x: x, x, y, union).success.tolist()
    [True]
    """

    attacks: tuple[Attack, ...]
    loss: Loss = "margin"

    def __post_init__(self) -> None:
        _check_attacks(self.attacks)
        choice("loss", self.loss, LOSSES)

    def check(self, sets: InputSet) -> None:
        for attack, member in _pairs(self.attacks, sets):
            attack.check(member)

    def run(self, problem: Problem) -> None:
        everyone = torch.arange(len(problem), device=problem.x.device)
        worst, largest = problem.x.clone(), torch.full_like(problem.clean.loss, -torch.inf, dtype=torch.float64)
        for attack, member in _pairs(self.attacks, problem.sets):
            who = problem.open(everyone)
            if not len(who):
                return
            part = problem.part(who, member.select(who), nearest=attack.nearest)
            attack.run(part)
            points = problem.absorb(part, who)
            if self.loss != "margin":
                logits = problem.ask(points, who).logits.double()
                loss = problem.criterion.loss(self.loss, logits, problem.numbers[who])
                more = loss > largest[who]
                worst[who[more]], largest[who[more]] = points[more], loss[more]
        if self.loss != "margin":
            who = problem.open(everyone)
            problem.settle(worst[who], who)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "attacks": [attack.settings() for attack in self.attacks]}


def augmentation(
    model: Classifier,
    x: Tensor,
    y: Tensor | Criterion | Specification,
    union: Union | UnionSet,
    attacks: tuple[Attack, ...],
    *,
    seed: int = 0,
    stop: bool = True,
    batch: int = BATCH,
) -> tuple[AttackResult, ...]:
    """What an attack finds in each member of a union, all of it: the examples that "augmentation" trains on (thesis,
    section 5.3.1, equation 5.32).

    Args:
        attacks: one for each member; or a single one, for all.
        model, x, y, seed, stop, batch: as for every :class:`Attack`.

    >>> from verifix.sets import Ball, Union
    >>> x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    >>> found = augmentation(lambda x: x, x, y, Union(Ball("linf", 0.2), Ball("l1", 0.2)), (PGD(steps=20),))
    >>> [result.success.tolist() for result in found]
    [[True], [False]]
    """
    _check_attacks(attacks)
    sets = union.around(x) if isinstance(union, Union) else union
    return tuple(
        attack(model, x, y, member, seed=seed, stop=stop, batch=batch) for attack, member in _pairs(attacks, sets)
    )


def _members(sets: InputSet) -> tuple[InputSet, ...]:
    if not isinstance(sets, UnionSet):
        raise InvalidValue("inputs", sets, "is no union: use Union(...), or an attack for one ball such as PGD")
    return sets.members


def _check_attacks(attacks: object) -> None:
    if not isinstance(attacks, (tuple, list)) or not all(isinstance(attack, Attack) for attack in attacks):
        raise InvalidType("attacks", attacks, "a tuple of attacks, such as (PGD(steps=50),)")


def _pairs(attacks: tuple[Attack, ...], sets: InputSet) -> list[tuple[Attack, InputSet]]:
    """Each attack with its member."""
    members = _members(sets)
    if len(attacks) not in (1, len(members)):
        remedy = f"must be {len(members)}, one for each member of the union, or a single one"
        raise InvalidValue("attacks", f"{len(attacks)} attacks", remedy)
    each = attacks * len(members) if len(attacks) == 1 else attacks
    return list(zip(each, members, strict=True))
