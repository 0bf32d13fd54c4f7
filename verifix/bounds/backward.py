"""The backward pass: push linear forms from a node to the input, replacing every nonlinearity by lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from verifix.bounds.tiles import inputs_in_caches
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Affine, Levels, Lines, Relaxation, Shape
from verifix.operations.relaxation import Pulled
from verifix.sets import InputSet
from verifix.tensors import contract, fold, unfold


@dataclass
class Forms:
    """Coefficients on one node, ``(n or 1, r, *shape)``, for lower and upper bounds; None where not wanted.

    As long as both sides are equal they are the same tensor, and are pushed once.
    """

    lower: Tensor | None
    upper: Tensor | None

    def __add__(self, other: Forms) -> Forms:
        lower = _add(self.lower, other.lower)
        if self.lower is self.upper and other.lower is other.upper:
            return Forms(lower, lower)
        return Forms(lower, _add(self.upper, other.upper))


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def backward(
    graph: Graph,
    start: str,
    rows: Tensor,
    relaxations: Mapping[str, Relaxation],
    inputs: InputSet,
    *,
    upper: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Bounds of ``rows . z_start`` over the input set: lower and (if wanted) upper, both ``(n, r)``.

    This is the dual network of Wong and Kolter (thesis, equation 3.9, with rows for ``-nu``) read as in CROWN: at every
    step ``rows . z_start >= form . z_node + constant``. It is sound for any relaxations that hold on the set.

    Where gradients are recorded, some inputs at a time go from the rows to the bounds, and from their gradients back
    again: their coefficients stay in the caches.

    Args:
        start: the node that the rows are on.
        rows: ``(n, r, *shape)``, or ``(1, r, *shape)`` when all inputs share them.
        relaxations: for every nonlinear node that ``start`` depends on, or that rows meet, where all of them are flat.
        upper: whether the upper bound is wanted too.
    """
    n, together = len(inputs), inputs_in_caches(graph, rows)
    flat = bool(relaxations) and all(isinstance(lines, Levels) for lines in relaxations.values())  # few coefficients
    if flat or not torch.is_grad_enabled() or n <= together:
        return _backward(graph, start, rows, relaxations, inputs, upper=upper)
    together = -(-n // -(-n // together))  # of equal sizes
    names = list(relaxations)
    of_parts = [relaxations[name].split(together) for name in names]
    of_rows = rows.split(together) if len(rows) == n else [rows] * -(-n // together)
    lows, highs = [], []
    for part, own in enumerate(of_rows):
        lines = {name: split[part] for name, split in zip(names, of_parts, strict=True)}
        some = inputs.select(slice(part * together, min(n, (part + 1) * together)))
        low, high = _backward(graph, start, own, lines, some, upper=upper)
        lows.append(low)
        highs.append(high)
    return torch.cat(lows), torch.cat([high for high in highs if high is not None]) if upper else None


def _backward(
    graph: Graph,
    start: str,
    rows: Tensor,
    relaxations: Mapping[str, Relaxation],
    inputs: InputSet,
    *,
    upper: bool = True,
) -> tuple[Tensor, Tensor | None]:
    n = len(inputs)
    pending: dict[str, Forms] = {start: Forms(rows, rows if upper else None)}
    low: Tensor = rows.new_zeros(n, rows.shape[1])
    high: Tensor | None = low if upper else None
    counted: set[str] = set()  # affine nodes whose constants the lines behind them have taken up
    for node in reversed(graph.ancestors(start) if start != INPUT else []):
        forms = pending.pop(node.name, None)
        if forms is None:
            continue
        if isinstance(node.operation, Affine):
            parts, below, above = _affine(node.operation, forms, constant=node.name not in counted)
        else:
            lines = relaxations[node.name]
            apart = isinstance(lines, Lines) and forms.lower is not forms.upper
            shift = _shift(graph, node, low) if apart else None
            counted.update(() if shift is None else node.inputs)
            part, below, above = _relaxed(lines, forms, shift)
            parts = (part,)
        low = low if below is None else low + below
        high = high if high is None or above is None else high + above
        for name, part in zip(node.inputs, parts, strict=True):
            if part.lower is not None or part.upper is not None:
                pending[name] = pending[name] + part if name in pending else part
    if INPUT in pending:
        low, high = _concretise(inputs, pending[INPUT], low, high)
    return low, high


def _affine(
    operation: Affine, forms: Forms, *, constant: bool
) -> tuple[tuple[Forms, ...], Tensor | None, Tensor | None]:
    def push(rows: Tensor | None) -> tuple[list[Tensor | None], Tensor | None]:
        if rows is None:
            return [None] * len(operation.inputs), None
        offset = operation.offset(rows) if constant else None
        added = None if offset is None else contract(rows, offset.expand(1, *operation.shape))
        return [unfold(part, rows) for part in operation.adjoint(fold(rows))], added

    lowers, below = push(forms.lower)
    if forms.upper is forms.lower:
        return tuple(Forms(part, part) for part in lowers), below, below
    uppers, above = push(forms.upper)
    return tuple(Forms(a, b) for a, b in zip(lowers, uppers, strict=True)), below, above


def _shift(graph: Graph, node: Node, like: Tensor) -> Tensor | None:
    """The constant of the affine node that a nonlinear one reads, ``(*shape)``, where it has no other reader."""
    (source,) = node.inputs
    if source == INPUT or sum(source in other.inputs for other in graph.nodes.values()) > 1:
        return None
    operation = graph.node(source).operation
    offset = operation.offset(like) if isinstance(operation, Affine) else None
    return None if offset is None else offset.expand(1, *operation.shape)[0]


def _relaxed(
    relaxation: Relaxation, forms: Forms, shift: Tensor | None = None
) -> tuple[Forms, Tensor | None, Tensor | None]:
    if forms.lower is not None and forms.lower is forms.upper and isinstance(relaxation, Lines) and relaxation.parallel:
        rows, *offsets = relaxation.shared(forms.lower)
        return Forms(rows, rows), offsets[0], offsets[1]
    below_of, above_of = relaxation.below, relaxation.above
    if shift is not None and isinstance(relaxation, Lines):
        below_of, above_of = partial(relaxation.below, shift=shift), partial(relaxation.above, shift=shift)
    lower, below = _pull(below_of, forms.lower)
    upper, above = _pull(above_of, forms.upper)
    return Forms(lower, upper), below, above


def _pull(side: Callable[[Tensor], Pulled], rows: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if rows is None else side(rows)


def _concretise(inputs: InputSet, forms: Forms, low: Tensor, high: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if forms.lower is not None and forms.lower is forms.upper:
        smallest, largest = inputs.extrema(forms.lower)
        return low + smallest, None if high is None else high + largest
    if forms.lower is not None:
        low = low + inputs.least(forms.lower)
    if forms.upper is not None and high is not None:
        high = high + inputs.support(forms.upper)
    return low, high


def unit_rows(places: Tensor, shape: Shape, like: Tensor) -> Tensor:
    """A row for each of some entries ``(r,)`` of an activation, that picks it: ``(1, r, *shape)``."""
    rows = like.new_zeros(len(places), math.prod(shape))
    rows[torch.arange(len(rows), device=rows.device), places] = 1.0
    return rows.reshape(1, -1, *shape)
