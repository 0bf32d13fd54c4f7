"""How far a geometric mean of Cauchy variables falls below their scale: the tail that ``geometric`` rests on.

Theorem (proved in ``docs/projections.md``). Let ``X_1 .. X_k``, ``k >= 2``, be independent Cauchy variables of scale
``c``. For ``s > 0``, with ``a = 2 s / pi`` and ``t = 2 atan(a) / pi``,

    P( prod |X_i|^(1/k) <= c exp(-s) )  <=  exp(-k (s t - log(1 + a^2) / 2)) * min(1, p),

    p = Gamma((k - 1) / 2) / (pi^(3/2) t sqrt(1 + a^2) Gamma(k / 2)).

The exponent is that of equation 3.92 of the thesis, with ``s = -log(1 - eps)``; the factor ``p`` is new.
"""

from __future__ import annotations

import functools
import math

from verifix.errors import InvalidValue

LARGEST_INFLATION = 2.0
"""Beyond this a norm is not worth estimating: more rows would do."""
TARGET_INFLATION = 1.25
"""What ``k`` is chosen for where none is given."""


def log_tail(s: float, k: int) -> float:
    """Logarithm of the bound of the theorem.

    >>> log_tail(0.22, 200) < math.log(0.26)  # the example of the thesis, section 3.4.6
    True
    """
    a = 2 * s / math.pi
    t = 2 * math.atan(a) / math.pi
    if t <= 0:
        return 0.0
    exponent = -k * (s * t - math.log1p(a * a) / 2)
    ratio = math.lgamma((k - 1) / 2) - math.lgamma(k / 2)
    factor = ratio - 1.5 * math.log(math.pi) - math.log(t) - math.log1p(a * a) / 2
    return exponent + min(0.0, factor)


@functools.lru_cache(maxsize=4096)
def inflation(log_level: float, k: int, groups: int = 1) -> float:
    """The factor on a geometric mean, or on the largest of several, that fails to bound the scale with probability at
    most ``exp(log_level)``; rounded up.

    >>> round(inflation(math.log(0.01 / 6572), 2000), 3)
    1.179
    """
    wanted = log_level / groups  # all of the groups have to fail
    if wanted >= 0:
        return 1.0
    low, high = 0.0, 1.0
    while log_tail(high, k) > wanted:
        low, high = high, 2 * high
        if high > 600:
            return math.inf
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(middle, k) > wanted else (low, middle)
    return math.exp(high * (1 + 1e-9) + 1e-12)


def rows_for(log_level: float, factor: float, groups: int = 1) -> int:
    """The least ``k`` whose :func:`inflation` is at most ``factor``."""
    low, high = 1, 2
    while inflation(log_level, high, groups) > factor:
        low, high = high, 2 * high
        if high > 1 << 40:
            raise InvalidValue("delta", math.exp(log_level), "is too small for any number of rows")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if inflation(log_level, middle, groups) > factor else (low, middle)
    return high
