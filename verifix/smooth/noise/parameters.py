"""Checks that families of noise share: one clear error for each wrong parameter."""

from __future__ import annotations

from torch import Tensor

from verifix.errors import InvalidType, InvalidValue

SCALES = (2.0**-64, 2.0**64)
MOST_LEVELS = 65535


def check_scale(argument: str, value: object) -> float:
    """A standard deviation or width: one positive number for all inputs, in the range that float32 noise can have.

    >>> check_scale("sigma", lambda x: x.std())
    Traceback (most recent call last):
    ...
    verifix.errors.InvalidType: sigma is a function: pass one number for all inputs: the certificate at x speaks of \
the classifier at x + delta, which would be smoothed with another variance there (Sukenik et al. 2021)
    """
    refuse_callable(argument, value)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        number = float(value) if not isinstance(value, (bool, str)) else None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise InvalidType(argument, value, "a number > 0")
    if not SCALES[0] <= number <= SCALES[1]:  # so is nan refused
        raise InvalidValue(argument, number, "must be > 0 (2^-64 to 2^64: noise is drawn in float32)")
    return number


def refuse_callable(argument: str, value: object) -> None:
    """No variance that depends on the input: the theorems compare two inputs under one law."""
    if callable(value) and not isinstance(value, Tensor):
        raise InvalidType(
            argument,
            value,
            "one number for all inputs: the certificate at x speaks of the classifier at x + delta, which would be "
            "smoothed with another variance there (Sukenik et al. 2021)",
        )


def check_whole(argument: str, value: object, least: int = 1) -> int:
    """A whole number that is at least ``least``.

    >>> check_whole("levels", 0)
    Traceback (most recent call last):
    ...
    verifix.errors.InvalidValue: levels = 0: must be a whole number >= 1
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidType(argument, value, f"a whole number >= {least}")
    number = int(value)
    if number < least:
        raise InvalidValue(argument, number, f"must be a whole number >= {least}")
    return number


def check_levels(argument: str, value: object) -> int:
    """A number of levels per unit that kernels of noise take."""
    levels = check_whole(argument, value)
    if levels > MOST_LEVELS:
        raise InvalidValue(argument, levels, f"must be {MOST_LEVELS} at most; images of 256 values have 255")
    return levels


def check_lattice(value: object) -> int | None:
    """The number of levels per unit, or None for noise in floating point."""
    return None if value is None else check_levels("lattice", value)
