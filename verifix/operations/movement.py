"""Moving entries around: reshape, permute, slice, pad, flip, repeat, upsample; and putting tensors together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.operations.base import Affine, Shape
from verifix.tensors import Entries, flatten


class Movement(Affine):
    """Every output entry is one input entry, or a constant where ``index`` is -1.

    Args:
        shape: input shape.
        index: int64 of the output shape; the flat position in the input that each entry comes from.
        fill: the constant.

    >>> rows = torch.tensor([[1.0, 2.0]])
    >>> Movement((3,), torch.tensor([2, 0])).adjoint(rows)
    (tensor([[2., 0., 1.]]),)
    """

    def __init__(self, shape: Shape, index: Tensor, fill: float = 0.0) -> None:
        self.inputs = (shape,)
        self.shape = tuple(index.shape)
        self.size = int(torch.Size(shape).numel())
        self.index = index.flatten()
        self.fill = fill
        self.used = self.index >= 0
        counts = torch.bincount(self.index[self.used], minlength=self.size)
        self.most = int(counts.max()) if counts.numel() else 0
        self.whole = bool(self.used.all())
        self.reshape_only = (
            self.whole and len(self.index) == self.size and bool((self.index == torch.arange(self.size)).all())
        )
        self.inverse = torch.full((self.size,), -1, dtype=torch.int64)
        self.inverse[self.index[self.used]] = torch.arange(len(self.index))[self.used]

    @property
    def roundings(self) -> int:
        return max(self.most, 1)

    @property
    def mixes(self) -> bool:
        return self.most > 1

    def _take(self, flat: Tensor, index: Tensor, fill: float) -> Tensor:
        index = index.to(flat.device)
        taken = flat.index_select(1, index.clamp(min=0)) if flat.shape[1] else flat.new_zeros(len(flat), len(index))
        return taken if bool((index >= 0).all()) else torch.where(index >= 0, taken, fill)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._move(inputs[0], self.fill)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._move(inputs[0], 0.0)

    def absolute(self, *inputs: Tensor) -> Tensor:
        return self.linear(*inputs)

    def _move(self, x: Tensor, fill: float) -> Tensor:
        flat = flatten(x, 1)
        moved = flat if self.reshape_only else self._take(flat, self.index, fill)
        return moved.reshape(len(x), *self.shape)

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        flat = flatten(rows, 1)
        if self.reshape_only:
            moved = flat
        elif self.most <= 1:
            moved = self._take(flat, self.inverse, 0.0)
        else:
            used = self.used.to(rows.device)
            zeros = flat.new_zeros(len(rows), self.size)
            moved = zeros.index_add(1, self.index.to(rows.device)[used], flat[:, used])
        return (moved.reshape(len(rows), *self.inputs[0]),)

    def entries(self) -> Entries:
        taken = self.index[self.used]
        return Entries(self.used.nonzero().flatten(), taken, torch.ones(len(taken), dtype=torch.float64))

    def offset(self, like: Tensor) -> Tensor | None:
        if self.whole or self.fill == 0.0:
            return None
        return (
            like.new_full((len(self.index),), self.fill).masked_fill(self.used.to(like.device), 0.0).reshape(self.shape)
        )


class Concatenation(Affine):
    """Inputs put side by side along one axis (not the batch)."""

    def __init__(self, shapes: Sequence[Shape], axis: int) -> None:
        self.inputs = tuple(shapes)
        self.axis = axis
        widths = [shape[axis] for shape in shapes]
        self.widths = widths
        self.shape = (*shapes[0][:axis], sum(widths), *shapes[0][axis + 1 :])

    @property
    def roundings(self) -> int:
        return len(self.inputs)  # additions, where the parts meet again further up

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=self.axis + 1)

    def absolute(self, *inputs: Tensor) -> Tensor:
        return self.forward(*inputs)

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self.widths, dim=self.axis + 1)

    def offset(self, like: Tensor) -> Tensor | None:
        return None


class Sum(Affine):
    """``x_1 + factor * x_2`` for two inputs of one shape."""

    roundings = 2

    def __init__(self, shapes: Sequence[Shape], factor: float = 1.0) -> None:
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise InvalidValue("sum", f"inputs of shapes {list(shapes)}", "needs two inputs of one shape")
        self.inputs = tuple(shapes)
        self.shape = shapes[0]
        self.factor = factor

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.add(inputs[0], inputs[1], alpha=self.factor)

    def absolute(self, *inputs: Tensor) -> Tensor:
        return torch.add(inputs[0], inputs[1], alpha=abs(self.factor))

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows, rows if self.factor == 1.0 else rows * self.factor

    def offset(self, like: Tensor) -> Tensor | None:
        return None
