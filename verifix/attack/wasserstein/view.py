"""What the model sees of points of Wasserstein balls, and which parts of its gradient are of use there."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from verifix.attack.base import Attack, per_input
from verifix.attack.problem import Problem
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import InputSet, WassersteinBall

INSIDE = 1.0 - 2.0**-40
"""Attacks spend this part of the budget, so that costs stay within it in whatever order they are added up."""


class WassersteinAttack(Attack):
    """An attack whose points carry a proof that they lie in their sets: a plan or flow, or the cost of one."""

    transports: ClassVar[tuple[str, ...]] = ("local",)

    def check(self, sets: InputSet) -> None:
        name = type(self).__name__
        if not isinstance(sets, WassersteinBall):
            raise InvalidType("inputs", sets, f"a Wasserstein threat model: {name} moves mass")
        if sets.threat.transport not in self.transports:
            raise InvalidValue("transport", sets.threat.transport, f"{name} needs {' or '.join(self.transports)}")


def ball_of(problem: Problem, who: Tensor) -> WassersteinBall:
    """The sets of some inputs of a problem whose sets have been checked."""
    ball = problem.sets.select(who)
    if not isinstance(ball, WassersteinBall):
        raise InvalidType("inputs", ball, "a Wasserstein threat model")
    if problem.start is not None:
        raise InvalidValue("start", "a tensor", "attacks on Wasserstein balls start from plans: leave it out")
    return ball


def ceiling(ball: WassersteinBall) -> Tensor | None:
    """What no pixel of a point may exceed before any clamping, ``(n, 1, 1, 1)`` float64; None for nothing."""
    return ball.box[1] if ball.box is not None and ball.threat.variant == "balanced-box" else None


def shown(ball: WassersteinBall, z: Tensor) -> Tensor:
    """What the model sees of points ``z``, float64, ``(n, C, H, W)``: clamped where the set has a box, of the images'
    type."""
    x = ball.center
    if ball.box is None:
        return z.to(x.dtype)
    largest = torch.maximum(per_input(x.flatten(1).amax(1), x), torch.as_tensor(ball.threat.box[1], dtype=x.dtype))
    return torch.minimum(torch.minimum(z, ball.box[1]).to(x.dtype), largest)


def useful(ball: WassersteinBall, z: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to ``z``, float64, from that with respect to what the model sees.

    What clamping takes away changes nothing: nothing is gained by giving more to a white pixel, and nothing by giving
    to, or taking from, one that already holds more than white. (Nothing is lost either: pixels like these are where an
    attack throws mass away.)
    """
    gradient = gradient.double()
    if ball.box is None or ball.threat.variant != "clamp-after":
        return gradient
    upper = ball.box[1]
    return torch.where((z > upper) | ((z >= upper) & (gradient > 0)), 0.0, gradient)
