"""Projected gradient descent on transport plans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.wasserstein.moving import SLACK, MovesPGD, State, brightest, resting, scaled
from verifix.attack.wasserstein.view import INSIDE, ceiling
from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.moves import Plans
from verifix.sets.wasserstein.plans import PlanReport, check_plan


@dataclass(frozen=True, kw_only=True)
class PlanPGD(MovesPGD):
    """Projected gradient descent on the plan (Wu, Wang and Yu 2020), each projection exact.

    The plan of an image ``(C, H, W)`` is ``(C, K, H, W)``, what moves from each pixel along each offset of the window.
    A step follows the gradient of the loss with respect to it, scaled to its largest entry; then comes the nearest plan
    that moves the mass there is within the budget (:func:`verifix.kernels.transport_project.project_plan`). Every point
    the model sees has a plan that proves it, in float64; examples are rounded to the images' type, and nothing else.

    ``variant="balanced-box"``: the nearest plan that fills no pixel above the box is found by prices on pixels, nearly;
    moves into pixels that are still too full are taken back. ``"clamp-after"``: the model sees clamped points.

    Memory: about 32 bytes for each entry of the plan, so 250 MB for a hundred images of 3 x 32 x 32; see ``batch``.

    Args:
        steps: per start.
        step_size: what the first step moves of the entry with the largest gradient, as a fraction of the image's
            largest pixel. Rows of a plan hold no more than their pixel, so that long steps end in corners of the ball.
        final_step: the length of the last step as a fraction of the first, falling linearly; 1 for constant steps.
        restarts: starts per input: plans that move nothing, then random ones.
        loss: what is maximised.
        rounds: for ``variant="balanced-box"``, how often a projection adjusts prices.

    Raises:
        InvalidValue, InvalidType: a setting that cannot be, by name; sets that are no Wasserstein balls of
            ``transport="local"``.

    >>> from verifix.sets import Wasserstein
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0]]]]), torch.tensor([0])
    >>> found = PlanPGD(steps=5)(lambda z: 9 * z.flatten(1)[:, 1:], x, y, Wasserstein(eps=0.6, window=3))
    >>> found.success.tolist(), found.examples[0, 0]
    ([True], tensor([[0.0000, 0.4000, 0.6000]]))
    """

    def rest(self, ball: WassersteinBall) -> State:
        return staying(ball)

    def noise(self, state: State, noise: Tensor) -> Tensor:
        return noise

    def direction(self, state: State, z: Tensor, slope: Tensor) -> Tensor:
        return gains(state, slope)

    def feasible(self, ball: WassersteinBall, state: State) -> Tensor:
        return report(ball, state.m).feasible(1e-12)


def staying(ball: WassersteinBall) -> State:
    """The plans that move nothing."""
    return resting(Plans(ball.center.double(), ball.cost, INSIDE * ball.budget), ball)


def gains(state: State, slope: Tensor) -> Tensor:
    """The gradient with respect to plans, ``(n, C, K, H, W)``, from that with respect to images, scaled.

    Less its center in each row, which no row of fixed sum can tell, and 0 where there is no mass to move.
    """
    inside = state.moves.adjoint(torch.ones_like(slope))
    wanted = state.moves.adjoint(slope) - inside * slope[:, :, None]
    return scaled(torch.where((state.moves.x > 0)[:, :, None], wanted, 0.0))


def report(ball: WassersteinBall, plan: Tensor) -> PlanReport:
    """What plans cost, and what they violate by more than rounding."""
    high = ceiling(ball)
    box = None if high is None else (-torch.inf, high + 2 * SLACK * brightest(ball.center))
    return check_plan(plan, ball.center, ball.cost, ball.budget, box)
