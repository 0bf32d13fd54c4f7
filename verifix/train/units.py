"""What bounds make of the units of a network: how many are unstable, and which slopes their free lines have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verifix.bounds import Engine, Method
from verifix.bounds.optimised import lines_of_rows
from verifix.certify import Margins
from verifix.graph import Graph, Node
from verifix.operations import Lines, Relaxation, TwoPiece
from verifix.sets import InputSet

CLASSES = ("|l| > |u|", "|l| <= |u|")
"""The two classes of unstable units of Lee et al., section 5: those of which more is below zero, and the others."""
SLOPES = ("0", "between", "1")
COUNTED = 2 + len(CLASSES) * len(SLOPES)


@dataclass(frozen=True)
class LayerUnits:
    """Of one activation, over the inputs of a batch.

    Attributes:
        node: its name in the graph.
        method: which of the methods that training joins, from 0.
        units: how many it has for each input.
        unstable: the fraction of them whose bounds straddle zero.
        slopes: for each of :data:`CLASSES` the fractions of unstable units whose free line has the slope of the left
            piece (0 for ReLU), one between, and that of the right piece (1); all six add up to one. None where
            the lines are flat (ibp) and nothing is free, or where no unit is unstable. Of optimised slopes they are
            those of the first start.
    """

    node: str
    method: int
    units: int
    unstable: float
    slopes: tuple[tuple[float, float, float], ...] | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        slopes = None if self.slopes is None else [list(shares) for shares in self.slopes]
        about = {"node": self.node, "method": self.method, "units": self.units}
        return {**about, "unstable": self.unstable, "slopes": slopes}


@torch.no_grad()
def count_units(graph: Graph, y: Tensor, inputs: InputSet, methods: Sequence[Method], memory: int | None) -> Tensor:
    """Sums over a batch from which :func:`layer_units` makes fractions: ``(methods * activations, 8)`` in float64.

    The slopes are those of the lines that the engine bounds the margins with, whatever rule they come from. In a row:
    how many units there are, over all inputs (and rows, where each has slopes of its own); how many are unstable; of
    :data:`CLASSES` each, how many slopes are :data:`SLOPES`, or -1 where no line is free.
    """
    rows = Margins(y, graph.shape[0]).rows(slice(None), inputs.center)
    counts = []
    for method in methods:
        engine, lines = lines_of_rows(Engine(graph, inputs, method, memory=memory, rounding=False), graph.output, rows)
        counts += [_counts(node, *engine.preactivation(node), lines[node.name]) for node in _nodes(graph)]
    if not counts:
        return inputs.center.new_zeros(0, COUNTED, dtype=torch.float64)
    return torch.stack(counts)


def layer_units(graph: Graph, counts: Tensor) -> list[LayerUnits]:
    """The fractions, from the sums."""
    nodes = _nodes(graph)
    found = []
    for number, row in enumerate(counts.tolist()):
        node, method = nodes[number % len(nodes)], number // len(nodes)
        total, unstable, *shares = row
        slopes = None
        if unstable and min(shares) >= 0:
            fractions = [share / unstable for share in shares]
            slopes = ((fractions[0], fractions[1], fractions[2]), (fractions[3], fractions[4], fractions[5]))
        found.append(LayerUnits(node.name, method, math.prod(node.shape), unstable / total, slopes))
    return found


def _nodes(graph: Graph) -> list[Node]:
    return [node for node in graph.nonlinear(graph.output) if isinstance(node.operation, TwoPiece)]


def _counts(node: Node, lower: Tensor, upper: Tensor, lines: Relaxation) -> Tensor:
    operation = node.operation
    unstable = (lower < 0) & (upper > 0)
    row = lower.new_full((COUNTED,), -1.0, dtype=torch.float64)
    row[0], row[1] = lower.numel(), unstable.sum()
    if not isinstance(lines, Lines) or not isinstance(operation, TwoPiece):
        return row
    free = lines.lower_slope if operation.left <= operation.right else lines.upper_slope
    left, right = free == operation.left, free == operation.right
    mostly_below = -lower > upper
    masks = [of & slope for of in (mostly_below, ~mostly_below) for slope in (left, ~(left | right), right)]
    row[2:] = torch.stack([(unstable & mask).sum() for mask in masks])
    return row
