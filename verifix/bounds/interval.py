"""The interval pass: boxes from node to node, wherever those behind nonlinear nodes come from."""

from __future__ import annotations

from collections.abc import Callable

import torch

from verifix.bounds.dispatch import BackwardPass
from verifix.bounds.forward import Compiled, ForwardPass
from verifix.bounds.magnitudes import Magnitudes
from verifix.bounds.midpoint import MidpointPass
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Nonlinear
from verifix.sets import InputSet
from verifix.tensors import Interval


class IntervalPass:
    """Intervals of nodes over one batch of input sets, each computed once, without a bound on their rounding.

    Args:
        compiled: forward steps of affine nodes, for where no gradients are recorded.
        backward: backward passes, for sets that have more to say of later nodes than of their inputs.
        magnitudes: those that the compiled steps fill, as rounding will ask for them; None where it will not.
        ends: whether bounds of the inputs of nonlinear operations will be asked for.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: InputSet,
        compiled: Compiled,
        backward: BackwardPass,
        magnitudes: Magnitudes | None,
        *,
        ends: bool,
    ) -> None:
        self.graph, self.inputs = graph, inputs
        self.compiled, self.backward, self.magnitudes = compiled, backward, magnitudes
        self.midpoints = MidpointPass(graph, inputs, ends=ends)
        self._found: dict[str, Interval] = {}

    def share(self, other: IntervalPass) -> None:
        """What either finds from now on is found for both."""
        self._found, self.midpoints = other._found, other.midpoints

    def __call__(self, name: str, *, image: Callable[[Node], Interval], prepare: Callable[[str], None]) -> Interval:
        """The interval of a node, ``(n, *shape)``.

        Args:
            image: gives the interval of a nonlinear node.
            prepare: finds lines for the nonlinear nodes that a node depends on, which its magnitude is made of.
        """
        for node in self.graph.ancestors(name) if name != INPUT else []:
            if node.name in self._found or self._starts(node.name):
                continue
            if isinstance(node.operation, Nonlinear):
                self._found[node.name] = image(node)
                continue
            sides = [self._side(source) for source in node.inputs]
            step = None if torch.is_grad_enabled() else self.compiled.at(node)
            if step is not None:
                self._found[node.name] = self._compiled_step(step, node, sides, prepare)
                continue
            lowers, uppers = (
                [self.compiled.shaped(source, side[i]) for source, side in zip(node.inputs, sides, strict=True)]
                for i in (0, 1)
            )
            self._found[node.name] = node.operation.interval(lowers, uppers)
        lower, upper = self._side(name)
        return self.compiled.shaped(name, lower), self.compiled.shaped(name, upper)

    def recorded(self, name: str) -> MidpointPass:
        """The pass that gradients are recorded of, with no bounds but its own: with those that it starts from on its
        way to a node."""
        if self.inputs.starts_from_support and name != INPUT:
            behind = [node for node in self.graph.ancestors(name) if not self._starts(node.name)]
            for source in [name, *(source for node in behind for source in node.inputs)]:
                if self._starts(source) and source not in self.midpoints:
                    self.midpoints.start(source, *self._side(source))
        return self.midpoints

    def _starts(self, name: str) -> bool:
        """Whether the pass starts at a node: nothing but affine operations is before it, and its input sets have more
        to say of these than of their inputs."""
        return self.inputs.starts_from_support and name != INPUT and not self.graph.nonlinear(name)

    def _side(self, name: str) -> Interval:
        """The interval of the input or of a node that the pass has met."""
        if name == INPUT:
            return self.inputs.hull()
        if name not in self._found and self._starts(name):
            lower, upper = self.backward(name, None, {}, upper=True)
            self._found[name] = lower, lower if upper is None else upper
        return self._found[name]

    def _compiled_step(
        self, step: ForwardPass, node: Node, sides: list[Interval], prepare: Callable[[str], None]
    ) -> Interval:
        """The interval of an affine node; its magnitude comes along where rounding will ask for it."""
        if self.magnitudes is None or node.name in self.magnitudes:
            lower, upper = step(node, sides, [])
            return lower, upper
        prepare(node.name)
        lower, upper, magnitude = step(node, sides, [self.magnitudes.at(source) for source in node.inputs])
        self.magnitudes.keep(node.name, magnitude)
        return lower, upper
