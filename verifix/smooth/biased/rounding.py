"""Rounding to the safe side, in float64: every radius here is a statement about real arithmetic.

Sums, products, quotients and square roots of single numbers are correctly rounded, so that the next number is on the
safe side of the exact result. A sum of products in which no term goes through more than ``k`` roundings is off by at
most ``gamma(k)`` times the sum of the absolute values of its terms, in whatever order it is summed
(``docs/rounding.md``), and by what underflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifix.bounds.rounding import SAFETY
from verifix.sets.base import Norm

UNIT = 2.0**-53
TINY = torch.finfo(torch.float64).tiny
DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""The order of the dual of each norm."""


def gamma(k: int) -> float:
    """The relative error of ``k`` roundings, and a little more for the rounding of the error bound itself."""
    return SAFETY * k * UNIT / (1 - k * UNIT)


def up(x: Tensor) -> Tensor:
    """The next float64 above."""
    return torch.nextafter(x, torch.full_like(x, math.inf))


def down(x: Tensor) -> Tensor:
    """The next float64 below."""
    return torch.nextafter(x, torch.full_like(x, -math.inf))


def sum_above(a: Tensor, b: Tensor) -> Tensor:
    """At least ``a + b``, for numbers of at least zero; zero where both are."""
    total = a + b
    return torch.where(total == 0, 0.0, up(total))


def product_above(a: float, b: Tensor) -> Tensor:
    """At least ``a b``, for numbers of at least zero; zero where either is."""
    return torch.where((b == 0) | (a == 0), 0.0, up(a * b))


def root_above(a: Tensor) -> Tensor:
    """At least the square root of ``a``, for numbers of at least zero; zero where it is."""
    return torch.where(a == 0, 0.0, up(a.sqrt()))


def dual_norms(vectors: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the dual norm of each row, ``(n, d)`` to ``(n,)``; exactly zero for zero rows.

    >>> lower, upper = dual_norms(torch.tensor([[3.0, -4.0]]).double(), "l2")
    >>> bool(lower < 5) and bool(upper > 5) and bool(upper - lower < 1e-14)
    True
    """
    lower, upper = widened(torch.linalg.vector_norm(vectors, ord=DUAL[norm], dim=1), vectors.shape[1], norm)
    return lower, torch.where((vectors == 0).all(1), 0.0, upper)


def widened(norms: Tensor, terms: int, norm: Norm) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of dual norms of so many terms, each rounded once, given what float64 makes of them."""
    if norm == "l1":
        return (norms * (1 - 4 * UNIT)).clamp(min=0), norms * (1 + 4 * UNIT)
    relative = gamma(terms + 4)
    # squares underflow where their terms are small
    absolute = 2 * math.sqrt(terms * TINY) if norm == "l2" else 0.0
    return (norms * (1 - relative) - absolute).clamp(min=0), norms * (1 + relative) + absolute


def quotient_below(above: Tensor, below: Tensor) -> Tensor:
    """Strictly below ``above / below`` where that is positive, and zero elsewhere, NaN included; infinite where a
    positive number is divided by zero.

    >>> quotient_below(torch.tensor([1.0, -1.0, 1.0, 0.0]).double(), torch.tensor([4.0, 4.0, 0.0, 0.0]).double())
    tensor([0.2500, 0.0000,    inf, 0.0000], dtype=torch.float64)
    """
    positive = (above > 0) & torch.isfinite(above)
    ratio = down(above / torch.where(below > 0, below, 1.0)).clamp(min=0)
    ratio = torch.where(torch.isnan(ratio) | torch.isnan(below), 0.0, ratio)
    return torch.where(positive, torch.where(below == 0, math.inf, ratio), 0.0)
