"""Averages: pooling windows of every kind, and means and sums over whole axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifix.operations.base import Affine, Shape
from verifix.tensors import Entries


class Pooling(Affine):
    """A separable linear map of the last one or two axes: one matrix ``(out, in)`` per axis, nonnegative.

    Average pooling of every kind (stride, padding, ceil mode, adaptive) is such a map.
    """

    def __init__(self, shape: Shape, matrices: Sequence[Tensor]) -> None:
        self.inputs = (shape,)
        self.matrices = [matrix.double() for matrix in matrices]
        self.shape = (*shape[: len(shape) - len(matrices)], *(matrix.shape[0] for matrix in matrices))

    @property
    def roundings(self) -> int:
        # both ways of summing: axis after axis, and over the whole window with products of two entries as weights
        return math.prod(_overlap(matrix) for matrix in self.matrices) + 2 * len(self.matrices)

    def _apply(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        last = matrices[-1].to(x)
        x = x @ last.T
        return matrices[0].to(x) @ x if len(matrices) == 2 else x

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._apply(inputs[0], self.matrices)

    def absolute(self, *inputs: Tensor) -> Tensor:
        return self.forward(*inputs)

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (self._apply(rows, [matrix.T for matrix in self.matrices]),)

    def entries(self) -> Entries:
        outputs = inputs = torch.arange(math.prod(self.shape[: len(self.shape) - len(self.matrices)]))
        weights = torch.ones(len(outputs), dtype=torch.float64)
        for matrix in self.matrices:
            row, column = matrix.cpu().nonzero(as_tuple=True)
            outputs = (outputs[:, None] * matrix.shape[0] + row).flatten()
            inputs = (inputs[:, None] * matrix.shape[1] + column).flatten()
            weights = (weights[:, None] * matrix.cpu()[row, column]).flatten()
        return Entries(outputs, inputs, weights)

    def offset(self, like: Tensor) -> Tensor | None:
        return None


def _overlap(matrix: Tensor) -> int:
    """The most entries that one output averages, or outputs that one entry is part of."""
    used = (matrix != 0).long()
    return int(max(used.sum(0).max(), used.sum(1).max())) + 1


def window_matrix(
    size: int, kernel: int, stride: int, padding: int, ceil_mode: bool, count_padding: bool, divide: bool
) -> Tensor:
    """The averaging matrix of one axis as ``torch.nn.AvgPool`` defines it; ``divide=False`` leaves sums."""
    room = size + 2 * padding - kernel
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # torch drops windows that start in the right padding
    matrix = torch.zeros(count, size, dtype=torch.float64)
    for row in range(count):
        start = row * stride - padding
        end = min(start + kernel, size + padding)
        inside = slice(max(start, 0), min(end, size))
        width = end - start if count_padding else inside.stop - inside.start
        matrix[row, inside] = 1.0 / width if divide else 1.0
    return matrix


def adaptive_matrix(size: int, count: int) -> Tensor:
    """The averaging matrix of one axis as ``torch.nn.AdaptiveAvgPool`` defines it."""
    matrix = torch.zeros(count, size, dtype=torch.float64)
    for row in range(count):
        start, end = row * size // count, -(-(row + 1) * size // count)
        matrix[row, start:end] = 1.0 / (end - start)
    return matrix


class Reduction(Affine):
    """``factor`` times the sum over some axes (numbered without the batch)."""

    def __init__(self, shape: Shape, axes: Sequence[int], keep: bool, factor: float) -> None:
        self.inputs = (shape,)
        self.axes = tuple(sorted(axis % len(shape) for axis in axes))
        self.keep, self.factor = keep, factor
        self.kept = tuple(1 if axis in self.axes else size for axis, size in enumerate(shape))
        self.shape = self.kept if keep else tuple(size for axis, size in enumerate(shape) if axis not in self.axes)

    @property
    def roundings(self) -> int:
        return math.prod(self.inputs[0][axis] for axis in self.axes) + 1

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sum([axis + 1 for axis in self.axes], keepdim=self.keep) * self.factor

    def absolute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sum([axis + 1 for axis in self.axes], keepdim=self.keep) * abs(self.factor)

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        spread = rows.reshape(len(rows), *self.kept) * self.factor
        return (spread.expand(len(rows), *self.inputs[0]),)

    def entries(self) -> Entries:
        inputs = torch.arange(math.prod(self.inputs[0]))
        outputs = torch.arange(math.prod(self.kept)).reshape(self.kept).expand(self.inputs[0]).flatten()
        return Entries(outputs, inputs, torch.full((len(inputs),), self.factor, dtype=torch.float64))

    def offset(self, like: Tensor) -> Tensor | None:
        return None
