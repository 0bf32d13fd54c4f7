"""The image of boxes under two linear pieces in plain torch: the fallback, and what native code is tested against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Image = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def interval_image(midpoint: Tensor, radius: Tensor, left: float, right: float, bounds: bool) -> Image:
    """:func:`verifix.kernels.interval_image`: midpoint and radius of the image, pieces, lower and upper."""
    lower, upper = midpoint - radius, midpoint + radius
    lower = torch.where(lower == math.inf, math.nan, lower)
    upper = torch.where(upper == -math.inf, math.nan, upper)
    low, high = (torch.where(z < 0, left * z if left else 0.0, right * z) for z in (lower, upper))
    half = (high - low) * 0.5
    pieces = (lower >= 0).to(torch.uint8) + 2 * (upper >= 0).to(torch.uint8)
    empty = midpoint.new_empty(0)
    return low + half, half, pieces, *((lower, upper) if bounds else (empty, empty.clone()))


def interval_image_gradient(
    pieces: Tensor, image: list[Tensor], ends: list[Tensor], left: float, right: float
) -> tuple[Tensor, Tensor]:
    """Its gradient, from those of the image's midpoint and radius, of lower and upper, or both; differentiable."""
    arrived = []
    if image:
        midpoint, radius = image
        sides = (midpoint - radius, midpoint + radius)
        slopes = [
            torch.where(pieces & bit > 0, midpoint.new_tensor(right), midpoint.new_tensor(left)) for bit in (1, 2)
        ]
        arrived.append([slope * (side * 0.5) for slope, side in zip(slopes, sides, strict=True)])
    if ends:
        arrived.append(ends)
    (of_lower, of_upper), *more = arrived
    for lower, upper in more:
        of_lower, of_upper = of_lower + lower, of_upper + upper
    return of_lower + of_upper, of_upper - of_lower
