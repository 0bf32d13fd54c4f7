"""Projected gradient descent on transport plans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.base import choice, per_input, real, whole
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.problem import Problem
from verifix.attack.wasserstein.plans import Plans, gains, staying
from verifix.attack.wasserstein.view import WassersteinAttack, ball_of, shown, useful


@dataclass(frozen=True, kw_only=True)
class PlanPGD(WassersteinAttack):
    """Projected gradient descent on the plan (Wu, Wang and Yu 2020), each projection exact.

    The plan of an image ``(C, H, W)`` is ``(C, K, H, W)``, what moves from each pixel along each offset of the window.
    A step follows the gradient of the loss with respect to it, scaled to its largest entry; then comes the nearest plan
    that moves the mass there is within the budget (:func:`verifix.kernels.transport_project.project_plan`). Every point
    the model sees has a plan that proves it, in float64; examples are rounded to the images' type, and nothing else.

    ``variant="balanced-box"``: the nearest plan that fills no pixel above the box is found by prices on pixels, nearly;
    moves into pixels that are still too full are taken back. ``"clamp-after"``: the model sees clamped points.

    Memory: about 32 bytes for each entry of the plan, so 15 MB for an image of 3 x 32 x 32 and a batch of 100 takes
    200 MB; see ``batch``.

    Args:
        steps: per start.
        step_size: what the first step moves of the entry with the largest gradient, as a fraction of the image's
            largest pixel; rows of a plan hold no more than their pixel, so that long steps, too, end in corners of the
            ball.
        final_step: the length of the last step as a fraction of the first, falling linearly; 1 for constant steps.
        restarts: starts per input: plans that move nothing, then random ones.
        loss: what is maximised.
        rounds: for ``variant="balanced-box"``, how often a projection adjusts prices.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no Wasserstein balls of
            ``transport="local"``.

    >>> from verifix.sets import Wasserstein
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0]]]]), torch.tensor([0])
    >>> found = PlanPGD(steps=5)(lambda z: 9 * z.flatten(1)[:, 1:], x, y, Wasserstein(eps=0.6, window=3).around(x))
    >>> found.success.tolist(), found.examples[0, 0]
    ([True], tensor([[0.0000, 0.4000, 0.6000]]))
    """

    steps: int = 30
    step_size: float = 2.0
    final_step: float = 0.3
    restarts: int = 1
    loss: Loss = "cross-entropy"
    rounds: int = 5

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

    def begin(self, problem: Problem, who: Tensor, restart: int) -> Plans:
        """Where a restart begins."""
        ball = ball_of(problem, who)
        plans = staying(ball)
        if restart == 0:
            return plans
        noise = problem.draws.uniform(who, plans.plan, sample=restart)
        return plans.moved(ball, noise * largest(ball.center), self.rounds)

    def descend(self, problem: Problem, who: Tensor, plans: Plans) -> None:
        """One start, until every input is done or the steps are."""
        ball = ball_of(problem, who)
        for step in range(self.steps):
            z = plans.image
            query = problem.gradient(shown(ball, z), who, self.loss, feasible=plans.feasible(ball))
            going = torch.isin(who, problem.open(who))
            if not bool(going.any()):
                return
            who, plans, ball, z = who[going], plans.select(going), ball.select(going), z[going]
            length = self.step_size * (1 - (1 - self.final_step) * step / self.steps)
            move = gains(ball, useful(ball, z, query.slope[going]))
            plans = plans.moved(ball, move * (length * largest(ball.center)), self.rounds)
        problem.ask(shown(ball, plans.image), who, feasible=plans.feasible(ball))


def largest(x: Tensor) -> Tensor:
    """The largest pixel of each image, ``(n, 1, 1, 1, 1)`` float64."""
    return per_input(x.double().flatten(1).amax(1), x)[:, :, None]
