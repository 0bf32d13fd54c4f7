"""Intervals and magnitudes of affine nodes on the compiled plan, one node at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from verifix.bounds.lowered import Lowered
from verifix.graph import Node
from verifix.operations import Affine

Interval = tuple[Tensor, Tensor]


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
