"""The adjoint of a convolution with strides, on CPU: transposed convolutions are several times slower there."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from verifix.kernels.narrow_adjoint import expressible, narrow_adjoint, narrow_adjoint_gradient
from verifix.operations.base import Shape


def strided_adjoint(rows: Tensor, weight: Tensor, stride: Shape, padding: Shape, rest: Shape) -> Tensor:
    """``F.conv_transpose2d(rows, weight, None, stride, padding, rest)``, to rounding; channels lie last in memory.

    The entries of the result whose coordinates leave the same remainders by the strides are a convolution of the rows,
    without strides, with every stride-th weight; all remainders are channels of one convolution.
    """
    result: Tensor = _StridedAdjoint.apply(rows, weight, stride, padding, rest)
    return result


class _StridedAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, weight: Tensor, stride: Shape, padding: Shape, rest: Shape) -> Tensor:
        if expressible(rows, weight):
            return narrow_adjoint(rows, weight, stride, padding, _size(rows, weight, stride, padding, rest))
        return _by_remainders(rows, weight, stride, padding, rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Shape, Shape, Shape], output: Tensor) -> None:
        rows, weight, ctx.stride, ctx.padding, _ = inputs
        ctx.save_for_backward(rows, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        if expressible(rows, weight) and not torch.is_grad_enabled():  # once: not to be differentiated again
            wanted = ctx.needs_input_grad[:2]
            found = narrow_adjoint_gradient(rows, weight, gradient, ctx.stride, ctx.padding, wanted)
            return *found, None, None, None
        of_rows = of_weight = None
        if ctx.needs_input_grad[0]:
            of_rows = F.conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = conv2d_weight(gradient, weight.shape, rows, ctx.stride, ctx.padding)
        return of_rows, of_weight, None, None, None


def _by_remainders(rows: Tensor, weight: Tensor, stride: Shape, padding: Shape, rest: Shape) -> Tensor:
    (outputs, inputs, *kernel), count = weight.shape, len(rows)
    taps = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    room = [t * s - k for t, s, k in zip(taps, stride, kernel, strict=True)]
    split = F.pad(weight, (0, room[1], 0, room[0])).reshape(outputs, inputs, taps[0], stride[0], taps[1], stride[1])
    # (remainder, remainder, input), output, tap, tap
    together = split.permute(3, 5, 1, 0, 2, 4).flip(4, 5).reshape(-1, outputs, *taps)
    last = torch.channels_last
    sums = F.conv2d(
        rows.contiguous(memory_format=last), together.contiguous(memory_format=last), None, 1, [t - 1 for t in taps]
    )
    by_remainder = sums.permute(0, 2, 3, 1).unflatten(3, (*stride, inputs))
    size = _size(rows, weight, stride, padding, rest)
    places_h, places_w = (
        [_places(remainder, *axis) for remainder in range(axis[0])]
        for axis in zip(stride, padding, size, sums.shape[2:], strict=True)
    )
    covered = all(
        sum(len(range(total)[to]) for to, _ in places) == total
        for places, total in zip((places_h, places_w), size, strict=True)
    )
    out = (rows.new_empty if covered else rows.new_zeros)(count, *size, inputs)
    for (a, (to_h, from_h)), (b, (to_w, from_w)) in product(enumerate(places_h), enumerate(places_w)):
        out[:, to_h, to_w] = by_remainder[:, from_h, from_w, a, b]
    # one channel lies first and last; convolutions are faster where strides say first
    return out.reshape(count, 1, *size) if inputs == 1 else out.permute(0, 3, 1, 2)


def _size(rows: Tensor, weight: Tensor, stride: Shape, padding: Shape, rest: Shape) -> Shape:
    """Height and width of the result."""
    axes = zip(rows.shape[2:], stride, weight.shape[2:], padding, rest, strict=True)
    return tuple((h - 1) * s + k - 2 * p + r for h, s, k, p, r in axes)


def _places(remainder: int, stride: int, padding: int, size: int, sums: int) -> tuple[slice, slice]:
    """Where entries ``i`` with ``i + padding = stride q + remainder`` are, and their ``q``."""
    first = max(0, -(-(padding - remainder) // stride))
    begin = stride * first + remainder - padding
    count = max(0, min(sums - first, -(-(size - begin) // stride)))
    return slice(begin, begin + stride * count, stride), slice(first, first + count)
