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
    pieces: Tensor,
    image_midpoint: Tensor | None,
    image_radius: Tensor | None,
    lower: Tensor | None,
    upper: Tensor | None,
    left: float,
    right: float,
) -> tuple[Tensor, Tensor]:
    """Its gradient, from those of what it gives; differentiable by itself."""
    of_lower: Tensor | None = None
    of_upper: Tensor | None = None
    if image_midpoint is not None and image_radius is not None:
        difference, total = image_midpoint - image_radius, image_midpoint + image_radius
        slopes = [torch.where(pieces & bit > 0, total.new_tensor(right), total.new_tensor(left)) for bit in (1, 2)]
        of_lower, of_upper = slopes[0] * (difference * 0.5), slopes[1] * (total * 0.5)
    if lower is not None and upper is not None:
        of_lower = lower if of_lower is None else of_lower + lower
        of_upper = upper if of_upper is None else of_upper + upper
    if of_lower is None or of_upper is None:
        raise RuntimeError("no gradient has arrived")
    return of_lower + of_upper, of_upper - of_lower
