"""Numbers as text that a reader may rely on."""

from __future__ import annotations

import decimal


def rounded_down(value: float, digits: int = 5) -> str:
    """A radius in a few digits that is none larger.

    >>> rounded_down(0.11999996), rounded_down(0.5), rounded_down(0.0)
    ('0.11999', '0.5', '0')
    """
    return f"{decimal.Context(prec=digits, rounding=decimal.ROUND_FLOOR).create_decimal_from_float(value):g}"
