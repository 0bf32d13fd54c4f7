"""The graph as it grows under the rules, and how the rules read their arguments.

A rule is called with the lowering, torch's operator, the output shape without batch, and the operator's arguments, in
which a string names a node, and a callable is a constant that is read at each use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.graph.graph import INPUT, Node
from verifix.graph.lowering import identity_of, moved
from verifix.operations import Operation, Shape, Value

Operand = Any
"""A node's name, a constant (callable), or a Python number."""


class Lowering:
    """The graph as it grows: emits nodes with unique names."""

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape = input_shape
        self.nodes: dict[str, Node] = {}
        self._name, self._source = "", ""

    def begin(self, name: str, source: str) -> None:
        """Set the name and the source line of the nodes that follow."""
        self._name, self._source = name, source

    def shape(self, name: str) -> Shape:
        """The shape of a node's output."""
        return self.input_shape if name == INPUT else self.nodes[name].shape

    def emit(self, operation: Operation, *inputs: str) -> str:
        """Append the node of a layer, under the layer's name."""
        return self._append(self._name, operation, inputs)

    def prepare(self, operation: Operation, *inputs: str) -> str:
        """Append a node that only prepares the layer's own, under a name derived from it."""
        return self._append(f"{self._name}:before", operation, inputs)

    def _append(self, name: str, operation: Operation, inputs: tuple[str, ...]) -> str:
        if name in self.nodes or name == INPUT:
            name = next(f"{name}_{i}" for i in range(1, len(self.nodes) + 2) if f"{name}_{i}" not in self.nodes)
        self.nodes[name] = Node(name, operation, inputs, self._source)
        return name

    def identity(self, name: str) -> str:
        """A node that passes another one on, as the graph's last."""
        self.begin("output", "")
        return self.emit(identity_of(self.shape(name)), name)

    def fit(self, name: str, shape: Shape) -> str:
        """Broadcast a node to a shape."""
        if self.shape(name) == shape:
            return name
        lead = len(shape) - len(self.shape(name))
        return self.prepare(
            moved(self.shape(name), lambda x: x.reshape(len(x), *[1] * lead, *x.shape[1:]).expand(len(x), *shape)), name
        )


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def constant_of(operand: Operand, shape: Shape) -> Value | None:
    """A number or a constant tensor, broadcast against batched tensors of ``shape``; None for a node."""
    if isinstance(operand, str):
        return None
    if isinstance(operand, (int, float)):
        number = torch.tensor(operand, dtype=torch.float64)
        return lambda: number

    def aligned() -> Tensor:
        tensor = operand()
        if tensor.dim() == len(shape) + 1:
            if tensor.shape[0] != 1:
                raise InvalidValue(
                    "constant", f"tensor of shape {tuple(tensor.shape)}", "its batch axis must have size 1"
                )
            return tensor[0]
        return tensor

    aligned()
    return aligned


def node(operand: Operand) -> str:
    if not isinstance(operand, str):
        raise InvalidValue("argument", "a constant", "verifix expects an activation here")
    return operand


def tensor(operand: Operand) -> Value:
    if not callable(operand):
        raise InvalidValue("argument", "an activation", "verifix expects a parameter or constant here")
    return operand


def optional(operand: Operand) -> Value | None:
    return None if operand is None else tensor(operand)
