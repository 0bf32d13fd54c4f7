"""The adjoint of a strided convolution in plain torch: the fallback where there is no native code, and its oracle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

Pair = Sequence[int]


def strided_adjoint(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> Tensor:
    """:func:`verifix.kernels.strided_adjoint.strided_adjoint`: transposed convolutions are several times slower on CPU.

    The entries of the result whose coordinates leave the same remainders by the strides are a convolution of the rows,
    without strides, with every stride-th weight; all remainders are channels of one convolution.
    """
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
    size = result_size(rows, weight, stride, padding, rest)
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


def gradient(
    rows: Tensor,
    weight: Tensor,
    of_result: Tensor,
    stride: Pair,
    padding: Pair,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the rows and of the weight, None where not wanted; differentiable."""
    of_rows = F.conv2d(of_result, weight, None, stride, padding) if wanted[0] else None
    return of_rows, conv2d_weight(of_result, weight.shape, rows, stride, padding) if wanted[1] else None


def result_size(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> tuple[int, ...]:
    """Height and width of the result."""
    axes = zip(rows.shape[2:], stride, weight.shape[2:], padding, rest, strict=True)
    return tuple((h - 1) * s + k - 2 * p + r for h, s, k, p, r in axes)


def _places(remainder: int, stride: int, padding: int, size: int, sums: int) -> tuple[slice, slice]:
    """Where entries ``i`` with ``i + padding = stride q + remainder`` are, and their ``q``."""
    first = max(0, -(-(padding - remainder) // stride))
    begin = stride * first + remainder - padding
    count = max(0, min(sums - first, -(-(size - begin) // stride)))
    return slice(begin, begin + stride * count, stride), slice(first, first + count)
