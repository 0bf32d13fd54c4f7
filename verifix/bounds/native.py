"""Backward passes on the compiled plan, where it can express them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from verifix.bounds.tiles import check_memory, row_tiles
from verifix.graph import INPUT, Graph, Node
from verifix.kernels.plan import Plan, Stored, available, plane, standard_order
from verifix.operations import (
    Affine,
    Concatenation,
    Convolution,
    Dense,
    Levels,
    Lines,
    MaxPool,
    Movement,
    Nonlinear,
    Relaxation,
    Scaling,
    Sum,
)
from verifix.operations.maxpool import Selection
from verifix.sets import Box, InputSet, LpBall
from verifix.tensors import Entries, fold, unfold


class Inexpressible(Exception):
    """Why a graph, a set or a relaxation cannot be put on the plan."""


class NativePass:
    """A graph on the compiled plan, with its weights as they are now, over one batch of input sets.

    Raises:
        Inexpressible: with the reason, where the plan has no step for an operation.

    Args:
        memory: byte budget where the set needs the coefficients that arrive at the input; default as for the engine.
    """

    def __init__(self, graph: Graph, inputs: InputSet, memory: int | None = None) -> None:
        center = inputs.center
        if not available():
            raise Inexpressible("the compiled part is missing")
        if center.device.type != "cpu" or center.dtype not in (torch.float32, torch.float64):
            raise Inexpressible(f"{center.dtype} on {center.device}")
        self.graph, self.inputs = graph, inputs
        if any(0 in shape for shape in (graph.input_shape, *(n.shape for n in graph.nodes.values()))):
            raise Inexpressible("activations without entries")
        self.plan = Plan(graph.input_shape, center.dtype)
        self.stored: dict[str, Stored] = {INPUT: self.plan.input}
        self.step_of: dict[str, int] = {}
        self.places: dict[
            str, Tensor
        ] = {}  # of maxima: which entries of which windows the slopes are of, in their order
        self.steps = 0
        for node in graph.nodes.values():
            self._place(node)
        self.memory = check_memory(memory, center.device)
        self.hull: tuple[int, Tensor, Tensor] | None = None
        if (closed := _hull(inputs)) is not None:
            kind, *sides = closed
            middle, radius = (self.plan.input.pack(side.expand_as(center)) for side in sides)
            self.hull = kind, middle, radius

    def _place(self, node: Node) -> None:
        operation, sources = node.operation, [self.stored[name] for name in node.inputs]
        before = sources[0]
        like = self.inputs.center
        if isinstance(operation, Dense) and len(operation.shape) == 1:
            placed = self.plan.dense(before, operation.weight().to(like), _bias(operation, like))
        elif isinstance(operation, Dense):
            placed = self._dense_on_the_last_axis(operation, before)
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
        elif isinstance(operation, Concatenation):
            placed = self._concatenate(operation, sources)
        elif isinstance(operation, Movement) and operation.reshape_only:
            flat = len(operation.shape) == 1  # consumers of flat activations read entries in any order
            placed = before if flat else self._standard(before, operation.shape)
        elif isinstance(operation, Affine) and (entries := operation.entries()) is not None:
            constant = operation.offset(like)
            flat_constant = None if constant is None else constant.expand(operation.shape).flatten()
            placed = self.plan.sparse(before, operation.shape, entries, flat_constant)
        elif isinstance(operation, MaxPool):
            outputs, column = (operation.windows >= 0).nonzero(as_tuple=True)
            placed, order = self.plan.planes(before, operation.shape, outputs, operation.windows[outputs, column])
            self.places[node.name] = (outputs * operation.windows.shape[1] + column)[order]
            self.step_of[node.name] = placed.node - 1
        elif isinstance(operation, Nonlinear) and operation.inputs[0] == operation.shape:
            placed = self.plan.lines(before)
            self.step_of[node.name] = placed.node - 1
        else:
            raise Inexpressible(f"{type(operation).__name__} of node {node.name!r}")
        self.stored[node.name] = placed
        self.steps = max(self.steps, placed.node)

    def _standard(self, source: Stored, shape: tuple[int, ...]) -> Stored:
        """The same activation stored as its own shape says."""
        return self.plan.rearranged(source, plane(shape), standard_order(shape))

    def _dense_on_the_last_axis(self, operation: Dense, source: Stored) -> Stored:
        """A convolution of a single position, over a plane that has the last axis for channels."""
        *lead, _ = operation.inputs[0]
        weight, like = operation.weight(), self.inputs.center
        (outputs, channels), height, width = weight.shape, math.prod(lead[:-1]), lead[-1]
        rows = self.plan.rearranged(source, (channels, height, width), torch.arange(math.prod(operation.inputs[0])))
        placed = self.plan.convolution(
            rows, (outputs, height, width), weight.to(like)[:, :, None, None], _bias(operation, like),
            [1, 1, 1, 1, 0, 0, 1, 1, 1],
        )  # fmt: skip
        return replace(placed, order=torch.arange(math.prod(operation.shape)))

    def _concatenate(self, operation: Concatenation, sources: Sequence[Stored]) -> Stored:
        """Along another axis than the channels: every part in its place among zeros, added up."""
        shape = operation.shape
        parts = torch.arange(math.prod(shape)).reshape(shape).split(operation.widths, operation.axis)
        placed = [
            self.plan.sparse(
                source, shape, Entries(to.flatten(), torch.arange(to.numel()), torch.ones(to.numel())), None
            )
            for source, to in zip(sources, parts, strict=True)
        ]
        return functools.reduce(lambda first, second: self.plan.sum(first, second, 1.0), placed)

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
            if self.hull is None:
                low, high = self._over_forms(start, signed, chosen, sign, lines, both)
            else:
                kind, center, radius = self.hull
                low, high = self.plan.run(
                    start, rows=signed, wanted=chosen, sign=sign, lines=lines, both=both,
                    hull=kind, center=center, radius=radius, memory=self.memory,
                )  # fmt: skip
            if rows is not None:
                return low, high
            return start.unpack(low, shape), None if high is None else start.unpack(high, shape)

        low, high = run(1.0, both=upper and parallel)
        if upper and high is None:
            high = -run(-1.0, both=False)[0]
        return low, high

    def _over_forms(
        self,
        start: Stored,
        rows: Tensor | None,
        wanted: Tensor | None,
        sign: float,
        lines: list[Tensor | None],
        both: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The set itself says what the forms that arrive at the input can be, some rows at a time."""
        n, size = len(self.inputs), len(start.order)
        places = torch.arange(size) if wanted is None else wanted.any(0).nonzero()[:, 0]
        count = len(places) if rows is None else rows.shape[1]
        lows, highs = [self.inputs.center.new_zeros(n, 0)], [self.inputs.center.new_zeros(n, 0)]
        for tile in row_tiles(count, n, self.graph, self.plan.dtype, self.memory):
            packed, low, high = self.plan.forms(
                start, inputs=n, rows=None if rows is None else rows[:, tile].contiguous(),
                places=places[tile] if rows is None else None, sign=sign, lines=lines, both=both, memory=self.memory,
            )  # fmt: skip
            forms = unfold(self.plan.input.unpack(fold(packed), self.graph.input_shape), packed)
            if high is None:
                lows.append(low - self.inputs.support(-forms))
            else:
                smallest, largest = self.inputs.extrema(forms)
                lows.append(low + smallest)
                highs.append(high + largest)
        lower, upper = torch.cat(lows, 1), torch.cat(highs, 1) if both else None
        if rows is not None or wanted is None:
            return lower, upper

        def spread(bound: Tensor, rest: float) -> Tensor:
            full = bound.new_full((n, size), rest).index_copy(1, places, bound)
            return full.masked_fill(~wanted, rest)

        return spread(lower, -math.inf), None if upper is None else spread(upper, math.inf)

    def _lines(self, name: str, relaxations: Mapping[str, Relaxation]) -> tuple[list[Tensor | None], bool]:
        lines: list[Tensor | None] = [None] * (4 * self.steps)
        parallel = True
        n = len(self.inputs)
        for node in self.graph.nonlinear(name) if name != INPUT else []:
            relaxation, stored, first = relaxations[node.name], self.stored[node.name], 4 * self.step_of[node.name]
            parallel = parallel and relaxation.parallel
            if isinstance(node.operation, MaxPool):
                slopes, offsets = _slopes_in_windows(relaxation, node.operation)
                places = self.places[node.name]
                lines[first : first + 4 : 2] = [side.index_select(1, places).contiguous() for side in slopes]
                lines[first + 1 : first + 4 : 2] = [stored.pack(side) for side in offsets]
                continue
            if not isinstance(relaxation, Lines):
                raise Inexpressible(f"{type(relaxation).__name__} at node {node.name!r}")
            sides = (
                relaxation.lower_slope,
                relaxation.lower_offset,
                relaxation.upper_slope,
                relaxation.upper_offset,
            )
            for place, side in enumerate(sides):
                if side is not None:
                    lines[first + place] = stored.pack(side.expand(n, *node.shape))
        return lines, parallel


