"""Elementwise affine maps: scaling, shifting, batch normalisation at test time."""

from __future__ import annotations

from torch import Tensor, nn

from verifix.operations.base import Affine, Shape, Value, read


class Scaling(Affine):
    """``y = scale * x + shift``; both broadcast to the shape without batch, either may be None.

    Where the shift is itself computed, ``shift_size`` bounds the terms it is the sum of: they may cancel, their
    roundings do not.
    """

    roundings = 8  # two, and those of a scale and a shift that are computed in float64

    def __init__(self, shape: Shape, scale: Value | None, shift: Value | None, shift_size: Value | None = None) -> None:
        self.inputs = (shape,)
        self.shape = shape
        self.scale, self.shift, self.shift_size = scale, shift, shift_size

    @property
    def mixes(self) -> bool:
        return False

    def forward(self, *inputs: Tensor) -> Tensor:
        scaled = inputs[0] if self.scale is None else inputs[0] * read(self.scale, inputs[0])
        return scaled if self.shift is None else scaled + read(self.shift, inputs[0])

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if self.scale is None else inputs[0] * read(self.scale, inputs[0])

    def absolute(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if self.scale is None else inputs[0] * read(self.scale, inputs[0]).abs()

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows if self.scale is None else rows * read(self.scale, rows),)

    def offset(self, like: Tensor) -> Tensor | None:
        return None if self.shift is None else read(self.shift, like)

    def offset_size(self, like: Tensor) -> Tensor | None:
        return super().offset_size(like) if self.shift_size is None else read(self.shift_size, like)


class Statistics:
    """Mean and variance of batch norm: the stored ones, or for a while those that are put ``instead``."""

    def __init__(self, mean: Value, variance: Value) -> None:
        self.mean, self.variance = mean, variance
        self.instead: tuple[Tensor, Tensor] | None = None

    def __call__(self) -> tuple[Tensor, Tensor]:
        return (self.mean(), self.variance()) if self.instead is None else self.instead


class BatchNorm(Scaling):
    """Batch normalisation over axis 0: ``weight (x - mean) / sqrt(variance + epsilon) + bias``.

    Scale and shift are computed in float64, so that casting them costs one rounding each.
    """

    def __init__(
        self, shape: Shape, weight: Value | None, bias: Value | None, statistics: Statistics, epsilon: float
    ) -> None:
        def scale() -> Tensor:
            inverse = (statistics()[1].double() + epsilon).rsqrt()
            return _column(inverse if weight is None else weight().double() * inverse, shape)

        def shift() -> Tensor:
            moved = -_column(statistics()[0].double(), shape) * scale()
            return moved if bias is None else moved + _column(bias().double(), shape)

        def shift_size() -> Tensor:
            moved = (_column(statistics()[0].double(), shape) * scale()).abs()
            return moved if bias is None else moved + _column(bias().double(), shape).abs()

        super().__init__(shape, scale, shift, shift_size)
        self.weight, self.bias, self.statistics = weight, bias, statistics


def batch_norm(
    shape: Shape, weight: Value | None, bias: Value | None, mean: Value, variance: Value, epsilon: float
) -> BatchNorm:
    """Batch normalisation at test time: with stored statistics."""
    return BatchNorm(shape, weight, bias, Statistics(mean, variance), epsilon)


def _column(channels: Tensor, shape: Shape) -> Tensor:
    return channels.reshape(-1, *[1] * (len(shape) - 1))


def module_batch_norm(shape: Shape, module: nn.modules.batchnorm._BatchNorm) -> BatchNorm:
    """The test-time map of a batch normalisation module, following its parameters and statistics."""
    from verifix.operations.base import live

    affine = module.weight is not None
    return batch_norm(
        shape,
        live(module, "weight") if affine else None,
        live(module, "bias") if affine else None,
        live(module, "running_mean"),
        live(module, "running_var"),
        module.eps,
    )
