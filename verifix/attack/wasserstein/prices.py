"""Projection onto sets of plans or flows whose images must stay between bounds, by prices on pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Projection = Callable[[Tensor], Tensor]


def with_prices(
    target: Tensor,
    project: Projection,
    image: Projection,
    adjoint: Projection,
    bounds: tuple[Tensor, Tensor],
    prices: Tensor,
    *,
    rounds: int,
    norm: float,
) -> tuple[Tensor, Tensor]:
    """Approximately the nearest point of a convex set, whose image is within bounds.

    Accelerated proximal ascent on the dual: with prices p on pixels, the point is ``project(target - adjoint(p))``, and
    its image the gradient. Images come within the bounds as prices settle; a caller that needs them there exactly
    repairs the rest.

    Args:
        target: what to project.
        project: onto the set without bounds.
        image: of a point, ``(n, C, H, W)``, affine.
        adjoint: of its linear part.
        bounds: on the image.
        prices: to start from, such as those of the last step of an attack.
        rounds: how often prices are adjusted.
        norm: at least the square of the linear part's largest singular value.

    Returns:
        The point, and the prices.
    """
    lower, upper = bounds
    ahead, momentum = prices, 1.0
    for _ in range(rounds):
        z = image(project(target - adjoint(ahead)))
        wanted = ahead + z / norm
        following = wanted - torch.clamp(wanted * norm, lower, upper) / norm
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = following + (momentum - 1) / next_momentum * (following - prices)
        prices, momentum = following, next_momentum
    return project(target - adjoint(prices)), prices
