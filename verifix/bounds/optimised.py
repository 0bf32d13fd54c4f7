"""Bounds of rows at free slopes that are chosen for these very rows, see :class:`OptimisedSlopes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifix.bounds.backward import backward
from verifix.bounds.slopes import OptimisedSlopes, uniform
from verifix.bounds.tiles import inputs_recorded
from verifix.draws import Draws
from verifix.graph import Graph, Node
from verifix.operations import Nonlinear, Relaxation
from verifix.tensors import fold

if TYPE_CHECKING:
    from verifix.bounds.engine import Engine

Shares = dict[str, Tensor]


def optimised_rows(engine: Engine, name: str, rows: Tensor, *, upper: bool) -> tuple[Tensor, Tensor | None]:
    """As :meth:`Engine.rows`: slopes for the lower bounds, and others for the upper ones."""
    low = _lower(engine, name, rows)
    return low, -_lower(engine, name, -rows) if upper else None


def _lower(engine: Engine, name: str, rows: Tensor) -> Tensor:
    rule = engine.method.slopes
    if not isinstance(rule, OptimisedSlopes) or not rows.shape[1]:
        return engine.derived().rows(name, rows, upper=False)[0]
    engine.prepare(name)
    n, r, center = len(engine.inputs), rows.shape[1], engine.inputs.center
    if torch.is_grad_enabled():
        return _best(engine, name, rows, rule, None)
    at_once = inputs_recorded(engine.graph, r, center.dtype, engine.memory)
    parts = []
    for part in torch.arange(n, device=center.device).split(at_once):
        parts.append(_best(engine, name, rows if len(rows) == 1 else rows[part], rule, part))
    return torch.cat(parts) if parts else center.new_zeros(0, r)


def _best(engine: Engine, name: str, rows: Tensor, rule: OptimisedSlopes, index: Tensor | None) -> Tensor:
    """Lower bounds for the inputs of an index, or for all: the best of the restarts."""
    n, r = len(engine.inputs) if index is None else len(index), rows.shape[1]
    part, rows = _apart(engine, rows, rule, index)
    best: Tensor | None = None
    draws = Draws(rule.seed, part.inputs.center)
    for restart in range(rule.restarts):
        shares = _descended(part, name, rows, rule, _start(part, name, rule, draws, restart))
        found = part.derived(relaxations=_lines(part, name, shares, detached=False)).rows(name, rows, upper=False)[0]
        best = found if best is None else torch.fmax(best, found)
    if best is None:
        raise RuntimeError("a rule has at least one restart")
    return best.reshape(n, r)


def _apart(engine: Engine, rows: Tensor, rule: OptimisedSlopes, index: Tensor | None = None) -> tuple[Engine, Tensor]:
    """An engine for the inputs of an index, and their rows; where these have slopes of their own, as if each row had an
    input to itself."""
    n, r = len(engine.inputs) if index is None else len(index), rows.shape[1]
    if rule.slopes == "own" and r > 1:
        index = torch.arange(n, device=rows.device) if index is None else index
        index = index.repeat_interleave(r)
        rows = fold(rows.expand(n, *rows.shape[1:]))[:, None]
    return engine.derived(index), rows


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
    shares = _descended(part, name, rows, rule, _start(part, name, rule, Draws(rule.seed, part.inputs.center), 0))
    return part, _lines(part, name, shares, detached=True)


def _start(engine: Engine, name: str, rule: OptimisedSlopes, draws: Draws, restart: int) -> Shares:
    shares: Shares = {}
    for node, operation in _free(engine.graph, name):
        lower, upper = (side.detach() for side in engine.preactivation(node))
        if restart or rule.start == "uniform":
            shares[node.name] = uniform(draws, place(engine.graph, node), restart, lower, operation.free)
            continue
        if rule.start == "same":
            low, high = lower.clamp(max=0), upper.clamp(min=0)
            share = (high / (high - low)).nan_to_num(0.0).clamp(0, 1)
        elif rule.start == "adaptive":
            share = (upper > -lower).to(lower)
        else:
            share = torch.full_like(lower, 0.0 if rule.start == "zero" else 1.0)
        shares[node.name] = share[:, None].expand(-1, operation.free, *share.shape[1:])
    return shares


def _descended(engine: Engine, name: str, rows: Tensor, rule: OptimisedSlopes, shares: Shares) -> Shares:
    """The shares after the steps; where a gradient is zero or not known they stay."""
    if not shares:
        return shares
    rows = rows.detach()
    for _ in range(rule.steps if rule.step else 0):
        with torch.enable_grad():
            leaves = {node: share.detach().clone().requires_grad_() for node, share in shares.items()}
            lines = _lines(engine, name, leaves, detached=True)
            low, _ = backward(engine.graph, name, rows, lines, engine.inputs, upper=False)
            # its gradient is that of log(1 + sum exp) but for a positive factor of each input, which may round to zero
            losses = -low if low.shape[1] == 1 else torch.logsumexp(-low, 1)
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        shares = {
            node: share.detach()
            if slope is None
            else (share - rule.step * slope.sign().nan_to_num(0.0)).clamp(0, 1).detach()
            for (node, share), slope in zip(leaves.items(), gradients, strict=True)
        }
    return shares


def _moved(share: Tensor, slope: Tensor | None, step: float) -> Tensor:
    return share if slope is None else (share - step * slope.sign().nan_to_num(0.0)).clamp(0, 1)


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
