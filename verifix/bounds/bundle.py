"""Rows pushed forward through a network between parallel planes, and where they are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from verifix.graph import INPUT, Graph, Node
from verifix.operations import Affine, Slab
from verifix.tensors import fold, unfold

Drawn = Literal["cauchy", "normal"]


class Bundle:
    """Rows that start at some nodes and are pushed forward: ``(n or 1, k, *shape)`` at every node.

    Args:
        slabs: the parallel planes of every nonlinear node that rows go through; may grow between calls.
        start: the rows that start at the input or at a nonlinear node; None for none.
        points: whether rows are points, which constants are added to; else they are directions.
    """

    def __init__(
        self,
        graph: Graph,
        slabs: Mapping[str, Slab],
        start: Callable[[str], Tensor | None],
        *,
        points: bool = False,
    ) -> None:
        self.graph, self.slabs, self.start, self.points = graph, slabs, start, points
        self._rows: dict[str, Tensor | None] = {}
        self._done: set[str] = set()
        self._readers: dict[str, list[str]] = {name: [] for name in (INPUT, *graph.nodes)}
        for node in graph.nodes.values():
            for source in node.inputs:
                self._readers[source].append(node.name)

    def at(self, name: str) -> Tensor | None:
        """The rows that arrive at a node; None for zero. Those that nothing reads any more are dropped on the way."""
        if name not in self._rows:
            if name in self._done:  # dropped: push everything again
                self._rows.clear()
                self._done.clear()
            if INPUT not in self._done:
                self._rows[INPUT] = self.start(INPUT)
                self._done.add(INPUT)
            for node in self.graph.ancestors(name) if name != INPUT else []:
                if node.name not in self._done:
                    self._rows[node.name] = self._step(node)
                    self._done.add(node.name)
                    self._drop(node)
        return self._rows[name]

    def _step(self, node: Node) -> Tensor | None:
        parts = [self._rows[source] for source in node.inputs]
        if not isinstance(node.operation, Affine):
            pushed = None if parts[0] is None else self.slabs[node.name].linear(parts[0])
            fresh = self.start(node.name)
            return fresh if pushed is None else pushed if fresh is None else pushed + fresh
        known = [part for part in parts if part is not None]
        if not known:
            return None
        n, k = max(len(part) for part in known), known[0].shape[1]
        whole = [
            known[0].new_zeros(n, k, *shape) if part is None else part.expand(n, *part.shape[1:])
            for part, shape in zip(parts, node.operation.inputs, strict=True)
        ]
        act = node.operation.forward if self.points else node.operation.linear
        return unfold(act(*(fold(part) for part in whole)), whole[0])

    def _drop(self, node: Node) -> None:
        for source in node.inputs:
            if all(reader in self._done for reader in self._readers[source]):
                self._rows.pop(source, None)
