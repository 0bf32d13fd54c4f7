"""Compiled intervals and magnitudes: within rounding of plain torch, node by node, whatever the network."""

from __future__ import annotations

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.bounds.cases import input_sets, points
from tests.bounds.native_cases import assert_within, expressible, same_bits
from tests.networks import graphs
from verifix import _C
from verifix.bounds import Engine, bounds, lowered, parse_method
from verifix.bounds.lowered import lower
from verifix.bounds.rounding import relative_error, underflow
from verifix.graph import INPUT, Graph, Node, capture
from verifix.operations import Affine, Convolution, Dense, Movement, Scaling, Shape, TwoPiece, fixed
from verifix.sets import Ball, Box, InputSet

DTYPES = (torch.float32, torch.float64)


def interval_engine(graph: Graph, inputs: InputSet, *, native: bool, rounding: bool = True) -> Engine:
    """Intervals to the end, asked for by ``_interval_node``."""
    return Engine(graph, inputs, parse_method("ibp")[0], native=native, rounding=rounding)


def error_of(engine: Engine, name: str) -> Tensor:
    """How far an interval may be from the exact one: the theorem of docs/rounding.md."""
    magnitude = engine._magnitudes.at(name)
    factor, floor = (rule(engine.graph, name, engine.inputs.center.dtype) for rule in (relative_error, underflow))
    largest = engine._magnitudes.largest(name).reshape(-1, *[1] * (magnitude.dim() - 1))
    return factor * magnitude + floor * largest


@settings(max_examples=150)
@given(st.data(), graphs(), st.sampled_from(DTYPES))
def test_intervals_equal_torch(data: st.DataObject, graph: Graph, dtype: torch.dtype) -> None:
    """Either is within the error of the exact interval."""
    inputs = data.draw(input_sets(graph.input_shape, dtype))
    with torch.no_grad():
        plain, compiled = (interval_engine(graph, inputs, native=wish, rounding=False) for wish in (False, True))
        judge = interval_engine(graph, inputs, native=False)
        for name in (INPUT, *graph.nodes):
            judge._interval_node(name)
            for side, other in zip(compiled._interval_node(name), plain._interval_node(name), strict=True):
                assert side.shape == other.shape
                assert_within(side, other, 2 * error_of(judge, name))


@settings(max_examples=100)
@given(st.data(), graphs(), st.sampled_from(DTYPES))
def test_magnitudes_equal_torch(data: st.DataObject, graph: Graph, dtype: torch.dtype) -> None:
    """Sums of nonnegative terms: the error is relative. Without the quantum, which a mere reshape does not add."""
    inputs = data.draw(input_sets(graph.input_shape, dtype))
    with (
        torch.no_grad(),
        mock.patch("verifix.bounds.forward.quantum", return_value=0.0),
        mock.patch("verifix.bounds.magnitudes.quantum", return_value=0.0),
    ):
        plain, compiled = (interval_engine(graph, inputs, native=wish) for wish in (False, True))
        for name in (INPUT, *graph.nodes):
            plain._interval_node(name)
            compiled._interval_node(name)
            size, torchs = compiled._magnitudes.at(name), plain._magnitudes.at(name)
            assert size.shape == torchs.shape
            assert_within(size, torchs, 2 * relative_error(graph, name, dtype) * torchs)


@settings(max_examples=100)
@given(st.data(), graphs())
def test_float32_intervals_contain_those_of_float64(data: st.DataObject, graph: Graph) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float32))
    with torch.no_grad():
        single = interval_engine(graph, inputs, native=True)
        double = interval_engine(graph, inputs.to(torch.float64), native=False, rounding=False)
        for name in graph.nodes:
            (lower, upper), (low, high) = single._interval_node(name), double._interval_node(name)
            assert (lower.double() <= low).all(), name
            assert (upper.double() >= high).all(), name


