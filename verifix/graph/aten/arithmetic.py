"""Sums, differences, and scaling by constants."""

from __future__ import annotations

from typing import Any

from verifix.errors import InvalidValue
from verifix.graph.aten.lowering import Lowering, Operand, constant_of, node, rule
from verifix.operations import Scaling, Shape, Sum


def _sum(graph: Lowering, shape: Shape, a: Operand, b: Operand, factor_a: float, factor_b: float) -> str:
    """``factor_a * a + factor_b * b`` where at least one is a node."""
    if isinstance(a, str) and isinstance(b, str):
        if factor_a != 1.0:
            a, b, factor_a, factor_b = b, a, factor_b, factor_a
        left, right = graph.fit(a, shape), graph.fit(b, shape)
        if factor_a != 1.0:
            left = graph.prepare(Scaling(shape, constant_of(factor_a, shape), None), left)
        return graph.emit(Sum([shape, shape], float(factor_b)), left, right)
    if not isinstance(a, str):
        a, b, factor_a, factor_b = b, a, factor_b, factor_a
    constant = constant_of(b, shape)
    shift = None if constant is None else (lambda: constant().double() * factor_b)
    scale = None if factor_a == 1.0 else constant_of(factor_a, shape)
    return graph.emit(Scaling(shape, scale, shift), graph.fit(node(a), shape))


@rule("add")
def _add(graph: Lowering, op: Any, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> str:
    return _sum(graph, shape, a, b, 1.0, alpha)


@rule("sub")
def _sub(graph: Lowering, op: Any, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> str:
    return _sum(graph, shape, a, b, 1.0, -alpha)


@rule("rsub")
def _rsub(graph: Lowering, op: Any, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> str:
    return _sum(graph, shape, a, b, -alpha, 1.0)


@rule("neg")
def _neg(graph: Lowering, op: Any, shape: Shape, x: str) -> str:
    return graph.emit(Scaling(shape, constant_of(-1.0, shape), None), x)


@rule("mul")
def _mul(graph: Lowering, op: Any, shape: Shape, a: Operand, b: Operand) -> str:
    if isinstance(a, str) and isinstance(b, str):
        raise InvalidValue(
            "mul", "two activations", "products of activations are not supported; one factor must be constant"
        )
    if not isinstance(a, str):
        a, b = b, a
    return graph.emit(Scaling(shape, constant_of(b, shape), None), graph.fit(node(a), shape))


@rule("div")
def _div(graph: Lowering, op: Any, shape: Shape, a: Operand, b: Operand, rounding_mode: str | None = None) -> str:
    divisor = constant_of(b, shape)
    if divisor is None or rounding_mode is not None:
        raise InvalidValue("div", "an activation as divisor, or rounding", "only division by a constant is supported")
    return graph.emit(Scaling(shape, lambda: divisor().double().reciprocal(), None), graph.fit(node(a), shape))
