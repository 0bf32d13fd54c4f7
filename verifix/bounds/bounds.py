"""Bounds of a network's outputs, in one call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verifix.bounds.engine import Engine
from verifix.bounds.method import Method, MethodLike, parse_method
from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import budget, bytes_of_passes
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph, capture
from verifix.sets import InputSet


def bounds(
    model: nn.Module | Graph,
    inputs: InputSet,
    method: MethodLike = "crown",
    *,
    node: str | None = None,
    rows: Tensor | None = None,
    memory: int | None = None,
    rounding: bool = True,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of a network's outputs, of any node, or of any linear forms, over a batch of input sets.

    Gradients flow to parameters and inputs. Under ``torch.no_grad()`` nothing is recorded: passes then run on the
    compiled plan where it can express them, and memory stays within the budget.

    Args:
        model: an ``nn.Module``, or a graph from :func:`verifix.capture` (capture once when asking more than once).
        inputs: for example ``vx.Ball("linf", eps=0.1).around(x)``.
        method: a name (``ibp``, ``crown-ibp``, ``cap``, ``crown``), several joined by ``+`` for the elementwise best,
            or a :class:`verifix.bounds.Method`. With a ``median`` or ``gaussian`` estimator what is returned is made of
            estimates, and no bound; with ``geometric`` it fails with probability at most ``delta``, that of each method
            (:func:`verifix.certify` divides one among them).
        node: the node to bound; default the output. ``graph.nodes`` lists the names.
        rows: linear forms to bound instead of the entries: ``(r, *shape)`` for all inputs, or ``(n, r, *shape)``.
        memory: byte budget of all that is computed here, where nothing is recorded; default a quarter of what is free.
        rounding: widen the bounds by a rigorous bound on their own rounding error, so that they hold in real
            arithmetic. Gradients are not affected.

    Returns:
        ``lower, upper``: ``(n, *shape)``, or ``(n, r)`` with ``rows``. NaN where arithmetic overflowed: nothing is
        known there.

    Raises:
        UnsupportedOperation: the model holds an operation without a rule.
        InvalidValue: inputs of the wrong shape, an unknown node or method.

    >>> from verifix import Ball
    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [1.0])):
    ...         _ = parameter.copy_(torch.tensor(value))
    >>> lower, upper = bounds(model, Ball("linf", eps=1.0).around(torch.zeros(1, 1)), "cap")
    >>> round(lower.item(), 4), round(upper.item(), 4)
    (1.0, 2.0)
    """
    methods = parse_method(method)
    if not isinstance(inputs, InputSet):
        raise InvalidType("inputs", inputs, "an input set such as Ball('linf', eps=0.1).around(x)")
    graph = model if isinstance(model, Graph) else capture(model, inputs.center[:1])
    name = graph.output if node is None else node
    shape = graph.shape_of(name)
    if rows is not None:
        rows = check_rows(rows, len(inputs), shape).to(inputs.center)
    if torch.is_grad_enabled():
        passes, tiles = bytes_of_passes(memory, inputs.center.device), [slice(0, len(inputs))]
    else:
        projected = max(choice.estimator.rows_at_once for choice in methods)
        within = budget(graph, [inputs.center.dtype], inputs.center.device, memory, projected)
        passes, tiles = within.passes, list(within.tiles(len(inputs), inputs.center.dtype)) or [slice(0, 0)]
    parts = []
    with plain_arithmetic():
        for tile in tiles:
            part = inputs if len(tiles) == 1 else inputs.select(tile)
            own = rows if rows is None or len(rows) == 1 else rows[tile]
            parts.append(_best(graph, part, methods, name, own, passes, rounding))
    lowers, uppers = zip(*parts, strict=True)
    return (lowers[0], uppers[0]) if len(parts) == 1 else (torch.cat(lowers), torch.cat(uppers))


def _best(
    graph: Graph,
    inputs: InputSet,
    methods: tuple[Method, ...],
    name: str,
    rows: Tensor | None,
    memory: int,
    rounding: bool,
) -> tuple[Tensor, Tensor]:
    """The tightest bounds of several methods."""
    best: tuple[Tensor, Tensor] | None = None
    for choice in methods:
        engine = Engine(graph, inputs, choice, memory=memory, rounding=rounding)
        if rows is None:
            lower, upper = engine.node(name)
        else:
            lower, high = engine.rows(name, rows)
            upper = lower if high is None else high
        best = (lower, upper) if best is None else intersect(best, (lower, upper))
    if best is None:
        raise InvalidValue("method", methods, "name at least one")
    return best


def intersect(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The tighter of two sound intervals, entry by entry; one that is not known (NaN) gives way to the other."""
    return torch.fmax(a[0], b[0]), torch.fmin(a[1], b[1])


def check_rows(rows: object, n: int, shape: tuple[int, ...]) -> Tensor:
    """Linear forms as ``(1 or n, r, *shape)``."""
    if not isinstance(rows, Tensor):
        raise InvalidType("rows", rows, "a torch.Tensor")
    if rows.dim() == len(shape) + 1:
        rows = rows[None]
    if rows.dim() != len(shape) + 2 or rows.shape[0] not in (1, n) or tuple(rows.shape[2:]) != shape:
        raise InvalidValue(
            "rows", f"tensor of shape {tuple(rows.shape)}", f"must be (r, *{shape}) or ({n}, r, *{shape})"
        )
    if not bool(torch.isfinite(rows).all()):
        raise InvalidValue("rows", "NaN or infinite entries", "must be finite")
    return rows
