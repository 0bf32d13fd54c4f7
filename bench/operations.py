"""How many operations a backward pass, or a step on a Wasserstein ball, needs: what shares of the rates are counted
against."""

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


def sinkhorn_operations(window: int, dtype_degree: int = 6) -> int:
    """Floating-point operations per pixel and sweep of projected Sinkhorn: additions, products, quotients, comparisons.

    For costs that depend on ``|di|`` and ``|dj|``: sums of pairs in one direction are weighed and added in the other,
    so that a product with the window of radius r takes ``(r + 1) (2 r + 1) + 3 r`` operations, twice; the sums of the
    classes of distances take ``2 ((r + 1)^2 - 1)``. One exponential is a series of degree ``dtype_degree``.
    """
    radius = window // 2
    product = (radius + 1) * (2 * radius + 1) + 3 * radius
    classes = 2 * ((radius + 1) ** 2 - 1)
    scaling, error, step, exponential = 2, 6, 11, 2 * dtype_degree + 5
    return 2 * product + classes + scaling + error + step + exponential


def support_operations(window: int, classes: int, evaluations: int = 2) -> int:
    """Comparisons, products and sums per pixel of a support function: the largest neighbour of each class of distances,
    and so many evaluations of the dual; no search can do with fewer than two."""
    return window * window - classes + evaluations * (3 * classes + 1)


def conjugate_operations(window: int, classes: int, sweeps: float) -> float:
    """Operations of conjugate Sinkhorn per pixel with mass: two powers for each offset, to add up its class and to move
    mass, and for each class one power and the sums of cost and slope, at the start and after each step."""
    power = 2 * 12 + 7
    once = 2 * window * window * (power + 4) + classes * (power + 5)
    return once + (sweeps + 1) * (classes * (power + 13) + 8)


def plan_projection_operations(window: int, evaluations: int = 3) -> int:
    """Operations per pixel of a projection of plans: rows less the priced cost, their threshold by one Newton step, and
    the sums of cost and slope; so many times, as a search from a good start needs."""
    return evaluations * 8 * window * window
