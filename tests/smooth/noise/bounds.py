"""Bounds on probabilities for tests, from probabilities that are known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from verifix.smooth.probabilities import Probabilities


def probabilities(*pairs: tuple[float, float]) -> Probabilities:
    """From pairs (p_A, p_B), input by input."""
    top, other = np.array(pairs, dtype=np.float64).T
    return Probabilities(top, 1 - top, other)


def complements(*pairs: tuple[float, float]) -> Probabilities:
    """From pairs (1 - p_A, p_B), input by input."""
    failure, other = np.array(pairs, dtype=np.float64).T
    return Probabilities(np.nextafter(1 - failure, 0), failure, other)


def outward(top: Fraction, other: Fraction) -> Probabilities:
    """One input, bounds rounded outwards, and no more than that."""
    return Probabilities(*(np.array([b]) for b in (_down(top), _up(1 - top), _up(other))))


def leader(votes: NDArray[np.object_]) -> tuple[int, Fraction, Fraction]:
    """The most probable class, the smaller of two, its probability and that of the runner-up."""
    order = sorted(range(len(votes)), key=lambda c: (-votes[c], c))
    return order[0], votes[order[0]], votes[order[1]]


def _down(value: Fraction) -> float:
    near = float(value)
    return near if Fraction(near) <= value else float(np.nextafter(near, -1))


def _up(value: Fraction) -> float:
    near = float(value)
    return near if Fraction(near) >= value else float(np.nextafter(near, 2))
