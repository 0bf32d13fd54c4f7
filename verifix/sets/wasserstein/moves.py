"""Two ways to write down how mass moves, for :mod:`verifix.sets.wasserstein.projection`: plans of a window, and flows.

Both are tensors ``m`` with an image ``z = x + A m`` that is linear in them, a convex set of moves within the budget
that is easy to project onto, and so easy to minimise over. Everything is float64.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from verifix.kernels.transport_project import plan_gradient, plan_image, project_plan
from verifix.kernels.transport_project_reference import inside_image, window_of

_SWEEPS = 200
_GENTLE = 30
_GOLDEN = (5**0.5 - 1) / 2


class Moves(Protocol):
    """What the projection needs to know of moves around images ``x``, ``(n, C, H, W)``, within ``budget``, ``(n,)``.

    Attributes:
        lipschitz: the largest eigenvalue of ``A^T A``, or a bound on it.
        signed: whether moves within the budget can take more from a pixel than it holds.
    """

    x: Tensor
    budget: Tensor
    lipschitz: float
    signed: bool

    def none(self) -> Tensor:
        """The moves that leave the image as it is."""

    def image(self, m: Tensor) -> Tensor:
        """``x + A m``, ``(n, C, H, W)``."""

    def adjoint(self, g: Tensor) -> Tensor:
        """``A^T g``, like moves."""

    def project(self, m: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """The nearest moves within the budget, and the multiplier of it, ``(n,)``."""

    def gap(self, m: Tensor, g: Tensor, multiplier: Tensor) -> Tensor:
        """``max <g, A m'> - <g, A m>`` over all moves m' within the budget, ``(n,)``: at least that, never negative.

        A sum of terms that are 0 at a maximiser each, so that little is lost to rounding.
        """

    def take_back(self, m: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Moves made smaller, none larger, until the image is within these bounds up to rounding, as x is."""

    def select(self, index: Tensor) -> Moves:
        """The moves around some of the images."""


def broadcast(scale: Tensor, like: Tensor) -> Tensor:
    """``(n,)`` as factors of ``(n, ...)``."""
    return scale.reshape(-1, *[1] * (like.dim() - 1))


def total(x: Tensor) -> Tensor:
    """Sums of ``(n, ...)``, ``(n,)``."""
    return x.flatten(1).sum(1)


