"""Backward passes on the compiled plan, where it can express them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from verifix.bounds.lowered import Inexpressible, Lowered, lower
from verifix.bounds.tiles import bytes_of_passes, row_tiles
from verifix.graph import INPUT, Graph
from verifix.kernels.plan import Stored
from verifix.operations import Levels, Lines, MaxPool, Relaxation
from verifix.operations.maxpool import Selection
from verifix.sets import InputSet
from verifix.tensors import fold, unfold

_KINDS = {"linf": 0, "l2": 1, "l1": 2}
"""How the plan numbers the norms of balls."""


class NativePass:
    """Backward passes of a lowered graph over one batch of input sets.

    Args:
        memory: byte budget of coefficients; default as for the engine.
        lowered: the graph on the plan, if it is at hand.

    Raises:
        Inexpressible: with the reason, where the plan has no step for an operation.
    """

    def __init__(
        self, graph: Graph, inputs: InputSet, memory: int | None = None, lowered: Lowered | None = None
    ) -> None:
        lowered = lower(graph, inputs.center) if lowered is None else lowered
        for reason in lowered.missing.values():
            raise Inexpressible(reason)
        self.graph, self.inputs, self.plan = graph, inputs, lowered.plan
        self.stored, self.step_of, self.steps = lowered.stored, lowered.step_of, lowered.steps
        self.windows, self.places = lowered.windows, lowered.places
        self.memory = bytes_of_passes(memory, inputs.center.device)
        self.hull: tuple[int, Tensor, Tensor] | None = None
        ball = inputs.norm_ball()
        if ball is not None and ball.whole:
            middle, radius = (
                self.plan.input.pack(side.expand_as(inputs.center)) for side in (ball.center, ball.radius)
            )
            self.hull = _KINDS[ball.norm], middle, radius

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
        for tile in row_tiles(count, n, self.graph, self.plan.dtype, self.memory, self.inputs.center.device):
            packed, low, high = self.plan.forms(
                start, inputs=n, rows=None if rows is None else rows[:, tile].contiguous(),
                places=places[tile] if rows is None else None, sign=sign, lines=lines, both=both, memory=self.memory,
            )  # fmt: skip
            forms = unfold(self.plan.input.unpack(fold(packed), self.graph.input_shape), packed)
            if high is None:
                lows.append(low + self.inputs.least(forms))
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
                slopes, offsets = _slopes_in_windows(relaxation, self.windows[node.name])
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


def _slopes_in_windows(relaxation: Relaxation, windows: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Slopes ``(n, outputs x window)`` and offsets ``(n, outputs)`` of the functions below and above a maximum."""
    if isinstance(relaxation, Levels):
        flat = relaxation.lower.new_zeros(len(relaxation.lower), windows.numel())
        return (flat, flat), (relaxation.lower.flatten(1), relaxation.upper.flatten(1))
    if not isinstance(relaxation, Selection):
        raise Inexpressible(f"{type(relaxation).__name__} of max pooling")
    slope = relaxation.slope[:, :, None]
    below = (windows == relaxation.lower_index[:, :, None]).to(slope.dtype)
    above = torch.where(windows == relaxation.upper_index[:, :, None], slope, 0.0)
    return (below.flatten(1), above.flatten(1)), (relaxation.unknown, relaxation.offset)
