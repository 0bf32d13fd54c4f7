"""Dense layers."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from verifix.operations.base import Affine, Shape, Value, read


class Dense(Affine):
    """``y = W x + b`` on the last axis; weight ``(out, in)``, bias ``(out,)`` or None."""

    def __init__(self, shape: Shape, weight: Value, bias: Value | None = None) -> None:
        self.inputs = (shape,)
        self.weight, self.bias = weight, bias
        self.shape = (*shape[:-1], weight().shape[0])

    @property
    def roundings(self) -> int:
        return max(self.inputs[0][-1], self.shape[-1]) + 1

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.linear(
            inputs[0], read(self.weight, inputs[0]), None if self.bias is None else read(self.bias, inputs[0])
        )

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], read(self.weight, inputs[0]))

    def absolute(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], read(self.weight, inputs[0]).abs())

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows @ read(self.weight, rows),)

    def offset(self, like: Tensor) -> Tensor | None:
        return None if self.bias is None else read(self.bias, like)
