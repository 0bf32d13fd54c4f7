"""Making operations out of the arguments that torch's layers and functions take; shared by both ways of capture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.operations import MaxPool, Movement, Operation, Pooling, Shape, window_matrix


def pair(value: Any, axes: int = 2) -> tuple[Any, ...]:
    """One number for each of ``axes`` axes: torch's layers accept one, or one each."""
    if isinstance(value, (tuple, list)):
        return tuple(value) * axes if len(value) == 1 else tuple(value)
    return (value,) * axes


def moved(shape: Shape, function: Callable[[Tensor], Tensor], fill: float = 0.0) -> Movement:
    """The movement that ``function`` does, found by applying it to the positions of the entries.

    Two inputs are sent through, so that a function that mixes inputs of the batch is noticed. Padding is recognised by
    -1.
    """
    size = math.prod(shape)
    positions = torch.arange(2 * size, dtype=torch.float64).reshape(2, *shape)
    result = function(positions)
    if result.dim() < 1 or result.shape[0] != 2:
        raise InvalidValue("movement", f"output of shape {tuple(result.shape)}", "the first axis must stay the batch")
    first, second = result.long()
    if not torch.equal(torch.where(first >= 0, first + size, -1), second) or bool((first >= size).any()):
        raise InvalidValue(
            "movement", "an operation that mixes inputs of the batch", "each output must depend on one input"
        )
    return Movement(shape, first, fill)


def identity_of(shape: Shape) -> Movement:
    """The identity."""
    return moved(shape, lambda x: x)


def padding_of(padding: Any, kernel: Shape, dilation: Shape) -> Shape | None:
    """The symmetric padding that a layer's ``padding`` argument means, or None where it is not symmetric."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return None if any(t % 2 for t in total) else tuple(t // 2 for t in total)
    return pair(padding, len(kernel))


def average_pool(
    shape: Shape,
    kernel: Shape,
    stride: Shape,
    padding: Shape,
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> Operation:
    """``torch.nn.AvgPool1d`` and ``AvgPool2d`` with every argument."""
    matrices = [
        window_matrix(size, k, s, p, ceil_mode, count_padding, divide=divisor is None)
        for size, k, s, p in zip(shape[-len(kernel) :], kernel, stride, padding, strict=True)
    ]
    if divisor is not None:
        matrices[0] = matrices[0] / divisor
    return Pooling(shape, matrices)


def max_pool(shape: Shape, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Operation:
    """``torch.nn.MaxPool2d`` with every argument."""
    strides = pair(stride) if stride else pair(kernel)
    return MaxPool(shape, pair(kernel), strides, pair(padding), pair(dilation), ceil_mode)
