"""How many units of each activation are always active, always inactive, or undecided, over sets of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verifix.bounds.engine import Engine
from verifix.bounds.method import Method, exact_methods
from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import budget
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.operations import TwoPiece
from verifix.sets import InputSet
from verifix.tensors import flatten


@dataclass(frozen=True)
class UnitStates:
    """Of one activation, the fractions of its units, for each input set ``(n,)``; the three add up to one.

    A unit is ``active`` where its pre-activation is proved to be at least 0 on the whole set, ``inactive`` where it is
    proved to be at most 0, and ``undecided`` otherwise: the sets I+, I- and I of equation 3.20 of the thesis.
    """

    node: str
    units: int
    active: Tensor
    inactive: Tensor
    undecided: Tensor


@torch.no_grad()
def unit_states(
    model: nn.Module | Graph, inputs: InputSet, method: Method, *, memory: int | None = None
) -> list[UnitStates]:
    """The states of the units of every ReLU-like activation, in order, by the pre-activation bounds of a method.

    Args:
        model: a network, as :func:`verifix.bounds` takes it.
        inputs: where its inputs may be.
        method: its ``intermediate`` decides; ``filtered`` says the same as ``both`` here, for less.
        memory: byte budget.

    Raises:
        InvalidValue: a network without ReLU, leaky ReLU or absolute values; an estimator other than exact.

    >>> from verifix import Ball
    >>> from verifix.bounds import NAMED
    >>> model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.fill_(1.0), model[0].bias.copy_(torch.tensor([-3.0, 0.0, 5.0]))
    >>> (states,) = unit_states(model, Ball("linf", eps=1.0).around(torch.zeros(1, 1)), NAMED["cap"])
    >>> [round(float(part), 2) for part in (states.active, states.inactive, states.undecided)]
    [0.33, 0.33, 0.33]
    """
    exact_methods(method)
    graph = model if isinstance(model, Graph) else capture(model, inputs.center[:1])
    nodes = [node for node in graph.nonlinear(graph.output) if isinstance(node.operation, TwoPiece)]
    if not nodes:
        raise InvalidValue("model", "a network without ReLU, leaky ReLU or absolute values", "has no units to count")
    within = budget(graph, [inputs.center.dtype], inputs.center.device, memory)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {node.name: [] for node in nodes}
    with plain_arithmetic():
        for tile in within.tiles(len(inputs), inputs.center.dtype):
            engine = Engine(graph, inputs.select(tile), method, memory=within.passes)
            for node in nodes:
                lower, upper = (flatten(side, 1) for side in engine.preactivation(node))
                active = lower >= 0
                found[node.name].append((active, (upper <= 0) & ~active))
    states = []
    for node in nodes:
        active, inactive = (torch.cat(parts).double().mean(1) for parts in zip(*found[node.name], strict=True))
        units = int(torch.Size(node.shape).numel())
        states.append(UnitStates(node.name, units, active, inactive, 1 - active - inactive))
    return states
