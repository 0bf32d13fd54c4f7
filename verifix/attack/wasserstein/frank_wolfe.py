"""Frank-Wolfe on Wasserstein balls, with exact linear maximisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verifix.attack.base import choice, real, whole
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.problem import Problem
from verifix.attack.wasserstein.costed import Costed
from verifix.attack.wasserstein.moving import brightest
from verifix.attack.wasserstein.plan_descent import gains, report, staying
from verifix.attack.wasserstein.view import INSIDE, WassersteinAttack, ball_of, ceiling, shown, useful
from verifix.kernels.transport_linear import linear_maximiser
from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.ground import window_cost

Rule = Literal["open-loop", "line-search"]
RULES: tuple[Rule, ...] = ("open-loop", "line-search")
_SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)


@dataclass(frozen=True, kw_only=True)
class FrankWolfe(WassersteinAttack):
    """Frank-Wolfe: steps towards the point of the ball that the gradient likes best.

    That point is exact (:func:`verifix.kernels.transport_linear.linear_maximiser`), where Wu, Wang and Yu (2020) take
    an entropic one. No projection is needed, and the state is no more than the image and the cost of a plan that leads
    there, which is the proof that it is in the ball, in float64.

    ``variant="balanced-box"``: pixels compete for room, and the maximiser is found as the nearest plan to a far one by
    prices on pixels, as in :class:`verifix.attack.PlanPGD`; plans are the state. ``"clamp-after"``: the model sees
    clamped points.

    Args:
        steps: how many.
        rule: ``open-loop``: step t, from 0 on, goes ``2 / (t + 2)`` of the way. ``line-search``: as far as is best of
            1, 1/2, 1/4, 1/8 and 1/16 of the way, by five more forward passes.
        loss: what is maximised.
        rounds, distance: for ``variant="balanced-box"``, how often prices are adjusted, and how far out the far plan
            is, in largest pixels of the image.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no Wasserstein balls of
            ``transport="local"``.

    >>> from verifix.sets import Wasserstein
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0]]]]), torch.tensor([0])
    >>> found = FrankWolfe(steps=5)(lambda z: 9 * z.flatten(1)[:, 1:], x, y, Wasserstein(eps=0.6, window=3).around(x))
    >>> found.success.tolist(), found.examples[0, 0]
    ([True], tensor([[0.0000, 0.4000, 0.6000]]))
    """

    steps: int = 30
    rule: Rule = "open-loop"
    loss: Loss = "cross-entropy"
    rounds: int = 30
    distance: float = 10.0

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("rounds", self.rounds, 1)
        real("distance", self.distance, above=True)
        choice("rule", self.rule, RULES)
        choice("loss", self.loss, LOSSES)

    def run(self, problem: Problem) -> None:
        who = problem.open()
        if not len(who):
            return
        ball = ball_of(problem, who)
        points, prices = Costed(ball.center.double(), torch.zeros_like(ball.budget)), staying(ball)
        for step in range(self.steps):
            query = problem.gradient(shown(ball, points.image), who, self.loss, feasible=points.feasible(ball))
            going = torch.isin(who, problem.open(who))
            if not bool(going.any()):
                return
            who, ball, points, prices = who[going], ball.select(going), points.select(going), prices.select(going)
            slope = useful(ball, points.image, query.slope[going])
            if ceiling(ball) is None:
                aim = farthest(ball, slope)
            else:
                far = gains(prices, slope) * (self.distance * brightest(ball.center)[:, :, None])
                prices = prices.nearest(prices.moves.none() + far, self.rounds)
                aim = Costed(prices.image, report(ball, prices.m).cost)
            points = points.mixed(aim, self.share(problem, who, ball, points, aim, step))
        problem.ask(shown(ball, points.image), who, feasible=points.feasible(ball))

    def share(
        self, problem: Problem, who: Tensor, ball: WassersteinBall, points: Costed, aim: Costed, step: int
    ) -> Tensor:
        """How far to go, ``(k,)``."""
        best = torch.full_like(points.spent, 2 / (step + 2))
        if self.rule == "open-loop":
            return best
        least = torch.full_like(points.spent, torch.inf)
        for share in _SHARES:
            there = points.mixed(aim, torch.full_like(best, share))
            margins = problem.ask(shown(ball, there.image), who, feasible=there.feasible(ball)).margins.double()
            best, least = torch.where(margins < least, share, best), torch.minimum(margins, least)
        return best


def farthest(ball: WassersteinBall, slope: Tensor) -> Costed:
    """The points of balanced balls that are farthest along ``slope``, ``(n, C, H, W)`` float64."""
    which = torch.arange(len(ball), device=slope.device)
    cost = window_cost(ball.threat.ground, ball.threat.window or 1)  # on the CPU: no device has to be waited for
    z, _, spent = linear_maximiser(ball.center.double(), slope, which, cost, INSIDE * ball.budget)
    return Costed(z, spent)
