"""Numbers as text that a reader may rely on."""

from __future__ import annotations

import decimal


def rounded_down(value: float, digits: int = 5) -> str:
    """A radius in a few digits that is, read as a float64 again, none larger.

    >>> rounded_down(0.11999996), rounded_down(0.3), rounded_down(0.0)
    ('0.11999', '0.3', '0')
    """
    shortest = repr(float(value)).removesuffix(".0")
    return f"{decimal.Context(prec=digits, rounding=decimal.ROUND_FLOOR).create_decimal(shortest):g}"


def percent_below(value: float) -> str:
    """A proven share as a percentage with two decimals, rounded down: what is printed is proven too.

    >>> percent_below(0.99999), percent_below(0.29), percent_below(1.0)
    ('99.99%', '29.00%', '100.00%')
    """
    percent = decimal.Decimal(repr(float(value))) * 100
    return f"{percent.quantize(decimal.Decimal('0.01'), decimal.ROUND_FLOOR)}%"
