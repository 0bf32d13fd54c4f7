"""Products of rows and weights where gradients are recorded: by oneDNN, where torch has it.

The matrix products that torch itself calls on CPU reach half of that on processors other than Intel's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WORTH = 1 << 20
"""Products of fewer numbers than this gain nothing."""


def recorded_product(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ weight``, to rounding: ``(m, k)`` and ``(k, j)`` to ``(m, j)``, differentiable any number of times."""
    if not (
        torch.is_grad_enabled()
        and rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and rows.dim() == 2
        and len(rows) * weight.numel() >= WORTH
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return rows @ weight
    result: Tensor = _Product.apply(rows, weight)
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, weight: Tensor) -> Tensor:
        return _product(rows, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        product = torch.matmul if torch.is_grad_enabled() else _product  # to be differentiated again, or not
        of_rows = product(gradient, weight.T) if ctx.needs_input_grad[0] else None
        return of_rows, product(rows.T, gradient) if ctx.needs_input_grad[1] else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return result