def _slopes_in_windows(relaxation: Relaxation, pool: MaxPool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Slopes ``(n, outputs x window)`` and offsets ``(n, outputs)`` of the functions below and above a maximum."""
    if isinstance(relaxation, Levels):
        flat = relaxation.lower.new_zeros(len(relaxation.lower), pool.windows.numel())
        return (flat, flat), (relaxation.lower.flatten(1), relaxation.upper.flatten(1))
    if not isinstance(relaxation, Selection):
        raise Inexpressible(f"{type(relaxation).__name__} of max pooling")
    slope = relaxation.slope[:, :, None]
    below = (pool.windows == relaxation.lower_index[:, :, None]).to(slope.dtype)
    above = torch.where(pool.windows == relaxation.upper_index[:, :, None], slope, 0.0)
    return (below.flatten(1), above.flatten(1)), (relaxation.unknown, relaxation.offset)


def _bias(operation: Dense | Convolution, like: Tensor) -> Tensor | None:
    return None if operation.bias is None else operation.bias().to(like)


def _two(values: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _hull(inputs: InputSet) -> tuple[int, Tensor, Tensor] | None:
    """How the plan itself takes the minimum over the set, with center and radius per entry; None where it cannot."""
    if isinstance(inputs, LpBall) and inputs.box is None:
        kind = {"linf": 0, "l2": 1, "l1": 2}[inputs.norm]
        return kind, inputs.center, inputs.eps.to(inputs.center.dtype)
    if isinstance(inputs, Box) or (isinstance(inputs, LpBall) and inputs.norm == "linf"):
        lower, upper = inputs.hull()
        radius = (upper - lower) / 2
        return 0, lower + radius, radius
    return None