class Plans:
    """Plans ``(n, C, K, H, W)`` of a window; see :mod:`verifix.kernels.transport_project`."""

    signed = False

    def __init__(self, x: Tensor, cost: Tensor, budget: Tensor) -> None:
        self.x, self.cost, self.budget = x, cost, budget
        self.window = window_of(len(cost))
        self.lipschitz = float(len(cost))
        self.inside = inside_image(self.window, x.shape[2], x.shape[3], x.device)

    def none(self) -> Tensor:
        plan = self.x.new_zeros(*self.x.shape[:2], len(self.cost), *self.x.shape[2:])
        plan[:, :, len(self.cost) // 2] = self.x
        return plan

    def image(self, m: Tensor) -> Tensor:
        return plan_image(m)

    def adjoint(self, g: Tensor) -> Tensor:
        return plan_gradient(g, self.window)

    def project(self, m: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        return project_plan(m, self.x, self.cost, self.budget, start)

    def gap(self, m: Tensor, g: Tensor, multiplier: Tensor) -> Tensor:
        gains = torch.where(self.inside, plan_gradient(g, self.window), -torch.inf)
        price = self.cost[:, None, None]
        spent = total(m * price)

        def loss(at: Tensor) -> tuple[Tensor, Tensor]:
            """The gap by weak duality at a multiplier, and whether it falls with it."""
            net = gains - broadcast(at, gains) * price
            top, choice = net.max(2, keepdim=True)
            missed = torch.where(self.inside, top - net, 0.0)
            falls = total(self.x * self.cost[choice[:, :, 0]]) > self.budget
            return at * (self.budget - spent).clamp(min=0) + total(m * missed), falls

        best, falls = loss(multiplier)
        low, high = multiplier * (1 - 1e-3), multiplier * (1 + 1e-3)
        for _ in range(36):  # the gap has a kink at its minimum: only there is it as small as the moves are good
            low, high = torch.where(falls, multiplier, low), torch.where(falls, high, multiplier)
            multiplier = (low + high) / 2
            found, falls = loss(multiplier)
            best = torch.minimum(best, found)
        return best

    def take_back(self, m: Tensor, low: Tensor, high: Tensor) -> Tensor:
        center, unit = len(self.cost) // 2, _rounding(self.x)
        for sweep in range(_SWEEPS):
            z = plan_image(m)
            excess = (z - high).clamp(min=0)
            if not bool((excess > unit).any()):
                return m
            arriving = (z - m[:, :, center]).clamp(min=torch.finfo(z.dtype).tiny)
            share = (excess * _insistence(sweep) / arriving).clamp(max=1)
            back = m * plan_gradient(share, self.window)
            back[:, :, center] = 0
            m = m - back
            m[:, :, center] += back.sum(2)
        outside = (plan_image(m) - high > unit).flatten(1).any(1)
        return torch.where(broadcast(outside, m), self.none(), m)

    def select(self, index: Tensor) -> Plans:
        return Plans(self.x[index], self.cost, self.budget[index])


class Flows:
    """Flows ``(n, 2, C, H, W)`` along the edges of the grid, to the right and down; the last ones would leave it."""

    signed = True
    lipschitz = 8.0

    def __init__(self, x: Tensor, budget: Tensor) -> None:
        self.x, self.budget = x, budget

    def none(self) -> Tensor:
        return self.x.new_zeros(len(self.x), 2, *self.x.shape[1:])

    def image(self, m: Tensor) -> Tensor:
        right, down = m[:, 0], m[:, 1]
        return self.x - right - down + pad(right, (1, 0))[..., :-1] + pad(down, (0, 0, 1, 0))[..., :-1, :]

    def adjoint(self, g: Tensor) -> Tensor:
        right = pad(g[..., 1:] - g[..., :-1], (0, 1))
        down = pad(g[..., 1:, :] - g[..., :-1, :], (0, 0, 0, 1))
        return torch.stack([right, down], 1)

    def project(self, m: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        size = m.flatten(1).abs()
        ordered = size.sort(1, descending=True).values
        count = torch.arange(1, size.shape[1] + 1, device=m.device)
        threshold = (ordered.cumsum(1) - self.budget[:, None]) / count
        kept = (ordered > threshold).sum(1).clamp(min=1)
        threshold = threshold.gather(1, kept[:, None] - 1)[:, 0]
        threshold = torch.where(size.sum(1) <= self.budget, 0.0, threshold).clamp(min=0)
        shrunk = (size - threshold[:, None]).clamp(min=0)
        spent = shrunk.sum(1)
        most = self.budget * (1 - size.shape[1] * 2.0**-52)
        shrunk = shrunk * torch.where(spent > most, most / spent, 1.0)[:, None]
        return (shrunk * m.flatten(1).sign()).reshape(m.shape), threshold

    def gap(self, m: Tensor, g: Tensor, multiplier: Tensor) -> Tensor:
        z, spent = self.image(m), total(m.abs())

        def loss(at: Tensor) -> Tensor:
            worth = _lipschitz(g, broadcast(at, g))
            missed = total((broadcast(at, m) * m.abs() - m * self.adjoint(worth)).clamp(min=0))
            return at * (self.budget - spent).clamp(min=0) + missed + total((worth - g) * z)

        low, high = multiplier * (1 - 1e-2), multiplier * (1 + 1e-2)
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_first, at_second = loss(first), loss(second)
        best = torch.minimum(at_first, at_second)
        for _ in range(60):
            left = at_first <= at_second
            low, high = torch.where(left, low, first), torch.where(left, second, high)
            new = torch.where(left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
            at_new = loss(new)
            first, second = torch.where(left, new, second), torch.where(left, first, new)
            at_first, at_second = torch.where(left, at_new, at_second), torch.where(left, at_first, at_new)
            best = torch.minimum(best, at_new)
        return best

    def take_back(self, m: Tensor, low: Tensor, high: Tensor) -> Tensor:
        unit = _rounding(self.x)
        for sweep in range(_SWEEPS):
            z = self.image(m)
            lacking, excess = (low - z).clamp(min=0), (z - high).clamp(min=0)
            if not bool(((lacking > unit) | (excess > unit)).any()):
                return m
            forth, back = m.clamp(min=0), (-m).clamp(min=0)
            leaving = forth.sum(1) + pad(back[:, 0], (1, 0))[..., :-1] + pad(back[:, 1], (0, 0, 1, 0))[..., :-1, :]
            arriving = back.sum(1) + pad(forth[:, 0], (1, 0))[..., :-1] + pad(forth[:, 1], (0, 0, 1, 0))[..., :-1, :]
            least = torch.finfo(z.dtype).tiny
            out = (lacking * _insistence(sweep) / leaving.clamp(min=least)).clamp(max=1)
            into = (excess * _insistence(sweep) / arriving.clamp(min=least)).clamp(max=1)
            forth = forth * (1 - torch.maximum(out[:, None], self._ahead(into)))
            back = back * (1 - torch.maximum(into[:, None], self._ahead(out)))
            m = forth - back
        z = self.image(m)
        outside = ((low - z > unit) | (z - high > unit)).flatten(1).any(1)
        return torch.where(broadcast(outside, m), 0.0, m)

    @staticmethod
    def _ahead(share: Tensor) -> Tensor:
        """What is at the end of each edge."""
        return torch.stack([pad(share[..., 1:], (0, 1)), pad(share[..., 1:, :], (0, 0, 0, 1))], 1)

    def select(self, index: Tensor) -> Flows:
        return Flows(self.x[index], self.budget[index])


def _rounding(x: Tensor) -> Tensor:
    """By how much a sum of moves may miss a bound, ``(n, 1, 1, 1)``."""
    return broadcast(x.flatten(1).amax(1), x) * 2.0**-46


def _insistence(sweep: int) -> float:
    """How many times what is beyond a bound is taken back.

    Once at first; but what is taken back here may put another pixel beyond its own bound, and chains of these never end
    where each gives way exactly. So more and more, in the end all there is.
    """
    return (1 + 1e-9) * 2.0 ** max(0, sweep - _GENTLE)


def _lipschitz(g: Tensor, slope: Tensor) -> Tensor:
    """What mass at each pixel gains by the best move: ``max over j of (g_j - slope |i - j|_1)``."""
    for axis in (-1, -2):
        place = torch.arange(g.shape[axis], dtype=g.dtype, device=g.device)
        place = place if axis == -1 else place[:, None]
        ahead = (g + slope * place).cummax(axis).values - slope * place
        behind = (g - slope * place).flip(axis).cummax(axis).values.flip(axis) + slope * place
        g = torch.maximum(g, torch.maximum(ahead, behind))
    return g
