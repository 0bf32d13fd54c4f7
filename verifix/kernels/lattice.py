"""Noise that is a whole number of lattice steps: the tables that its law is drawn from, exactly."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.noise_reference import quotient

LAWS = ("gaussian", "laplace", "uniform")
MOST_STEPS = 2**18  # either way
MOST_POSITION = 2**22  # |k| of an input: with the steps it stays below 2**24, where float32 still has every integer
GUIDE_BITS = (4, 12)  # buckets per octave, fewest and most, as powers of two
AMBIGUOUS = 2.0**-12  # how often, at most, if the bits above allow it, a draw must search


@dataclass(frozen=True, eq=False)
class LatticeTable:
    """The law of ``rint(levels * scale * Z)`` as thresholds for 64 random bits; made by :func:`lattice_table`.

    Attributes:
        law, scale, levels: what it was made for.
        thresholds: ``(m,)`` int64: ``2**64 P(K <= k)`` for k = -m to -1, each rounded to the nearest integer. The law
            is symmetric: these are all below ``2**63``, and the other half follows.
        guide: ``(buckets, 2)`` int32, where to look first: see :func:`_guide`.
        guide_shift: how the bits of a float32 become the number of a bucket.
        total_variation: bound on the total variation between the law that is drawn, from ideal random bits, and the
            exact one, for one coordinate; rounded up.
    """

    law: str
    scale: float
    levels: int
    thresholds: Tensor
    guide: Tensor
    guide_shift: int
    total_variation: float
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def steps(self) -> int:
        """The most lattice steps that noise goes, either way."""
        return len(self.thresholds)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Thresholds and guide on a device, copied there once."""
        if device not in self._copies:
            self._copies[device] = (self.thresholds.to(device), self.guide.to(device))
        return self._copies[device]


@functools.lru_cache(maxsize=32)
def lattice_table(law: str, scale: float, levels: int) -> LatticeTable:
    """The table that draws ``K = rint(levels * scale * Z)`` exactly, up to a stated total variation.

    Z is standard normal (``gaussian``), of density ``exp(-|t|) / 2`` (``laplace``) or uniform on [-1, 1] (``uniform``).
    Probabilities are computed with 50 digits and rounded to multiples of ``2**-64``. The total variation between drawn
    and exact law, truncated tails included, is summed from those digits.

    Raises:
        InvalidType: scale is not a number.
        InvalidValue: there is no such law; scale is not a positive number; levels is not from 1 to 65535; or the noise
            would go more than 2**18 steps.

    >>> table = lattice_table("gaussian", 0.25, 255)
    >>> table.steps, table.total_variation < 1e-16
    (584, True)
    """
    if law not in LAWS:
        raise InvalidValue("law", law, f"must be one of {', '.join(LAWS)}")
    if not isinstance(scale, (int, float)):
        raise InvalidType("scale", scale, "a number, the same for every input and coordinate of a lattice")
    if not 0 < scale < math.inf:
        raise InvalidValue("scale", scale, "must be a positive number")
    check_levels(levels)
    values, total_variation = _thresholds(law, scale, levels)
    guide, shift = _guide(values)
    return LatticeTable(law, scale, levels, torch.from_numpy(values), torch.from_numpy(guide), shift, total_variation)


def check_levels(levels: int) -> None:
    """Refuse what is no number of lattice steps per unit.

    Raises:
        InvalidType, InvalidValue: it is not a whole number, or not from 1 to 65535.
    """
    if isinstance(levels, bool) or not isinstance(levels, int):
        raise InvalidType("levels", levels, "a whole number")
    if not 1 <= levels <= 65535:
        raise InvalidValue("levels", levels, "must be from 1 to 65535; images of 256 values have 255")


