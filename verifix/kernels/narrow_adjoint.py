"""The adjoint of a convolution of few input channels, compiled: such are the first layers that rows end in.

Matrix products of a few columns are slow in general libraries; here all taps of a place are one vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.kernels import native

Pair = tuple[int, ...]
BLOCK = 64
"""Bytes of a block of channels, and the largest number of taps of all inputs."""


def expressible(rows: Tensor, weight: Tensor) -> bool:
    """Whether there is native code for rows ``(n, channels, height, width)`` and a weight ``(channels, inputs, taps,
    taps)``: on CPU, with at most 64 taps in all and blocks of 16 channels in float32 or 8 in float64."""
    return (
        rows.device.type == "cpu"
        and rows.dtype in (torch.float32, torch.float64)
        and weight.dtype == rows.dtype
        and 0 < weight[0].numel() <= BLOCK
        and len(weight) * rows.element_size() % BLOCK == 0
        and rows.numel() > 0
        and native.module_or_none("verifix._C") is not None
    )


def narrow_adjoint(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
    """``F.conv_transpose2d(rows, weight, None, stride, padding)`` to rounding, of this height and width, where it is
    :func:`expressible`; channels lie last in memory.

    The same bits for every number of threads and every instruction set. Not differentiable: see
    :func:`narrow_adjoint_gradient`.
    """
    last, taps = rows.permute(0, 2, 3, 1).contiguous(), weight[0].numel()
    by_channels = F.pad(
        weight.permute(0, 2, 3, 1).reshape(len(weight), taps), (0, -taps % (BLOCK // rows.element_size()))
    ).contiguous()
    result = rows.new_empty(len(rows), *size, weight.shape[1])
    native.module_or_none("verifix._C").narrow_adjoint(
        rows=last.data_ptr(),
        weight=by_channels.data_ptr(),
        result=result.data_ptr(),
        **_common(last, weight, result, stride, padding),
    )
    return result.permute(0, 3, 1, 2)


def narrow_adjoint_gradient(
    rows: Tensor, weight: Tensor, of_result: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the rows (channels last in memory) and of the weight; None where not wanted."""
    last, result = rows.permute(0, 2, 3, 1).contiguous(), of_result.permute(0, 2, 3, 1).contiguous()
    by_taps = weight.permute(2, 3, 1, 0).contiguous()
    of_rows = torch.empty_like(last) if wanted[0] else None
    # by images, so that no two threads add to one number
    of_weight = rows.new_empty(len(rows), *by_taps.shape) if wanted[1] else None
    native.module_or_none("verifix._C").narrow_adjoint_gradient(
        rows=last.data_ptr(),
        weight=by_taps.data_ptr(),
        of_result=result.data_ptr(),
        of_rows=0 if of_rows is None else of_rows.data_ptr(),
        of_weight=0 if of_weight is None else of_weight.data_ptr(),
        **_common(last, weight, result, stride, padding),
    )
    return (
        None if of_rows is None else of_rows.permute(0, 3, 1, 2),
        None if of_weight is None else of_weight.sum(0).permute(3, 2, 0, 1),
    )


def _common(rows: Tensor, weight: Tensor, result: Tensor, stride: Pair, padding: Pair) -> dict[str, Any]:
    return {
        "shape": (*rows.shape, *result.shape[1:], *weight.shape[2:], *stride, *padding),
        "dtype": "float32" if rows.dtype == torch.float32 else "float64",
        "threads": torch.get_num_threads(),
        "isa": native.isa(),
    }
