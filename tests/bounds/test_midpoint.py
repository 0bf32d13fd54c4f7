"""The interval pass that gradients are recorded of: the values and the gradients of the plain one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.bounds.cases import input_sets
from tests.networks import graphs
from verifix.bounds import NAMED, Engine, MethodLike, parse_method
from verifix.graph import INPUT, Graph, capture
from verifix.operations import TwoPiece
from verifix.sets import Ball, Box, InputSet, Union, Wasserstein


def plain_intervals(graph: Graph, inputs: InputSet) -> dict[str, tuple[Tensor, Tensor]]:
    """Operation by operation, on lower and upper bounds."""
    found = {INPUT: inputs.hull()}
    for node in graph.nodes.values():
        sides = [found[name] for name in node.inputs]
        found[node.name] = node.operation.interval([lower for lower, _ in sides], [upper for _, upper in sides])
    return found


def close(computed: Tensor, wanted: Tensor, size: Tensor) -> bool:
    return torch.equal(computed.isnan(), wanted.isnan()) and bool(
        ((computed - wanted).nan_to_num().abs() <= 1e-11 * (1 + size)).all()
    )


@settings(max_examples=100)
@given(st.data(), graphs(), st.sampled_from(["ibp", "crown-ibp"]))
def test_intervals_of_every_operation(data: st.DataObject, graph: Graph, method: str) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    wanted = plain_intervals(graph, inputs)
    size = torch.stack([side.abs().max() for pair in wanted.values() for side in pair]).max()
    engine = Engine(graph, inputs, NAMED[method], rounding=False)
    engine.rows(graph.output, torch.eye(graph.shape[0], dtype=torch.float64)[None])
    for name in graph.nodes:
        for computed, expected in zip(engine._interval_node(name), wanted[name], strict=True):
            assert close(computed, expected, size)


@settings(max_examples=100)
@given(st.data(), graphs())
def test_margins_of_every_operation(data: st.DataObject, graph: Graph) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    size = torch.stack([side.abs().max() for pair in plain_intervals(graph, inputs).values() for side in pair]).max()
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(len(inputs), 3, *graph.shape, generator=generator, dtype=torch.float64)
    recorded = Engine(graph, inputs, NAMED["ibp"], rounding=False).rows(graph.output, rows)
    for native in (False, True):
        with torch.no_grad():
            others = Engine(graph, inputs, NAMED["ibp"], rounding=False, native=native).rows(graph.output, rows)
        for computed, expected in zip(recorded, others, strict=True):
            assert computed is not None
            assert expected is not None
            assert close(computed, expected, 10 * size)


BLOCKS: dict[str, tuple[nn.Module, ...]] = {
    "strided": (nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU()),
    "batch norm": (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
    "average pooling": (nn.AvgPool2d(2), nn.Conv2d(1, 2, 2), nn.LeakyReLU(0.2)),
    "max pooling": (nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.ReLU()),
    "folding": (nn.Conv2d(1, 2, 3), nn.LeakyReLU(-0.5), nn.Conv2d(2, 2, 2), nn.Tanh()),
}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.flatten(1)).relu()
        w = z + self.second(z)
        return self.last(torch.cat([w.relu(), z], 1))  # type: ignore[no-any-return]


def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "residual":
        return Residual().double().eval()
    body = nn.Sequential(*copy.deepcopy(BLOCKS[name])).double().eval()
    for module in body:
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    size = body(torch.zeros(1, 1, 4, 4).double()).numel()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(size, 3).double()).eval()


def sets(kind: str) -> InputSet:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    if kind == "box":
        return Box(x, x + 0.2)
    if kind == "union":
        return Union(Ball("linf", 0.1), Ball("l2", 0.5)).around(x)
    if kind == "wasserstein":
        return Wasserstein(0.1, window=3).around(x)
    norm, clipped = kind.split()
    return Ball(norm, 0.2, (0, 1) if clipped == "clipped" else None).around(x)  # type: ignore[arg-type]


SETS = ("linf whole", "linf clipped", "l2 whole", "l1 clipped", "box", "union", "wasserstein")
ROWS = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]], dtype=torch.float64)


def with_gradients(graph: Graph, inputs: InputSet, method: MethodLike, model: nn.Module) -> list[Tensor]:
    lower, upper = Engine(graph, inputs, parse_method(method)[0], rounding=False).rows(graph.output, ROWS)
    assert upper is not None
    weight = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    gradients = torch.autograd.grad((weight * lower - upper).sum(), list(model.parameters()), allow_unused=True)
    return [lower.detach(), upper.detach(), *(g for g in gradients if g is not None)]


def plain_margins(graph: Graph, inputs: InputSet, model: nn.Module) -> list[Tensor]:
    """Interval bounds operation by operation; the last one, a dense layer, merged with the rows."""
    last = graph.node(graph.output)
    found = plain_intervals(graph, inputs)
    lower, upper = found[last.inputs[0]]
    weight, bias = list(model.parameters())[-2:]
    forms = ROWS[0] @ weight
    middle, spread = ((lower + upper) / 2) @ forms.T + ROWS[0] @ bias, ((upper - lower) / 2) @ forms.abs().T
    low, high = middle - spread, middle + spread
    scale = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    gradients = torch.autograd.grad((scale * low - high).sum(), list(model.parameters()), allow_unused=True)
    return [low.detach(), high.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("kind", ["linf whole", "linf clipped", "l2 whole", "l1 clipped", "box"])
@pytest.mark.parametrize("name", [*BLOCKS, "residual"])
def test_gradients_are_those_of_the_plain_pass(name: str, kind: str) -> None:
    model, inputs = model_of(name), sets(kind)
    graph = capture(model, inputs.center)
    pairs = zip(with_gradients(graph, inputs, "ibp", model), plain_margins(graph, inputs, model), strict=True)
    for computed, wanted in pairs:
        torch.testing.assert_close(computed, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("name", ["strided", "residual"])
def test_gradcheck(name: str, method: str, kind: str) -> None:
    model, inputs = model_of(name), sets(kind)
    graph = capture(model, inputs.center)
    choice = NAMED[method]

    def lower(*_: Tensor) -> Tensor:  # gradcheck moves the parameters in place, and the graph reads them anew
        return Engine(graph, inputs, choice, rounding=False).rows(graph.output, ROWS, upper=False)[0]

    assert torch.autograd.gradcheck(lower, tuple(model.parameters()))


@pytest.mark.parametrize("kind", ["union", "wasserstein"])
def test_sets_that_start_from_their_support(kind: str) -> None:
    model, inputs = model_of("residual"), sets(kind)
    graph = capture(model, inputs.center)
    recorded = Engine(graph, inputs, NAMED["ibp"], rounding=False)
    with torch.no_grad():
        plain = Engine(graph, inputs, NAMED["ibp"], rounding=False, native=False)
        wanted = {name: plain._interval_node(name) for name in graph.nodes}
        margins = plain.rows(graph.output, ROWS)
    for computed, expected in zip(recorded.rows(graph.output, ROWS), margins, strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-11, atol=1e-12)
    for name in graph.nodes:
        for computed, expected in zip(recorded._interval_node(name), wanted[name], strict=True):
            torch.testing.assert_close(computed, expected, rtol=1e-11, atol=1e-12)


def test_one_radius_for_all_inputs_goes_through_once() -> None:
    model, inputs = model_of("strided"), sets("linf whole")
    engine = Engine(capture(model, inputs.center), inputs, NAMED["ibp"], rounding=False)
    midpoint, radius = engine._intervals.midpoints.box("0")
    assert len(midpoint) == 2
    assert len(radius) == 1
    assert engine._intervals.midpoints.box(INPUT)[0] is inputs.center


def test_each_sweep_knows_the_bounds_that_lines_are_made_of() -> None:
    model, inputs = model_of("strided"), sets("linf clipped")
    graph = capture(model, inputs.center)
    for method, known in (("ibp", False), ("crown-ibp", True)):
        engine = Engine(graph, inputs, NAMED[method], rounding=False)
        engine.rows(graph.output, ROWS)
        assert ("0" in engine._intervals.midpoints._intervals) == known
        first, second = (node for node in graph.nodes.values() if isinstance(node.operation, TwoPiece))
        lower, upper = engine.preactivation(first)
        assert (lower <= upper).all()
        assert engine.preactivation(second)[0].shape == (2, *graph.shape_of(second.inputs[0]))


@pytest.mark.parametrize("bias", [math.inf, -math.inf])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_overflow_is_not_taken_for_a_bound(method: str, bias: float) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    inputs = Ball("linf", 0.1).around(torch.rand(2, 2, dtype=torch.float64))
    graph = capture(model, inputs.center)
    with torch.no_grad():
        model[0].bias[1] = bias
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            lower, _ = Engine(graph, inputs, NAMED[method], rounding=False).rows(graph.output, ROWS)
        assert lower.isnan().all()


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", ["strided", "residual", "average pooling"])
def test_clean_values_share_what_leads_to_the_first_activation(name: str, kind: str) -> None:
    model, inputs = model_of(name), sets(kind)
    graph = capture(model, inputs.center)
    engine = Engine(graph, inputs, NAMED["ibp"], rounding=False)
    assert torch.equal(engine.clean(), graph(inputs.center))
    engine.rows(graph.output, ROWS)
    known = engine._intervals.midpoints.values_at(engine.inputs.center)
    first = next(node.inputs[0] for node in graph.nodes.values() if isinstance(node.operation, TwoPiece))
    assert (first in known) == kind.endswith("whole")
    wanted = graph(inputs.center)
    torch.testing.assert_close(engine.clean(), wanted, rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    pairs = (torch.autograd.grad(values.square().sum(), parameters) for values in (engine.clean(), wanted))
    for computed, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-11, atol=1e-12)
