"""Projected gradient ascent on an l2 ball, as training for randomized smoothing uses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def attack(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    box: tuple[float, float] | None,
    direction: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Points ``(n, *shape)`` within ``eps`` of ``x`` in l2, and in the box, at which the objective is large.

    From ``x`` on, each step has length ``step`` along the gradient of each input alone, scaled to norm 1; then the
    point is put back into the box, and then into the ball (Salman et al. 2019, algorithm 2).

    Args:
        objective: ``(n, *shape)`` to ``(n,)``, differentiable, each input by itself.
        x: inputs, within the box.
        eps, step: in units of the input.
        box: the range of every coordinate; None for any.
        direction: for inputs with these numbers in the batch, in this step: where to go where the gradient vanishes.

    >>> x = torch.tensor([[0.5, 0.5]])
    >>> attack(lambda x: x[:, 0], x, eps=0.2, step=0.2, steps=2, box=(0, 0.6), direction=lambda rows, step: x[rows])
    tensor([[0.6000, 0.5000]])
    """
    point = x
    for number in range(steps):
        with torch.enable_grad():
            point = point.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(point).sum(), point)
        largest = gradient.flatten(1).abs().amax(1).reshape(-1, *[1] * (x.dim() - 1))
        gradient = gradient / torch.where(largest > 0, largest, 1.0)  # so that its squares do not underflow
        rows = (largest.flatten() == 0).nonzero()[:, 0]
        if len(rows):
            gradient = gradient.index_copy(0, rows, direction(rows, number))
        point = _within(point.detach() + step * gradient / _norm(gradient), x, eps, box)
    return point


def _within(point: Tensor, x: Tensor, eps: float, box: tuple[float, float] | None) -> Tensor:
    """Back into the box, then along the line to ``x``, which stays in the box, into the ball."""
    if box is not None:
        point = point.clamp(*box)
    change = point - x
    point = x + change * (eps / _norm(change).clamp(min=eps))
    return point if box is None else point.clamp(*box)  # again, for what rounding does


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1).reshape(-1, *[1] * (values.dim() - 1))
