"""Euclidean projection onto lp balls intersected with a box, in float64.

Steps ``v`` and radii ``w`` are ``(n, *shape)``; ``box`` is ``None`` or ``(lower, upper)`` around zero. The projection
of ``v`` onto ``{d : ||d / w||_p <= 1, lower <= d <= upper}`` has one multiplier, in which the constraint is monotone:
bisection finds it to the last bit, from the side on which the constraint holds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BoxSides = tuple[Tensor, Tensor] | None


def _clip(d: Tensor, box: BoxSides) -> Tensor:
    return d if box is None else torch.minimum(torch.maximum(d, box[0]), box[1])


def project_linf(v: Tensor, w: Tensor, box: BoxSides) -> Tensor:
    """Clip each coordinate to ``[-w, w]`` and to the box."""
    return _clip(torch.minimum(torch.maximum(v, -w), w), box)


def project_l2(v: Tensor, w: Tensor, box: BoxSides) -> Tensor:
    """``d = clip(v / (1 + m / w^2))`` with the smallest ``m >= 0`` that brings ``||d / w||_2`` to 1."""
    safe = torch.where(w > 0, w, torch.ones_like(w))

    def candidate(m: Tensor) -> Tensor:
        return _clip(torch.where(w > 0, v / (1 + m / safe.square()), 0.0), box)

    def excess(d: Tensor) -> Tensor:
        return (d / safe).flatten(1).square().sum(1) - 1

    return _bisect(candidate, excess, v)


def project_l1(v: Tensor, w: Tensor, box: BoxSides) -> Tensor:
    """``d = clip(sign(v) max(|v| - m / w, 0))`` with the smallest ``m >= 0`` that brings ``||d / w||_1`` to 1."""
    safe = torch.where(w > 0, w, torch.ones_like(w))

    def candidate(m: Tensor) -> Tensor:
        return _clip(torch.where(w > 0, v.sign() * (v.abs() - m / safe).clamp(min=0), 0.0), box)

    def excess(d: Tensor) -> Tensor:
        return (d / safe).flatten(1).abs().sum(1) - 1

    return _bisect(candidate, excess, v)


def _bisect(candidate: Callable[[Tensor], Tensor], excess: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    def axes(m: Tensor) -> Tensor:
        return m.reshape(-1, *[1] * (v.dim() - 1))

    low = torch.zeros(len(v), dtype=v.dtype, device=v.device)
    inside = excess(candidate(axes(low))) <= 0
    high = torch.ones_like(low)
    for _ in range(200):
        too_small = excess(candidate(axes(high))) > 0
        if not too_small.any():
            break
        high = torch.where(too_small, 4 * high, high)
    for _ in range(100):
        middle = low + (high - low) / 2
        if bool((inside | (middle <= low) | (middle >= high)).all()):  # nothing changes any more
            break
        over = excess(candidate(axes(middle))) > 0
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return candidate(axes(torch.where(inside, torch.zeros_like(high), high)))
