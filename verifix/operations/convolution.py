"""Convolutions over one or two spatial axes."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from verifix.errors import InvalidValue
from verifix.kernels.strided_adjoint import strided_adjoint
from verifix.operations.base import Affine, Shape, Value, read

_FORWARD = {1: F.conv1d, 2: F.conv2d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


class Convolution(Affine):
    """Zero-padded convolution of ``(channels, *space)`` with any stride, padding, dilation and groups.

    weight is ``(out, channels / groups, *kernel)``, bias ``(out,)`` or None; other arguments are one number per spatial
    axis.
    """

    def __init__(
        self,
        shape: Shape,
        weight: Value,
        bias: Value | None,
        stride: Shape,
        padding: Shape,
        dilation: Shape,
        groups: int,
    ) -> None:
        self.inputs = (shape,)
        self.weight, self.bias = weight, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.kernel = tuple(weight().shape[2:])
        self.axes = len(self.kernel)
        if len(shape) != self.axes + 1:
            raise InvalidValue(
                "convolution input", f"shape {shape} without batch", f"needs (channels, {self.axes} spatial axes)"
            )
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, self.kernel, strict=True)]
        room = [size + 2 * p - span for size, p, span in zip(shape[1:], padding, spans, strict=True)]
        if min(room) < 0:
            raise InvalidValue(
                "convolution kernel",
                f"{self.kernel} with dilation {dilation}",
                f"is larger than the padded input {shape[1:]}",
            )
        self.shape = (weight().shape[0], *(r // s + 1 for r, s in zip(room, stride, strict=True)))
        # what the last window leaves uncovered, so that the adjoint returns the full input size
        self.rest = tuple(r % s for r, s in zip(room, stride, strict=True))

    @property
    def roundings(self) -> int:
        window = math.prod(self.kernel)
        overlap = math.prod(
            math.ceil(k / s) if d == 1 else k for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)
        )
        return max(self.inputs[0][0] // self.groups * window, self.shape[0] // self.groups * overlap) + 1

    @property
    def _plain_strides(self) -> bool:
        return self.axes == 2 and min(self.stride) > 1 and self.groups == 1 and max(self.dilation) == 1

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _FORWARD[self.axes](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._convolve(
            inputs[0], read(self.weight, inputs[0]), None if self.bias is None else read(self.bias, inputs[0])
        )

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], read(self.weight, inputs[0]), None)

    def absolute(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], read(self.weight, inputs[0]).abs(), None)

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        weight = read(self.weight, rows)
        if rows.device.type == "cpu" and self._plain_strides:
            return (strided_adjoint(rows, weight, self.stride, self.padding, self.rest),)
        transposed = _TRANSPOSED[self.axes]
        return (transposed(rows, weight, None, self.stride, self.padding, self.rest, self.groups, self.dilation),)

    def offset(self, like: Tensor) -> Tensor | None:
        return None if self.bias is None else read(self.bias, like).reshape(-1, *[1] * self.axes)
