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
from torch import nn

from tests.bounds.cases import input_sets, points
from tests.bounds.native_cases import (
    METHODS,
    same_bits,
)
from tests.networks import graphs, relu_network
from verifix.bounds import Engine, bounds, engine, parse_method
from verifix.graph import Graph, Node, capture
from verifix.operations import (
    Concatenation,
    Dense,
    Movement,
    TwoPiece,
    fixed,
)
from verifix.sets import Ball, InputSet, LpBall


@pytest.fixture
def says(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    engine._say_once.cache_clear()
    caplog.set_level(logging.INFO, logger="verifix.bounds.engine")
    return caplog


def lines_said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "verifix.bounds.engine"]


def given_up() -> dict[str, tuple[Graph, InputSet, str]]:
    generator = torch.Generator().manual_seed(0)

    def network(shape: tuple[int, ...], *modules: nn.Module) -> Graph:
        model = nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(3)).double()
        model(torch.zeros(1, *shape, dtype=torch.float64))
        return capture(model, torch.zeros(1, *shape, dtype=torch.float64))

    def ball(shape: tuple[int, ...], norm: str = "linf", box: tuple[int, int] | None = None) -> LpBall:
        return Ball(norm, 0.1, box).around(torch.rand(2, *shape, generator=generator, dtype=torch.float64))

    dense = capture(relu_network((4, 5, 3), 0), torch.zeros(1, 4, dtype=torch.float64))
    image = (2, 4, 4)
    concatenated = Graph((2, 3), [
        Node("0", TwoPiece((2, 3)), ("input",)), Node("1", Concatenation([(2, 3), (2, 3)], 1), ("0", "input")),
    ])  # fmt: skip
    deep = Graph((16,), [
        Node("0", Movement((16,), torch.arange(16).reshape(2, 2, 2, 2)), ("input",)),
        Node("1", TwoPiece((2, 2, 2, 2)), ("0",)),
        Node("2", Movement((2, 2, 2, 2), torch.arange(16)), ("1",)),
        Node("3", Dense((16,), fixed(torch.randn(2, 16, generator=generator))), ("2",)),
    ])  # fmt: skip
    overlap = network(image, nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 1, 1))
    return {
        "maximum": (network(image, nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(2)), ball(image), "MaxPool of node"),
        "maximum of one shape": (overlap, ball(image), "Selection at node"),
        "average": (network(image, nn.ReLU(), nn.AvgPool2d(2)), ball(image), "of node"),
        "adaptive average": (network(image, nn.ReLU(), nn.AdaptiveAvgPool2d(1)), ball(image), "of node"),
        "dense on an axis": (network(image, nn.Linear(4, 2), nn.ReLU()), ball(image), "Dense of node"),
        "concatenation elsewhere": (concatenated, ball((2, 3)), "Concatenation of node"),
        "four axes": (deep, ball((16,)), "more than three axes"),
        "l2 with box": (dense, ball((4,), "l2", (0, 1)), "norm and box"),
        "l1 with box": (dense, ball((4,), "l1", (0, 1)), "norm and box"),
    }


@pytest.mark.parametrize("case", list(given_up()))
@pytest.mark.parametrize("method", ("crown", "cap", "crown-ibp"))
def test_falls_back(case: str, method: str, says: pytest.LogCaptureFixture) -> None:
    """The numbers of plain torch, and one line that says why."""
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
    assert recorded._native is None
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
        "INFO backward passes in plain torch: the compiled pass has no step for the compiled part is missing"
    ]


# Shapes and numbers at the edge.
