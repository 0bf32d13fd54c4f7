"""T-CERTIFY as it was published, to compare with: Feng et al., equation 14 and algorithm 2.

The split of alpha is searched on the counts that are then used, for which no more than ``1 - 1.9 alpha`` is proven
(docs/smoothing.md); the rule ``t-certify`` is proven at ``1 - alpha`` and is hardly ever behind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from verifix.smooth.clopper_pearson import clopper_pearson_upper, lower_and_failure
from verifix.smooth.gaussian_radius import quantile_below
from verifix.smooth.probabilities import Probabilities

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

GRID = tuple(j / 10 for j in range(1, 11))
"""The parts of alpha that may go to the top class."""
TAIL_ERROR = 1e-9
"""What the relative error of a binomial tail is taken to be where tails are added up."""
STEPS = 14


def bound_by_paper(
    successes: Counts,  # (n,)
    others: Counts,  # (n, columns - 1)
    trials: Counts,  # (n,)
    alpha: float,
) -> Probabilities:
    """The bounds of the split with the largest Gaussian radius, among those whose bound on the top class exceeds 1/2.

    Without any, those of ``certify``. The bound on the others is capped by that on whatever is not the top class.
    """
    top, failure = lower_and_failure_of(successes, trials, alpha)
    best = Probabilities(top=top, failure=failure, other=failure.copy())
    score = np.where(best.top > 0.5, 2 * quantile_below(best.failure), -np.inf)
    for part in GRID[:-1]:  # the last is certify: level 0 for the others bounds nothing
        level = alpha * part
        lower, failure = lower_and_failure_of(successes, trials, level)
        rows = np.flatnonzero(lower > 0.5)
        upper = sum_rule(others[rows], trials[rows], np.nextafter(alpha - level, 0))
        other = np.minimum(upper, failure[rows])
        found = quantile_below(failure[rows]) + quantile_below(other)
        better = found > score[rows]
        rows, other = rows[better], other[better]
        score[rows] = found[better]
        best.top[rows], best.failure[rows], best.other[rows] = lower[rows], failure[rows], other
    return best


def lower_and_failure_of(successes: Counts, trials: Counts, level: float) -> tuple[Array, Array]:
    lower, failure = lower_and_failure(successes, trials, level)
    return np.atleast_1d(lower).copy(), np.atleast_1d(failure).copy()


def sum_rule(others: Counts, trials: Counts, level: float) -> Array:
    """An upper bound on the p at which ``sum over columns of P(Bin(trials, p) <= count)`` falls to the level.

    It lies between the bounds from the largest count at the level and at the level over the number of columns, and is
    approached from above.

    >>> sum_rule(np.array([[20, 20]]), np.array([100]), 0.05).round(3)
    array([0.292])
    """
    from scipy.special import bdtr

    most = others.max(axis=1) if len(others) else np.zeros(0, np.int64)
    low = np.atleast_1d(clopper_pearson_upper(most, trials, level)).copy()
    high = np.atleast_1d(clopper_pearson_upper(most, trials, level / others.shape[1])).copy()

    def excess(p: Array) -> Array:
        tails = bdtr(others.astype(np.float64), trials[:, None], p[:, None]).sum(axis=1)
        with np.errstate(divide="ignore"):
            return np.log(tails * (1 + TAIL_ERROR)) - np.log(level)

    at_low, at_high = excess(low), np.minimum(excess(high), 0.0)
    for _ in range(STEPS):  # the Illinois method: high always is a bound
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = high - (high - low) * (at_high / (at_high - at_low))
        middle = np.clip(np.where(np.isfinite(middle), middle, (low + high) / 2), low, high)
        at_middle = excess(middle)
        above = at_middle <= 0
        at_low, at_high = np.where(above, at_low / 2, at_middle), np.where(above, at_middle, at_high / 2)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high
