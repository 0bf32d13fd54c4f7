"""Support functions of lp balls intersected with a box.

For ``g`` and the set of all ``d`` with ``||d / w||_p <= 1`` and ``-a <= d <= b`` (``a, b >= 0``, entries may be
infinite), each function returns ``max <g, d>``. The last axis is the coordinate axis; all arguments broadcast. Weights
``w`` of zero fix their coordinate.

With ``h = |g w|`` and ``c`` the room (``a`` or ``b``, by the sign of ``g``) in units of ``w``, the problem is
``max <h, t>`` over ``0 <= t <= c``, ``||t||_p <= 1``. Its Lagrange dual is one-dimensional, and *every* multiplier
gives an upper bound; so the values below are sound whatever multiplier the search returns, and exact when it is the
right one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_problem(g: Tensor, weight: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce to ``h = |g w|`` and the room ``c`` in units of ``w``, both non-negative."""
    room = torch.where(g >= 0, above, below)
    positive = weight > 0
    safe = torch.where(positive, weight, torch.ones_like(weight))
    return (g * weight).abs(), torch.where(positive, room / safe, torch.zeros_like(room))


def l1_box_support(h: Tensor, c: Tensor) -> Tensor:
    """``max <h, t>`` over ``0 <= t <= c``, ``sum t <= 1``: a fractional knapsack, solved by sorting.

    Dual: ``min over m >= 0`` of ``m + sum_i c_i max(h_i - m, 0)``; the best ``m`` is the ``h`` at which the budget runs
    out.

    >>> l1_box_support(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.5, 0.25, 9.0]))
    tensor(2.2500)
    """
    with torch.no_grad():
        order = h.sort(dim=-1, descending=True).indices
        spent = c.expand_as(h).gather(-1, order).cumsum(-1)
        within = (spent < 1).sum(-1, keepdim=True)
    # not a constant to autograd: its derivative is the part of the budget that the coordinate where it runs out gets
    multiplier = torch.cat([h.gather(-1, order), h.new_zeros(*h.shape[:-1], 1)], -1).gather(-1, within)
    # an infinite room times zero excess is zero, not NaN
    above = h > multiplier
    gain = torch.where(above, (h - multiplier) * torch.where(above, c.expand_as(h), 0.0), 0.0)
    return multiplier.squeeze(-1) + gain.sum(-1)


def l2_box_support(h: Tensor, c: Tensor) -> Tensor:
    """``max <h, t>`` over ``0 <= t <= c``, ``||t||_2 <= 1``, solved by sorting the points where coordinates saturate.

    For a multiplier ``m`` the maximiser is ``t_i = min(h_i / m, c_i)``, and the dual value is
    ``sum_i (h_i t_i - m t_i^2 / 2) + m / 2``. Saturated coordinates are those with ``c_i / h_i <= 1 / m``; going
    through them in that order, ``1 / m^2 = (1 - sum_saturated c^2) / sum_free h^2``.

    >>> l2_box_support(torch.tensor([3.0, 4.0]), torch.tensor([torch.inf, torch.inf]))
    tensor(5.)
    >>> l2_box_support(torch.tensor([3.0, 4.0]), torch.tensor([torch.inf, 0.0]))
    tensor(3.)
    """
    c = c.expand_as(h)
    with torch.no_grad():
        zero = h.new_zeros(*h.shape[:-1], 1)
        largest = torch.cat([h, zero], -1).amax(-1, keepdim=True)
        unit = torch.where(largest > 0, h / largest, h)  # squares of h itself might underflow or overflow
        saturation, order = torch.where(unit > 0, c / unit, torch.inf).sort(dim=-1)
        h2, c2 = unit.gather(-1, order).square(), c.gather(-1, order).clamp(max=1.0).square()
        free = torch.cat([h2.flip(-1).cumsum(-1).flip(-1), zero], -1)
        left = (1 - torch.cat([zero, c2.cumsum(-1)], -1)).clamp(min=0)
        # 1 / m if exactly the first k coordinates are saturated; NaN or infinity where none is free
        inverse = (left / free).sqrt()
        ends = torch.cat([saturation, torch.full_like(zero, torch.inf)], -1)
        valid = inverse <= ends
        first = torch.where(valid.any(-1, keepdim=True), valid.to(torch.uint8).argmax(-1, keepdim=True), h.shape[-1])
        # where rounding leaves nothing for the free ones, 1 / m is still at least where the last saturated one
        # saturates
        chosen = torch.maximum(inverse, torch.cat([zero, saturation], -1)).gather(-1, first)
        multiplier = torch.where(torch.isfinite(chosen) & (chosen > 0), largest / chosen, torch.zeros_like(chosen))
        multiplier = torch.where(torch.isfinite(multiplier), multiplier, torch.zeros_like(chosen))
    bounded = torch.where(multiplier > 0, h / torch.where(multiplier > 0, multiplier, 1.0), torch.inf)
    t = torch.minimum(bounded, c)
    # with m = 0 a coordinate without room limit and h = 0 contributes nothing
    t = torch.where(h > 0, t, torch.zeros_like(t))
    return (h * t - multiplier * t.square() / 2).sum(-1) + multiplier.squeeze(-1) / 2
