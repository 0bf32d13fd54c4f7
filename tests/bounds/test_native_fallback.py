"""Where the compiled pass gives up, plain torch takes over: same numbers, one logged line."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bounds.cases import input_sets, points
from tests.bounds.native_cases import (
    METHODS,
    FlatReLU,
    Largest,
    same_bits,
)
from tests.networks import graphs, relu_network
from verifix.bounds import Engine, bounds, dispatch, parse_method
from verifix.bounds.forward import ForwardPass
from verifix.graph import Graph, Node, capture
from verifix.operations import (
    Dense,
    Movement,
    TwoPiece,
    fixed,
)
from verifix.sets import Ball, InputSet, LpBall


@pytest.fixture
def says(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    dispatch._say_once.cache_clear()
    caplog.set_level(logging.INFO, logger="verifix.bounds.dispatch")
    return caplog


def lines_said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "verifix.bounds.dispatch"]


def given_up() -> dict[str, tuple[Graph, InputSet, str]]:
    def ball(shape: tuple[int, ...]) -> LpBall:
        generator = torch.Generator().manual_seed(0)
        return Ball("linf", 0.1).around(torch.rand(2, *shape, generator=generator, dtype=torch.float64))

    image = (2, 4, 4)
    largest = Graph(image, [Node("0", TwoPiece(image), ("input",)), Node("1", Largest(image), ("0",))])
    flat = Graph(image, [Node("0", FlatReLU(image), ("input",)), Node("1", TwoPiece(image), ("0",))])
    empty = Graph((4,), [
        Node("0", TwoPiece((4,)), ("input",)), Node("1", Movement((4,), torch.arange(0)), ("0",)),
        Node("2", Dense((0,), fixed(torch.zeros(2, 0))), ("1",)),
    ])  # fmt: skip
    return {
        "another operation": (largest, ball(image), "Largest of node"),
        "another relaxation": (flat, ball(image), "Levels at node"),
        "no entries": (empty, ball((4,)), "activations without entries"),
    }


@pytest.mark.parametrize("case", list(given_up()))
@pytest.mark.parametrize("method", ("crown", "cap", "crown-ibp"))
def test_falls_back(case: str, method: str, says: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of plain torch, and one line that says why; forward steps, which go node by node, left out."""
    monkeypatch.setattr(ForwardPass, "__contains__", lambda self, node: False)
    graph, inputs, reason = given_up()[case]
    found = []
    with torch.no_grad():
        for _ in range(2):
            native, plain = (Engine(graph, inputs, parse_method(method)[0], native=wish) for wish in (True, False))
            found.append((native.node(graph.output), plain.node(graph.output)))
    for ours, torchs in found:
        assert same_bits(ours[0], torchs[0])
        assert same_bits(ours[1], torchs[1])
    (said,) = lines_said(says)
    assert said.startswith("backward passes in plain torch: the compiled pass has no step for ")
    assert reason in said


@settings(max_examples=60)
@given(st.data(), graphs(), st.sampled_from(METHODS))
def test_any_graph_is_expressed_or_given_up(data: st.DataObject, graph: Graph, method: str) -> None:
    """Whatever the operations and the set, the engine answers, and what it answers holds."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float32))
    x = points(inputs, graph, steps=2)
    with torch.no_grad():
        lower, upper = bounds(graph, inputs, method)
    value = graph(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    assert (lower.double() <= value).all()
    assert (upper.double() >= value).all()


def test_gradients_are_those_of_torch(says: pytest.LogCaptureFixture) -> None:
    model = relu_network((3, 8, 2), 1)
    graph, inputs = (
        capture(model, torch.zeros(1, 3, dtype=torch.float64)),
        Ball("linf", 0.1).around(torch.rand(2, 3, dtype=torch.float64)),
    )
    recorded = Engine(graph, inputs, parse_method("crown")[0])
    lower, _ = recorded.node(graph.output)
    assert recorded._backward.native is None
    lower.sum().backward()
    assert model[0].weight.grad is not None
    assert model[0].weight.grad.abs().sum() > 0
    assert not lines_said(says)
    with torch.no_grad():
        again, _ = Engine(graph, inputs, parse_method("crown")[0]).node(graph.output)
    assert not again.requires_grad


def test_weights_are_those_of_the_moment() -> None:
    model = relu_network((3, 8, 2), 1)
    graph, inputs = (
        capture(model, torch.zeros(1, 3, dtype=torch.float64)),
        Ball("linf", 0.1).around(torch.rand(2, 3, dtype=torch.float64)),
    )
    with torch.no_grad():
        before, _ = bounds(graph, inputs, "crown")
        model[2].bias += 1
        after, _ = bounds(graph, inputs, "crown")
    assert (after > before + 0.5).all()


def test_without_the_compiled_part() -> None:
    code = """
import sys, logging
sys.modules["verifix._C"] = None
import torch, verifix
from torch import nn
from verifix.bounds import bounds
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
with torch.no_grad():
    for _ in range(2):
        lower, upper = bounds(model, verifix.Ball("linf", 0.1).around(torch.zeros(1, 2)), "crown")
assert (lower < upper).all()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if "plain torch" in line] == [
        "INFO backward passes in plain torch: the compiled pass has no step for the compiled part is missing",
        "WARNING verifix._C is not used, it is not in this installation: plain torch takes its place, same results, "
        "slower",
    ]


# Shapes and numbers at the edge.
