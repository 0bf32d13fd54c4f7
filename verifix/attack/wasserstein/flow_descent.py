"""Projected gradient descent on flows along the pixel grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from verifix.attack.wasserstein.moving import SLACK, MovesPGD, State, brightest, resting, scaled
from verifix.attack.wasserstein.view import INSIDE, ceiling
from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.ball import total_mass
from verifix.sets.wasserstein.moves import Flows


@dataclass(frozen=True, kw_only=True)
class FlowPGD(MovesPGD):
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

    step_size: float = 1.0
    final_step: float = 1.0
    rounds: int = 10

    def rest(self, ball: WassersteinBall) -> State:
        return resting(Flows(ball.center.double(), INSIDE * ball.budget), ball)

    def noise(self, state: State, noise: Tensor) -> Tensor:
        within = noise.clone()
        within[:, 0, :, :, -1] = 0
        within[:, 1, :, -1] = 0
        return within

    def direction(self, state: State, z: Tensor, slope: Tensor) -> Tensor:
        wanted = state.moves.adjoint(slope)
        stock = z > 0
        ahead = torch.stack([pad(stock[..., 1:], (0, 1)), pad(stock[..., 1:, :], (0, 0, 0, 1))], 1)
        stocked = torch.where(wanted > 0, stock[:, None], ahead)
        # from empty pixels only what a flow brings there can be taken: less of that flow
        return scaled(torch.where(stocked | (state.m * wanted < 0), wanted, 0.0))

    def feasible(self, ball: WassersteinBall, state: State) -> Tensor:
        z, slack, high = state.image, 2 * SLACK * brightest(ball.center), ceiling(ball)
        good = z >= -slack
        if high is not None:
            good &= z <= high + slack
        return good.flatten(1).all(1) & (total_mass(state.m.abs()) <= ball.budget)
