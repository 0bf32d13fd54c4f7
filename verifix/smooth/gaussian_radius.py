"""The l2 radius that Gaussian noise certifies."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.probabilities import Probabilities

Array = NDArray[np.float64]

QUANTILE_ERROR = 1e-14
"""What the relative error of a normal quantile is taken to be; at most 1e-15 is found against mpmath."""


def gaussian_radius(probabilities: Probabilities, sigma: float) -> Array:
    """``sigma / 2 (z(top) - z(other))`` for each input, rounded down; nan where that is not positive.

    ``z`` is the quantile function of the standard normal law; it is evaluated at ``failure`` and ``other``, so that
    nothing is lost near 1. If the bounds hold, the class ``top`` is the most probable one under N(0, sigma^2 I) noise
    at every input less than this away in the l2 norm, in the units of ``sigma``. The ball is open. Source: Cohen,
    Rosenfeld and Kolter 2019, theorem 1; Feng et al. (ADRE), equation 5.

    Args:
        probabilities: bounds of n inputs.
        sigma: the standard deviation of the noise, one number.

    Raises:
        InvalidType, InvalidValue: see :func:`checked_sigma`.

    >>> half = np.array([0.6]), np.array([0.4]), np.array([0.2])
    >>> gaussian_radius(Probabilities(*half), 1.0).round(4)
    array([0.5475])
    """
    sigma = checked_sigma(sigma)
    with np.errstate(invalid="ignore"):
        total = quantile_below(probabilities.failure) + quantile_below(probabilities.other)
        radius = (sigma / 2 * total) * (1 - 2.0**-51)
        return np.where(radius > 0, radius, np.nan)


def quantile_below(tail: Array) -> Array:
    """A lower bound on the z with ``P(Z > z) = tail`` for standard normal Z.

    >>> float(quantile_below(np.array(0.025)).round(3))
    1.96
    """
    z = -torch.special.ndtri(torch.from_numpy(np.array(tail, dtype=np.float64))).numpy()
    return z * np.where(z > 0, 1 - QUANTILE_ERROR, 1 + QUANTILE_ERROR)


def checked_sigma(sigma: object) -> float:
    """The standard deviation of the noise as a number.

    Raises:
        InvalidType: it is a function of the input: the theorem takes the noise to be the same at all inputs.
        InvalidValue: it is no positive number.

    >>> checked_sigma(1)
    1.0
    """
    if callable(sigma):
        remedy = "one number: noise that depends on the input voids the theorem, which compares equal laws at x and x'"
        raise InvalidType("sigma", sigma, remedy)
    if isinstance(sigma, bool) or not isinstance(sigma, int | float | np.integer | np.floating):
        raise InvalidType("sigma", sigma, "one number > 0")
    if not (math.isfinite(sigma) and sigma > 0):
        raise InvalidValue("sigma", sigma, "must be a number > 0")
    return float(sigma)
