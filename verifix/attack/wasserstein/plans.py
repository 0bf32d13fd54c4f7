"""Transport plans as the state of an attack: the nearest feasible one, with a box if there is one, and its proof."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.base import per_input
from verifix.attack.wasserstein.prices import with_prices
from verifix.attack.wasserstein.view import INSIDE, ceiling
from verifix.kernels.transport_project import plan_gradient, plan_image, project_plan
from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.plans import PlanReport, check_plan

_GENTLE = 30  # repairs that take back in proportion, before moves into full pixels are taken back whole
FULL = 1 + 2.0**-40
"""What sums of parts of a full pixel may be of it, by rounding."""


@dataclass(frozen=True)
class Plans:
    """Plans ``(n, C, K, H, W)`` float64 of some inputs, feasible; and where their next projection starts.

    Attributes:
        plan: what moves where.
        multiplier: of the budget, at the last projection, ``(n,)``.
        prices: on full pixels, ``(n, C, H, W)``; None without a box.
    """

    plan: Tensor
    multiplier: Tensor
    prices: Tensor | None

    @property
    def image(self) -> Tensor:
        """The points, ``(n, C, H, W)`` float64."""
        return plan_image(self.plan)

    def select(self, index: Tensor) -> Plans:
        prices = None if self.prices is None else self.prices[index]
        return Plans(self.plan[index], self.multiplier[index], prices)

    def moved(self, ball: WassersteinBall, step: Tensor, rounds: int) -> Plans:
        """The nearest feasible plans to these plus ``step``; with a box nearly so, in so many rounds of prices."""
        x, cost, budget, upper = ball.center.double(), ball.cost, INSIDE * ball.budget, ceiling(ball)
        window = _window(ball)
        multiplier = self.multiplier

        def project(target: Tensor) -> Tensor:
            nonlocal multiplier
            plan, multiplier = project_plan(target, x, cost, budget, multiplier)
            return plan

        target = self.plan + step
        if upper is None or self.prices is None:
            return Plans(project(target), multiplier, None)
        plan, prices = with_prices(
            target,
            project,
            plan_image,
            lambda p: plan_gradient(p, window),
            (x.new_tensor(-torch.inf), upper),
            self.prices,
            rounds=rounds,
            norm=float(window**2),
        )
        return Plans(repaired(plan, upper, window), multiplier, prices)

    def report(self, ball: WassersteinBall) -> PlanReport:
        """What the plans cost, and what they violate."""
        upper = ceiling(ball)
        box = None if upper is None else (0.0, FULL * upper)
        return check_plan(self.plan, ball.center, ball.cost, ball.budget, box)

    def feasible(self, ball: WassersteinBall) -> Tensor:
        """Whether each plan is one of its ball, ``(n,)``: rows to a relative 1e-12, the cost within the budget."""
        return self.report(ball).feasible(1e-12)


def staying(ball: WassersteinBall) -> Plans:
    """The plans that move nothing."""
    x = ball.center.double()
    plan = x.new_zeros(*x.shape[:2], len(ball.cost), *x.shape[2:])
    plan[:, :, len(ball.cost) // 2] = x
    return Plans(plan, x.new_zeros(len(x)), None if ceiling(ball) is None else torch.zeros_like(x))


def gains(ball: WassersteinBall, gradient: Tensor) -> Tensor:
    """The gradient with respect to the plan, ``(n, C, K, H, W)``, from that with respect to the image.

    Less its center in each row, which no row of fixed sum can tell, and 0 where there is no mass to move. Scaled so
    that the largest is 1; all zero where nothing can be gained.
    """
    window = _window(ball)
    inside = plan_gradient(torch.ones_like(gradient), window)
    moves = plan_gradient(gradient, window) - inside * gradient[:, :, None]
    moves = torch.where((ball.center > 0)[:, :, None], moves, 0.0)
    largest = per_input(moves.flatten(1).abs().amax(1), moves)
    return moves / torch.where(largest > 0, largest, 1.0)


def repaired(plan: Tensor, upper: Tensor, window: int) -> Tensor:
    """A plan whose image does not exceed ``upper``, from one that does, by taking back moves into full pixels.

    Mass goes back to where it came from, so that rows stay and costs fall; there it may overflow in turn. Where nothing
    moves nothing overflows, so this ends.
    """
    center = window * window // 2
    rounds = 0
    while True:
        z = plan_image(plan)
        over = z > FULL * upper
        if not bool(over.any()):
            return plan
        stays = plan[:, :, center]
        arrives = z - stays
        share = torch.where(over & (arrives > 0), (upper - stays).clamp(min=0) / arrives, 1.0)
        kept = torch.where(over, 0.0 if rounds >= _GENTLE else share.clamp(max=1.0), 1.0)
        smaller = plan * plan_gradient(kept, window)
        smaller[:, :, center] = 0
        returned = torch.zeros_like(stays)
        for before, after in zip(plan.unbind(2), smaller.unbind(2), strict=True):
            returned = returned + (before - after)
        smaller[:, :, center] = returned  # holds what stayed, too
        if torch.equal(smaller, plan):
            return plan
        plan, rounds = smaller, rounds + 1


def _window(ball: WassersteinBall) -> int:
    window = ball.threat.window
    return 1 if window is None else window
