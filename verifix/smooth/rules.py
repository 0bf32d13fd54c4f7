"""From counts of votes to bounds on probabilities, and to radii. Proofs: docs/smoothing.md.

Every rule takes a class ``top`` that was chosen from other samples than the counts: that is what makes it a fixed class
when the counts are drawn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.smooth.clopper_pearson import clopper_pearson_upper, lower_and_failure, whole_numbers
from verifix.smooth.gaussian_radius import checked_sigma, gaussian_radius
from verifix.smooth.paper_rule import bound_by_paper
from verifix.smooth.probabilities import Probabilities

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

RULES = ("certify", "t-certify", "t-certify-paper")


def bound_counts(
    counts: ArrayLike | Tensor,  # (n, columns)
    top: ArrayLike | Tensor,  # (n,)
    alpha: float,
    rule: str,
    split: ArrayLike | None = None,  # () or (n,)
) -> Probabilities:
    """Bounds on the probabilities of classes, input by input.

    They hold for an input with probability at least ``proven_level(rule, alpha)`` over the draw of its counts, if
    ``top`` and ``split`` were fixed before that draw.

    - ``certify`` (Cohen, Rosenfeld and Kolter 2019): the probability of ``top`` at level alpha; whatever is not ``top``
      is taken to be one class.
    - ``t-certify``: the probability of ``top`` at level ``split``, and that of the others at level ``alpha - split``
      from the largest of their counts. No union over classes is needed, nor that ``top`` exceeds 1/2. With ``split =
      alpha`` it is ``certify``.
    - ``t-certify-paper`` (Feng et al., algorithm 2): the split of a grid with the largest Gaussian radius, found on the
      same counts; the largest probability of the others from the sum of their binomial tails.

    Args:
        counts: how often each class was the answer. A column for answers that are no class (NaN) counts as one more
            class; it is never ``top``.
        top: the class to be certified, chosen from other samples.
        alpha: how probable it may be that the bounds do not hold, for each input by itself.
        rule: see above.
        split: for ``t-certify``, the part of alpha that goes to the class ``top``, in (0, alpha]: one number or one
            for each input, chosen without these counts (:func:`split_from_selection`); default alpha / 2.

    Raises:
        InvalidValue: counts that are no counts of two classes or more, a ``top`` that is no column, levels outside of
            their ranges, an unknown rule.

    >>> bounds = bound_counts([[600, 200, 120, 80]], [0], 0.001, "t-certify")
    >>> bounds.top.round(3), bounds.failure.round(3), bounds.other.round(3)
    (array([0.548]), array([0.452]), array([0.244]))
    """
    table, chosen = checked_counts(counts, top)
    alpha = checked_alpha(alpha)
    parts = checked_split(split, alpha, rule, len(table))
    trials, successes = table.sum(axis=1), table[np.arange(len(table)), chosen]
    others = other_counts(table, chosen)
    if rule == "t-certify-paper":
        return bound_by_paper(successes, others, trials, alpha)
    lower, failure = (np.atleast_1d(x) for x in lower_and_failure(successes, trials, parts))
    other, rest = failure.copy(), remaining(alpha, parts)
    use = rest > 0
    if use.any():
        upper = clopper_pearson_upper(others[use].max(axis=1), trials[use], rest[use])
        other[use] = np.minimum(upper, failure[use])
    return Probabilities(top=lower, failure=failure, other=other)


def split_from_selection(
    selection_counts: ArrayLike | Tensor,  # (n, columns)
    top: ArrayLike | Tensor,  # (n,)
    alpha: float,
) -> Array:
    """For ``t-certify``: all of alpha for the top class where every sample of the selection was in it, else half.

    The selection must be the sample that ``top`` was chosen from, never the one that probabilities are bounded with.

    >>> split_from_selection([[100, 0], [99, 1]], [0, 0], 0.001)
    array([0.001 , 0.0005])
    """
    table, chosen = checked_counts(selection_counts, top)
    alpha = checked_alpha(alpha)
    return np.where(other_counts(table, chosen).max(axis=1) == 0, alpha, alpha / 2)


def proven_level(rule: str, alpha: float) -> float:
    """How probable it is at least that the bounds of a rule hold, for one input.

    ``1 - alpha``; for ``t-certify-paper``, which picks a split after it has seen the counts, no more than
    ``1 - 1.9 alpha`` is proven. Never 1, however small alpha is: that is for what is certain.

    Raises:
        InvalidValue: an unknown rule, alpha outside of (0, 1), or so large that nothing is proven.

    >>> proven_level("t-certify", 0.001), proven_level("t-certify-paper", 0.001)
    (0.999, 0.9981)
    """
    checked_rule(rule)
    level = 1 - (1.9 if rule == "t-certify-paper" else 1) * checked_alpha(alpha)
    if level <= 0:
        raise InvalidValue("alpha", alpha, f"{rule} proves only 1 - 1.9 alpha, which is nothing: take a smaller one")
    return min(level, math.nextafter(1.0, 0.0))


def smallest_n(alpha: float, rule: str = "certify", split: float | None = None) -> int:
    """The least number of samples with which a rule can certify anything at this level, if all are in one class.

    >>> smallest_n(0.001), smallest_n(0.001, "t-certify"), smallest_n(0.001, "t-certify", split=0.001)
    (10, 11, 10)
    """
    trials = np.arange(1, 1201)  # 2^-1200 is below every level that a float64 holds
    counts = np.stack([trials, np.zeros_like(trials)], axis=1)
    bounds = bound_counts(counts, np.zeros_like(trials), alpha, rule, split)
    certified = gaussian_radius(bounds, 1.0) > 0
    return int(trials[certified.argmax()])


def certify_counts(
    counts: ArrayLike | Tensor,  # (n, classes)
    top: ArrayLike | Tensor,  # (n,)
    sigma: float,
    alpha: float,
    rule: str = "t-certify",
    split: ArrayLike | None = None,  # () or (n,)
    samples: int | None = None,
) -> Array:
    """Radii that counts of votes under N(0, sigma^2 I) noise certify; nan where the rule abstains.

    With probability at least ``proven_level(rule, alpha)``, for each input by itself, ``top`` is the answer of the
    smoothed classifier at every input that is less than the radius away in the l2 norm. Radii are rounded down.

    Args:
        counts, top, alpha, rule, split: see :func:`bound_counts`. ``top`` must come from other samples than the counts.
        sigma: the standard deviation of the noise, in the units of the input.
        samples: what every row must add up to; by default rows may differ.

    Raises:
        InvalidValue: see :func:`bound_counts`; rows with another sum; fewer samples than can certify anything, in which
            case the message names the smallest number.
        InvalidType: ``sigma`` is a function.

    >>> counts = [[60_000, 20_000, 12_000, 8_000]]
    >>> [float(certify_counts(counts, [0], 1.0, 0.001, rule).round(4)[0]) for rule in ("certify", "t-certify")]
    [0.2409, 0.5334]
    """
    sigma = checked_sigma(sigma)
    table, chosen = checked_counts(counts, top)
    sums = table.sum(axis=1)
    if samples is not None and (sums != samples).any():
        row = int(np.flatnonzero(sums != samples)[0])
        raise InvalidValue(f"counts[{row}]", table[row].tolist(), f"must add up to {samples}, not to {sums[row]}")
    if len(table):
        require_samples(int(sums.min()), alpha, rule, split)
    return gaussian_radius(bound_counts(table, chosen, alpha, rule, split), sigma)


def require_samples(n: int, alpha: float, rule: str, split: ArrayLike | None = None) -> None:
    """Refuse a number of samples with which a rule abstains whatever the counts are.

    Raises:
        InvalidValue: n is too small; the message names the smallest that is not.
    """
    parts = np.unique(checked_split(split, checked_alpha(alpha), rule, None)) if split is not None else None
    rows = 1 if parts is None else len(parts)
    best = bound_counts([[n, 0]] * rows, [0] * rows, alpha, rule, parts)
    if (gaussian_radius(best, 1.0) > 0).any():
        return
    least = min(smallest_n(alpha, rule, part) for part in ([None] if parts is None else parts.tolist()))
    remedy = f"is too small to certify anything with {rule} at alpha = {alpha}: take at least {least} samples"
    raise InvalidValue("n", n, remedy)


def predict_counts(counts: ArrayLike | Tensor, alpha: float, classes: int | None = None) -> NDArray[np.int64]:
    """The class with the most votes, or -1 where it may not be the most probable one (PREDICT).

    A class that is returned is the answer of the smoothed classifier with probability at least 1 - alpha, for each
    input by itself: the two-sided binomial test on the two largest counts at level alpha (Cohen, Rosenfeld and Kolter
    2019, proposition 1; Hung and Fithian 2019). Ties go to the smallest class, which abstains.

    Args:
        counts: (n, columns).
        alpha: in (0, 1).
        classes: how many columns are classes; those after them hold answers that are none, and never are returned.

    Raises:
        InvalidValue: see :func:`bound_counts`; or so few samples that all of them in one class would not be enough.

    >>> predict_counts([[70, 20, 10], [40, 35, 25]], 0.001)
    array([ 0, -1])
    """
    table, _ = checked_counts(counts, np.zeros(len(np.asarray(_array(counts))), dtype=np.int64))
    alpha = checked_alpha(alpha)
    least = smallest_n(alpha / 2)
    if len(table) and table.sum(axis=1).min() < least:
        row = int(table.sum(axis=1).argmin())
        remedy = f"is too small to predict anything at alpha = {alpha}: take at least {least} samples"
        raise InvalidValue("n", int(table[row].sum()), remedy)
    best = table.argmax(axis=1)
    first = table[np.arange(len(table)), best]
    second = other_counts(table, best).max(axis=1, initial=0)
    lower, _ = lower_and_failure(first, np.maximum(first + second, 1), alpha / 2)
    sure = (lower > 0.5) & (best < (table.shape[1] if classes is None else classes))
    return np.where(sure, best, -1)


def other_counts(counts: Counts, top: Counts) -> Counts:
    """All columns but that of ``top``, (n, columns - 1)."""
    keep = np.arange(counts.shape[1])[None, :] != top[:, None]
    return counts[keep].reshape(len(counts), counts.shape[1] - 1)


def remaining(alpha: float, split: Array) -> Array:
    """What ``split`` leaves of alpha, never more."""
    rest = np.where(split >= alpha / 2, alpha - split, np.nextafter(alpha - split, 0))  # exact in the first case
    return np.maximum(rest, 0.0)


def checked_counts(counts: ArrayLike | Tensor, top: ArrayLike | Tensor) -> tuple[Counts, Counts]:
    """Counts (n, columns) and classes (n,) as int64.

    Raises:
        InvalidValue: see :func:`bound_counts`.
    """
    table = whole_numbers("counts", _array(counts))
    if table.ndim != 2:
        raise InvalidValue("counts.shape", table.shape, "must be (inputs, classes)")
    if table.shape[1] < 2:
        raise InvalidValue("counts.shape", table.shape, "must have two classes at least: of one there is no doubt")
    if (table < 0).any():
        row, column = np.argwhere(table < 0)[0]
        raise InvalidValue(f"counts[{row}, {column}]", int(table[row, column]), "must be >= 0")
    if (table.sum(axis=1) == 0).any():
        row = np.flatnonzero(table.sum(axis=1) == 0)[0]
        raise InvalidValue(f"counts[{row}]", table[row].tolist(), "must count at least one sample")
    chosen = whole_numbers("top", _array(top))
    if chosen.shape != table.shape[:1]:
        raise InvalidValue("top.shape", chosen.shape, f"must be {table.shape[:1]}, one class for each row of counts")
    wrong = (chosen < 0) | (chosen >= table.shape[1])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InvalidValue(f"top[{row}]", int(chosen[row]), f"must be a class from 0 to {table.shape[1] - 1}")
    return table, chosen


def _array(x: ArrayLike | Tensor) -> ArrayLike:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else x


def checked_alpha(alpha: float, name: str = "alpha") -> float:
    """Alpha, or another level, as a number in (0, 1).

    Raises:
        InvalidValue: it is not.
    """
    if not isinstance(alpha, int | float | np.floating) or not 0 < alpha < 1:
        raise InvalidValue(name, alpha, "must be a number in (0, 1)")
    return float(alpha)


def checked_rule(rule: str) -> str:
    """The name of a rule.

    Raises:
        InvalidValue: there is no such rule.
    """
    if rule not in RULES:
        raise InvalidValue("rule", rule, f"must be one of {', '.join(RULES)}")
    return rule


def checked_split(split: ArrayLike | None, alpha: float, rule: str, inputs: int | None) -> Array:
    """What goes to the top class, (inputs,); of any number of inputs where that is None.

    Raises:
        InvalidValue: outside of (0, alpha], of another shape, or given for a rule that has none.
    """
    if checked_rule(rule) != "t-certify":
        if split is not None:
            raise InvalidValue("split", split, f"{rule} has no split: leave it out, or take t-certify")
        return np.full(inputs or 0, alpha)
    parts = np.asarray(alpha / 2 if split is None else split, dtype=np.float64)
    if not ((parts > 0) & (parts <= alpha)).all():
        raise InvalidValue("split", split, f"must be in (0, alpha], alpha = {alpha}")
    if inputs is None:
        return parts
    if parts.shape not in ((), (inputs,)):
        raise InvalidValue("split.shape", parts.shape, f"must be () or ({inputs},)")
    return np.broadcast_to(parts, (inputs,))
