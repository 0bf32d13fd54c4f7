"""The radius that Gaussian noise certifies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from verifix.smooth.probabilities import Probabilities


def gaussian_radius(probabilities: Probabilities, sigma: float) -> NDArray[np.float64]:
    """``sigma / 2 (z(p_A) - z(p_B))``, rounded down; nan where it is not positive. Cohen et al. 2019, theorem 1.

    Each quantile is computed from the side on which its probability is small; scipy's is trusted to a relative error of
    2^-48 (it claims less than 2^-50).

    >>> bounds = Probabilities(top=np.array([0.99]), failure=np.array([0.01]), other=np.array([0.01]))
    >>> gaussian_radius(bounds, 1.0).round(4)
    array([2.3263])
    """
    from scipy.special import ndtri

    top, failure, other = probabilities.top, probabilities.failure, probabilities.other
    with np.errstate(invalid="ignore"):
        of_top = np.where(failure < 0.5, -ndtri(failure), ndtri(np.minimum(top, 0.5)))
        of_other = ndtri(other)
        difference = of_top - of_other
        doubt = (np.abs(of_top) + np.abs(of_other)) * 2.0**-48
        lower = np.nextafter(sigma / 2 * (difference - doubt) * (1 - 2.0**-50), 0.0)
    radius = np.where(difference == np.inf, np.inf, lower)
    return np.where((radius > 0) & (top > other), radius, np.nan)
