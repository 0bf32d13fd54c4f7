"""Elementwise nonlinearities."""

from __future__ import annotations

import math
from typing import Any

from verifix.errors import InvalidValue
from verifix.graph.aten.lowering import Lowering, rule
from verifix.operations import Clip, Shape, Sigmoid, Tanh, TwoPiece


@rule("relu")
def _relu(graph: Lowering, op: Any, shape: Shape, x: str) -> str:
    return graph.emit(TwoPiece(shape), x)


@rule("leaky_relu")
def _leaky_relu(graph: Lowering, op: Any, shape: Shape, x: str, slope: float = 0.01) -> str:
    return graph.emit(TwoPiece(shape, float(slope), 1.0), x)


@rule("abs")
def _abs(graph: Lowering, op: Any, shape: Shape, x: str) -> str:
    return graph.emit(TwoPiece(shape, -1.0, 1.0), x)


@rule("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6")
def _clamp(graph: Lowering, op: Any, shape: Shape, x: str, *limits: Any, **options: Any) -> str:
    name = str(op).removeprefix("aten.").split(".")[0]
    low, high = {"hardtanh": (-1.0, 1.0), "relu6": (0.0, 6.0)}.get(name, (None, None))
    if name == "clamp_max":
        (high,) = limits
    elif limits:
        low, high = (*limits, high)[:2]
    low, high = options.get("min", options.get("min_val", low)), options.get("max", options.get("max_val", high))
    if isinstance(low, str) or isinstance(high, str) or callable(low) or callable(high):
        raise InvalidValue(name, "tensor limits", "limits must be numbers")
    return graph.emit(
        Clip(shape, -math.inf if low is None else float(low), math.inf if high is None else float(high)), x
    )


@rule("sigmoid")
def _sigmoid(graph: Lowering, op: Any, shape: Shape, x: str) -> str:
    return graph.emit(Sigmoid(shape), x)


@rule("tanh")
def _tanh(graph: Lowering, op: Any, shape: Shape, x: str) -> str:
    return graph.emit(Tanh(shape), x)
