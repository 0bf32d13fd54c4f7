"""Backward passes on the compiled plan, where it can express them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from verifix.graph import INPUT, Graph, Node
from verifix.kernels.plan import Plan, Stored, available, plane, standard_order
from verifix.operations import (
    Concatenation,
    Convolution,
    Dense,
    Lines,
    Movement,
    Nonlinear,
    Relaxation,
    Scaling,
    Sum,
)
from verifix.sets import Box, InputSet, LpBall


class Inexpressible(Exception):
    """Why a graph, a set or a relaxation cannot be put on the plan."""


class NativePass:
    """A graph on the compiled plan, with its weights as they are now, over one batch of input sets.

    Raises:
        Inexpressible: with the reason, where the plan has no step for an operation or no closed form for the set.
    """

    def __init__(self, graph: Graph, inputs: InputSet) -> None:
        center = inputs.center
        if not available():
            raise Inexpressible("the compiled part is missing")
        if center.device.type != "cpu" or center.dtype not in (torch.float32, torch.float64):
            raise Inexpressible(f"{center.dtype} on {center.device}")
        self.graph, self.inputs = graph, inputs
        if any(len(shape) > 3 or 0 in shape for shape in (graph.input_shape, *(n.shape for n in graph.nodes.values()))):
            raise Inexpressible("activations of more than three axes, or of none")
        self.plan = Plan(graph.input_shape, center.dtype)
        self.stored: dict[str, Stored] = {INPUT: self.plan.input}
        self.step_of: dict[str, int] = {}
        self.steps = 0
        for node in graph.nodes.values():
            self._place(node)
        self.hull, middle, radius = _hull(inputs)
        self.center = self.plan.input.pack(middle)
        self.radius = self.plan.input.pack(radius.expand_as(center))

    def _place(self, node: Node) -> None:
        operation, sources = node.operation, [self.stored[name] for name in node.inputs]
        before = sources[0]
        like = self.inputs.center
        if isinstance(operation, Dense) and len(operation.shape) == 1:
            placed = self.plan.dense(before, operation.weight().to(like), _bias(operation, like))
        elif isinstance(operation, Convolution):
            placed = self.plan.convolution(
                self._standard(before, operation.inputs[0]),
                operation.shape,
                operation.weight().to(like).reshape(len(operation.weight()), -1, *_two(operation.kernel)),
                _bias(operation, like),
                [
                    *_two(operation.kernel),
                    *_two(operation.stride),
                    *_two(operation.padding, 0),
                    *_two(operation.dilation),
                    operation.groups,
                ],
            )
        elif isinstance(operation, Scaling):
            size = math.prod(operation.shape)
            scale, shift = (
                None if value is None else value().to(like).expand(operation.shape).reshape(size)
                for value in (operation.scale, operation.shift)
            )
            placed = self.plan.scaling(before, scale, shift)
        elif isinstance(operation, Sum):
            shape = operation.shape
            alike = sources[0].plane == sources[1].plane and torch.equal(sources[0].order, sources[1].order)
            first, second = sources if alike else [self._standard(source, shape) for source in sources]
            placed = self.plan.sum(first, second, operation.factor)
        elif isinstance(operation, Concatenation) and operation.axis == 0:
            parts = [self._standard(source, shape) for source, shape in zip(sources, operation.inputs, strict=True)]
            placed = self.plan.concatenation(parts, operation.shape)
        elif isinstance(operation, Movement):
            placed = self._move(operation, before)
        elif isinstance(operation, Nonlinear) and operation.inputs[0] == operation.shape:
            placed = self.plan.lines(before)
            self.step_of[node.name] = placed.node - 1
        else:
            raise Inexpressible(f"{type(operation).__name__} of node {node.name!r}")
        self.stored[node.name] = placed
        self.steps = max(self.steps, placed.node)

    def _standard(self, source: Stored, shape: tuple[int, ...]) -> Stored:
        """The same activation stored as its own shape says."""
        if source.plane == plane(shape) and torch.equal(source.order, standard_order(shape)):
            return source
        return self.plan.movement(source, shape, torch.arange(math.prod(shape)), 0.0)

    def _move(self, operation: Movement, source: Stored) -> Stored:
        if operation.reshape_only and len(operation.shape) == 1:
            return source  # flat consumers read entries in any order
        if operation.reshape_only:
            return self._standard(source, operation.shape)
        return self.plan.movement(source, operation.shape, operation.index, operation.fill)

    def __call__(
        self,
        name: str,
        rows: Tensor | None,
        relaxations: Mapping[str, Relaxation],
        *,
        upper: bool,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As :func:`verifix.bounds.backward.backward`; rows of None are the unit rows of all entries, or of those that
        are ``wanted`` ``(n, *shape)``, with bounds in the node's shape and infinite ones for the rest.

        Raises:
            Inexpressible: a relaxation that is not a pair of lines.
        """
        start = self.stored[name]
        lines, parallel = self._lines(name, relaxations)
        shape = self.graph.shape_of(name)
        chosen = None if wanted is None else start.pack(wanted)
        packed = None if rows is None else start.pack(rows, lead=2)

        def run(sign: float, both: bool) -> tuple[Tensor, Tensor | None]:
            signed = packed if packed is None or sign > 0 else -packed
            low, high = self.plan.run(
                start, rows=signed, wanted=chosen, sign=sign, lines=lines, both=both,
                hull=self.hull, center=self.center, radius=self.radius,
            )  # fmt: skip
            if rows is not None:
                return low, high
            return start.unpack(low, shape), None if high is None else start.unpack(high, shape)

        low, high = run(1.0, both=upper and parallel)
        if upper and high is None:
            high = -run(-1.0, both=False)[0]
        return low, high

    def _lines(self, name: str, relaxations: Mapping[str, Relaxation]) -> tuple[list[Tensor | None], bool]:
        lines: list[Tensor | None] = [None] * (4 * self.steps)
        parallel = True
        n = len(self.inputs)
        for node in self.graph.nonlinear(name) if name != INPUT else []:
            relaxation = relaxations[node.name]
            if not isinstance(relaxation, Lines):
                raise Inexpressible(f"{type(relaxation).__name__} at node {node.name!r}")
            parallel = parallel and relaxation.parallel
            stored = self.stored[node.name]
            sides = (
                relaxation.lower_slope,
                relaxation.lower_offset,
                relaxation.upper_slope,
                relaxation.upper_offset,
            )
            first = 4 * self.step_of[node.name]
            for place, side in enumerate(sides):
                if side is not None:
                    lines[first + place] = stored.pack(side.expand(n, *node.shape))
        return lines, parallel


def _bias(operation: Dense | Convolution, like: Tensor) -> Tensor | None:
    return None if operation.bias is None else operation.bias().to(like)


def _two(values: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _hull(inputs: InputSet) -> tuple[int, Tensor, Tensor]:
    """How the plan takes the minimum over the set, with center and radius per entry."""
    if isinstance(inputs, LpBall) and inputs.box is None:
        kind = {"linf": 0, "l2": 1, "l1": 2}[inputs.norm]
        return kind, inputs.center, inputs.eps.to(inputs.center.dtype)
    if isinstance(inputs, Box) or (isinstance(inputs, LpBall) and inputs.norm == "linf"):
        lower, upper = inputs.hull()
        radius = (upper - lower) / 2
        return 0, lower + radius, radius
    raise Inexpressible(f"the support function of {type(inputs).__name__} with norm and box")
