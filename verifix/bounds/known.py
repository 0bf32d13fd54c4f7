"""What an engine has found of the nonlinear nodes of a network."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from verifix.graph import Node
from verifix.operations import Relaxation, Slab
from verifix.tensors import Interval


@dataclass
class Known:
    """Lines of nonlinear nodes, and the bounds that they are made of, over one batch of input sets.

    Args:
        relaxations: the lines, by the names of the nonlinear nodes.
        preactivations: the bounds of their inputs, ``(n, *shape)``, by the names of the nodes that these are.
    """

    relaxations: dict[str, Relaxation] = field(default_factory=dict)
    preactivations: dict[str, Interval] = field(default_factory=dict)

    def slab(self, node: Node) -> Slab:
        """The parallel planes of a node that has lines."""
        return self.relaxations[node.name].slab(*self.preactivations[node.inputs[0]])

    def magnitude(self, node: Node, size: Tensor) -> Tensor:
        """The magnitude of a node that has lines, ``(n, *shape)``, from that of its input."""
        return self.relaxations[node.name].magnitude(size, *self.preactivations[node.inputs[0]])

    def select(self, index: Tensor | None) -> Known:
        """The same of some of the inputs, or of all: what is found from there on is not shared."""
        if index is None:
            return Known(dict(self.relaxations), dict(self.preactivations))
        return Known(
            {name: relaxation.select(index) for name, relaxation in self.relaxations.items()},
            {name: (lower[index], upper[index]) for name, (lower, upper) in self.preactivations.items()},
        )
