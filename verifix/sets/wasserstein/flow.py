"""Linear forms over balls of unrestricted transport along the pixel grid: the ground metric l1, any distance.

What a unit of mass gains at a multiplier, ``max over j of (g_j - lam |i - j|_1)``, is a distance transform: along rows
and then along columns, forward and backward, a running maximum of ``g_j + lam j`` less ``lam i``. So the dual of one
variable that is solved for windows (``verifix.kernels.transport_linear``) takes a linear time for each multiplier here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.kernels.transport_linear_reference import DualSearch

_NUMBERS = 2**22


def flow_support(x: Tensor, g: Tensor, which: Tensor, budget: Tensor, row: Tensor) -> Tensor:
    """Upper bounds of ``max <g[row[k]], z>`` over the ball of flows around ``x[which[k]]``, ``(m,)`` float64."""
    found = [
        FlowSearch(x[which[at]].double(), g[row[at]].double(), budget[which[at]]).bounds()[0] for at in _parts(x, which)
    ]
    return torch.cat(found)


def flow_maximiser(x: Tensor, g: Tensor, which: Tensor, budget: Tensor, row: Tensor) -> Tensor:
    """An image of each ball with the largest ``<g, z>``, ``(m, C, H, W)`` of the type of x."""
    found = [
        FlowSearch(x[which[at]].double(), g[row[at]].double(), budget[which[at]]).maximiser(x.dtype)[0]
        for at in _parts(x, which)
    ]
    return torch.cat(found)


def _parts(x: Tensor, which: Tensor) -> list[slice]:
    """Some pairs at a time, so that memory is bounded."""
    at_once = max(1, _NUMBERS // x[0].numel()) if len(x) else 1
    return [slice(start, start + at_once) for start in range(0, max(1, len(which)), at_once)]


class FlowSearch(DualSearch):
    """Mass moves along the grid of its plane, one unit of cost for each step."""

    def __init__(self, image: Tensor, form: Tensor, budget: Tensor) -> None:
        super().__init__(image, form, budget, torch.ones_like(image, dtype=torch.bool))
        self.flat = form.flatten(2)
        height, width = image.shape[2:]
        self.places = torch.arange(height * width, device=image.device).reshape(height, width)
        self.size = self.flat.abs().amax((1, 2))
        self.steps = height + width

    def choice(self, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place = self._place(lam)
        value = self.flat.gather(2, place.flatten(2)).reshape(place.shape)
        width = self.form.shape[3]
        row, column = self.places // width, self.places % width
        paid = ((place // width - row).abs() + (place % width - column).abs()).double()
        # an infinite price of no step is nothing
        price = torch.where(paid > 0, lam.reshape(-1, 1, 1, 1) * (1 - 2.0**-52) * paid, 0.0)
        return value - price, value, paid

    def error(self, lam: Tensor) -> Tensor:
        """The transform compares numbers of at most ``size + lam steps`` that have been rounded a few times."""
        reach = torch.where(torch.isinf(lam), 0.0, lam * self.steps)
        return 16 * 2.0**-53 * (self.size + reach)

    def _place(self, lam: Tensor) -> Tensor:
        """Where each pixel's mass gains most, ``(m, C, H, W)`` int64."""
        place = self.places.expand_as(self.form).contiguous()
        best = self.form
        for axis in (3, 2):
            best, place = _transform(best, place, lam, axis)
        return torch.where(torch.isinf(lam).reshape(-1, 1, 1, 1), self.places, place)

    def move(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        target = torch.zeros_like(self.flat)
        for mass, lam in parts:
            target.scatter_add_(2, self._place(lam).flatten(2), mass.flatten(2))
        return target.reshape(self.form.shape)


def _transform(best: Tensor, place: Tensor, lam: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The largest of ``best`` less ``lam`` times the distance along an axis, and the place that it came from."""
    slope = torch.where(torch.isinf(lam), 0.0, lam).reshape(-1, 1, 1, 1)
    at = torch.arange(best.shape[axis], device=best.device, dtype=torch.float64)
    at = at.reshape([-1 if a == axis else 1 for a in range(4)])
    before, from_before = (best + slope * at).cummax(axis)
    after, from_after = (best - slope * at).flip(axis).cummax(axis)
    after, from_after = after.flip(axis), best.shape[axis] - 1 - from_after.flip(axis)
    before, after = before - slope * at, after + slope * at
    later = after > before
    taken = place.gather(axis, torch.where(later, from_after, from_before))
    # staying where nothing is gained keeps the cost of ties low
    stays = ~(torch.maximum(before, after) > best)
    return torch.where(stays, best, torch.maximum(before, after)), torch.where(stays, place, taken)
