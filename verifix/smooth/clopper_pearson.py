"""Exact one-sided confidence bounds on a probability, from how often it came true."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from verifix import kernels
from verifix.errors import InvalidValue
from verifix.kernels.clopper_pearson import MOST_TRIALS

Array = NDArray[np.float64]


def clopper_pearson_lower(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Array:
    """A lower bound on p from ``k`` ~ Bin(``n``, p), above p with probability at most ``alpha``.

    It is the p with ``P(Bin(n, p) >= k) = alpha``, rounded down, within 1e-12 relative (0 where p is below 1e-307); 0
    for k = 0, and ``alpha ** (1 / n)`` for k = n. The level is one-sided: the two-sided interval at level 2 alpha has
    this lower end. Source: Clopper and Pearson 1934; equation 14 of Feng et al., Regularized Training and Tight
    Certification for Randomized Smoothed Classifier with Provable Robustness. How it is computed, and what rounding may
    do: docs/smoothing.md.

    Args:
        k, n: whole numbers, 0 <= k <= n, 1 <= n <= 2^40; arrays are broadcast.
        alpha: in (0, 1).

    Raises:
        InvalidValue: an argument outside of these.

    >>> clopper_pearson_lower([0, 990, 1000], 1000, 0.001).round(4)
    array([0.    , 0.976 , 0.9931])
    """
    return _bounds("k", k, n, alpha)[0]


def clopper_pearson_upper(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Array:
    """An upper bound on p from ``k`` ~ Bin(``n``, p), below p with probability at most ``alpha``.

    It is the p with ``P(Bin(n, p) <= k) = alpha``, rounded up, within 1e-12 relative of p itself, however small; 1 for
    k = n. Of k successes, ``clopper_pearson_upper(n - k, n, alpha)`` bounds the probability of failure, and does not
    lose its digits as ``1 - clopper_pearson_lower(k, n, alpha)`` does.

    Args, errors: as for :func:`clopper_pearson_lower`.

    >>> clopper_pearson_upper([0, 10, 1000], 1000, 0.001).round(4)
    array([0.0069, 0.024 , 1.    ])
    """
    return _bounds("k", k, n, alpha, complement=True)[1]


def lower_and_failure(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[Array, Array]:
    """A lower bound on p and an upper bound on 1 - p, from one computation: they are wrong together.

    >>> [round(float(x), 4) for x in lower_and_failure(990, 1000, 0.001)]
    [0.976, 0.024]
    """
    return _bounds("k", k, n, alpha)


def _bounds(name: str, k: ArrayLike, n: ArrayLike, alpha: ArrayLike, complement: bool = False) -> tuple[Array, Array]:
    trials = whole_numbers("n", n)
    _refuse("n", trials, (trials < 1) | (trials > MOST_TRIALS), "must be from 1 to 2^40 trials")
    counts, levels = whole_numbers(name, k), levels_between_0_and_1("alpha", alpha)
    try:
        counts, trials, levels = np.broadcast_arrays(counts, trials, levels)
    except ValueError:
        shapes = f"shapes {counts.shape}, {trials.shape} and {levels.shape}"
        raise InvalidValue(f"{name}, n, alpha", shapes, "must be broadcastable to one shape") from None
    _refuse(name, counts, (counts < 0) | (counts > trials), "must be from 0 to n")
    counts = trials - counts if complement else counts
    tensors = (torch.from_numpy(np.array(x)) for x in (counts, trials, levels))
    lower, failure = kernels.clopper_pearson(*tensors)
    return lower.numpy()[()], failure.numpy()[()]


def whole_numbers(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """An argument as int64, if all of it are whole numbers.

    Raises:
        InvalidValue: it holds something else.

    >>> whole_numbers("k", [1, 2.0])
    array([1, 2])
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InvalidValue(name, value, "must be whole numbers")
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64)
    _refuse(name, array, whole != array, "must be whole numbers")
    return whole


def levels_between_0_and_1(name: str, value: ArrayLike) -> Array:
    """An argument as float64, if all of it is strictly between 0 and 1.

    Raises:
        InvalidValue: it holds something else.

    >>> levels_between_0_and_1("alpha", 0.001)
    array(0.001)
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InvalidValue(name, value, "must be a number in (0, 1)")
    array = array.astype(np.float64)
    _refuse(name, array, ~((array > 0) & (array < 1)), "must be in (0, 1)")
    return array


def _refuse(name: str, array: NDArray[np.generic], wrong: NDArray[np.bool_] | np.bool_, remedy: str) -> None:
    """Name the first entry that is wrong."""
    if np.any(wrong):
        where = np.argwhere(np.atleast_1d(wrong))[0]
        place = f"[{', '.join(map(str, where))}]" if array.ndim else ""
        raise InvalidValue(name + place, np.atleast_1d(array)[tuple(where)], remedy)
