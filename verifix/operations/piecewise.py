"""Piecewise linear activations: ReLU, leaky ReLU, absolute value, and clipping."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.relu_lines import relu_lines
from verifix.operations.base import Nonlinear, Shape, Slopes, poison
from verifix.operations.relaxation import Levels, Lines, Relaxation


class TwoPiece(Nonlinear):
    """``h(z) = left z`` for ``z < 0``, else ``right z``: ReLU (0, 1), leaky ReLU (a, 1), absolute value (-1, 1).

    On an interval that straddles zero one line is the chord and the other passes through the origin with a free slope
    between the two pieces (thesis, equation 3.4 and figure 3.2; Lee et al., section 3). Rules for the free slope:

    - ``same``: the chord's, so that the lines are parallel (CAP, equation 3.18);
    - ``adaptive``: the piece whose triangle has the smaller area (CROWN);
    - ``zero`` and ``one``: the slope nearest to 0 or to 1;
    - ``constant``: no slopes at all, the interval of the output (IBP).

    Given as shares, it lies that far between the two pieces' slopes: for ReLU it is its share.
    """

    free = 1

    def __init__(self, shape: Shape, left: float = 0.0, right: float = 1.0) -> None:
        self.inputs = (shape,)
        self.shape = shape
        self.left, self.right = left, right

    def forward(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        if self.left == 0.0 and self.right == 1.0:
            return z.clamp(min=0)
        return torch.where(z < 0, self.left * z, self.right * z)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        at_lower, at_upper = self.forward(lowers[0]), self.forward(uppers[0])
        if self.left >= 0 and self.right >= 0:
            return at_lower, at_upper
        low, high = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
        straddles = (lowers[0] < 0) & (uppers[0] > 0)
        return torch.where(straddles, low.clamp(max=0), low), torch.where(straddles, high.clamp(min=0), high)

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (upper <= 0) | (lower >= 0)

    def shares(self, lower: Tensor, upper: Tensor, slopes: Slopes) -> Tensor:
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        small, large = min(self.left, self.right), max(self.left, self.right)
        if slopes in ("same", "adaptive"):  # the share of the right piece
            right = high / (high - low) if slopes == "same" else (high > -low).to(lower)
            share = right if self.left <= self.right else 1 - right
        else:
            slope = min(max(0.0 if slopes == "zero" else 1.0, small), large)
            share = torch.full_like(lower, (slope - small) / (large - small) if large > small else 0.0)
        return _within(share)[:, None]

    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes | Tensor) -> Relaxation:
        if isinstance(slopes, str) and slopes == "constant":
            return Levels(*self.interval([lower], [upper]))
        left, right = self.left, self.right
        if (left, right) == (0.0, 1.0) and isinstance(slopes, str) and slopes in ("same", "adaptive"):
            chord, offset, steep = relu_lines(lower, upper)
            return Lines(chord if slopes == "same" else steep, None, chord, offset)
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        width = high - low
        divisor = width + (width == 0)
        # the chord of ReLU: 0 or 1 where it is stable, NaN where a bound is not known or the width overflows
        share = high / divisor + (width - width)
        # not left (1 - share) + right share, whose rounding a steep left piece would enlarge
        chord = share if (left, right) == (0.0, 1.0) else (right * high - left * low) / divisor + (width - width)
        offset = (left - right) * share * low
        named = isinstance(slopes, str)
        if named and slopes == "same":
            free = chord
        else:
            # by full_like, not torch.where of two numbers, which would round them to float32
            at_left, at_right = torch.full_like(lower, left), torch.full_like(lower, right)
            if named and slopes == "adaptive":
                free = torch.where(high > -low, at_right, at_left)  # where it is stable, one of the two is zero
            else:
                small, large = min(left, right), max(left, right)
                if isinstance(slopes, Tensor):  # the clamp is for rounding
                    chosen = (small + slopes[:, 0] * (large - small)).clamp(small, large)
                else:
                    chosen = torch.full_like(lower, min(max(0.0 if slopes == "zero" else 1.0, small), large))
                stable = torch.where(upper <= 0, at_left, at_right)
                free = torch.where((upper <= 0) | (lower >= 0), stable, chosen)
        if left <= right:
            return Lines(free, None, chord, offset)
        return Lines(chord, offset, free, None)


class Clip(Nonlinear):
    """``h(z) = min(max(z, low), high)``: clamp, hardtanh, ReLU6; ``low`` or ``high`` may be infinite.

    With both kinks inside the interval each line passes through one kink: the upper through ``(high, high)`` with slope
    at most ``(high - low) / (high - l)``, the lower through ``(low, low)`` with slope at most ``(high - low) / (u -
    low)``. ``same`` takes the smaller of the two for both (thesis, equation 3.62). Shares are of the largest slope of
    the lower line and of the upper, and count where the line passes through a kink.
    """

    free = 2

    def __init__(self, shape: Shape, low: float, high: float) -> None:
        if not low <= high:
            raise InvalidValue("clamp", f"({low}, {high})", "needs min <= max")
        self.inputs = (shape,)
        self.shape = shape
        self.low, self.high = low, high

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(self.low, self.high)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.forward(lowers[0]), self.forward(uppers[0])

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (upper <= self.low) | (lower >= self.high) | ((lower >= self.low) & (upper <= self.high))

    def shares(self, lower: Tensor, upper: Tensor, slopes: Slopes) -> Tensor:
        if slopes == "same":
            low, high = self.low, self.high
            chord = (self.forward(upper) - self.forward(lower)) / (upper - lower)
            # of two kinks the smaller of both largest slopes: for one of the lines a share of one
            both = (lower < low) & (upper > high)
            below, above = (upper - low) / (high - lower), (high - lower) / (upper - low)
            shares = [torch.where(both, side, chord) for side in (below, above)]
        elif slopes == "adaptive":
            middle = (lower + upper) / 2
            shares = [(middle > self.low).to(lower), (middle < self.high).to(lower)]
        else:
            shares = [torch.full_like(lower, 0.0 if slopes == "zero" else 1.0)] * 2
        return _within(torch.stack(shares, 1))

    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes | Tensor) -> Relaxation:
        if isinstance(slopes, str) and slopes == "constant":
            return Levels(*self.interval([lower], [upper]))
        flat = (upper <= self.low) | (lower >= self.high)
        kink_low = (lower < self.low) & ~flat
        kink_high = (upper > self.high) & ~flat
        # finite stand-ins where a side is infinite: the masks are then false everywhere
        low = self.low if self.low > -torch.inf else 0.0
        high = self.high if self.high < torch.inf else 0.0
        both = kink_low & kink_high
        chord = (self.forward(upper) - self.forward(lower)) / torch.where(kink_low | kink_high, upper - lower, 1.0)
        most_above = torch.where(both, (high - low) / torch.where(both, high - lower, 1.0), 1.0)
        most_below = torch.where(both, (high - low) / torch.where(both, upper - low, 1.0), 1.0)
        level = torch.where(flat, 0.0, 1.0).to(lower)
        if isinstance(slopes, str) and slopes == "same":
            one_kink = torch.where(kink_low | kink_high, chord, level)
            slope = torch.where(both, torch.minimum(most_above, most_below), one_kink)
            above = below = slope
        else:
            middle = (lower + upper) / 2
            above = torch.where(
                kink_high, most_above * _pick(slopes, 1, middle < high), torch.where(kink_low, chord, level)
            )
            below = torch.where(
                kink_low, most_below * _pick(slopes, 0, middle > low), torch.where(kink_high, chord, level)
            )
        at_lower, unknown = self.forward(lower), poison(lower, upper)
        # each line passes through its kink, or through the left end of the interval
        offset_above = torch.where(kink_high, high - above * high, at_lower - above * lower) + unknown
        offset_below = torch.where(kink_low, low - below * low, at_lower - below * lower) + unknown
        return Lines(below, offset_below, above, offset_above)


def _within(share: Tensor) -> Tensor:
    return share.nan_to_num(0.0).clamp(0, 1)


def _pick(slopes: Slopes | Tensor, line: int, steep_is_tighter: Tensor) -> Tensor | float:
    if isinstance(slopes, Tensor):
        return slopes[:, line]
    if slopes == "adaptive":
        return steep_is_tighter
    return 0.0 if slopes == "zero" else 1.0
