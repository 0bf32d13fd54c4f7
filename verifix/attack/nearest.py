"""What the attacks of minimum norm share: which sets they take, how distance counts there, and the box."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.attack.base import per_input
from verifix.errors import InvalidValue
from verifix.sets import InputSet, LpBall
from verifix.sets.base import Norm

Sides = tuple[Tensor, Tensor]


def lp_sets(attack: str, sets: InputSet, norms: tuple[Norm, ...]) -> LpBall:
    """The sets as balls of one of some norms; others are refused by name."""
    if not isinstance(sets, LpBall) or sets.norm not in norms:
        wanted = " or ".join(norms)
        raise InvalidValue("inputs", sets, f"{attack} looks for the nearest point in {wanted}: use a Ball of that norm")
    return sets


def weights(sets: LpBall) -> Tensor:
    """The radius of each coordinate as a fraction of the largest, ``(n, *shape)`` float64; 1 where they are equal.

    The distance of a step d is ``||d / w||_p``; coordinates with ``w = 0`` cannot move.
    """
    if sets.eps.shape[1:].numel() == 1:
        return torch.ones_like(sets.center, dtype=torch.float64)
    eps = sets.eps.expand(len(sets), *sets.shape)
    largest = per_input(eps.flatten(1).amax(1), eps)
    return eps / torch.where(largest > 0, largest, 1.0)


def box_sides(sets: LpBall) -> Sides | None:
    """The box in the inputs' type, rounded inwards, so that what is clipped to it lies in it; None without one."""
    if sets.box is None:
        return None
    kind = sets.center.dtype
    shape = (len(sets), *sets.shape)
    lower, upper = (side.expand(shape) for side in sets.box)
    low, high = lower.to(kind), upper.to(kind)
    low = torch.where(low.double() < lower, torch.nextafter(low, torch.full_like(low, torch.inf)), low)
    high = torch.where(high.double() > upper, torch.nextafter(high, torch.full_like(high, -torch.inf)), high)
    return low, high


def into_box(points: Tensor, sides: Sides | None) -> Tensor:
    """Points with each coordinate brought into the box."""
    return points if sides is None else torch.minimum(torch.maximum(points, sides[0]), sides[1])


def pick(sides: Sides | None, index: Tensor) -> Sides | None:
    """The box of some of the inputs."""
    return None if sides is None else (sides[0][index], sides[1][index])
