"""Projected gradient descent on flows along the pixel grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from verifix.attack.base import choice, per_input, real, whole
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.problem import Problem
from verifix.attack.wasserstein.prices import with_prices
from verifix.attack.wasserstein.view import INSIDE, WassersteinAttack, ball_of, ceiling, shown, useful
from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.ball import total_mass

_GENTLE = 30  # repairs in proportion, before flows are cut
_ROUNDING = 2.0**-40  # of the largest pixel


@dataclass(frozen=True)
class Flows:
    """Flows ``(n, C, 2, H, W)`` float64 down and to the right (up and left where negative), and prices on pixels."""

    flow: Tensor
    prices: Tensor

    def select(self, index: Tensor) -> Flows:
        return Flows(self.flow[index], self.prices[index])

    def image(self, ball: WassersteinBall) -> Tensor:
        """The points, ``(n, C, H, W)`` float64: what flows in comes, what flows out goes."""
        return ball.center.double() + divergence(self.flow)

    def feasible(self, ball: WassersteinBall) -> Tensor:
        """Whether the flow is within the budget and no pixel below zero or too full, up to rounding, ``(n,)``."""
        z, slack = self.image(ball), _ROUNDING * most(ball)
        good, upper = z >= -slack, ceiling(ball)
        if upper is not None:
            good &= z <= upper + slack
        return good.flatten(1).all(1) & (total_mass(self.flow.abs()) <= ball.budget)

    def moved(self, ball: WassersteinBall, step: Tensor, rounds: int) -> Flows:
        """Feasible flows near these plus ``step``."""
        budget, upper = INSIDE**2 * ball.budget, ceiling(ball)
        largest = torch.full_like(most(ball), torch.inf) if upper is None else upper
        flow, prices = with_prices(
            self.flow + step,
            lambda target: nearest_in_l1(target, budget),
            lambda flow: ball.center.double() + divergence(flow),
            differences,
            (torch.zeros_like(largest), largest),
            self.prices,
            rounds=rounds,
            norm=8.0,
        )
        return Flows(repaired(flow, ball, upper), prices)


@dataclass(frozen=True, kw_only=True)
class FlowPGD(WassersteinAttack):
    """Projected gradient descent on flows: ``z = x + div f``, with the l1 norm of f within the budget.

    Mass flows from pixel to pixel along rows and columns, over any distance; that is transport with ground metric l1,
    for ``transport="flow"``. (As ``|.|_2 <= |.|_1``, such points also lie in the ball of the same eps of unrestricted
    transport with the Euclidean ground metric, though not in that of a window.) A step costs a few passes over the
    image, where a plan has K entries for each pixel.

    Flows are projected onto the l1 ball exactly, while prices on pixels keep them from taking what is not there (or,
    with ``variant="balanced-box"``, from bringing too much); the rest is taken back, so that every point that the model
    sees has a flow that proves it, in float64. ``"clamp-after"``: the model sees clamped points.

    Args:
        steps: per start.
        step_size: what the first step moves along the edge with the largest gradient, as a fraction of the image's
            largest pixel.
        final_step: the length of the last step as a fraction of the first, falling linearly; 1 for constant steps.
        restarts: starts per input: no flow, then random ones.
        loss: what is maximised.
        rounds: how often a projection adjusts prices.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no Wasserstein balls of
            ``transport="flow"``.

    >>> from verifix.sets import Wasserstein
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0]]]]), torch.tensor([0])
    >>> ball = Wasserstein(eps=0.6, ground="l1", window=None, transport="flow").around(x)
    >>> found = FlowPGD(steps=10)(lambda z: 9 * z.flatten(1)[:, 1:], x, y, ball)
    >>> found.success.tolist(), bool(found.feasible)
    ([True], True)
    """

    transports: ClassVar[tuple[str, ...]] = ("flow",)

    steps: int = 30
    step_size: float = 0.3
    final_step: float = 1.0
    restarts: int = 1
    loss: Loss = "cross-entropy"
    rounds: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "rounds"):
            whole(name, getattr(self, name), 1)
        real("step_size", self.step_size, above=True)
        real("final_step", self.final_step)
        choice("loss", self.loss, LOSSES)

    def run(self, problem: Problem) -> None:
        for restart in range(self.restarts):
            who = problem.open()
            if not len(who):
                return
            self.descend(problem, who, self.begin(problem, who, restart))

    def begin(self, problem: Problem, who: Tensor, restart: int) -> Flows:
        """Where a restart begins."""
        ball = ball_of(problem, who)
        x = ball.center.double()
        nothing = Flows(x.new_zeros(*x.shape[:2], 2, *x.shape[2:]), torch.zeros_like(x))
        if restart == 0:
            return nothing
        noise = problem.draws.uniform(who, nothing.flow, sample=restart)
        noise = torch.where(edges(x), noise, 0.0) * most(ball)[:, :, None]
        return nothing.moved(ball, noise, self.rounds)

    def descend(self, problem: Problem, who: Tensor, flows: Flows) -> None:
        """One start, until every input is done or the steps are."""
        ball = ball_of(problem, who)
        for step in range(self.steps):
            z = flows.image(ball)
            query = problem.gradient(shown(ball, z.clamp(min=0)), who, self.loss, feasible=flows.feasible(ball))
            going = torch.isin(who, problem.open(who))
            if not bool(going.any()):
                return
            who, flows, ball, z = who[going], flows.select(going), ball.select(going), z[going]
            length = self.step_size * (1 - (1 - self.final_step) * step / self.steps)
            move = possible(differences(useful(ball, z, query.slope[going])), flows.flow, z)
            largest = per_input(move.flatten(1).abs().amax(1), move)
            move = move / torch.where(largest > 0, largest, 1.0)
            flows = flows.moved(ball, move * (length * most(ball)[:, :, None]), self.rounds)
        problem.ask(shown(ball, flows.image(ball).clamp(min=0)), who, feasible=flows.feasible(ball))


def most(ball: WassersteinBall) -> Tensor:
    """The largest pixel of each image, ``(n, 1, 1, 1)`` float64."""
    x = ball.center.double()
    return per_input(x.flatten(1).amax(1), x)


def edges(z: Tensor) -> Tensor:
    """Which flows stay in the image, ``(1, 1, 2, H, W)`` bool."""
    inside = torch.ones(1, 1, 2, *z.shape[2:], dtype=torch.bool, device=z.device)
    inside[:, :, 0, -1] = False
    inside[:, :, 1, :, -1] = False
    return inside


def differences(g: Tensor) -> Tensor:
    """What a unit of each flow gains, ``(n, C, 2, H, W)``: the entry of g where it leads to, less that where it
    starts. The adjoint of :func:`divergence`."""
    down = pad(g[:, :, 1:] - g[:, :, :-1], (0, 0, 0, 1))
    right = pad(g[..., 1:] - g[..., :-1], (0, 1))
    return torch.stack([down, right], 2)


def divergence(flow: Tensor) -> Tensor:
    """What flows into each pixel, less what flows out, ``(n, C, H, W)``."""
    down, right = flow[:, :, 0], flow[:, :, 1]
    return (pad(down[:, :, :-1], (0, 0, 1, 0)) - down) + (pad(right[..., :-1], (1, 0)) - right)


def leaving(flow: Tensor) -> Tensor:
    """What flows out of each pixel, ``(n, C, H, W)``."""
    down, right = flow[:, :, 0], flow[:, :, 1]
    up, left = pad(down[:, :, :-1], (0, 0, 1, 0)), pad(right[..., :-1], (1, 0))
    return (down.clamp(min=0) + right.clamp(min=0)) + ((-up).clamp(min=0) + (-left).clamp(min=0))


def at_ends(starts: Tensor, ends: Tensor, flow: Tensor) -> Tensor:
    """For every flow, a number of the pixel it starts from times one of the pixel it leads to."""
    before = torch.stack([starts, starts], 2)
    after = torch.stack([pad(starts[:, :, 1:], (0, 0, 0, 1)), pad(starts[..., 1:], (0, 1))], 2)
    source = torch.where(flow >= 0, before, after)
    before = torch.stack([ends, ends], 2)
    after = torch.stack([pad(ends[:, :, 1:], (0, 0, 0, 1)), pad(ends[..., 1:], (0, 1))], 2)
    return source * torch.where(flow >= 0, after, before)


def possible(move: Tensor, flow: Tensor, z: Tensor) -> Tensor:
    """Moves without those that take from empty pixels what no flow brings there."""
    stocked = at_ends((z > 0).to(z), torch.ones_like(z), move)
    return torch.where((stocked > 0) | (flow * move < 0), move, 0.0)


def nearest_in_l1(flow: Tensor, budget: Tensor) -> Tensor:
    """The nearest flows (Euclidean) whose sizes add up to the budget at most (Duchi et al. 2008)."""
    sizes = flow.flatten(1).abs()
    down = sizes.sort(dim=1, descending=True).values
    sums = down.cumsum(1)
    counts = torch.arange(1, down.shape[1] + 1, dtype=down.dtype, device=down.device)
    above = down * counts > sums - budget[:, None]
    last = torch.where(above, counts, 1.0).amax(1)
    threshold = (sums.gather(1, last.long()[:, None] - 1)[:, 0] - budget) / last
    threshold = torch.where(sums[:, -1] > budget, threshold, 0.0).clamp(min=0)
    threshold = torch.where(budget > 0, threshold, torch.inf)
    return (flow.sign() * (flow.abs() - threshold.reshape(-1, 1, 1, 1, 1)).clamp(min=0)).nan_to_num(0.0)


def repaired(flow: Tensor, ball: WassersteinBall, upper: Tensor | None) -> Tensor:
    """Flows that leave no pixel below zero (or too full), from those that do, by making flows smaller."""
    x, slack = ball.center.double(), _ROUNDING / 2 * most(ball)
    rounds = 0
    while True:
        change, out = divergence(flow), leaving(flow)
        come, z = change + out, x + change
        below = z < -slack
        above = torch.zeros_like(below) if upper is None else z > upper + slack
        if not bool((below | above).any()):
            return flow
        gentle = 1.0 if rounds < _GENTLE else 0.0
        room = come if upper is None else (upper - x + out).clamp(min=0)
        goes = torch.where(below, gentle * ((x + come) / torch.where(out > 0, out, 1.0)).clamp(0, 1), 1.0)
        stays = torch.where(above, gentle * (room / torch.where(come > 0, come, 1.0)).clamp(0, 1), 1.0)
        flow, rounds = flow * at_ends(goes, stays, flow), rounds + 1
