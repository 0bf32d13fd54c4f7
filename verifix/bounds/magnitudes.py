"""The magnitudes of nodes, and the bounds on rounding errors that follow from them: ``docs/rounding.md``."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.bounds.forward import Compiled
from verifix.bounds.known import Known
from verifix.bounds.rounding import SAFETY, quantum, relative_error, underflow
from verifix.graph import INPUT, Graph
from verifix.operations import Affine, MaxPool
from verifix.sets import InputSet
from verifix.tensors import contract, flatten

SLAB = 6.0
"""The terms of a center add up to at most its node's magnitude and one more for every max pooling before it, and so do
those of a row per unit of its largest draw (``docs/projections.md``). This leaves room for rows of single coordinates,
for the rounding of the planes, and for what rounds once more when it is put together."""


class Magnitudes:
    """``M`` of :mod:`verifix.bounds.rounding` over one batch of input sets, for nodes whose nonlinear ancestors have
    lines. Each is computed once; no gradients go through them.

    Args:
        compiled: forward steps of affine nodes.
        known: the lines.
    """

    def __init__(self, graph: Graph, inputs: InputSet, compiled: Compiled, known: Known) -> None:
        self.graph, self.inputs, self.compiled, self.known = graph, inputs, compiled, known
        self.dtype = inputs.center.dtype
        self._found: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def keep(self, name: str, magnitude: Tensor) -> None:
        """What a compiled step has computed beside the interval of a node."""
        self._found[name] = magnitude

    @torch.no_grad()
    def at(self, name: str) -> Tensor:
        """``M`` of a node, ``(n, *shape)``."""
        if INPUT not in self._found:
            self._found[INPUT] = self.inputs.magnitude() + quantum(self.dtype)
        for node in self.graph.ancestors(name) if name != INPUT else []:
            if node.name in self._found:
                continue
            parts = [self._found[source] for source in node.inputs]
            operation = node.operation
            step = self.compiled.at(node)
            if step is not None:
                (self._found[node.name],) = step(node, [], parts)
                continue
            parts = [self.compiled.shaped(source, part) for source, part in zip(node.inputs, parts, strict=True)]
            if isinstance(operation, Affine):
                size = operation.absolute(*parts)
                offset = operation.offset_size(size)
                size = size if offset is None else size + offset
            else:
                size = self.known.magnitude(node, parts[0])
            self._found[node.name] = (size + quantum(self.dtype)).expand(len(self.inputs), *node.shape)
        return self.compiled.shaped(name, self._found[name])

    def largest(self, name: str) -> Tensor:
        """``1 + max M`` over a node and its ancestors, ``(n,)``."""
        names = [INPUT, *(node.name for node in self.graph.ancestors(name))] if name != INPUT else [INPUT]
        for n in names:
            if n in self._found and n not in self._largest and self._found[n].numel():
                size = self._found[n]
                self._largest[n] = size.amax(tuple(range(1, size.dim()))) if size.dim() > 1 else size
        sizes = [self._largest[n] for n in names if n in self._largest]
        largest = torch.stack(sizes).amax(0) if sizes else self.inputs.center.new_zeros(len(self.inputs))
        return SAFETY * (1 + largest)

    @torch.no_grad()
    def error(self, name: str, times: float = 1.0) -> Tensor:
        """A bound on the rounding of the bounds of a node, ``(n, *shape)``.

        Args:
            times: what their terms add up to, at most, in units of the magnitude.
        """
        factor, floor = self._units(name)
        size = self.at(name)
        return times * factor * size + times * floor * self.largest(name).reshape(-1, *[1] * (size.dim() - 1))

    @torch.no_grad()
    def error_of_rows(self, name: str, rows: Tensor) -> Tensor:
        """The same of rows ``(n or 1, r, *shape)`` on a node: ``(n, r)``."""
        factor, floor = self._units(name)
        size = contract(rows.abs(), self.at(name))
        return factor * size + floor * self.largest(name)[:, None] * (1 + flatten(rows.abs(), 2).sum(2))

    @torch.no_grad()
    def error_of_draws(self, name: str) -> Tensor:
        """A bound on the rounding of a row pushed forward to a node, per unit of its largest draw, ``(n, *shape)``."""
        return self.slack(name) * self.error(name)

    def slack(self, name: str) -> float:
        """What the terms of a center or a row at a node add up to, at most, in units of its magnitude."""
        return SLAB + sum(isinstance(node.operation, MaxPool) for node in self.graph.ancestors(name))

    def _units(self, name: str) -> tuple[float, float]:
        return relative_error(self.graph, name, self.dtype), underflow(self.graph, name, self.dtype)
