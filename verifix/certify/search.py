"""The largest radius at which a margin is still positive, for many inputs at once and in few evaluations.

A certificate's margin ``m`` falls with the radius from the clean margin ``m0 = m(0)``, gently while few units are
unstable and steeply, about as a power of the radius, from then on. So the search works on

    v(u) = log(1 - m(exp u) / m0),

which is zero at the radius sought and exactly linear in ``u`` wherever ``m = m0 (1 - (eps / r) ** p)``: there one step
of Newton's method arrives. The method of the thesis (section 3.3.1) needs the derivative of the bound, which costs as
much as several evaluations; its slope is taken here from what is at hand: from inputs of the same batch that were
solved before, then from the last two points (secant), then from the last three (inverse quadratic interpolation). Each
step is kept inside the bracket of the largest radius that was certified and the smallest above it that was not; where
three steps have not halved the bracket, on the scale of ``u``, it is bisected, so the search ends for every function.
Nothing but speed rests on the margin's shape, on its being monotone or even continuous: both ends of the bracket were
evaluated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Margin = Callable[[Tensor, Tensor], Tensor]
"""Margins ``(k,)`` of the inputs with these numbers ``(k,)`` at these radii ``(k,)``."""

START = 0.01
"""The first radius of the first input; it is found from any other in a few more evaluations."""
PILOTS = (1, 8)
"""So many inputs are solved first, and then so many; the others start from the results of these."""
LEAST = 2.0**-64
"""Where nothing is certified down to this radius, or this fraction of the largest if that is below 1, none is tried."""
SLOPES = (0.5, 100.0)
"""The range of slopes of ``v`` that are passed on between inputs."""


@dataclass(frozen=True)
class Bracket:
    """Where the search ended, one entry per input, all ``(n,)``.

    Attributes:
        certified: the largest radius below ``uncertified`` whose margin was positive; zero where there is none.
        uncertified: the smallest radius above ``certified`` whose margin was not; infinite where the largest radius
            was certified.
        evaluations: how many margins were asked for.
    """

    certified: Tensor
    uncertified: Tensor
    evaluations: Tensor


def largest_radius(margin: Margin, clean: Tensor, most: Tensor, tolerance: float) -> Bracket:
    """For each input a radius with a positive margin, and one without that is at most ``1 + tolerance`` times larger.

    Args:
        margin: the function; NaN counts as not positive.
        clean: its values at radius zero, about: all positive, ``(n,)`` float64.
        most: the largest radius to try, finite, ``(n,)`` float64.
        tolerance: relative, at least 1e-9.

    >>> def root(index, eps):
    ...     return torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)[index] - eps**5
    >>> clean, most = torch.tensor([1.0, 3.0, 0.5]).double(), torch.tensor([8.0, 8.0, 0.25]).double()
    >>> bracket = largest_radius(root, clean, most, 1e-5)
    >>> bracket.certified
    tensor([1.0000, 1.2457, 0.2500], dtype=torch.float64)
    >>> bracket.uncertified / bracket.certified <= 1 + 1e-5
    tensor([ True,  True, False])
    """
    n = len(clean)
    search = _Search(margin, clean, most, tolerance)
    sizes = [*PILOTS, n]
    begin = 0
    for size in sizes:
        group = torch.arange(begin, min(begin + size, n), device=clean.device)
        if len(group):
            search.solve(group)
        begin += len(group)
    return Bracket(search.low, search.high, search.evaluations)


class _Search:
    """The state of all inputs; ``low`` and ``high`` are the ends of the brackets, ``v`` is kept for three points."""

    def __init__(self, margin: Margin, clean: Tensor, most: Tensor, tolerance: float) -> None:
        self.margin, self.clean, self.most = margin, clean, most
        self.tolerance = tolerance
        self.aim = 0.98 * math.log1p(tolerance)  # less, for the rounding of logarithms
        self.least = most.clamp(max=1.0) * LEAST
        self.low, self.high = torch.zeros_like(clean), torch.full_like(clean, math.inf)
        self.slope = torch.full_like(clean, math.nan)
        self.evaluations = torch.zeros_like(clean, dtype=torch.int64)

    def solve(self, group: Tensor) -> None:
        """Close the brackets of some inputs, starting from what is known of others."""
        eps, slope = self._start(group)
        width = torch.full_like(eps, math.inf)
        history = []
        points = eps.new_full((3, 2, len(group)), math.nan)
        active = torch.arange(len(group), device=group.device)
        for step in itertools.count(1):
            inputs, tried = group[active], eps[active]
            value = self.margin(inputs, tried)
            self.evaluations[inputs] += 1
            positive = value > 0
            self.low[inputs] = torch.where(positive, torch.maximum(self.low[inputs], tried), self.low[inputs])
            self.high[inputs] = torch.where(positive, self.high[inputs], torch.minimum(self.high[inputs], tried))
            points[1:, :, active] = points[:2, :, active].clone()
            points[0, :, active] = torch.stack([tried.log(), _transformed(value, self.clean[inputs])])
            history.append(points[0].clone())
            active = active[self._open(inputs)]
            if not len(active):
                break
            low, high = self._logarithms(group[active])
            wanted = _estimate(points[:, :, active], slope[active], low, high)
            wanted = self._placed(wanted, low, high)
            if step % 3 == 0:
                narrow = high - low
                wanted = torch.where(narrow > width[active] / 2, (low + high) / 2, wanted)
                width[active] = narrow
            inside = (wanted > low) & (wanted < high)
            eps[active] = self._radii(group[active], torch.where(inside, wanted, (low + high) / 2))
        self._learn(group, torch.stack(history))

    def _start(self, group: Tensor) -> tuple[Tensor, Tensor]:
        """First radii, from the solved input whose clean margin is the most alike, and first slopes."""
        solved = (torch.isfinite(self.slope) & (self.low > 0)).nonzero()[:, 0]
        if not len(solved):
            start = torch.full_like(self.clean[group], START)
            return torch.minimum(start, self.most[group]), torch.ones_like(start)
        sizes = self.clean.log()
        nearest = solved[(sizes[group][:, None] - sizes[solved]).abs().argmin(1)]
        slope = self.slope[solved].median().expand(len(group))
        return torch.minimum(self.low[nearest], self.most[group]), slope

    def _open(self, inputs: Tensor) -> Tensor:
        """Which searches are not at their end."""
        low, high, least = self.low[inputs], self.high[inputs], self.least[inputs]
        closed = (high <= low * (1 + self.tolerance)) | (low >= self.most[inputs])
        closed |= (low == 0) & (high <= 2 * least)
        return ~closed

    def _logarithms(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The brackets on the scale of ``u``, within the radii that are to be tried at all."""
        low = torch.maximum(self.low[inputs], self.least[inputs]).log()
        # beyond the largest radius by a little: so that the search may arrive there
        high = torch.where(torch.isinf(self.high[inputs]), self.most[inputs] * 2, self.high[inputs]).log()
        return low, high

    def _placed(self, estimate: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Where to evaluate, given where the root is thought to be: so that the bracket closes from both ends.

        If the estimate is within the tolerance of an end, as far from that end as the tolerance allows; else a little
        on the far side of the estimate, seen from the nearer end.
        """
        below, above = estimate - low, high - estimate
        upwards = torch.where(below < self.aim, low + self.aim, estimate + 0.3 * self.aim)
        downwards = torch.where(above < self.aim, high - self.aim, estimate - 0.3 * self.aim)
        return torch.where(below <= above, upwards, downwards)

    def _radii(self, inputs: Tensor, u: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(u.exp(), self.least[inputs]), self.most[inputs])

    def _learn(self, group: Tensor, history: Tensor) -> None:
        """The slope of ``v`` at the root: of the chord to the nearest point that is not too near, ``(steps, 2, k)``."""
        offset = history[:, 0] - self.low[group].log()
        distance = torch.where((offset.abs() > 0.02) & torch.isfinite(history[:, 1]), offset.abs(), math.inf)
        nearest = distance.argmin(0, keepdim=True)
        slope = (history[:, 1] / offset).gather(0, nearest)[0]
        known = torch.isfinite(distance).any(0) & (slope > 0)
        self.slope[group] = torch.where(known, slope.clamp(*SLOPES), math.nan)


def _transformed(value: Tensor, clean: Tensor) -> Tensor:
    """``v``; at most -30 below where the margin is not below the clean one, as it may be by rounding."""
    ratio = value / clean
    return torch.where(ratio < 1, torch.log1p(-ratio), torch.where(torch.isnan(ratio), math.nan, -30.0)).clamp(min=-30)


def _estimate(points: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where the root may be, from the last points ``(3, 2, k)``, newest first; NaN where none of them says."""
    (u0, v0), (u1, v1), (u2, v2) = points
    chord = (v1 - v0) / (u1 - u0)
    usable = torch.isfinite(chord) & (chord > 0)
    secant = u0 - v0 / torch.where(usable, chord, slope)
    quadratic = (
        u0 * v1 * v2 / ((v0 - v1) * (v0 - v2))
        + u1 * v0 * v2 / ((v1 - v0) * (v1 - v2))
        + u2 * v0 * v1 / ((v2 - v0) * (v2 - v1))
    )
    monotone = ((v0 - v1) * (u0 - u1) > 0) & ((v0 - v2) * (u0 - u2) > 0) & ((v1 - v2) * (u1 - u2) > 0)
    inside = monotone & (quadratic >= low) & (quadratic <= high)
    estimate = torch.where(inside, quadratic, secant)
    # not further than the points bear out: a thousandth, or eight times as much
    estimate = torch.minimum(torch.maximum(estimate, u0 - math.log(1000)), u0 + math.log(8))
    return torch.where((estimate >= low) & (estimate <= high), estimate, (low + high) / 2)
