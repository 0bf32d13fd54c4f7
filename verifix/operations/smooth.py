"""S-shaped activations: sigmoid and tanh."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from verifix.operations.base import Nonlinear, Shape, Slopes, poison
from verifix.operations.relaxation import Levels, Lines, Relaxation


class SShaped(Nonlinear):
    """Increasing, convex below zero, concave above, with a derivative that falls away from zero on both sides.

    - ``same``: both lines have slope ``min(h'(l), h'(u))``, the least of the derivative on the interval, and pass
      through the ends; sound for every such function (Singh et al., DeepPoly).
    - ``adaptive`` and ``one``: the chord on the side where it is sound, and a tangent on the other. Where neither end
      of the interval settles it, the tangent that passes through the far end; its point of contact is found by
      bisection from the sound side (Zhang et al., CROWN).
    - ``zero``: flat lines through the ends.
    """

    roundings = 64

    def __init__(self, shape: Shape) -> None:
        self.inputs = (shape,)
        self.shape = shape

    @abstractmethod
    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative at ``z``."""

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.forward(lowers[0]), self.forward(uppers[0])

    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes | Tensor) -> Relaxation:
        at_lower, at_upper = self.forward(lower), self.forward(upper)
        if slopes == "constant":
            return Levels(at_lower, at_upper)
        unknown = poison(lower, upper)
        if slopes == "zero":
            flat = torch.zeros_like(lower)
            return Lines(flat, at_lower + unknown, flat, at_upper + unknown, scale=1.0)
        least = torch.minimum(self.derivatives(lower)[0], self.derivatives(upper)[0])
        if slopes == "same":
            return Lines(
                least, at_lower - least * lower + unknown, least, at_upper - least * upper + unknown, scale=1.0
            )
        # a chord over a very short interval is all rounding: keep the parallel lines there
        short = ~(
            upper - lower > 1e-3 * (1 + torch.maximum(lower.abs(), upper.abs())) * torch.finfo(lower.dtype).eps ** 0.25
        )
        chord = torch.where(short, least, (at_upper - at_lower) / torch.where(short, 1.0, upper - lower))
        above, offset_above = self._upper_line(lower, upper, at_lower, chord)
        # h is odd about its value at zero: the lower line is the upper line of the mirrored interval
        center = 2 * self.forward(torch.zeros_like(lower))
        below, mirrored = self._upper_line(-upper, -lower, center - at_upper, chord)
        offset_below = center - mirrored
        above, offset_above = (
            torch.where(short, least, above),
            torch.where(short, at_upper - least * upper, offset_above),
        )
        below, offset_below = (
            torch.where(short, least, below),
            torch.where(short, at_lower - least * lower, offset_below),
        )
        return Lines(below, offset_below + unknown, above, offset_above + unknown, scale=1.0)

    def _upper_line(self, lower: Tensor, upper: Tensor, at_lower: Tensor, chord: Tensor) -> tuple[Tensor, Tensor]:
        contact = torch.where(lower >= 0, (lower + upper) / 2, self._contact(lower, upper, at_lower))
        tangent_slope = self.derivatives(contact)[0]
        tangent_offset = self.forward(contact) - tangent_slope * contact
        with torch.no_grad():
            end_slope = self.derivatives(upper)[0]
            tangent_fits = (upper > 0) & (self.forward(upper) + end_slope * (lower - upper) >= at_lower)
        use_tangent = (lower >= 0) | tangent_fits
        return torch.where(use_tangent, tangent_slope, chord), torch.where(
            use_tangent, tangent_offset, at_lower - chord * lower
        )

    def _contact(self, lower: Tensor, upper: Tensor, at_lower: Tensor) -> Tensor:
        """Where the tangent through ``(lower, h(lower))`` touches the concave part, for ``lower < 0 < upper``."""
        with torch.no_grad():
            low, high = torch.zeros_like(upper), upper.clamp(min=0)
            for _ in range(64 if lower.dtype == torch.float64 else 32):
                middle = (low + high) / 2
                sound = self.forward(middle) + self.derivatives(middle)[0] * (lower - middle) >= at_lower
                low, high = torch.where(sound, low, middle), torch.where(sound, middle, high)
        if not torch.is_grad_enabled():
            return high
        # the implicit function's derivative, by one Newton step whose value is not used
        slope, curvature = (d.detach() for d in self.derivatives(high))
        residual = self.forward(high).detach() + slope * (lower - high) - at_lower
        steepness = curvature * (lower - high).detach()
        usable = steepness.abs() > 1e-12
        newton = torch.where(usable, -residual / torch.where(usable, steepness, 1.0), 0.0)
        return high + (newton - newton.detach())


class Sigmoid(SShaped):
    """``1 / (1 + exp(-z))``."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs[0])

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, mirrored = torch.sigmoid(z), torch.sigmoid(-z)
        return value * mirrored, value * mirrored * (mirrored - value)


class Tanh(SShaped):
    """Hyperbolic tangent."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(inputs[0])

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, mirrored = torch.sigmoid(2 * z), torch.sigmoid(-2 * z)
        first = 4 * value * mirrored
        return first, -2 * torch.tanh(z) * first