@settings(max_examples=100)
@given(st.data(), graphs(wild=True), st.sampled_from(("ibp", "crown-ibp", "both:same", "filtered:adaptive")))
def test_wild_networks_hold(data: st.DataObject, graph: Graph, method: str) -> None:
    """Weights of every order of magnitude: what overflows is NaN or infinite, never a finite wrong bound."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float32))
    x = points(inputs, graph, steps=2)
    values = graph.activations(x.flatten(0, 1))
    compiled = Engine(graph, inputs, parse_method(method)[0])
    with torch.no_grad():
        for name in graph.nodes:
            lower, upper = compiled.node(name)
            value = values[name].unflatten(0, x.shape[:2])
            assert not (lower.double() > value).any(), name
            assert not (upper.double() < value).any(), name


@settings(max_examples=25)
@given(st.data(), expressible(), st.sampled_from(DTYPES))
def test_threads_and_instruction_sets_change_no_bit(data: st.DataObject, graph: Graph, dtype: torch.dtype) -> None:
    inputs = data.draw(input_sets(graph.input_shape, dtype))
    found: list[list[Tensor]] = []
    with torch.no_grad():
        plan = lower(graph, inputs.center).plan
        plain = plan.forward
        for isa in _C.config()["isas"]:
            for threads in (1, 2, 3):
                plan.forward = lambda *a, t=threads, i=isa, **k: plain(*a, **k, threads=t, isa=i)  # type: ignore[method-assign]
                engine = interval_engine(graph, inputs, native=True)
                found.append(
                    [x for name in graph.nodes for x in (*engine._interval_node(name), engine._magnitudes.at(name))]
                )
        plan.forward = plain  # type: ignore[method-assign]
    for tensors in found[1:]:
        assert all(same_bits(a, b) for a, b in zip(tensors, found[0], strict=True))


def image_network(*modules: nn.Module) -> Graph:
    model = nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(3)).double()
    model(torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    return capture(model, torch.zeros(1, 2, 6, 6, dtype=torch.float64))


def test_node_by_node() -> None:
    """What has no step is plain torch; convolutions before and after it are compiled all the same."""
    graph = image_network(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 2), nn.ReLU())
    kinds = {type(node.operation).__name__: name for name, node in graph.nodes.items()}
    generator = torch.Generator().manual_seed(0)
    inputs = Ball("l2", 0.1, (0, 1)).around(torch.rand(3, 2, 6, 6, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        compiled, plain = (interval_engine(graph, inputs, native=wish) for wish in (True, False))
        for name in graph.nodes:
            ours, torchs = compiled._interval_node(name), plain._interval_node(name)
            assert_within(ours[0], torchs[0], 4 * error_of(plain, name))
            assert_within(ours[1], torchs[1], 4 * error_of(plain, name))
        assert compiled._intervals.compiled.forward is not None
        assert plain._intervals.compiled.forward is None
        used = [name for name in graph.nodes if graph.nodes[name] in compiled._intervals.compiled.forward]
        assert kinds["Convolution"] in used
        assert kinds["Dense"] in used
        assert kinds["MaxPool"] not in used
        assert kinds["TwoPiece"] not in used
        assert not compiled._intervals.compiled.forward.lowered.missing


class Twice(Affine):
    """``x + x``, which the plan does not know."""

    roundings = 1

    def __init__(self, shape: Shape) -> None:
        self.inputs, self.shape = (shape,), shape

    def forward(self, *inputs: Tensor) -> Tensor:
        return 2 * inputs[0]

    def absolute(self, *inputs: Tensor) -> Tensor:
        return 2 * inputs[0]

    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (2 * rows,)

    def offset(self, like: Tensor) -> Tensor | None:
        return None


def test_what_the_plan_does_not_know_is_plain_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [fixed(torch.randn(4, 4, generator=generator, dtype=torch.float64)) for _ in range(2)]
    graph = Graph((4,), [
        Node("first", Dense((4,), weights[0]), (INPUT,)), Node("twice", Twice((4,)), ("first",)),
        Node("relu", TwoPiece((4,)), ("twice",)), Node("second", Dense((4,), weights[1]), ("relu",)),
    ])  # fmt: skip
    inputs = Ball("linf", 0.1).around(torch.rand(3, 4, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        compiled, plain = (interval_engine(graph, inputs, native=wish) for wish in (True, False))
        for name in graph.nodes:
            ours, torchs = compiled._interval_node(name), plain._interval_node(name)
            assert_within(ours[0], torchs[0], 4 * error_of(plain, name))
            assert_within(ours[1], torchs[1], 4 * error_of(plain, name))
            low, high = compiled.node(name)
            assert bool((low <= high).all())
        assert compiled._intervals.compiled.forward is not None
        assert list(compiled._intervals.compiled.forward.lowered.missing) == ["twice"]
        assert [name for name in graph.nodes if graph.nodes[name] in compiled._intervals.compiled.forward] == [
            "first",
            "second",
        ]
        assert compiled._backward.native is None


def test_a_reshape_is_no_arithmetic() -> None:
    """Neither a copy, nor a rounding; those who ask see the shape they know."""
    shape = (2, 3, 4)
    scale = torch.randn(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    graph = Graph(shape, [
        Node("flat", Movement(shape, torch.arange(24)), (INPUT,)),
        Node("scaled", Scaling((24,), fixed(scale), None), ("flat",)),
        Node("again", Movement((24,), torch.arange(24).reshape(shape)), ("scaled",)),
        Node("absolute", TwoPiece(shape, -1.0, 1.0), ("again",)),
    ])  # fmt: skip
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        engine = interval_engine(graph, Box(x, x + 1), native=True, rounding=False)
        lower, upper = engine._interval_node("flat")
        assert torch.equal(lower, x.flatten(1))
        assert torch.equal(upper, (x + 1).flatten(1))
        for name in graph.nodes:
            for side, other in zip(
                engine._interval_node(name),
                interval_engine(graph, Box(x, x + 1), native=False, rounding=False)._interval_node(name),
                strict=True,
            ):
                assert side.shape == other.shape
                assert torch.allclose(side, other, rtol=1e-14, atol=1e-14)


def test_gradients_go_through_torch() -> None:
    graph = image_network(nn.Conv2d(2, 3, 3), nn.ReLU())
    inputs = Ball("linf", 0.1).around(torch.rand(2, 2, 6, 6, dtype=torch.float64))
    engine = interval_engine(graph, inputs, native=True, rounding=False)
    lower, _ = engine.node(graph.output)
    assert engine._intervals.compiled.forward is None
    assert lower.requires_grad


@pytest.mark.parametrize("n", (0, 1))
def test_few_inputs(n: int) -> None:
    graph = image_network(nn.Conv2d(2, 3, 3), nn.ReLU())
    inputs = Ball("linf", 0.1).around(torch.rand(n, 2, 6, 6))
    with torch.no_grad():
        for method in ("ibp", "crown-ibp", "cap"):
            lower, upper = bounds(graph, inputs, method)
            assert lower.shape == upper.shape == (n, 3)


@pytest.mark.parametrize("place", ("weight", "bias", "scale", "shift"))
def test_weights_that_change_are_read_again(place: str) -> None:
    """In place, behind autograd's back, or put in the place of others: the next engine knows."""
    model = (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    )
    graph = capture(model, torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    inputs = Ball("linf", 0.1).around(torch.rand(2, 2, 6, 6, dtype=torch.float64))
    changes = {
        "weight": lambda: model[4].weight.data.mul_(2.0),
        "bias": lambda: setattr(model[0].bias, "data", model[0].bias.data + 1.0),
        "scale": lambda: np.multiply(model[1].running_var.numpy(), 0.25, out=model[1].running_var.numpy()),
        "shift": lambda: model[1].bias.data.add_(1.0),
    }
    with torch.no_grad():
        for method in ("ibp", "crown"):
            before = bounds(graph, inputs, method)
            known = lower(graph, inputs.center)
            assert lower(graph, inputs.center) is known
            changes[place]()
            assert lower(graph, inputs.center) is not known
            after = bounds(graph, inputs, method)
            fresh = bounds(capture(copy.deepcopy(model), torch.zeros(1, 2, 6, 6, dtype=torch.float64)), inputs, method)
            assert not same_bits(before[0], after[0])
            assert same_bits(after[0], fresh[0])
            assert same_bits(after[1], fresh[1])


def test_each_dtype_has_its_own_plan_and_goes_with_its_graph() -> None:
    weight = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    graph = Graph((3,), [Node("0", Dense((3,), fixed(weight)), (INPUT,))])
    plans = [lower(graph, torch.zeros(1, dtype=dtype)).plan for dtype in (*DTYPES, *DTYPES)]
    assert plans[0] is plans[2]
    assert plans[1] is plans[3]
    assert plans[0].dtype == torch.float32
    assert plans[1].dtype == torch.float64
    count = len(lowered._LOWERED)
    del graph
    assert len(lowered._LOWERED) == count - 1


def test_padding_that_the_plan_leaves_to_torch() -> None:
    """A convolution of one pixel with windows so far away that their plane would need gigabytes."""
    far = 2**20
    operation = Convolution(
        (1, 1, 1), fixed(torch.full((1, 1, 1, 1), 3.0)), None, (far, far), (far, far), (1, 1), 1
    )  # fmt: skip
    graph = Graph((1, 1, 1), [Node("0", operation, (INPUT,))])
    with torch.no_grad():
        engine = interval_engine(graph, Box(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)), native=True)
        assert engine._intervals.compiled.at(graph.nodes["0"]) is None
        assert engine._intervals.compiled.forward is not None
