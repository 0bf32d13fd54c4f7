"""The compiled backward pass: within rounding of plain torch and of exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.bounds.cases import input_sets, points
from tests.bounds.native_cases import (
    METHODS,
    ROWS,
    assert_within,
    expressible,
    same_bits,
    some_rows,
    unit_rows,
)
from tests.bounds.test_rounding import exact
from verifix import _C
from verifix.bounds import Engine, parse_method
from verifix.bounds.backward import backward
from verifix.bounds.native import NativePass
from verifix.graph import INPUT, Graph, Node
from verifix.operations import (
    Dense,
    Relaxation,
    TwoPiece,
    fixed,
)
from verifix.sets import Ball


@settings(max_examples=150)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from(ROWS), st.booleans())
def test_native_equals_torch(data: st.DataObject, graph: Graph, method: str, kind: str, upper: bool) -> None:
    """The same lines, the same rows, at every node: float64 bounds differ by at most twice the error of one."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float64, most=3))
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
        error = 2 * reference._magnitudes.error_of_rows(name, units)
        assert_within(low, below, error)
        if upper:
            assert_within(high, above, error)
        else:
            assert high is None


@settings(max_examples=100)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from(ROWS))
def test_float32_within_its_error_of_float64(data: st.DataObject, graph: Graph, method: str, kind: str) -> None:
    """Native float32 bounds, widened, are outside the float64 ones of plain torch that use the very same lines."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float32, most=3))
    single = Engine(graph, inputs, parse_method(method)[0])
    shape = graph.shape_of(graph.output)
    rows = some_rows(shape, len(inputs), kind, torch.float32)
    rows = unit_rows(shape, torch.float32) if rows is None else rows
    with torch.no_grad():
        lower, upper = single.rows(graph.output, rows)
    assert single._backward.native is not None
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
        inputs = data.draw(input_sets(graph.input_shape, dtype, most=3))
        x = points(inputs, graph, steps=2)
        values = graph.activations(x.flatten(0, 1))
        native = Engine(graph, inputs, parse_method(method)[0])
        with torch.no_grad():
            for name in graph.nodes:
                lower, upper = native.node(name)
                value = values[name].unflatten(0, x.shape[:2])
                assert (lower.double() <= value).all(), name
                assert (upper.double() >= value).all(), name
        assert native._backward.native is not None


@settings(max_examples=80)
@given(st.data(), expressible(wild=True), st.sampled_from(METHODS))
def test_wild_networks(data: st.DataObject, graph: Graph, method: str) -> None:
    """Weights of every order of magnitude: what overflows is NaN or infinite, never a finite wrong bound."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float32, most=3))
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
    assert native._backward.native is not None


@settings(max_examples=25)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from((torch.float32, torch.float64)))
def test_threads_and_instruction_sets_change_no_bit(
    data: st.DataObject, graph: Graph, method: str, dtype: torch.dtype
) -> None:
    inputs = data.draw(input_sets(graph.input_shape, dtype, most=3))
    native = Engine(graph, inputs, parse_method(method)[0])
    with torch.no_grad():
        native.node(graph.output)
        compiled = NativePass(graph, inputs)
        plain, forms = compiled.plan.run, compiled.plan.forms
        for name in graph.nodes:
            native.node(name)
            for kind in ("unit", "many"):
                rows = some_rows(graph.shape_of(name), len(inputs), kind, dtype)
                found = []
                for isa in _C.config()["isas"]:
                    for threads in (1, 2, 3):
                        compiled.plan.run = lambda *a, t=threads, i=isa, **k: plain(*a, **k, threads=t, isa=i)
                        compiled.plan.forms = lambda *a, t=threads, i=isa, **k: forms(*a, **k, threads=t, isa=i)
                        found.append(compiled(name, rows, native.relaxations, upper=True))
                for low, high in found[1:]:
                    assert same_bits(low, found[0][0])
                    assert high is not None
                    assert found[0][1] is not None
                    assert same_bits(high, found[0][1])


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
    assert native._backward.native is not None
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
