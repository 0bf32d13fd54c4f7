"""Interval bounds as midpoint and radius, for passes that gradients are recorded of."""

from __future__ import annotations

from torch import Tensor

from verifix.bounds.rounding import lower_bound, upper_bound
from verifix.graph import INPUT, Graph, Node
from verifix.kernels.interval_image import interval_image
from verifix.operations import Affine, Levels, Relaxation, TwoPiece
from verifix.sets import InputSet
from verifix.tensors import Interval


class MidpointPass:
    """Intervals of the nodes of a graph over one batch of input sets, each computed once.

    They are those of :meth:`verifix.operations.Operation.interval` but for rounding, which is not accounted. Between
    affine operations boxes stay midpoint and radius, which is what those map; lower and upper bounds are made of them
    where they are asked for. An activation of two increasing pieces takes one sweep.

    Args:
        ends: whether lower and upper bounds of the inputs of nonlinear operations will be asked for.
    """

    def __init__(self, graph: Graph, inputs: InputSet, *, ends: bool) -> None:
        self.graph, self.inputs, self.ends = graph, inputs, ends
        self._boxes: dict[str, Interval] = {}  # midpoints (n, *shape) and radii (n or 1, *shape)
        self._intervals: dict[str, Interval] = {}
        self._started = False

    def __contains__(self, name: str) -> bool:
        return name in self._boxes

    def start(self, name: str, lower: Tensor, upper: Tensor) -> None:
        """Let the pass start at a node with these bounds."""
        self._started, radius = True, (upper - lower) / 2
        self._boxes[name], self._intervals[name] = (lower + radius, radius), (lower_bound(lower), upper_bound(upper))

    def interval(self, name: str) -> Interval:
        """Lower and upper bounds of a node, ``(n, *shape)``; NaN where something has overflowed."""
        if name not in self._intervals:
            midpoint, radius = self.box(name)
            for reader in self.graph.nodes.values() if self.ends else ():
                if reader.inputs == (name,) and reader.name not in self._boxes and _pieces(reader):
                    self._boxes[reader.name] = self._image(reader)
            if name not in self._intervals:
                self._intervals[name] = lower_bound(midpoint - radius), upper_bound(midpoint + radius)
        return self._intervals[name]

    def box(self, name: str) -> Interval:
        """Midpoint ``(n, *shape)`` and radius ``(n or 1, *shape)`` of a node."""
        if INPUT not in self._boxes:
            self._boxes[INPUT] = self._input()
        for node in self._missing(name):
            if isinstance(node.operation, Affine):
                midpoints, radii = zip(*(self._boxes[source] for source in node.inputs), strict=True)
                if len(radii) > 1:
                    radii = tuple(r.expand_as(m) for m, r in zip(midpoints, radii, strict=True))
                self._boxes[node.name] = node.operation.forward(*midpoints), node.operation.absolute(*radii)
            else:
                self._boxes[node.name] = self._image(node)
        return self._boxes[name]

    def levels(self, name: str) -> dict[str, Relaxation]:
        """Flat lines for the nonlinear nodes that a node reads through affine ones alone."""
        wanted = {name}
        lines: dict[str, Relaxation] = {}
        for node in reversed(self.graph.ancestors(name) if name != INPUT else []):
            if node.name not in wanted:
                continue
            if isinstance(node.operation, Affine):
                wanted.update(node.inputs)
                continue
            midpoint, radius = self.box(node.name)
            lines[node.name] = Levels(midpoint - radius, midpoint + radius)
        return lines

    def values_at(self, x: Tensor) -> dict[str, Tensor]:
        """The values of nodes at ``x`` that the pass has computed: where these are the midpoints of the input, those of
        all nodes that only affine operations lead to."""
        if self._started or INPUT not in self._boxes or self._boxes[INPUT][0] is not x:
            return {}
        affine = [node for node in self.graph.nodes.values() if not self.graph.nonlinear(node.name)]
        return {node.name: self._boxes[node.name][0] for node in affine if node.name in self._boxes}

    def _missing(self, name: str) -> list[Node]:
        """The nodes that are to be computed for a node, in order."""
        wanted, found = {name}, []
        for node in reversed(self.graph.ancestors(name) if name not in self._boxes else []):
            if node.name in wanted and node.name not in self._boxes:
                wanted.update(node.inputs)
                found.append(node)
        return found[::-1]

    def _input(self) -> Interval:
        ball = self.inputs.norm_ball()
        if ball is not None and ball.whole:
            return ball.center, ball.radius.expand(-1, *self.inputs.shape)
        lower, upper = self.inputs.hull()
        radius = (upper - lower) / 2
        return lower + radius, radius

    def _image(self, node: Node) -> Interval:
        (source,), operation = node.inputs, _pieces(node)
        if operation is None:
            lower, upper = node.operation.interval(*([side] for side in self.interval(source)))
            radius = (upper - lower) / 2
            return lower + radius, radius
        midpoint, radius = self._boxes[source]
        ends = self.ends and source not in self._intervals
        image = interval_image(midpoint, radius.expand_as(midpoint), operation.left, operation.right, bounds=ends)
        if image.lower is not None and image.upper is not None:
            self._intervals[source] = image.lower, image.upper
        return image.midpoint, image.radius


def _pieces(node: Node) -> TwoPiece | None:
    """The operation of a node, where it has two increasing pieces and nothing else."""
    operation = node.operation
    if type(operation) is TwoPiece and operation.left >= 0 and operation.right >= 0:
        return operation
    return None
