from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.bounds.cases import METHODS, input_sets, points
from tests.networks import graphs, relu_network
from verifix.bounds import NAMED, Method, parse_method, unit_states
from verifix.bounds.tiles import least_memory
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.operations import TwoPiece
from verifix.sets import Ball
from verifix.tensors import flatten


@settings(max_examples=100)
@given(st.data(), graphs(), st.sampled_from([method for method in METHODS if "+" not in method]))
def test_no_input_contradicts(data: st.DataObject, graph: Graph, method: str) -> None:
    """At most as many units are proved active as are active on every point that was tried; likewise inactive."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    nodes = [node for node in graph.nonlinear(graph.output) if isinstance(node.operation, TwoPiece)]
    if not nodes:
        with pytest.raises(InvalidValue, match="a network without ReLU, leaky ReLU or absolute values"):
            unit_states(graph, inputs, parse_method(method)[0])
        return
    states = unit_states(graph, inputs, parse_method(method)[0])
    x = points(inputs, graph).detach()
    values = graph.activations(x.flatten(0, 1))
    assert [state.node for state in states] == [node.name for node in nodes]
    for state, node in zip(states, nodes, strict=True):
        before = flatten(values[node.inputs[0]].detach().unflatten(0, x.shape[:2]), 2)
        assert state.units == before.shape[2]
        assert (state.active <= (before >= 0).all(0).double().mean(1)).all()
        assert (state.inactive <= (before <= 0).all(0).double().mean(1)).all()
        parts = torch.stack([state.active, state.inactive, state.undecided])
        assert (parts >= -1e-15).all()
        torch.testing.assert_close(parts.sum(0), torch.ones(len(inputs), dtype=torch.float64))


def test_counts_by_hand() -> None:
    """Pre-activations -0.5 to 1.5, 2 to 4, and -3 to -1, and of them all 0.5 + [0, 1.5] + [2, 4] - 3.5, twice."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor([0.5, 3.0, -2.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([-4.0, -10.0]))
    first, second = unit_states(model, Ball("linf", 1.0).around(torch.zeros(2, 1).double()), NAMED["ibp"])
    third = torch.full((2,), 1 / 3, dtype=torch.float64)
    for part in (first.active, first.inactive, first.undecided):
        torch.testing.assert_close(part, third)
    assert (second.active.tolist(), second.inactive.tolist(), second.undecided.tolist()) == (
        [0, 0],
        [0.5] * 2,
        [0.5] * 2,
    )


def test_the_same_in_little_memory() -> None:
    x = torch.rand(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph, sets = capture(relu_network((4, 30, 20, 3), 0), x), Ball("linf", 0.1).around(x)
    wide = unit_states(graph, sets, NAMED["cap"])
    tight = unit_states(graph, sets, NAMED["cap"], memory=least_memory(graph, [torch.float64]))
    for one, other in zip(wide, tight, strict=True):
        assert torch.equal(one.active, other.active) and torch.equal(one.inactive, other.inactive)
        assert 0 < float(one.undecided.mean()) < 1


def test_refuses_estimates() -> None:
    x = torch.zeros(1, 4).double()
    with pytest.raises(InvalidValue, match="estimator = median:5: does not bound for certain: use exact here"):
        unit_states(relu_network((4, 5, 3), 0), Ball("linf", 0.1).around(x), Method("backward", "same", "median:5"))
