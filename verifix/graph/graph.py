"""A network as a small typed graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from verifix.errors import InvalidValue
from verifix.operations import Nonlinear, Operation, Shape

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """One operation and the names of the nodes that feed it.

    ``shape`` is that of the output, without batch; ``source`` says where in the user's code it comes from, where that
    is known.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    source: str = ""

    @property
    def shape(self) -> Shape:
        return self.operation.shape


class Graph:
    """Nodes in an order in which every node follows its inputs; the last one is the output.

    ``model`` is the module that it was captured from, which predictions and counterexamples are run through. Callable
    like the model it was captured from, on ``(n, *input_shape)`` in any floating-point dtype.

    >>> import torch, verifix as vx
    >>> graph = vx.capture(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.zeros(1, 2))
    >>> list(graph.nodes), graph.shape
    (['0', '1'], (3,))
    """

    def __init__(self, input_shape: Shape, nodes: Iterable[Node]) -> None:
        self.input_shape = input_shape
        self.model: nn.Module | None = None
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            self.nodes[node.name] = node
        if not self.nodes:
            raise InvalidValue("model", "a network without operations", "needs at least one layer")
        self.output = next(reversed(self.nodes))
        self._ancestors: dict[str, list[Node]] = {}

    @property
    def shape(self) -> Shape:
        """The shape of one output."""
        return self.nodes[self.output].shape

    def shape_of(self, name: str) -> Shape:
        """The shape of one activation of a named node, or of the input."""
        return self.input_shape if name == INPUT else self.node(name).shape

    def node(self, name: str) -> Node:
        """A node by name."""
        if name not in self.nodes:
            raise InvalidValue("node", repr(name), f"choose one of {', '.join([INPUT, *self.nodes])}")
        return self.nodes[name]

    def ancestors(self, name: str) -> list[Node]:
        """The node and all that it depends on, in order."""
        if name in self._ancestors:
            return self._ancestors[name]
        wanted = {name}
        found = []
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
                found.append(node)
        self._ancestors[name] = found[::-1]
        return self._ancestors[name]

    def nonlinear(self, name: str) -> list[Node]:
        """The nonlinear nodes among the ancestors of a node, in order."""
        return [node for node in self.ancestors(name) if isinstance(node.operation, Nonlinear)]

    def __call__(self, x: Tensor) -> Tensor:
        return self.activations(x)[self.output]

    def activations(self, x: Tensor, known: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """The value of every node, and of the input, for a batch; those that are known are used, and not computed."""
        values = {**(known or {}), INPUT: x}
        for node in self.nodes.values():
            if node.name in values:
                continue
            values[node.name] = node.operation.forward(*(values[name] for name in node.inputs))
        return values

    def __repr__(self) -> str:
        lines = [f"Graph({self.input_shape} -> {self.shape})"]
        lines += [
            f"  {n.name} = {type(n.operation).__name__}({', '.join(n.inputs)}) {n.shape}" for n in self.nodes.values()
        ]
        return "\n".join(lines)
