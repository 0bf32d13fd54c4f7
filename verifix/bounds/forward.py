"""Intervals and magnitudes of affine nodes on the compiled plan, one node at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from verifix.bounds.lowered import Inexpressible, Lowered, lower
from verifix.bounds.rounding import quantum
from verifix.graph import Graph, Node
from verifix.operations import Affine
from verifix.tensors import Interval


class ForwardPass:
    """The forward steps of a lowered graph, on activations ``(n, *shape)``.

    Results are views of the stored order (channels last), so that they go into the next step without a copy.
    """

    def __init__(self, lowered: Lowered, quantum: float) -> None:
        self.lowered, self.quantum = lowered, quantum

    def __contains__(self, node: Node) -> bool:
        """Whether the plan has a step for a node, or its input is stored as it is."""
        return (
            isinstance(node.operation, Affine)
            and node.name not in self.lowered.missing
            and (self._renames(node) or self.lowered.plan.forwards(self.lowered.stored[node.name]))
        )

    def _renames(self, node: Node) -> bool:
        """Whether a node does no more than to give its input another shape."""
        return self.lowered.stored[node.name] is self.lowered.stored[node.inputs[0]]

    def __call__(self, node: Node, intervals: Sequence[Interval], magnitudes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As :meth:`verifix.kernels.plan.Plan.forward`, from the intervals and the magnitudes of a node's inputs.

        Where a node gives its input another shape and no more, what is returned is that input, in the old shape.
        """
        if self._renames(node):
            return (*(intervals[0] if intervals else ()), *magnitudes)
        stored = self.lowered.stored[node.name]
        sources = stored.sources
        found = self.lowered.plan.forward(
            stored,
            intervals=[(at.pack(low), at.pack(high)) for (low, high), at in zip(intervals, sources, strict=False)],
            magnitudes=[at.pack(size) for size, at in zip(magnitudes, sources, strict=False)],
            quantum=self.quantum,
        )
        return tuple(stored.unpack(x, node.shape) for x in found)


class Compiled:
    """The forward pass of a graph on the compiled plan, made when it is first asked for.

    Args:
        like: what its activations are like: their dtype, and where they are.
        wanted: whether to use it at all.
    """

    def __init__(self, graph: Graph, like: Tensor, *, wanted: bool) -> None:
        self.graph, self.like = graph, like
        self.forward: ForwardPass | None = None
        self._wanted = wanted

    @property
    def lowered(self) -> Lowered | None:
        """The graph on the plan, where the pass is in use."""
        return None if self.forward is None else self.forward.lowered

    def at(self, node: Node) -> ForwardPass | None:
        """The pass, where it has a step for a node."""
        if self._wanted and self.forward is None:
            try:
                self.forward = ForwardPass(lower(self.graph, self.like), quantum(self.like.dtype))
            except Inexpressible:
                self._wanted = False
        return self.forward if self.forward is not None and node in self.forward else None

    def shaped(self, name: str, x: Tensor) -> Tensor:
        """What steps leave in the shape of their source, in that of its node."""
        return x.reshape(len(x), *self.graph.shape_of(name))
