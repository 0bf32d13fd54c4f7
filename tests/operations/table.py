"""The table of operations: one row for each; every generic test runs over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.graph.lowering import average_pool, max_pool, moved
from verifix.operations import (
    Affine,
    Clip,
    Concatenation,
    Convolution,
    Dense,
    Movement,
    Nonlinear,
    Pooling,
    Reduction,
    Scaling,
    Sigmoid,
    Sum,
    Tanh,
    TwoPiece,
    adaptive_matrix,
    fixed,
    live,
    module_batch_norm,
)

Shape = tuple[int, ...]
Reference = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """An operation, and what torch says that it computes.

    ``make`` returns both anew; parameters are random, in float64.
    """

    name: str
    make: Callable[[], tuple[Any, Reference]]

    def __repr__(self) -> str:
        return self.name


def layer(build: Callable[[Shape, Any], Any], shape: Shape, module: nn.Module) -> Callable[[], tuple[Any, Reference]]:
    """An operation made from a module, whose parameters and statistics are drawn anew."""

    def make() -> tuple[Any, Reference]:
        module.double().eval()
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.normal_()
            for name, tensor in module.named_buffers():
                if name == "running_var":
                    tensor.uniform_(0.1, 3.0)
        return build(shape, module), module

    return make


def plain(build: Callable[[], Any], reference: Reference) -> Callable[[], tuple[Any, Reference]]:
    """An operation without parameters."""
    return lambda: (build(), reference)


def dense(shape: Shape, m: nn.Linear) -> Dense:
    return Dense(shape, live(m, "weight"), None if m.bias is None else live(m, "bias"))


def convolution(shape: Shape, m: nn.Conv1d | nn.Conv2d) -> Convolution:
    bias = None if m.bias is None else live(m, "bias")
    assert not isinstance(m.padding, str)
    return Convolution(shape, live(m, "weight"), bias, m.stride, m.padding, m.dilation, m.groups)


def mover(name: str, shape: Shape, function: Reference) -> Row:
    return Row(name, plain(lambda: moved(shape, function), function))


def averager(name: str, shape: Shape, axes: int, kernel: Shape, **options: Any) -> Row:
    stride, padding = options.pop("stride", kernel), options.pop("padding", (0,) * axes)
    ceil, count = options.pop("ceil_mode", False), options.pop("count_include_pad", True)
    divisor = options.pop("divisor_override", None)
    assert not options

    def reference(x: Tensor) -> Tensor:
        if axes == 1:
            return F.avg_pool1d(x, kernel, stride, padding, ceil, count)
        return F.avg_pool2d(x, kernel, stride, padding, ceil, count, divisor)

    return Row(name, plain(lambda: average_pool(shape, kernel, stride, padding, ceil, count, divisor), reference))


def adaptive(name: str, shape: Shape, size: Shape) -> Row:
    def build() -> Pooling:
        sizes = zip(shape[-len(size) :], size, strict=True)
        return Pooling(shape, [adaptive_matrix(length, count) for length, count in sizes])

    function = F.adaptive_avg_pool1d if len(size) == 1 else F.adaptive_avg_pool2d
    return Row(name, plain(build, lambda x: function(x, size)))


def maximum(name: str, shape: Shape, *arguments: Any) -> Row:
    kernel, stride, padding, dilation, ceil = (*arguments, *[None, 0, 1, False][len(arguments) - 1 :])
    return Row(
        name,
        plain(
            lambda: max_pool(shape, kernel, stride, padding, dilation, ceil),
            lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil),
        ),
    )


def norm(name: str, shape: Shape, module: nn.BatchNorm1d | nn.BatchNorm2d) -> Row:
    return Row(name, layer(module_batch_norm, shape, module))


def scaling(name: str, shape: Shape, scale: Shape | None, shift: Shape | None) -> Row:
    def make() -> tuple[Scaling, Reference]:
        a = None if scale is None else torch.randn(scale, dtype=torch.float64)
        b = None if shift is None else torch.randn(shift, dtype=torch.float64)
        operation = Scaling(shape, None if a is None else fixed(a), None if b is None else fixed(b))
        return operation, lambda x: x * (1.0 if a is None else a.to(x)) + (0.0 if b is None else b.to(x))

    return Row(name, make)


IMAGE = (2, 5, 6)
C2, C1 = nn.Conv2d, nn.Conv1d

AFFINE: list[Row] = [
    Row("dense", layer(dense, (5,), nn.Linear(5, 3))),
    Row("dense-wide", layer(dense, (2,), nn.Linear(2, 7))),
    Row("dense-no-bias", layer(dense, (5,), nn.Linear(5, 3, bias=False))),
    Row("dense-sequence", layer(dense, (2, 3, 4), nn.Linear(4, 5))),
    Row("conv2d", layer(convolution, IMAGE, C2(2, 3, 3))),
    Row("conv2d-stride", layer(convolution, IMAGE, C2(2, 3, 2, stride=2))),
    Row("conv2d-stride-rest", layer(convolution, (2, 6, 8), C2(2, 3, 3, stride=(2, 3), padding=(1, 0)))),
    Row("conv2d-stride-skips", layer(convolution, (1, 7, 6), C2(1, 2, 1, stride=3))),
    Row("conv2d-padding", layer(convolution, IMAGE, C2(2, 4, (3, 2), padding=(2, 1)))),
    Row("conv2d-dilation", layer(convolution, IMAGE, C2(2, 2, (2, 3), dilation=(3, 2), padding=(0, 1)))),
    Row("conv2d-dilation-stride", layer(convolution, (1, 9, 8), C2(1, 2, 3, dilation=2, stride=2, padding=1))),
    Row("conv2d-groups", layer(convolution, (4, 4, 3), C2(4, 6, 2, groups=2))),
    Row("conv2d-depthwise", layer(convolution, (3, 4, 4), C2(3, 3, 3, padding=1, groups=3))),
    Row("conv2d-everything", layer(convolution, (4, 8, 9), C2(4, 2, (3, 2), (2, 3), (1, 2), (2, 1), 2, bias=False))),
    Row("conv2d-one-by-one", layer(convolution, IMAGE, C2(2, 3, 1))),
    Row("conv1d", layer(convolution, (2, 7), C1(2, 3, 3, stride=2, padding=1))),
    Row("conv1d-dilation", layer(convolution, (2, 9), C1(2, 2, 3, dilation=3, groups=2, bias=False))),
    scaling("scaling-entries", (2, 3), (2, 3), (2, 3)),
    scaling("scaling-broadcast", IMAGE, (2, 1, 1), (6,)),
    scaling("scaling-number", (4,), (), ()),
    scaling("scaling-only", (4,), (4,), None),
    scaling("shift-only", (4,), None, (4,)),
    norm("batch-norm-features", (4,), nn.BatchNorm1d(4)),
    norm("batch-norm-sequence", (4, 3), nn.BatchNorm1d(4, eps=0.1)),
    norm("batch-norm-image", IMAGE, nn.BatchNorm2d(2)),
    norm("batch-norm-no-parameters", IMAGE, nn.BatchNorm2d(2, affine=False)),
    averager("avg-pool2d", IMAGE, 2, (2, 2)),
    averager("avg-pool2d-stride", IMAGE, 2, (3, 2), stride=(1, 3)),
    averager("avg-pool2d-padding", IMAGE, 2, (3, 3), stride=(2, 2), padding=(1, 1)),
    averager("avg-pool2d-padding-not-counted", IMAGE, 2, (3, 2), padding=(1, 1), count_include_pad=False),
    averager("avg-pool2d-ceil", (1, 5, 7), 2, (2, 3), stride=(2, 2), ceil_mode=True),
    averager("avg-pool2d-ceil-padding", (1, 6, 7), 2, (3, 3), stride=(2, 3), padding=(1, 1), ceil_mode=True),
    averager("avg-pool2d-ceil-dropped", (1, 4, 4), 2, (2, 2), stride=(3, 3), padding=(1, 1), ceil_mode=True),
    averager(
        "avg-pool2d-ceil-not-counted", (1, 6, 5), 2, (3, 2), stride=(2, 2), padding=(1, 1), ceil_mode=True,
        count_include_pad=False,
    ),
    averager("avg-pool2d-divisor", IMAGE, 2, (2, 3), divisor_override=5),
    averager("avg-pool1d", (2, 7), 1, (3,), stride=(2,), padding=(1,)),
    averager("avg-pool1d-ceil", (2, 8), 1, (3,), stride=(2,), ceil_mode=True, count_include_pad=False),
    adaptive("adaptive-avg-pool2d", (2, 7, 5), (3, 2)),
    adaptive("adaptive-avg-pool2d-one", IMAGE, (1, 1)),
    adaptive("adaptive-avg-pool2d-grow", (1, 2, 3), (5, 4)),
    adaptive("adaptive-avg-pool1d", (2, 7), (4,)),
    Row("mean", plain(lambda: Reduction((2, 3, 4), [1], False, 1 / 3), lambda x: x.mean(2))),
    Row("mean-keep", plain(lambda: Reduction((2, 3, 4), [-1, 0], True, 1 / 8), lambda x: x.mean((1, 3), keepdim=True))),
    Row("sum", plain(lambda: Reduction((2, 3), [0, 1], False, 1.0), lambda x: x.sum((1, 2)))),
    Row("sum-negative", plain(lambda: Reduction((4,), [0], True, -2.0), lambda x: -2.0 * x.sum(1, keepdim=True))),
    mover("identity", (2, 3), lambda x: x),
    mover("flatten", IMAGE, lambda x: x.flatten(1)),
    mover("permute", IMAGE, lambda x: x.permute(0, 3, 1, 2)),
    mover("flip", (2, 3), lambda x: x.flip(2)),
    mover("roll", (5,), lambda x: x.roll(2, 1)),
    mover("slice", IMAGE, lambda x: x[:, :, 1:5:2, ::3]),
    mover("select", IMAGE, lambda x: x[:, 1, 2]),
    mover("repeat", (2, 3), lambda x: x.repeat(1, 2, 3)),
    mover("expand", (2, 1), lambda x: x.expand(-1, 2, 4)),
    mover("gather", (4,), lambda x: x[:, [3, 0, 3, 3]]),
    mover("upsample", (1, 2, 3), lambda x: F.interpolate(x, scale_factor=(2.0, 3.0))),
    mover("pixel-shuffle", (4, 2, 2), lambda x: F.pixel_shuffle(x, 2)),
    mover("crop", IMAGE, lambda x: F.pad(x, (-1, -2, 0, -1))),
    mover("nothing-left", (3,), lambda x: x[:, :0]),
    Row(
        "pad-zero",
        plain(lambda: moved((1, 2, 3), lambda x: F.pad(x, (1, 0, 2, 1), value=-1)), lambda x: F.pad(x, (1, 0, 2, 1))),
    ),
    Row(
        "pad-constant",
        plain(
            lambda: moved((2, 3), lambda x: F.pad(x, (2, 1), value=-1), 0.75),
            lambda x: F.pad(x, (2, 1), value=0.75),
        ),
    ),
    Row("all-padding", plain(lambda: Movement((2,), torch.full((2,), -1), 0.5), lambda x: 0 * x + 0.5)),
    Row("concatenation", plain(lambda: Concatenation([(2,), (3,), (1,)], 0), lambda *x: torch.cat(x, 1))),
    Row("concatenation-channels", plain(lambda: Concatenation([(1, 2, 3), (2, 2, 3)], 0), lambda *x: torch.cat(x, 1))),
    Row("concatenation-last", plain(lambda: Concatenation([(2, 1), (2, 3)], 1), lambda *x: torch.cat(x, 2))),
    Row("sum-of-branches", plain(lambda: Sum([(2, 3), (2, 3)]), lambda a, b: a + b)),
    Row("difference", plain(lambda: Sum([(4,), (4,)], -1.0), lambda a, b: a - b)),
    Row("weighted-sum", plain(lambda: Sum([(4,), (4,)], 0.3), lambda a, b: a + 0.3 * b)),
]  # fmt: skip

ELEMENTWISE: list[Row] = [
    Row("relu", plain(lambda: TwoPiece((6,)), F.relu)),
    Row("leaky-relu", plain(lambda: TwoPiece((6,), 0.1, 1.0), lambda z: F.leaky_relu(z, 0.1))),
    Row("leaky-relu-steep", plain(lambda: TwoPiece((6,), 2.5, 1.0), lambda z: F.leaky_relu(z, 2.5))),
    Row("leaky-relu-falling", plain(lambda: TwoPiece((6,), -0.5, 1.0), lambda z: F.leaky_relu(z, -0.5))),
    Row("absolute", plain(lambda: TwoPiece((6,), -1.0, 1.0), torch.abs)),
    Row("hat", plain(lambda: TwoPiece((6,), 1.0, -2.0), lambda z: torch.where(z < 0, z, -2 * z))),
    Row("line", plain(lambda: TwoPiece((6,), 1.0, 1.0), lambda z: z)),
    Row("hardtanh", plain(lambda: Clip((6,), -1.0, 1.0), F.hardtanh)),
    Row("relu6", plain(lambda: Clip((6,), 0.0, 6.0), F.relu6)),
    Row("clamp-off-center", plain(lambda: Clip((6,), 0.25, 0.5), lambda z: z.clamp(0.25, 0.5))),
    Row("clamp-min", plain(lambda: Clip((6,), -0.5, math.inf), lambda z: z.clamp(min=-0.5))),
    Row("clamp-max", plain(lambda: Clip((6,), -math.inf, 0.5), lambda z: z.clamp(max=0.5))),
    Row("clamp-to-a-point", plain(lambda: Clip((6,), 0.5, 0.5), lambda z: z.clamp(0.5, 0.5))),
    Row("clamp-to-everything", plain(lambda: Clip((6,), -math.inf, math.inf), lambda z: z)),
    Row("sigmoid", plain(lambda: Sigmoid((6,)), torch.sigmoid)),
    Row("tanh", plain(lambda: Tanh((6,)), torch.tanh)),
]

WINDOWS: list[Row] = [
    maximum("max-pool", (2, 4, 6), 2),
    maximum("max-pool-overlap", (1, 5, 4), (3, 2), 1),
    maximum("max-pool-padding", (1, 4, 5), 3, 2, 1),
    maximum("max-pool-dilation", (1, 6, 5), 2, 1, 0, (3, 2)),
    maximum("max-pool-ceil", (1, 5, 6), (2, 3), (2, 2), (1, 0), 1, True),
    maximum("max-pool-one", (2, 2, 3), 1),
    maximum("max-pool-all", (1, 3, 3), 3),
]

NONLINEAR = ELEMENTWISE + WINDOWS
EVERYTHING = AFFINE + NONLINEAR


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


def inputs_of(operation: Affine | Nonlinear, n: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A random batch for each input."""
    return [torch.randn(n, *shape, dtype=dtype) for shape in operation.inputs]
