"""Radii are rounded down, by margins that are stated where they are used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def lowered(value: NDArray[np.float64], units: int) -> NDArray[np.float64]:
    """Nonnegative values made smaller by so many units in the last place (and never negative); nan stays nan.

    Where ``value`` was computed with a relative error below ``(units - 1) 2^-52``, the result is at most the exact one.

    >>> lowered(np.array([1.0, 0.0]), 4) < 1
    array([ True,  True])
    """
    lower: NDArray[np.float64] = np.nextafter(value * (1 - units * 2.0**-52), 0.0)
    return lower
