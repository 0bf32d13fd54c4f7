"""The lines of ReLU in plain torch: the fallback where there is no native code, and what that is tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def relu_lines(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`verifix.kernels.relu_lines.relu_lines`."""
    low, high = lower.clamp(max=0), upper.clamp(min=0)
    width = high - low
    slope = high / (width + (width == 0)) + (width - width)
    return slope, -slope * low, (high > -low).to(lower.dtype)


def gradient(lower: Tensor, upper: Tensor, of_slope: Tensor, of_offset: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the bounds; differentiable."""
    low, high = lower.clamp(max=0), upper.clamp(min=0)
    divisor = (high - low) + (high == low)
    of_high = (of_slope - of_offset * low) / divisor
    moved = of_high * (high / divisor)
    of_lower = torch.where(lower <= 0, moved - of_offset * (high / divisor), 0.0)
    return of_lower, torch.where(upper >= 0, of_high - moved, 0.0)
