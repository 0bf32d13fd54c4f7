"""Bounds of rows at free slopes that are chosen for these very rows, see :class:`OptimisedSlopes`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifix.bounds.backward import backward
from verifix.bounds.slopes import OptimisedSlopes, uniform
from verifix.bounds.tiles import inputs_recorded, rows_recorded
from verifix.draws import Draws
from verifix.errors import InvalidValue
from verifix.graph import Graph, Node
from verifix.operations import Nonlinear, Relaxation
from verifix.operations.base import parameters_fixed

if TYPE_CHECKING:
    from verifix.bounds.engine import Engine

Shares = dict[str, Tensor]


def optimised_rows(engine: Engine, name: str, rows: Tensor, *, upper: bool) -> tuple[Tensor, Tensor | None]:
    """As :meth:`Engine.rows`: slopes for the lower bounds, and others for the upper ones."""
    low = _lower(engine, name, rows)
    return low, -_lower(engine, name, -rows) if upper else None


def _lower(engine: Engine, name: str, rows: Tensor) -> Tensor:
    rule = engine.method.slopes
    n, r, center = len(engine.inputs), rows.shape[1], engine.inputs.center
    if not isinstance(rule, OptimisedSlopes) or not n * r:
        return center.new_zeros(n, r)
    engine.prepare(name)
    if torch.is_grad_enabled():
        return _best(*_apart(engine, rows, rule), name, rule).reshape(n, r)
    own = rule.slopes == "own"
    count, recorded = (n * r, 1) if own else (n, r)
    at_once = inputs_recorded(engine.graph, recorded, center.dtype, engine.memory)
    parts = torch.arange(count, device=center.device).split(at_once)
    return torch.cat([_best(*_apart(engine, rows, rule, part), name, rule) for part in parts]).reshape(n, r)


def _best(engine: Engine, rows: Tensor, name: str, rule: OptimisedSlopes) -> Tensor:
    """The best lower bounds of the restarts, ``(n, r)``."""
    draws = Draws(rule.seed, engine.inputs.center)
    found = []
    for restart in range(rule.restarts):
        shares = _descended(engine, name, rows, rule, _start(engine, name, rule, draws, restart))
        at_shares = engine.derived(relaxations=_lines(engine, name, shares, detached=False))
        found.append(at_shares.rows(name, rows, upper=False)[0])
    return functools.reduce(torch.fmax, found)


def _apart(engine: Engine, rows: Tensor, rule: OptimisedSlopes, part: Tensor | None = None) -> tuple[Engine, Tensor]:
    """An engine for some of the inputs, or all, and their rows.

    Where rows have slopes of their own each of them has an input to itself, and the parts are parts of these: of the
    first row of the first input, its second row, and so on.
    """
    n, r = len(engine.inputs), rows.shape[1]
    own = rule.slopes == "own" and r > 1
    if part is None and own:
        part = torch.arange(n * r, device=rows.device)
    if part is None or (not own and len(part) == n):
        return engine.derived(), rows
    index = part // r if own else part
    shared = len(rows) == 1
    if own:
        return engine.derived(index), rows[0 if shared else index, part % r][:, None]
    return engine.derived(index), rows if shared else rows[index]


def lines_of_rows(engine: Engine, name: str, rows: Tensor) -> tuple[Engine, dict[str, Relaxation]]:
    """The lines that the lower bounds of rows are made with, whatever rule the slopes come from, without gradients.

    Of optimised slopes those of the first start, and where each row has its own as many as rows: the engine that is
    returned then has an input for each row.
    """
    rule = engine.method.slopes
    engine.prepare(name)
    if not isinstance(rule, OptimisedSlopes):
        return engine, {node.name: engine.relaxations[node.name] for node in engine.graph.nonlinear(name)}
    part, rows = _apart(engine, rows, rule)
    draws = Draws(rule.seed, part.inputs.center)
    shares = _descended(part, name, rows, rule, _start(part, name, rule, draws, 0))
    return part, _lines(part, name, shares, detached=True)


def _start(engine: Engine, name: str, rule: OptimisedSlopes, draws: Draws, restart: int) -> Shares:
    shares: Shares = {}
    for node, operation in _free(engine.graph, name):
        lower, upper = (side.detach() for side in engine.preactivation(node))
        if restart or rule.start == "uniform":
            shares[node.name] = uniform(draws, place(engine.graph, node), restart, lower, operation.free)
        else:
            shares[node.name] = operation.shares(lower, upper, rule.start)
    return shares


def _descended(engine: Engine, name: str, rows: Tensor, rule: OptimisedSlopes, shares: Shares) -> Shares:
    """The shares after the steps; where a gradient is zero or not known they stay."""
    for _ in range(rule.steps if rule.step and shares else 0):
        slopes = _gradients(engine, name, rows.detach(), shares)
        shares = {
            node: (share - rule.step * slopes[node].sign().nan_to_num(0.0)).clamp(0, 1)
            for node, share in shares.items()
        }
    return shares


def _gradients(engine: Engine, name: str, rows: Tensor, shares: Shares) -> Shares:
    """Gradients in the shares of ``log(1 + sum exp(-lower))``, but for a positive factor of each input: that of
    ``log(sum exp(-lower))``, which does not round to zero where all margins are large.

    Where the rows of one input are more than the byte budget holds, its weights of the rows come first, and then the
    rows in parts.

    Raises:
        InvalidValue: in torch's inference mode, or of sets that were made in it: no gradients go through these.
    """
    if torch.is_inference_mode_enabled() or engine.inputs.center.is_inference():
        remedy = "its slopes take gradient steps, which torch.inference_mode() forbids: use torch.no_grad() instead"
        raise InvalidValue("slopes", "optimised", remedy)
    at_once = rows_recorded(engine.graph, len(engine.inputs), rows.dtype, engine.memory)
    whole = rows.shape[1] <= at_once or torch.is_grad_enabled()
    parts = [rows] if whole else list(rows.split(at_once, 1))
    detached = {node: share.detach() for node, share in shares.items()}
    if whole:
        weights: Sequence[Tensor | None] = [None]
    else:
        lines = _lines(engine, name, detached, detached=True)
        with torch.no_grad():
            lows = [backward(engine.graph, name, part, lines, engine.inputs, upper=False)[0] for part in parts]
        weights = torch.softmax(-torch.cat(lows, 1), 1).split(at_once, 1)
    total = {node: torch.zeros_like(share) for node, share in detached.items()}
    for part, weight in zip(parts, weights, strict=True):
        with torch.enable_grad(), parameters_fixed():
            leaves = {node: share.clone().requires_grad_() for node, share in detached.items()}
            lines = _lines(engine, name, leaves, detached=True)
            low, _ = backward(engine.graph, name, part, lines, engine.inputs, upper=False)
            losses = torch.logsumexp(-low, 1) if weight is None else -(weight * low).sum(1)
            found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        for node, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                total[node] += gradient
    return total


def _lines(engine: Engine, name: str, shares: Shares, *, detached: bool) -> dict[str, Relaxation]:
    """The lines of all nonlinear nodes before a node, at these shares."""
    lines: dict[str, Relaxation] = {}
    for node in engine.graph.nonlinear(name):
        if node.name not in shares or not isinstance(node.operation, Nonlinear):
            lines[node.name] = engine.relaxations[node.name]
            continue
        lower, upper = engine.preactivation(node)
        if detached:
            lower, upper = lower.detach(), upper.detach()
        lines[node.name] = node.operation.lines(lower, upper, shares[node.name])
    return lines


def _free(graph: Graph, name: str) -> list[tuple[Node, Nonlinear]]:
    nodes = graph.nonlinear(name)
    return [(node, node.operation) for node in nodes if isinstance(node.operation, Nonlinear) and node.operation.free]


def place(graph: Graph, node: Node) -> int:
    """A number for a node that other nodes of the graph do not have."""
    return list(graph.nodes).index(node.name)
