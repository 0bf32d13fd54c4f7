"""Pooling of every kind, means and sums."""

from __future__ import annotations

import math
from typing import Any

from verifix.errors import InvalidValue
from verifix.graph.aten.lowering import Lowering, rule
from verifix.graph.lowering import average_pool, max_pool, moved, pair
from verifix.operations import Pooling, Reduction, Shape, adaptive_matrix


@rule("avg_pool1d", "avg_pool2d")
def _avg_pool(
    graph: Lowering,
    op: Any,
    shape: Shape,
    x: str,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> str:
    axes = 1 if "1d" in str(op) else 2
    steps = pair(stride, axes) if stride else pair(kernel, axes)
    return graph.emit(
        average_pool(
            graph.shape(x),
            pair(kernel, axes),
            steps,
            pair(padding, axes),
            ceil_mode,
            count_include_pad,
            divisor_override,
        ),
        x,
    )


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(graph: Lowering, op: Any, shape: Shape, x: str, size: Any) -> str:
    axes = 1 if "1d" in str(op) else 2
    sizes = zip(graph.shape(x)[-axes:], shape[-axes:], strict=True)
    return graph.emit(Pooling(graph.shape(x), [adaptive_matrix(length, count) for length, count in sizes]), x)


@rule("max_pool1d", "max_pool2d")
def _max_pool(
    graph: Lowering,
    op: Any,
    shape: Shape,
    x: str,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> str:
    if "2d" in str(op):
        return graph.emit(max_pool(graph.shape(x), kernel, stride, padding, dilation, ceil_mode), x)
    # one axis is a plane of height 1
    flat = graph.prepare(moved(graph.shape(x), lambda t: t[:, :, None]), x)
    window, step = ((1, pair(value, 1)[0]) for value in (kernel, stride or kernel))
    pooled = graph.prepare(
        max_pool(graph.shape(flat), window, step, (0, pair(padding, 1)[0]), (1, pair(dilation, 1)[0]), ceil_mode), flat
    )
    return graph.emit(moved(graph.shape(pooled), lambda t: t[:, :, 0]), pooled)


@rule("mean", "sum")
def _reduce(
    graph: Lowering, op: Any, shape: Shape, x: str, axes: Any = None, keepdim: bool = False, dtype: Any = None
) -> str:
    inputs = graph.shape(x)
    numbers = [axis % (len(inputs) + 1) for axis in (axes or [])]
    if not numbers or 0 in numbers:
        raise InvalidValue("dim", axes, "must name axes other than the batch")
    factor = 1.0 / math.prod(inputs[axis - 1] for axis in numbers) if str(op).startswith("aten.mean") else 1.0
    return graph.emit(Reduction(inputs, [axis - 1 for axis in numbers], keepdim, factor), x)
