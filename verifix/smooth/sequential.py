"""Stopping early with a proven level: bounds that hold at all checkpoints at once. Proofs: docs/smoothing.md.

Samples are drawn up to checkpoints that are fixed in advance, and each checkpoint has its share of alpha. So whoever
stops at any of them, for whatever reason, holds bounds that are wrong with probability at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper
from verifix.smooth.probabilities import Probabilities
from verifix.smooth.rules import bound_counts, checked_alpha, checked_counts, checked_rule, checked_split, other_counts

Array = NDArray[np.float64]
Radius = Callable[[Probabilities], Array]
"""What a family of noise certifies: larger for a more probable class, nan where nothing; see ``Noise.radius``."""


class Answer(IntEnum):
    """What is known of a question."""

    OPEN = 0
    YES = 1
    NO = 2


@dataclass(frozen=True)
class Enclosure:
    """Probabilities enclosed from both sides, n inputs.

    Attributes:
        guaranteed: what certificates rest on, see :class:`Probabilities`; wrong at any checkpoint of an input with
            probability at most alpha.
        possible: the other sides: ``top`` an upper bound, ``failure`` and ``other`` lower bounds, which are wrong at
            any checkpoint with probability at most alpha too. They say only what further samples cannot reach.
    """

    guaranteed: Probabilities
    possible: Probabilities

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Enclosure:
        """That of some of the inputs."""
        parts = (
            Probabilities(x.top[index], x.failure[index], x.other[index]) for x in (self.guaranteed, self.possible)
        )
        return Enclosure(*parts)

    def meet(self, other: Enclosure) -> Enclosure:
        """The tighter side of two at every place: both hold."""
        (a, b), (c, d) = (self.guaranteed, self.possible), (other.guaranteed, other.possible)
        low, high = np.minimum, np.maximum
        return Enclosure(
            Probabilities(high(a.top, c.top), low(a.failure, c.failure), low(a.other, c.other)),
            Probabilities(low(b.top, d.top), high(b.failure, d.failure), high(b.other, d.other)),
        )

    def reaches(self, radius: Radius, target: float) -> NDArray[np.int8]:
        """Whether each input has a certificate of radius ``target``: an :class:`Answer`, NO where it is out of reach.

        YES is a certificate. NO is wrong with probability at most alpha: then a certificate is missed, and none is
        wrong.
        """
        certified = radius(self.guaranteed) >= target
        hopeless = ~(radius(self.possible) >= target)
        return np.where(certified, Answer.YES, np.where(hopeless, Answer.NO, Answer.OPEN)).astype(np.int8)

    def within(self, radius: Radius, width: float) -> NDArray[np.int8]:
        """Whether the certified radius of each input is at least ``1 - width`` of what may be possible: an
        :class:`Answer`, NO where nothing can be certified at all."""
        certified, most = radius(self.guaranteed), radius(self.possible)
        enough = certified >= (1 - width) * most
        return np.where(enough, Answer.YES, np.where(np.isnan(most), Answer.NO, Answer.OPEN)).astype(np.int8)


@dataclass(frozen=True)
class SequentialRule:
    """A rule of :mod:`verifix.smooth.rules` at growing numbers of samples, with one level for all of them.

    The t-th of T checkpoints gets the level ``5 alpha / ((t + 4)(t + 5))``, and the last what is left, ``5 alpha / (T +
    4)``: together alpha. A union bound does the rest; the runner-up is bounded from the largest other count, which is
    no less than that of the true runner-up at any time.

    Attributes:
        alpha: how probable it may be that bounds are wrong at any checkpoint, for each input by itself.
        rule: ``certify`` or ``t-certify``.
        limit: the last checkpoint: no more samples than this.
        first: the first checkpoint.
        growth: each checkpoint is this many times the one before, rounded up.

    Raises:
        InvalidType, InvalidValue: an attribute is not of its kind or range.

    Source: the shares are those of Voracek 2024, Treatment of Statistical Estimation Problems in Randomized Smoothing.

    >>> rule = SequentialRule(alpha=0.001, limit=100)
    >>> rule.checkpoints, [rule.next_block(drawn) for drawn in (0, 32, 72, 100)]
    ((32, 48, 72, 100), [32, 16, 28, 0])
    """

    alpha: float
    rule: str = "t-certify"
    limit: int = 100_000
    first: int = 32
    growth: float = 1.5

    def __post_init__(self) -> None:
        checked_alpha(self.alpha)
        if checked_rule(self.rule) == "t-certify-paper":
            raise InvalidValue("rule", self.rule, "has no proven level to share out: take certify or t-certify")
        for name in ("limit", "first"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidType(name, value, "a whole number")
            if value < 1:
                raise InvalidValue(name, value, "must be at least 1")
        if not (math.isfinite(self.growth) and self.growth > 1):
            raise InvalidValue("growth", self.growth, "must be a number > 1")

    @cached_property
    def checkpoints(self) -> tuple[int, ...]:
        """The numbers of samples at which bounds hold."""
        numbers = [min(self.first, self.limit)]
        while numbers[-1] < self.limit:
            numbers.append(min(self.limit, math.ceil(numbers[-1] * self.growth)))
        return tuple(numbers)

    def next_block(self, drawn: int) -> int:
        """How many samples to draw after so many, up to the next checkpoint; 0 where there is none."""
        return next((number - drawn for number in self.checkpoints if number > drawn), 0)

    def level(self, drawn: int) -> float:
        """The level of a checkpoint.

        Raises:
            InvalidValue: it is none.
        """
        if drawn not in self.checkpoints:
            near = ", ".join(map(str, self.checkpoints))
            raise InvalidValue("samples", drawn, f"bounds hold at the checkpoints {near} only: draw next_block(drawn)")
        t = self.checkpoints.index(drawn) + 1
        share = 5 / (t + 4) if t == len(self.checkpoints) else 5 / ((t + 4) * (t + 5))
        return self.alpha * share * (1 - 1e-12)  # so that rounded levels do not exceed alpha together

    def enclose(
        self,
        counts: ArrayLike | Tensor,  # (n, columns)
        top: ArrayLike | Tensor,  # (n,)
        split: ArrayLike | None = None,  # () or (n,)
        before: Enclosure | None = None,
    ) -> Enclosure:
        """Bounds from all samples so far, as many for every input as a checkpoint has.

        Args:
            counts, top, split: as for :func:`verifix.smooth.rules.bound_counts`; the split is one of ``alpha``.
            before: bounds of the same inputs at earlier checkpoints, which hold still.

        Raises:
            InvalidValue: as there; or the samples are not those of a checkpoint.

        >>> from verifix.smooth.gaussian_radius import gaussian_radius
        >>> rule = SequentialRule(alpha=0.001)
        >>> found = rule.enclose([[32, 0], [20, 12], [3, 29]], top=[0, 0, 0])
        >>> found.reaches(lambda p: gaussian_radius(p, 0.5), 0.25).tolist()  # Answer.YES, OPEN and NO, after 32 samples
        [1, 0, 2]
        """
        table, chosen = checked_counts(counts, top)
        parts = checked_split(split, self.alpha, self.rule, len(table))
        sums = np.unique(table.sum(axis=1))
        if len(sums) > 1:
            raise InvalidValue(
                "counts", f"rows that add up to {sums[0]} and to {sums[-1]}", "must be of one checkpoint"
            )
        if not len(sums):
            nothing = Probabilities(np.zeros(0), np.zeros(0), np.zeros(0))
            return Enclosure(nothing, nothing)
        n = int(sums[0])
        level = self.level(n)
        shares = None if self.rule == "certify" else np.minimum(parts / self.alpha, 1) * level
        found = Enclosure(
            guaranteed=bound_counts(table, chosen, level, self.rule, shares),
            possible=_possible(table, chosen, n, level, one=parts >= self.alpha),
        )
        return found if before is None else found.meet(before)


def _possible(
    counts: NDArray[np.int64], top: NDArray[np.int64], n: int, level: float, one: NDArray[np.bool_]
) -> Probabilities:
    """Bounds from the other sides: half of the level each for the top class and for the most probable of the others.

    Inputs whose rule takes the others for ``one`` class have the whole level for the top class.
    """
    hits, others = counts[np.arange(len(counts)), top], other_counts(counts, top)
    levels = np.where(one, level, level / 2)
    upper = clopper_pearson_upper(hits, n, levels)
    failure = clopper_pearson_lower(n - hits, n, levels)
    # Which class has the largest count is up to chance: one bound for each. One of them has its share of the failures.
    runner_up = clopper_pearson_lower(others.max(axis=1), n, level / 2 / others.shape[1])
    runner_up = np.minimum(np.maximum(runner_up, failure / others.shape[1]), failure)
    return Probabilities(top=upper, failure=failure, other=np.where(one, failure, runner_up))
