"""Euclidean projection onto lp balls intersected with a box, in float64.

Steps ``v`` are ``(n, *shape)``, radii ``w`` likewise or ``(n, 1, ..., 1)``; ``box`` is ``None`` or ``(lower, upper)``
around zero. The projection of ``v`` onto ``{d : ||d / w||_p <= 1, lower <= d <= upper}`` has one multiplier ``m >= 0``,
in which the size ``||d / w||_p`` falls. A safeguarded Newton iteration finds it, exactly but for rounding: sizes are
piecewise linear in ``m`` for l1, and their reciprocals nearly so for l2 (linear without box and with one radius). What
rounding leaves outside is scaled back, which a box around zero allows. Nothing is differentiated through.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BoxSides = tuple[Tensor, Tensor] | None

TOLERANCE = 1e-13
"""How near to 1 a size has to come, relative to it."""

SMALLEST = 1e-290
"""Radii up to this are zero: squares and quotients of larger ones are numbers."""

MOST = 200
"""Evaluations; about five are needed, and so many only where rounding hides the tolerance and intervals are halved."""


def _clip(d: Tensor, box: BoxSides) -> Tensor:
    return d if box is None else torch.minimum(torch.maximum(d, box[0]), box[1])


def project_linf(v: Tensor, w: Tensor, box: BoxSides) -> Tensor:
    """Clip each coordinate to ``[-w, w]`` and to the box."""
    return _clip(torch.minimum(torch.maximum(v, -w), w), box)


def project_l2(v: Tensor, w: Tensor, box: BoxSides) -> Tensor:
    """``d = clip(v / (1 + m / w^2))`` with the smallest ``m >= 0`` that brings ``||d / w||_2`` to 1."""

    def evaluate(m: Tensor, u: Tensor, room: Tensor | None, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = 1 / (square + m)
        y = u * (square * inverse)
        free = y.clone() if room is None else y.masked_fill(y >= room, 0.0)
        if room is not None:
            torch.minimum(y, room, out=y)
        size = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        slope = -free.square_().mul_(inverse).sum(1, keepdim=True)  # of size^2 / 2
        # Newton on 1 / size - 1, whose slope is -slope / size^3
        return y, size, m + size.square() * (1 - size) / slope

    def most(u: Tensor, square: Tensor) -> Tensor:
        return torch.linalg.vector_norm(u * square, dim=1, keepdim=True)  # ||d / w|| <= ||w v|| / m

    return _project(v, w, box, evaluate, most)


def project_l1(v: Tensor, w: Tensor, box: BoxSides) -> Tensor:
    """``d = clip(sign(v) max(|v| - m / w, 0))`` with the smallest ``m >= 0`` that brings ``||d / w||_1`` to 1."""

    def evaluate(m: Tensor, u: Tensor, room: Tensor | None, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = (u - m / square).clamp_(min=0)
        free = y > 0
        if room is not None:
            free &= y < room
            torch.minimum(y, room, out=y)
        size = y.sum(1, keepdim=True)
        slope = -(free / square).sum(1, keepdim=True) if square.shape[1] > 1 else -free.sum(1, keepdim=True) / square
        return y, size, m + (1 - size) / slope

    def most(u: Tensor, square: Tensor) -> Tensor:
        return (u * square).amax(1, keepdim=True)

    return _project(v, w, box, evaluate, most)


Evaluate = Callable[[Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From ``m``, ``|v| / w``, the room in the box divided by ``w``, and ``w^2`` relative to its largest, all ``(k, d)`` or
``(k, 1)``: the steps ``|d| / w``, their sizes, and where Newton's iteration goes next (anywhere where it has no slope).
"""


def _project(
    v: Tensor, w: Tensor, box: BoxSides, evaluate: Evaluate, most: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The projection; ``most`` bounds the multiplier from above."""
    n, v = len(v), v.detach()
    w = w.expand_as(v).flatten(1) if w[:1].numel() > 1 else w.reshape(-1, 1).expand(n, 1)
    movable = w > SMALLEST
    scale = w.masked_fill(~movable, 1.0)
    square = torch.ones_like(w)
    if w.shape[1] > 1:
        square = (scale / scale.amax(1, keepdim=True)).square().clamp_(min=SMALLEST)
    u = (v.abs().flatten(1) / scale).masked_fill_(~movable, 0.0)
    room = None if box is None else torch.where(v > 0, box[1], -box[0]).flatten(1) / scale
    y, size, newton = evaluate(torch.zeros(n, 1, dtype=v.dtype, device=v.device), u, room, square)
    outside = (size > 1)[:, 0].nonzero()[:, 0]
    if len(outside):
        u, square, room = u[outside], square[outside], None if room is None else room[outside]
        y[outside] = _solve(evaluate, newton[outside], most(u, square), u, room, square)
    return (y * scale).reshape(v.shape).copysign(v)


def _solve(evaluate: Evaluate, newton: Tensor, high: Tensor, u: Tensor, room: Tensor | None, square: Tensor) -> Tensor:
    """Steps of size at most 1, of rows that have a larger one at ``m = 0``, whence Newton's iteration leads."""
    low = m = torch.zeros_like(high)
    done = torch.zeros_like(high, dtype=torch.bool)
    for _ in range(MOST):
        step = torch.where((newton > low) & (newton < high), newton, low + (high - low) / 2)
        done |= (step <= low) | (step >= high)  # no number is left between them
        m = torch.where(done, m, step)
        y, size, newton = evaluate(m, u, room, square)
        done |= ((size - 1).abs() <= TOLERANCE) | ((newton - m).abs() <= TOLERANCE / 256 * m)
        if bool(done.all()):
            break
        low, high = torch.where(size > 1, m, low), torch.where(size > 1, high, m)
    return y / size.clamp(min=1.0)
