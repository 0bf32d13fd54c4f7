"""The radii that tables of certified accuracy are made for."""

from __future__ import annotations

import math

_POINTS = 10


def round_radii(largest: float, *, whole: bool = False) -> list[float]:
    """Round numbers from 0 to the largest radius, about ten at most: multiples of 1, 2.5 or 5 times a power of ten.

    Args:
        largest: of the radii that were found.
        whole: whole numbers only, as for l0.

    >>> round_radii(1.9), round_radii(3.0, whole=True), round_radii(0.0)
    ([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75], [0.0, 1.0, 2.0, 3.0], [0.0])
    """
    if largest <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(largest / _POINTS))
    step = next(factor * power for factor in (1, 2.5, 5, 10) if factor * power * _POINTS >= largest)
    if whole:
        step = max(1.0, math.ceil(step))
    return [round(i * step, 12) for i in range(math.floor(largest / step) + 1)]