def check_lattice(x: Tensor, levels: int) -> Tensor:
    """The whole numbers k, int32, of inputs that hold ``k / levels``; an error that names the first other input.

    Args:
        x: ``(n, ...)`` float32 or float64; every entry equal to ``k / levels``, rounded to that type, for a whole
            number k with ``|k| <= 2**22``.
        levels: steps of the lattice per unit; 255 for images of 256 values.

    Raises:
        InvalidValue: an input is not on the lattice.

    >>> check_lattice(torch.tensor([[0.0, 51 / 255]]), 255)
    tensor([[ 0, 51]], dtype=torch.int32)
    >>> check_lattice(torch.tensor([[0.0], [0.5]]), 255)
    Traceback (most recent call last):
    ...
    verifix.errors.InvalidValue: x[1] = 0.5: an entry is not a multiple of 1/255; quantise the inputs, or use noise ...
    """
    check_levels(levels)
    positions = nearest_positions(x, levels)
    off = (
        (quotient(positions, levels, x.dtype) != x).reshape(len(x), -1)
        if x.numel()
        else torch.zeros(0, 0, dtype=torch.bool)
    )
    if bool(off.any()):
        first = int(off.any(dim=1).to(torch.uint8).argmax())
        value = float(x[first].reshape(-1)[off[first]][0])
        remedy = f"not a multiple of 1/{levels}; quantise the inputs, or use noise without a lattice"
        raise InvalidValue(f"x[{first}]", value, f"an entry is {remedy}")
    return positions


def nearest_positions(x: Tensor, levels: int) -> Tensor:
    """The nearest lattice points, int32; the point 0 for NaN, which :func:`check_lattice` refuses."""
    return (x * levels).round().nan_to_num(0.0).clamp(-MOST_POSITION, MOST_POSITION).to(torch.int32)


def _thresholds(law: str, scale: float, levels: int) -> tuple[NDArray[np.int64], float]:
    """The thresholds, and the total variation that rounding them and cutting the tails costs."""
    import mpmath

    with mpmath.workdps(50):
        spread = mpmath.mpf(levels) * mpmath.mpf(scale)
        root = spread * mpmath.sqrt(2)

        def below(k: int) -> mpmath.mpf:  # P(K <= k) for k < 0
            z = -(mpmath.mpf(k) + 0.5)  # positive
            if law == "gaussian":
                return mpmath.erfc(z / root) / 2
            if law == "laplace":
                return mpmath.exp(-z / spread) / 2
            return max((spread - z) / (2 * spread), mpmath.mpf(0))

        # More than the tail beyond which a threshold rounds to 0, for each law.
        reach = float(spread) * {"gaussian": 9.3, "laplace": 44.7, "uniform": 1.0}[law] + 2
        if reach > MOST_STEPS:
            most = scale * MOST_STEPS / reach
            raise InvalidValue("scale", scale, f"noise goes too far on {levels} levels; use at most {most:.6g}")
        values: list[int] = []
        one, error, total, previous = mpmath.mpf(2) ** 64, mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(0)
        for k in range(-math.ceil(reach), 0):
            exact = below(k)
            threshold = int(mpmath.nint(exact * one))
            if threshold or values:
                values.append(threshold)
            error = threshold / one - exact
            total += abs(error - previous)  # the first is all of the tail before it
            previous = error
        # Half of the absolute differences: both sides have `total`, and the middle has twice the last error. The digits
        # beyond those of 2**-64 cover what mpmath itself may be off by.
        bound = total + abs(error) + (len(values) + 2) * mpmath.mpf(2) ** -100
        return np.array(values, dtype=np.int64), float(np.nextafter(float(bound * (1 + mpmath.mpf(2) ** -50)), 1.0))


def buckets(draw: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Which bucket of the guide the upper 31 bits of a draw fall into: by their size, as a float32 orders them, with
    the same number of buckets in every octave, so that the tails get as many as the middle."""
    pattern = draw.astype(np.float32).view(np.int32).astype(np.int64)
    return np.maximum((pattern >> shift) - ((127 << 23 >> shift) - 1), 0)


def _guide(thresholds: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """For each bucket the number of thresholds below it, and the upper 31 bits of the one threshold inside.

    A draw goes past the one threshold if its upper bits are larger, and not if they are smaller. Where they are equal,
    and in buckets with more than one threshold, marked by a count of -1, all 63 bits are compared with the thresholds.
    """
    upper = thresholds >> 32
    for bits in range(GUIDE_BITS[0], GUIDE_BITS[1] + 1):
        shift = 23 - bits
        size = (31 << bits) + 2
        at = buckets(upper, shift)
        inside = np.bincount(at, minlength=size)
        first = np.searchsorted(at, np.arange(size))
        octave = np.maximum(np.arange(size) - 1, 0) >> bits
        width = 2.0 ** (octave - 31 - bits)  # of a bucket, as a probability, for both signs
        if (width * (inside > 1)).sum() <= AMBIGUOUS:
            break
    guide = np.empty((size, 2), dtype=np.int32)
    guide[:, 0] = np.where(inside > 1, -1, first)
    guide[:, 1] = 2**31 - 1
    guide[at, 1] = upper
    return guide, shift
