"""The lines of ReLU on intervals, compiled, with their gradient: one sweep each where gradients are recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native


def expressible(lower: Tensor, upper: Tensor) -> bool:
    """Whether there is native code for these bounds, and gradients of their lines are recorded."""
    return (
        torch.is_grad_enabled()
        and (lower.requires_grad or upper.requires_grad)
        and lower.device.type == upper.device.type == "cpu"
        and lower.dtype == upper.dtype
        and lower.dtype in (torch.float32, torch.float64)
        and lower.shape == upper.shape
        and native.module_or_none("verifix._C") is not None
    )


def relu_lines(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chord of ReLU on ``[lower, upper]`` by slope and offset, and the slope of a line below it: 1 where that has
    the smaller area between itself and the chord, else 0. All of one shape; where :func:`expressible`.

    NaN where a bound is not known or the width overflows. Differentiable twice; at a bound of zero the gradient is that
    of undecided units. The same bits for every number of threads and every instruction set, and those of plain torch.
    """
    slope, offset, steep = _ReluLines.apply(lower, upper)
    return slope, offset, steep


class _ReluLines(torch.autograd.Function):
    @staticmethod
    def forward(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper = lower.contiguous(), upper.contiguous()
        slope, offset, steep = (torch.empty_like(lower) for _ in range(3))
        native.module_or_none("verifix._C").relu_lines(
            count=lower.numel(), arrays=[x.data_ptr() for x in (lower, upper, slope, offset, steep)], **_common(lower)
        )
        return slope, offset, steep

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, of_slope: Tensor, of_offset: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        given = (*ctx.saved_tensors, of_slope, of_offset)
        if torch.is_grad_enabled():  # to be differentiated again
            return gradient(*given)
        lower, upper, of_slope, of_offset = (x.contiguous() for x in given)
        of_lower, of_upper = torch.empty_like(lower), torch.empty_like(lower)
        arrays = [x.data_ptr() for x in (lower, upper, of_slope, of_offset, of_lower, of_upper)]
        native.module_or_none("verifix._C").relu_lines_gradient(count=lower.numel(), arrays=arrays, **_common(lower))
        return of_lower, of_upper


def gradient(lower: Tensor, upper: Tensor, of_slope: Tensor, of_offset: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the bounds, in plain torch."""
    low, high = lower.clamp(max=0), upper.clamp(min=0)
    divisor = (high - low) + (high == low)
    of_high = (of_slope - of_offset * low) / divisor
    moved = of_high * (high / divisor)
    of_lower = torch.where(lower <= 0, moved - of_offset * (high / divisor), 0.0)
    return of_lower, torch.where(upper >= 0, of_high - moved, 0.0)


def _common(lower: Tensor) -> dict[str, Any]:
    dtype = "float32" if lower.dtype == torch.float32 else "float64"
    return {"dtype": dtype, "threads": torch.get_num_threads(), "isa": native.isa()}
