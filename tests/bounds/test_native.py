"""The compiled backward pass: within rounding of plain torch and of exact arithmetic, or given up with a reason."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.bounds.cases import SLOPES, input_sets, points
from tests.bounds.test_rounding import exact
from tests.networks import Builder, Source, activation, affine, graphs, operation_of, randomise, relu_network
from verifix import _C
from verifix.bounds import NAMED, Engine, bounds, engine, parse_method
from verifix.bounds.backward import backward
from verifix.bounds.native import Inexpressible, NativePass
from verifix.certify import certify
from verifix.graph import INPUT, Graph, Node, capture
from verifix.graph.lowering import moved
from verifix.graph.sequential import walk
from verifix.kernels.plan import Plan
from verifix.operations import (
    Clip,
    Concatenation,
    Convolution,
    Dense,
    MaxPool,
    Movement,
    Relaxation,
    Sum,
    TwoPiece,
    fixed,
)
from verifix.sets import Ball, Box, InputSet, LpBall

METHODS = tuple(f"{intermediate}:{slopes}" for intermediate in ("interval", "backward", "both") for slopes in SLOPES)


class PlanBuilder(Builder):
    """Grows graphs of what a plan has steps for."""

    def layer(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        while True:
            module = activation(self.source) if self.source.choose(True, False) else affine(self.source, shape)
            randomise(module.double(), self.source)
            operation = operation_of(module.eval(), shape)
            pooling = "Pool" in type(module).__name__
            if not pooling and not (isinstance(operation, Dense) and len(operation.shape) > 1):
                break
        self.add(operation, name)

    def convolution(self) -> None:
        """A layer with more channels than a vector has lanes, now and then."""
        name = self.some()
        shape = self.shape_of(name)
        if len(shape) < 2:
            return self.layer()
        groups = self.source.choose(*(g for g in (1, 2) if shape[0] % g == 0))
        channels = groups * self.source.choose(1, 5, 8, 9, 16, 20)
        weight = self.source.normal(channels, shape[0] // groups, *[self.source.between(1, 3) for _ in shape[1:]])
        padding = tuple(self.source.between(k - 1, k) for k in weight.shape[2:])
        stride, dilation = (tuple(self.source.between(1, 2) for _ in padding) for _ in range(2))
        bias = self.source.choose(None, fixed(self.source.normal(channels)))
        padding = tuple(p * d for p, d in zip(padding, dilation, strict=True))
        self.add(Convolution(shape, fixed(weight), bias, stride, padding, dilation, groups), name)

    def concatenation(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        fits = [n for n in [INPUT, *self.nodes] if self.shape_of(n)[1:] == shape[1:]]
        parts = [name, *(self.source.choose(*fits) for _ in range(self.source.between(0, 2)))]
        self.add(Concatenation([self.shape_of(part) for part in parts], 0), *parts)

    def movement(self) -> None:
        """Also back from flat, and to no axis at all."""
        name = self.some()
        shape = self.shape_of(name)
        if len(shape) == 1 and self.source.choose(True, False):
            size = shape[0]
            height = self.source.choose(*(k for k in range(1, size + 1) if size % k == 0))
            self.add(moved(shape, lambda x: x.unflatten(1, (height, -1)).unsqueeze(1)), name)
        else:
            super().movement()

    def grow(self) -> None:
        steps = (
            self.layer, self.layer, self.convolution, self.convolution, self.convolution, self.piecewise,
            self.sum, self.concatenation, self.scaling, self.movement,
        )  # fmt: skip
        self.source.choose(*steps)()


@st.composite
def expressible(draw: st.DrawFn, steps: int = 7, most: int = 250, wild: bool = False) -> Graph:
    """A directed acyclic graph that a plan can hold."""
    builder = PlanBuilder(Source(draw, wild))
    for _ in range(draw(st.integers(1, steps))):
        builder.grow()
        if math.prod(builder.shape_of(next(reversed(builder.nodes)))) > most:
            break
    return builder.finish()


@st.composite
def plan_sets(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> InputSet:
    """The sets that a plan takes the minimum over: no box around an l1 or l2 ball."""
    inputs = draw(input_sets(shape, dtype, most=3))
    if isinstance(inputs, LpBall) and inputs.box is not None and inputs.norm != "linf":
        return Ball(inputs.norm, inputs.eps.expand_as(inputs.center)).around(inputs.center)
    return inputs


def some_rows(shape: tuple[int, ...], n: int, kind: str, dtype: torch.dtype) -> Tensor | None:
    """None (the unit rows), rows that all inputs share, or rows of each input; not contiguous."""
    if kind == "unit":
        return None
    generator = torch.Generator().manual_seed(len(shape))
    count = {"shared": 3, "each": 9, "many": 19, "expanded": 2}[kind]
    lead = 1 if kind in ("shared", "expanded") else n
    rows = torch.randn(*reversed(shape), count, lead, generator=generator, dtype=torch.float64).to(dtype)
    rows = rows.permute(*reversed(range(rows.dim())))
    rows[:, 0] = torch.round(rows[:, 0])
    return rows.expand(n, *[-1] * (rows.dim() - 1)) if kind == "expanded" else rows


def unit_rows(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape)
    return torch.eye(size, dtype=dtype).reshape(1, size, *shape)


def assert_within(native: Tensor | None, other: Tensor | None, error: Tensor) -> None:
    """Both are within what is allowed of the same real number."""
    assert native is not None
    assert other is not None
    assert torch.isfinite(native).all()
    assert ((native.double() - other.double()).abs() <= error.double()).all()


ROWS = ("unit", "shared", "each", "many", "expanded")


@settings(max_examples=150)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from(ROWS), st.booleans())
def test_native_equals_torch(data: st.DataObject, graph: Graph, method: str, kind: str, upper: bool) -> None:
    """The same lines, the same rows, at every node: float64 bounds differ by at most twice the error of one."""
    inputs = data.draw(plan_sets(graph.input_shape, torch.float64))
    reference = Engine(graph, inputs, parse_method(method)[0], native=False)
    compiled = NativePass(graph, inputs)
    for name in (INPUT, *graph.nodes):
        shape = graph.shape_of(name)
        reference.node(name)  # so that there are lines for all that it depends on
        rows = some_rows(shape, len(inputs), kind, torch.float64)
        units = unit_rows(shape, torch.float64) if rows is None else rows
        with torch.no_grad():
            low, high = compiled(name, rows, reference.relaxations, upper=upper)
        below, above = backward(graph, name, units, reference.relaxations, inputs, upper=upper)
        error = 2 * reference._error_of_rows(name, units)
        assert_within(low, below, error)
        if upper:
            assert_within(high, above, error)
        else:
            assert high is None


@settings(max_examples=100)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from(ROWS))
def test_float32_within_its_error_of_float64(data: st.DataObject, graph: Graph, method: str, kind: str) -> None:
    """Native float32 bounds, widened, are outside the float64 ones of plain torch that use the very same lines."""
    inputs = data.draw(plan_sets(graph.input_shape, torch.float32))
    single = Engine(graph, inputs, parse_method(method)[0])
    shape = graph.shape_of(graph.output)
    rows = some_rows(shape, len(inputs), kind, torch.float32)
    rows = unit_rows(shape, torch.float32) if rows is None else rows
    with torch.no_grad():
        lower, upper = single.rows(graph.output, rows)
    assert single._native is not None
    lines: Mapping[str, Relaxation] = {name: exact(relaxation) for name, relaxation in single.relaxations.items()}
    low, high = backward(graph, graph.output, rows.double(), lines, inputs.to(torch.float64))
    assert upper is not None
    assert high is not None
    assert torch.isfinite(lower).all()
    assert (lower.double() <= low).all()
    assert (upper.double() >= high).all()


@settings(max_examples=60)
@given(st.data(), expressible(), st.sampled_from(METHODS))
def test_the_engine_uses_it_and_holds(data: st.DataObject, graph: Graph, method: str) -> None:
    """Bounds of every node, and of the output in float32, contain the values that the network takes."""
    for dtype in (torch.float64, torch.float32):
        inputs = data.draw(plan_sets(graph.input_shape, dtype))
        x = points(inputs, graph, steps=2)
        values = graph.activations(x.flatten(0, 1))
        native = Engine(graph, inputs, parse_method(method)[0])
        with torch.no_grad():
            for name in graph.nodes:
                lower, upper = native.node(name)
                value = values[name].unflatten(0, x.shape[:2])
                assert (lower.double() <= value).all(), name
                assert (upper.double() >= value).all(), name
        assert native._native is not None


@settings(max_examples=80)
@given(st.data(), expressible(wild=True), st.sampled_from(METHODS))
def test_wild_networks(data: st.DataObject, graph: Graph, method: str) -> None:
    """Weights of every order of magnitude: what overflows is NaN or infinite, never a finite wrong bound."""
    inputs = data.draw(plan_sets(graph.input_shape, torch.float32))
    x = points(inputs, graph, steps=2)
    values = graph.activations(x.flatten(0, 1))
    native = Engine(graph, inputs, parse_method(method)[0])
    with torch.no_grad():
        for name in graph.nodes:
            lower, upper = native.node(name)
            value = values[name].unflatten(0, x.shape[:2])
            assert not (lower.double() > value).any(), name
            assert not (upper.double() < value).any(), name
            assert not torch.isposinf(lower).any()
            assert not torch.isneginf(upper).any()
    assert native._native is not None


@settings(max_examples=25)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from((torch.float32, torch.float64)))
def test_threads_and_instruction_sets_change_no_bit(
    data: st.DataObject, graph: Graph, method: str, dtype: torch.dtype
) -> None:
    inputs = data.draw(plan_sets(graph.input_shape, dtype))
    native = Engine(graph, inputs, parse_method(method)[0])
    with torch.no_grad():
        native.node(graph.output)
        compiled = NativePass(graph, inputs)
        plain = compiled.plan.run
        for name in graph.nodes:
            native.node(name)
            for kind in ("unit", "many"):
                rows = some_rows(graph.shape_of(name), len(inputs), kind, dtype)
                found = []
                for isa in _C.config()["isas"]:
                    for threads in (1, 2, 3):
                        compiled.plan.run = lambda *a, t=threads, i=isa, **k: plain(*a, **k, threads=t, isa=i)
                        found.append(compiled(name, rows, native.relaxations, upper=True))
                for low, high in found[1:]:
                    assert same_bits(low, found[0][0])
                    assert high is not None
                    assert found[0][1] is not None
                    assert same_bits(high, found[0][1])


def same_bits(a: Tensor, b: Tensor) -> bool:
    kind = torch.int32 if a.dtype == torch.float32 else torch.int64
    return torch.equal(a.view(kind), b.view(kind))


@settings(max_examples=60)
@given(st.integers(1, 18), st.integers(1, 9), st.integers(0, 2**20), st.sampled_from(("linf", "l1")))
def test_in_rational_arithmetic(size: int, outputs: int, seed: int, norm: str) -> None:
    """Two dense layers and a ReLU in float32, against the pass in fractions with the same lines."""
    generator = torch.Generator().manual_seed(seed)
    first, second = ((100 * torch.randn(shape, generator=generator)) for shape in ((size, size), (outputs, size)))
    bias = -first @ torch.ones(size) + torch.randn(size, generator=generator)
    graph = Graph((size,), [
        Node("0", Dense((size,), fixed(first), fixed(bias)), ("input",)),
        Node("1", TwoPiece((size,)), ("0",)), Node("2", Dense((size,), fixed(second)), ("1",)),
    ])  # fmt: skip
    x = 1 + 0.01 * torch.randn(1, size, generator=generator)
    eps = 2.0**-6
    native = Engine(graph, Ball(norm, eps).around(x), parse_method("backward:same")[0])
    with torch.no_grad():
        lower, upper = native.node("2")
    assert native._native is not None
    relaxation = native.relaxations["1"]
    lows, highs = relaxation.lower_offset, relaxation.upper_offset
    for o in range(outputs):
        a = [f * fraction(relaxation.lower_slope[0, j]) for j, f in enumerate(map(fraction, second[o]))]
        low = high = Fraction(0)
        for j, f in enumerate(map(fraction, second[o])):
            p = Fraction(0) if lows is None else fraction(lows[0, j])
            q = Fraction(0) if highs is None else fraction(highs[0, j])
            low += f * (p if f > 0 else q) + a[j] * fraction(bias[j])
            high += f * (q if f > 0 else p) + a[j] * fraction(bias[j])
        form = [sum(a[j] * fraction(first[j, i]) for j in range(size)) for i in range(size)]
        middle = sum(c * fraction(v) for c, v in zip(form, x[0], strict=True))
        spread = Fraction(eps) * (sum(map(abs, form)) if norm == "linf" else max(map(abs, form)))
        assert fraction(lower[0, o]) <= low + middle - spread
        assert fraction(upper[0, o]) >= high + middle + spread


def fraction(x: Tensor) -> Fraction:
    return Fraction(float(x))


# What is given up, and how it is said.


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


def test_a_node_beside_others_that_need_no_lines() -> None:
    """Nodes of another branch come before it, and nothing is known about them yet."""
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = Graph((2,), [
        Node("left", Dense((2,), fixed(weight)), ("input",)), Node("rectified", TwoPiece((3,)), ("left",)),
        Node("right", Dense((2,), fixed(-weight)), ("input",)), Node("other", TwoPiece((3,)), ("right",)),
        Node("sum", Sum([(3,), (3,)]), ("rectified", "other")),
    ])  # fmt: skip
    inputs = Ball("linf", 0.5).around(torch.rand(2, 2, dtype=torch.float64))
    for name in ("right", "other", "sum"):
        native, plain = (Engine(graph, inputs, parse_method("crown")[0], native=wish) for wish in (True, False))
        with torch.no_grad():
            ours, torchs = native.node(name), plain.node(name)
        assert native._native is not None
        error = 4 * plain._error_of_rows(name, unit_rows((3,), torch.float64))
        assert_within(ours[0], torchs[0], error)
        assert_within(ours[1], torchs[1], error)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("n", (0, 1, 3))
def test_no_inputs_no_rows(n: int, dtype: torch.dtype) -> None:
    graph = capture(relu_network((4, 5, 1, 3), 0), torch.zeros(1, 4, dtype=torch.float64))
    native = Engine(graph, Ball("l2", 0.1).around(torch.rand(n, 4).to(dtype)), parse_method("crown")[0])
    with torch.no_grad():
        for count in (0, 1):
            for lead in {1, n}:
                low, high = native.rows(graph.output, torch.ones(lead, count, 3, dtype=dtype))
                assert low.shape == (n, count)
                assert high is not None
                assert high.shape == (n, count)
        lower, upper = native.node(graph.output)
    assert lower.shape == upper.shape == (n, 3)
    assert native._native is not None


def test_scalars_and_single_units() -> None:
    """An activation without axes, and one of size one on every axis."""
    graph = Graph((1, 1, 1), [
        Node("0", TwoPiece((1, 1, 1)), ("input",)), Node("1", Movement((1, 1, 1), torch.tensor(0)), ("0",)),
        Node("2", TwoPiece((), -1.0, 1.0), ("1",)), Node("3", Movement((), torch.tensor([0])), ("2",)),
    ])  # fmt: skip
    inputs = Ball("linf", 0.5).around(torch.tensor([[[[0.25]]], [[[-1.0]]]], dtype=torch.float64))
    with torch.no_grad():
        for name in graph.nodes:
            native, plain = (Engine(graph, inputs, parse_method("crown")[0], native=wish) for wish in (True, False))
            shape = graph.shape_of(name)
            for ours, torchs in zip(native.node(name), plain.node(name), strict=True):
                assert_within(
                    ours, torchs, 4 * plain._error_of_rows(name, unit_rows(shape, torch.float64)).reshape(2, *shape)
                )
            assert native._native is not None


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("size", (1e10, 1e20, 1e30, 3e38))
@pytest.mark.parametrize("slopes", SLOPES)
def test_overflow_is_never_a_proof(dtype: torch.dtype, size: float, slopes: str) -> None:
    """Also where a coefficient that overflowed meets a unit that is dead."""
    size = size if dtype == torch.float32 else min(size**8, 1e300)
    generator = torch.Generator().manual_seed(3)
    for norm in ("linf", "l2", "l1"):
        for seed in range(6):
            weights = [torch.randn(shape, generator=generator).to(dtype) for shape in ((6, 3), (5, 6), (3, 5))]
            weights[seed % 3] = weights[seed % 3].clamp(-1, 1) * size
            weights[(seed + 1) % 3] *= size if seed >= 3 else 1e-20
            weights = [w.nan_to_num(posinf=torch.finfo(dtype).max, neginf=torch.finfo(dtype).min) for w in weights]
            nodes = []
            for position, w in enumerate(weights):
                before = nodes[-1].name if nodes else INPUT
                bias = torch.randn(len(w), generator=generator).to(dtype)
                nodes.append(Node(f"w{position}", Dense((w.shape[1],), fixed(w), fixed(bias)), (before,)))
                if position < 2:
                    nodes.append(Node(f"r{position}", TwoPiece((len(w),)), (nodes[-1].name,)))
            graph = Graph((3,), nodes)
            inputs = Ball(norm, 0.5).around(torch.rand(2, 3, generator=generator).to(dtype))
            x = points(inputs, graph, steps=2)
            value = graph(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            known = torch.isfinite(value)
            with torch.no_grad():
                lower, upper = bounds(graph, inputs, f"backward:{slopes}")
            assert not ((lower.double() > value) & known).any()
            assert not ((upper.double() < value) & known).any()
            assert not torch.isposinf(lower).any()
            assert not torch.isneginf(upper).any()


@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("place", ("first", "last", "bias", "dead"))
def test_not_a_number_is_unknown(place: str, slopes: str) -> None:
    """A NaN anywhere makes the verdict unknown, even where it meets a unit that is dead."""
    model = relu_network((3, 20, 3), 2)
    graph = walk(model, (3,))
    assert graph is not None
    with torch.no_grad():
        model[0].bias[0] = -1e3  # dead
        if place == "first":
            model[0].weight[5, 1] = torch.nan
        elif place == "bias":
            model[2].bias[1] = torch.nan
        else:
            model[2].weight[1, 0 if place == "dead" else 7] = torch.nan
        x = torch.rand(4, 3, dtype=torch.float64)
        for dtype in (torch.float32, torch.float64):
            result = certify(
                graph, x.to(dtype), torch.ones(4, dtype=torch.int64), Ball("linf", 0.0), f"backward:{slopes}"
            )
            assert result.verdicts.tolist() == ["unknown"] * 4
            lower, upper = bounds(graph, Ball("linf", 0.1).around(x.to(dtype)), f"backward:{slopes}")
            assert torch.isnan(lower[:, 1]).all()
            assert torch.isnan(upper[:, 1]).all()


@pytest.mark.parametrize("norm", ("linf", "l2", "l1"))
@pytest.mark.parametrize("size", (1e-20, 1e-38, 1e-44))
def test_underflow(norm: str, size: float) -> None:
    """Products below the smallest float are not lost: neither tiny weights, nor tiny inputs."""
    for inner, outer, radius in ((size, 1.0, 1.0), (1.0, size, 1.0), (size, 1e30, 1.0), (1.0, 1e30, size)):
        first, last = torch.full((20, 4), inner), torch.full((1, 20), outer)
        graph = Graph((4,), [
            Node("0", Dense((4,), fixed(first)), ("input",)), Node("1", TwoPiece((20,)), ("0",)),
            Node("2", Dense((20,), fixed(last)), ("1",)),
        ])  # fmt: skip
        inputs = Ball(norm, radius).around(torch.zeros(1, 4))
        value = graph(points(inputs, graph).flatten(0, 1))
        assert value.max() > 0
        for method in METHODS:
            with torch.no_grad():
                lower, upper = bounds(graph, inputs, method)
            assert upper.double() >= value.max()
            assert lower.double() <= value.min()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("groups", (1, 2))
def test_windows_larger_than_the_image_and_channels_across_vectors(dtype: torch.dtype, groups: int) -> None:
    """Windows that lie in the padding altogether; and 1 to 34 channels, so that tiles of unit rows straddle pixels."""
    generator = torch.Generator().manual_seed(0)
    for channels, size, kernel, stride, padding, dilation in (
        (2, (3, 3), (5, 5), (1, 1), (2, 2), (1, 1)),
        (10, (2, 3), (2, 2), (3, 4), (4, 5), (1, 1)),
        (16, (3, 2), (3, 3), (1, 2), (4, 3), (2, 3)),
        (18, (1, 4), (1, 2), (1, 1), (0, 3), (1, 3)),
        (34, (2, 2), (2, 1), (1, 1), (1, 0), (1, 1)),
    ):
        shape = (2, *size)
        weights = [torch.randn(c, i // groups, *kernel, generator=generator) for c, i in ((channels, 2), (4, channels))]
        first = Convolution(shape, fixed(weights[0]), fixed(torch.ones(channels)), stride, padding, dilation, groups)
        second = Convolution(first.shape, fixed(weights[1]), None, (1, 1), padding, dilation, groups)
        graph = Graph(shape, [
            Node("0", first, ("input",)), Node("1", TwoPiece(first.shape), ("0",)), Node("2", second, ("1",)),
            Node("3", Clip(second.shape, -0.5, 1.0), ("2",)),
        ])  # fmt: skip
        inputs = Box(x := torch.rand(2, *shape, generator=generator).to(dtype), x + 0.1)
        engine_ = Engine(graph, inputs, parse_method("interval:adaptive")[0])
        with torch.no_grad():
            engine_.node("3")
            for name in graph.nodes:
                ours = engine_._pass(name, None, upper=True)
                torchs = engine_._pass_by_tiles(name, None, upper=True)
                error = 2 * engine_._error_of_rows(name, unit_rows(graph.shape_of(name), dtype))
                assert_within(ours[0], torchs[0], error)
                assert_within(ours[1], torchs[1], error)
        assert engine_._native is not None


def test_what_cannot_be_expressed_is_named() -> None:
    graph = Graph((1, 2, 2), [Node("top", MaxPool((1, 2, 2), (2, 2), (2, 2), (0, 0), (1, 1), False), ("input",))])
    with pytest.raises(Inexpressible, match="MaxPool of node 'top'"):
        NativePass(graph, Ball("linf", 0.1).around(torch.zeros(1, 1, 2, 2)))
    with pytest.raises(Inexpressible, match=r"torch.float16 on cpu"):
        NativePass(graph, Ball("linf", 0.1).around(torch.zeros(1, 1, 2, 2, dtype=torch.float16)))


def test_rows_of_another_dtype_are_refused() -> None:
    graph = capture(relu_network((4, 5, 3), 0), torch.zeros(1, 4, dtype=torch.float64))
    native = Engine(graph, Ball("linf", 0.1).around(torch.rand(2, 4, dtype=torch.float64)), parse_method("crown")[0])
    with torch.no_grad(), pytest.raises(ValueError, match=r"rows = torch.float32 of shape \(1, 2, 3\)"):
        native.rows(graph.output, torch.ones(1, 2, 3))


def test_a_plan_takes_its_own_dtype() -> None:
    plan = Plan((2,), torch.float64)
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"center = torch\.float32"):
        plan.run(plan.input, rows=None, sign=1.0, lines=[], both=False, hull=0, center=x, radius=x)


def test_a_window_that_lies_in_padding() -> None:
    """A convolution whose only window for some outputs holds nothing but padding: their bounds are the bias."""
    weight, bias = torch.tensor([[[2.0]]], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)
    operation = Convolution((1, 1), fixed(weight), fixed(bias), (3,), (1,), (1,), 1)
    graph = Graph((1, 1), [Node("0", operation, ("input",)), Node("1", TwoPiece(operation.shape), ("0",))])
    inputs = Ball("linf", 0.5).around(torch.full((1, 1, 1), 7.0, dtype=torch.float64))
    with torch.no_grad():
        for name in ("0", "1"):
            lower, upper = Engine(graph, inputs, NAMED["cap"], rounding=False).node(name)
            assert torch.equal(lower.flatten(), bias) and torch.equal(upper.flatten(), bias)
