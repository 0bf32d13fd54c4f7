"""Dense layers, convolutions, batch normalisation, and products with constant matrices."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from verifix.errors import InvalidValue
from verifix.graph.aten.lowering import Lowering, Operand, constant_of, node, optional, rule, tensor
from verifix.graph.lowering import moved, padding_of, pair
from verifix.operations import Convolution, Dense, Scaling, Shape, Value, batch_norm


@rule("linear")
def _linear(graph: Lowering, op: Any, shape: Shape, x: str, weight: Value, bias: Value | None = None) -> str:
    return graph.emit(Dense(graph.shape(node(x)), tensor(weight), optional(bias)), x)


@rule("matmul", "mm")
def _matmul(graph: Lowering, op: Any, shape: Shape, a: Operand, b: Operand) -> str:
    x, weight = node(a), tensor(b)
    if weight().dim() != 2:
        raise InvalidValue(
            "matmul", f"constant of shape {tuple(weight().shape)}", "needs an activation times a constant matrix"
        )
    return graph.emit(Dense(graph.shape(x), lambda: weight().T), x)


@rule("addmm")
def _addmm(graph: Lowering, op: Any, shape: Shape, bias: Operand, x: str, weight: Value) -> str:
    constant, matrix = tensor(bias), tensor(weight)
    product = graph.prepare(Dense(graph.shape(node(x)), lambda: matrix().T), x)
    return graph.emit(Scaling(graph.shape(product), None, constant_of(constant, shape)), product)


@rule("conv1d", "conv2d")
def _convolution(
    graph: Lowering,
    op: Any,
    shape: Shape,
    x: str,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> str:
    weight = tensor(weight)
    kernel = tuple(weight().shape[2:])
    axes = len(kernel)
    stride, dilation = pair(stride, axes), pair(dilation, axes)
    sides = padding_of(padding, kernel, dilation)
    if sides is None:  # "same" with an even window: one more on the right
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        x, sides = graph.prepare(moved(graph.shape(x), lambda t: F.pad(t, pads, value=-1)), x), (0,) * axes
    return graph.emit(Convolution(graph.shape(node(x)), weight, optional(bias), stride, sides, dilation, groups), x)


@rule("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(graph: Lowering, op: Any, shape: Shape | None, x: str, *arguments: Any) -> Any:
    several = "_native" in str(op)
    if several:
        weight, bias, mean, variance, _, epsilon = arguments
    else:
        weight, bias, mean, variance, training, _, epsilon, _ = arguments
        if training:
            raise InvalidValue("batch_norm", "training=True", "call model.eval()")
    if mean is None or variance is None:
        raise InvalidValue(
            "batch_norm", "no running statistics", "its output depends on the rest of the batch; use stored statistics"
        )
    operation = batch_norm(graph.shape(x), optional(weight), optional(bias), tensor(mean), tensor(variance), epsilon)
    name = graph.emit(operation, x)
    return [name, None, None] if several else name


@rule("_native_batch_norm_legit")
def _batch_norm_of_batch(graph: Lowering, op: Any, shape: Shape | None, *arguments: Any) -> Any:
    raise InvalidValue("batch_norm", "statistics of the batch", "call model.eval(), and keep running statistics")
