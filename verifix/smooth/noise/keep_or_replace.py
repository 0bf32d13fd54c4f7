"""Keeping a coordinate or replacing it at random, which certifies l0."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.noise import keep_or_replace, keep_probability, replacement_total_variation
from verifix.smooth.noise.base import Noise, Samples
from verifix.smooth.noise.parameters import check_levels, refuse_callable
from verifix.smooth.probabilities import Probabilities

LARGEST_RADIUS = 256
"""Larger radii are reported as this one, a power of two."""


@dataclass(frozen=True)
class KeepOrReplace(Noise):
    """Every coordinate ``k / levels`` is kept with probability ``keep``, else one of the other ``levels`` values.

    The radius counts coordinates that may change: the largest r such that, for every classifier with these
    probabilities, ``p_A`` stays above ``p_B`` when r coordinates change (Lee et al. 2019, theorem 1 and algorithm; they
    take ``p_B = 1 - p_A``). It is exact, by Neyman and Pearson's lemma in whole numbers: with r coordinates changed the
    likelihood ratio of an outcome depends only on how many of these agree with x less how many agree with x', which
    takes 2 r + 1 values; regions of one ratio are handed to the worst classifier in order. Tight; the number of
    coordinates plays no part.

    Args:
        keep: probability, taken to the nearest multiple of 2^-32; its exact value is used.
        levels: inputs are ``k / levels``, k = 0 to levels.

    Raises:
        InvalidType, InvalidValue: if keep is not one number in (0, 1), levels not a whole number >= 1.

    >>> noise = KeepOrReplace(keep=0.8, levels=1)
    >>> bounds = Probabilities(*(np.array(p) for p in ([0.9, 0.6, 0.4], [0.1, 0.4, 0.6], [0.1, 0.4, 0.5])))
    >>> noise.radius(bounds)
    array([ 1.,  0., nan])
    """

    keep: float
    levels: int

    name: ClassVar[str] = "keep-or-replace"
    norm: ClassVar[str] = "l0"
    closed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_callable("keep", self.keep)
        if isinstance(self.keep, (bool, str)) or not hasattr(self.keep, "__float__"):
            raise InvalidType("keep", self.keep, "a number in (0, 1)")
        keep = float(self.keep)
        if not 2.0**-32 <= keep <= 1 - 2.0**-32:
            raise InvalidValue("keep", keep, "must lie in (0, 1), at least 2^-32 from both ends")
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "levels", check_levels("levels", self.levels))
        object.__setattr__(self, "lattice", self.levels)

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        return keep_or_replace(
            x,
            samples.inputs,
            keep=self.keep,
            levels=self.levels,
            **samples.names,
        )

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        top = np.maximum(probabilities.top, np.nextafter(1 - probabilities.failure, 0.0))
        pairs, place = np.unique(np.stack([top, probabilities.other], axis=1), axis=0, return_inverse=True)
        return np.array([self._radius(*pair) for pair in pairs.tolist()])[place.reshape(-1)]

    def changed(self, probability: Fraction, coordinates: int) -> Fraction:
        """The least that an event of this probability can have after so many coordinates changed, exactly.

        >>> KeepOrReplace(keep=0.5, levels=1).changed(Fraction(3, 4), coordinates=5)
        Fraction(3, 4)
        """
        kept = round(Fraction(keep_probability(self.keep)) * 2**32)
        return _least(probability, _table(kept, self.levels, coordinates))

    def _radius(self, top: float, other: float) -> float:
        if not top > other:
            return math.nan
        p_a, not_b = Fraction(top), 1 - Fraction(other)

        def holds(r: int) -> bool:  # what B can gain is what everything but B can lose
            return self.changed(p_a, r) + self.changed(not_b, r) > 1

        step = 1
        while step <= LARGEST_RADIUS and holds(step):
            step *= 2
        if step > LARGEST_RADIUS:
            return float(LARGEST_RADIUS)
        # a lead with r coordinates changed is one with fewer: between the last that held and the first that did not
        return float(step // 2 + bisect_left(range(step // 2 + 1, step), True, key=lambda r: not holds(r)))

    def total_variation(self, coordinates: int) -> float:
        per_coordinate = replacement_total_variation(self.keep, self.levels)
        return math.nextafter(coordinates * per_coordinate, 1.0) if per_coordinate else 0.0

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "keep": self.keep, "levels": self.levels}


@dataclass(frozen=True)
class _Table:
    """Regions of one likelihood ratio, the most likely under x first, their probabilities in units of 1 / total."""

    total: int
    at_x: tuple[int, ...]
    until: tuple[int, ...]
    """Probability of a region and all before it under x."""
    changed_until: tuple[int, ...]
    """The same after the change."""


@lru_cache(maxsize=4 * LARGEST_RADIUS)
def _table(kept: int, levels: int, coordinates: int) -> _Table:
    """The regions of so many changed coordinates, by agreement with x less agreement with x', from all to minus all.

    By symmetry the probability of a region after the change is that of the opposite one before it.
    """
    at_x = _agreements(kept, levels, coordinates)
    if kept * levels < 2**32 - kept:  # keeping is rarer than each replacement: agreement is evidence against x
        at_x = at_x[::-1]
    return _Table((levels * 2**32) ** coordinates, at_x, tuple(accumulate(at_x)), tuple(accumulate(at_x[::-1])))


@lru_cache(maxsize=4 * LARGEST_RADIUS)
def _agreements(kept: int, levels: int, coordinates: int) -> tuple[int, ...]:
    """Probability under x of agreement d, d - 1, ..., -d with it, in units of ``(levels 2^32)^-d``, d coordinates."""
    if coordinates == 0:
        return (1,)
    replaced = 2**32 - kept
    steps = (kept * levels, (levels - 1) * replaced, replaced)
    fewer = (0, 0, *_agreements(kept, levels, coordinates - 1), 0, 0)
    return tuple(
        sum(step * fewer[place + 2 - shift] for shift, step in enumerate(steps)) for place in range(2 * coordinates + 1)
    )


def _least(probability: Fraction, table: _Table) -> Fraction:
    """The least probability after the change of an event that has this one before it."""
    wanted = probability * table.total
    region = min(bisect_left(table.until, wanted), len(table.until) - 1)
    before = table.until[region - 1] if region else 0
    changed_before = table.changed_until[region - 1] if region else 0
    inside = table.changed_until[region] - changed_before
    part = (wanted - before) / table.at_x[region] if table.at_x[region] else Fraction(0)
    return (changed_before + inside * part) / table.total
