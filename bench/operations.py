"""How many multiply-adds a backward pass needs: what the share of the matrix rate is counted against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from verifix.graph import INPUT, Graph, Node
from verifix.operations import Convolution, Dense, Movement, Nonlinear, Scaling, Shape, Sum


@dataclass(frozen=True)
class Reach:
    """Where the rows of one start may be nonzero on a node, axis by axis, for each start position on that axis.

    ``unit``: the rows are still unit vectors, so the first affine layer only copies its weights.
    """

    spans: tuple[tuple[tuple[int, int], ...], ...]
    unit: bool

    def hull(self, other: Reach) -> Reach:
        return Reach(
            tuple(
                tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(mine, theirs, strict=True))
                for mine, theirs in zip(self.spans, other.spans, strict=True)
            ),
            self.unit and other.unit,
        )


def exact_multiply_adds(graph: Graph, rows: int) -> int:
    """Multiply-adds per input of exact backward bounds: unit rows of every pre-activation, ``rows`` of the output.

    Counted are those of dense and convolution layers, with locality: a row is pushed through the window that it
    reaches, less what falls on padding. Not counted is what needs no product of matrices: lines, sums, the support
    function, and the layer that the unit rows are on, whose weights are only copied. All rows and columns count,
    whether a ReLU is dead or not: a pass that skips some may be faster than the count says.

    Raises:
        ValueError: for an operation that it has no count for.
    """
    starts = {node.inputs[0] for node in graph.nodes.values() if isinstance(node.operation, Nonlinear)}
    return sum(_pass(graph, start, None) for start in starts) + _pass(graph, graph.output, rows)


def _pass(graph: Graph, start: str, rows: int | None) -> int:
    """One pass: from all unit rows of a node, or from so many rows of any kind."""
    if start == INPUT:
        return 0
    shape = graph.shape_of(start)
    if rows is None:
        reach = Reach(tuple(tuple((i, i + 1) for i in range(size)) for size in shape[1:]), True)
        count = shape[0]
    else:
        reach, count = _whole(shape, tuple(1 for _ in shape[1:]), False), rows
    pending, total = {start: reach}, 0
    for node in reversed(graph.ancestors(start)):
        if node.name not in pending:
            continue
        cost, sources = _push(node, pending.pop(node.name))
        total += cost
        for name, part in zip(node.inputs, sources, strict=True):
            pending[name] = pending[name].hull(part) if name in pending else part
    return count * total


def _whole(shape: Shape, positions: tuple[int, ...], unit: bool) -> Reach:
    return Reach(tuple(((0, size),) * count for size, count in zip(shape[1:], positions, strict=True)), unit)


def _push(node: Node, reach: Reach) -> tuple[int, list[Reach]]:
    """Multiply-adds of one channel of start rows, and where the rows are on the node's sources."""
    operation = node.operation
    if isinstance(operation, Nonlinear | Scaling) and operation.inputs[0] == operation.shape:
        return 0, [Reach(reach.spans, False)]
    if isinstance(operation, Sum):
        return 0, [reach, reach]
    if isinstance(operation, Movement) and operation.reshape_only:
        return 0, [_flat(operation.inputs[0], reach)]
    if isinstance(operation, Dense) and len(operation.shape) == 1:
        return 0 if reach.unit else math.prod(operation.weight().shape), [Reach((), False)]
    if isinstance(operation, Convolution):
        return _convolution(operation, reach)
    raise ValueError(f"no count for {type(operation).__name__} of node {node.name!r}")


def _flat(source: Shape, reach: Reach) -> Reach:
    """Before a layer that flattens, rows may be nonzero everywhere; they stand for one start position."""
    if reach.spans and all(len(spans) > 1 for spans in reach.spans):
        raise ValueError("no count for rows of a plane that are reshaped")
    return _whole(source, tuple(1 for _ in source[1:]), reach.unit)


def _convolution(operation: Convolution, reach: Reach) -> tuple[int, list[Reach]]:
    weight = operation.weight()
    cost, spans = int(math.prod(weight.shape[:2])), []
    for axis, windows in enumerate(reach.spans):
        size, kernel = operation.inputs[0][1 + axis], operation.kernel[axis]
        stride, padding, dilation = operation.stride[axis], operation.padding[axis], operation.dilation[axis]
        taps, found = 0, []
        for first, last in windows:
            inside = [
                place
                for output in range(first, last)
                for tap in range(kernel)
                if 0 <= (place := output * stride - padding + tap * dilation) < size
            ]
            taps += len(inside)
            found.append((min(inside, default=0), max(inside, default=-1) + 1))
        cost *= taps
        spans.append(tuple(found))
    return (0 if reach.unit else cost), [Reach(tuple(spans), False)]
