"""The nearest image of a Wasserstein ball, exactly: a quadratic program over moves of mass, with a proof.

The thesis (equation 5.3) adds an entropy to the cost of plans and projects with Sinkhorn's iteration; there is none
here. With moves m and their image ``z = x + A m`` (:mod:`verifix.sets.wasserstein.moves`), ``||z - v||^2 / 2`` is
minimised by accelerated projected gradients that restart when they go uphill (O'Donoghue and Candes, 2015). Bounds on
pixels are kept by an augmented Lagrangian with prices p (Bertsekas, 1982), positive at upper bounds and negative at
lower ones; moves that still leave the bounds are taken back before the answer is judged.

The answer is proved by the support function h of the balanced ball: with ``g = v - z - p`` for prices ``p >= 0`` of the
upper bound u, and z and the true projection z* in the ball and below u,

    ||z - z*||^2 = <z - v, z - z*> - <z* - v, z - z*>
                <= <z - v, z - z*> = <g, z* - z> + <p, z* - z> <= (h(g) - <g, z>) + <p, u - z> = gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.sets.base import check_like
from verifix.sets.wasserstein.moves import Flows, Moves, Plans, broadcast, total

if TYPE_CHECKING:
    from verifix.sets.wasserstein.ball import WassersteinBall

_BETWEEN_CHECKS = 50
_BETWEEN_PRICES = 2
_PENALTY = 1.0


@dataclass(frozen=True)
class Projection:
    """The projection of each image, and how good it is.

    Attributes:
        z: the nearest point, ``(n, C, H, W)`` float64, made by moves within the budget. For ``variant="clamp-after"``
            that of the balanced ball, clamped: what the papers do, and not a projection, for that set is not convex.
        error: a bound on ``||z - z*||``, with z* the true projection (before clamping), ``(n,)`` float64.
        gap: its square, the duality gap.
        iterations: ``(n,)`` int64.
    """

    z: Tensor
    error: Tensor
    gap: Tensor
    iterations: Tensor


def project_exact(ball: WassersteinBall, v: Tensor, tolerance: float = 1e-7, max_iterations: int = 20_000) -> Tensor:
    """The nearest point of each ball to ``v``, ``(n, C, H, W)``, of its type; see :func:`nearest`."""
    return nearest(ball, v, tolerance, max_iterations).z.to(v.dtype)


def nearest(
    ball: WassersteinBall,
    v: Tensor,  # (n, C, H, W)
    tolerance: float = 1e-7,
    max_iterations: int = 20_000,
) -> Projection:
    """The nearest point (Euclidean) of each ball to ``v``, to a proved relative error, in float64.

    Images leave the batch once they are done, and none depends on the others.

    Args:
        v: ``(n, C, H, W)``, any finite numbers.
        tolerance: when to stop: ``||z - z*|| <= tolerance * ||z||``, by the bound of :class:`Projection`.
        max_iterations: or then.

    Raises:
        InvalidValue: v holds NaN or infinity; the tolerance is not positive.
    """
    if not tolerance > 0:
        raise InvalidValue("tolerance", tolerance, "must be a number > 0")
    check_like("v", v, ball.center.shape)
    if not bool(torch.isfinite(v).all()):
        raise InvalidValue("v", "a tensor with NaN or infinity", "has no projection: clean it first")
    x, budget = ball.center.detach().double(), ball.budget
    moves: Moves = Flows(x, budget) if ball.threat.window is None else Plans(x, ball.cost, budget)
    low = torch.full_like(budget, 0.0 if moves.signed else -torch.inf)
    high = torch.full_like(budget, torch.inf)
    if ball.box is not None and ball.threat.variant == "balanced-box":
        high = ball.box[1].reshape(-1).double()
    solver = _Solver(moves, v.detach().double(), broadcast(low, x), broadcast(high, x))
    found = solver.run(tolerance, max_iterations)
    if ball.box is not None and ball.threat.variant == "clamp-after":
        return Projection(torch.minimum(found.z, ball.box[1]), found.error, found.gap, found.iterations)
    return found


class _Solver:
    """Accelerated projected gradients on those images that are not done yet."""

    def __init__(self, moves: Moves, v: Tensor, low: Tensor, high: Tensor) -> None:
        self.moves, self.v, self.low, self.high = moves, v, low, high
        self.bounded = bool(torch.isfinite(low).any() or torch.isfinite(high).any())
        self.step = 1 / (moves.lipschitz * (1 + _PENALTY * self.bounded))
        self.m = moves.none()
        self.ahead = self.m
        self.momentum = torch.ones(len(v), dtype=torch.float64, device=v.device)
        self.multiplier: Tensor | None = None
        self.price = torch.zeros_like(v)

    def run(self, tolerance: float, max_iterations: int) -> Projection:
        n, device = len(self.v), self.v.device
        z, gap = self.moves.x.clone(), torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        iterations = torch.zeros(n, dtype=torch.int64, device=device)
        left = torch.arange(n, device=device)
        done = 0
        while len(left):
            for step in range(_BETWEEN_CHECKS):
                self._iterate()
                if self.bounded and (step + 1) % _BETWEEN_PRICES == 0:
                    self.price = self._prices(self.moves.image(self.m))
            done += _BETWEEN_CHECKS
            found, found_gap = self._answer()
            iterations[left] = done
            better = found_gap < gap[left]
            z[left[better]], gap[left[better]] = found[better], found_gap[better]
            good = gap[left] <= (tolerance**2) * total(z[left].square())
            if done >= max_iterations:
                break
            if bool(good.any()):
                self._select((~good).nonzero()[:, 0])
                left = left[~good]
        return Projection(z, gap.sqrt(), gap, iterations)

    def _prices(self, z: Tensor) -> Tensor:
        if not self.bounded:
            return self.price
        wanted = z + self.price / _PENALTY
        return _PENALTY * (wanted - torch.minimum(torch.maximum(wanted, self.low), self.high))

    def _iterate(self) -> None:
        z = self.moves.image(self.ahead)
        downhill = self.moves.adjoint(self.v - z - self._prices(z))
        m, self.multiplier = self.moves.project(self.ahead + self.step * downhill, self.multiplier)
        change = m - self.m
        uphill = total((self.ahead - m) * change) > 0
        following = (1 + (1 + 4 * self.momentum.square()).sqrt()) / 2
        share = torch.where(uphill, 0.0, (self.momentum - 1) / following)
        self.momentum = torch.where(uphill, 1.0, following)
        self.ahead = m + broadcast(share, m) * change
        self.m = m

    def _answer(self) -> tuple[Tensor, Tensor]:
        """A point of each ball within the bounds, and the bound on its squared distance from the projection."""
        moves, m = self.moves, self.m
        if self.bounded:
            m = moves.take_back(m, self.low, self.high)
        z = moves.image(m)
        multiplier = torch.zeros(len(z), dtype=z.dtype) if self.multiplier is None else self.multiplier / self.step
        over = self.price.clamp(min=0)
        gap = moves.gap(m, self.v - z - over, multiplier)
        if self.bounded:
            gap = gap + total(torch.where(over > 0, over * (self.high - z).clamp(min=0), 0.0))
            z = torch.minimum(torch.maximum(z, self.low), self.high)
        return z, gap

    def _select(self, index: Tensor) -> None:
        self.moves = self.moves.select(index)
        for name in ("v", "low", "high", "m", "ahead", "momentum", "price"):
            setattr(self, name, getattr(self, name)[index])
        self.multiplier = None if self.multiplier is None else self.multiplier[index]
