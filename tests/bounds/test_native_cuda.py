"""The compiled backward pass on CUDA: on the device, and its code run on the host; within rounding of plain torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

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
from tests.kernels.cuda_on_host import host_module, host_plan, on_gpu
from verifix.bounds import Engine, lowered, parse_method
from verifix.bounds.backward import backward
from verifix.bounds.native import NativePass
from verifix.bounds.rounding import plain_arithmetic
from verifix.graph import INPUT, Graph, capture
from verifix.operations import Relaxation
from verifix.sets import Ball

on_every_device = pytest.mark.parametrize("device", ["host", pytest.param("cuda", marks=on_gpu)])


def needs_gpu(test: Callable[[], None]) -> Callable[[], None]:
    for mark in on_gpu:
        test = mark(test)
    return test


@contextmanager
def passes_on(device: str) -> Iterator[torch.device]:
    """Where tensors go for passes on a device; the host stands in for CUDA with tensors of the CPU."""
    if device == "cuda":
        with plain_arithmetic():  # as certificates are computed: no TF32
            yield torch.device("cuda:0")
        return
    host_module()
    with patch.object(lowered, "plan_on", lambda _, *given: host_plan(*given)), patch.object(lowered, "_LOWERED", {}):
        yield torch.device("cpu")


@on_every_device
@settings(max_examples=80)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from(ROWS), st.booleans())
def test_equals_torch(device: str, data: st.DataObject, graph: Graph, method: str, kind: str, upper: bool) -> None:
    """The same lines, the same rows, at every node: float64 bounds differ by at most twice the error of one."""
    with passes_on(device) as where:
        inputs = data.draw(input_sets(graph.input_shape, torch.float64)).to(where)
        reference = Engine(graph, inputs, parse_method(method)[0], native=False)
        compiled = NativePass(graph, inputs)
        for name in (INPUT, *graph.nodes):
            shape = graph.shape_of(name)
            reference.node(name)  # so that there are lines for all that it depends on
            rows = some_rows(shape, len(inputs), kind, torch.float64)
            rows = None if rows is None else rows.to(where)
            units = unit_rows(shape, torch.float64).to(where) if rows is None else rows
            with torch.no_grad():
                low, high = compiled(name, rows, reference.relaxations, upper=upper)
            below, above = backward(graph, name, units, reference.relaxations, inputs, upper=upper)
            error = 2 * reference._magnitudes.error_of_rows(name, units)
            assert_within(low, below, error)
            if upper:
                assert_within(high, above, error)
            else:
                assert high is None


@on_every_device
@settings(max_examples=60)
@given(st.data(), expressible(), st.sampled_from(METHODS), st.sampled_from(ROWS))
def test_float32_within_its_error_of_float64(
    device: str, data: st.DataObject, graph: Graph, method: str, kind: str
) -> None:
    """Float32 bounds, widened, are outside the float64 ones of plain torch that use the very same lines."""
    with passes_on(device) as where:
        inputs = data.draw(input_sets(graph.input_shape, torch.float32)).to(where)
        single = Engine(graph, inputs, parse_method(method)[0])
        shape = graph.shape_of(graph.output)
        rows = some_rows(shape, len(inputs), kind, torch.float32)
        rows = (unit_rows(shape, torch.float32) if rows is None else rows).to(where)
        with torch.no_grad():
            lower, upper = single.rows(graph.output, rows)
        assert single._backward.native is not None
        lines = {name: exact(relaxation) for name, relaxation in single.relaxations.items()}
        low, high = backward(graph, graph.output, rows.double(), lines, inputs.to(torch.float64))
        assert upper is not None
        assert high is not None
        assert torch.isfinite(lower).all()
        assert (lower.double() <= low).all()
        assert (upper.double() >= high).all()


@on_every_device
@settings(max_examples=40)
@given(st.data(), expressible(wild=True), st.sampled_from(METHODS))
def test_wild_networks(device: str, data: st.DataObject, graph: Graph, method: str) -> None:
    """Weights of every order of magnitude: what overflows is NaN or infinite, never a finite wrong bound."""
    with passes_on(device) as where:
        inputs = data.draw(input_sets(graph.input_shape, torch.float32))
        x = points(inputs, graph, steps=2)
        values = graph.activations(x.flatten(0, 1))
        engine = Engine(graph, inputs.to(where), parse_method(method)[0])
        with torch.no_grad():
            for name in graph.nodes:
                lower, upper = (side.cpu() for side in engine.node(name))
                value = values[name].unflatten(0, x.shape[:2])
                assert not (lower.double() > value).any(), name
                assert not (upper.double() < value).any(), name
                assert not torch.isposinf(lower).any()
                assert not torch.isneginf(upper).any()
        assert engine._backward.native is not None


def small_network() -> Graph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    )
    return capture(model, torch.zeros(1, 2, 8, 8))


@on_every_device
def test_memory_changes_no_bit(device: str) -> None:
    """However small the budget: as many pieces as there are inputs and groups of rows."""
    graph, found = small_network(), []
    for memory in (1, 500_000, 1 << 30):
        with passes_on(device) as where, torch.no_grad():
            inputs = Ball("l2", 0.1).around(torch.linspace(0, 1, 3 * 128).reshape(3, 2, 8, 8)).to(where)
            engine = Engine(graph, inputs, parse_method("crown")[0], memory=memory)
            found.append(engine.node(graph.output))
            assert engine._backward.native is not None
    for lower, upper in found[1:]:
        assert same_bits(lower, found[0][0])
        assert same_bits(upper, found[0][1])


def test_a_plan_keeps_its_own_weights() -> None:
    host_module()
    plan = host_plan((3,), torch.float64)
    weight = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    dense = plan.dense(plan.input, weight, None)
    center, wanted = torch.ones(1, 3, dtype=torch.float64), weight.sum(1)
    weight.fill_(torch.nan)
    low, _ = plan.run(
        dense, rows=None, sign=1.0, lines=[None] * 4, both=False, hull=0, center=center, radius=torch.zeros_like(center)
    )
    assert torch.equal(low[0], wanted)


def test_schedules_are_kept() -> None:
    """Made once for the rows of a node, whatever the lines; others for other rows."""
    graph = small_network()
    with passes_on("host"), torch.no_grad():
        inputs = Ball("linf", 0.1).around(torch.rand(2, 2, 8, 8))
        engine = Engine(graph, inputs, parse_method("crown")[0])
        engine.node(graph.output)
        assert engine._backward.native is not None
        plan = engine._backward.native.plan
        known = dict(plan.schedules)
        assert len(known) == 3
        first = engine._backward.native(graph.output, None, engine.relaxations, upper=True)
        again = engine._backward.native(graph.output, None, engine.relaxations, upper=True)
        assert plan.schedules == known
        assert same_bits(first[0], again[0])
        engine.rows(graph.output, torch.eye(5)[None, :2])
        assert len(plan.schedules) == 4


def on(device: torch.device, relaxation: Relaxation) -> Relaxation:
    """The same lines; parallel ones stay so."""
    fields = {field.name: getattr(relaxation, field.name) for field in dataclasses.fields(relaxation)}  # type: ignore[arg-type]
    there = {name: value.to(device) for name, value in fields.items() if isinstance(value, Tensor)}
    if fields["upper_slope"] is fields["lower_slope"]:
        there["upper_slope"] = there["lower_slope"]
    return dataclasses.replace(relaxation, **there)  # type: ignore[type-var]


@needs_gpu
def test_the_device_gives_the_bits_of_the_host() -> None:
    """The same code with the same order of sums, compiled by both compilers without contraction."""
    graph = small_network()
    x = torch.rand(4, 2, 8, 8)
    for norm in ("linf", "l2", "l1"):
        found = []
        for device in ("host", "cuda"):
            with passes_on(device) as where, torch.no_grad():
                reference = Engine(graph, Ball(norm, 0.1).around(x), parse_method("crown")[0], native=False)
                reference.node(graph.output)
                lines = {name: on(where, relaxation) for name, relaxation in reference.relaxations.items()}
                compiled = NativePass(graph, Ball(norm, 0.1).around(x).to(where))
                found.append(compiled(graph.output, None, lines, upper=True))
        for host, cuda in zip(*found, strict=True):
            assert host is not None
            assert cuda is not None
            assert same_bits(host, cuda.cpu())


@needs_gpu
def test_waits_for_work_on_its_own_stream_and_for_nothing_else() -> None:
    """Inputs come from slow work on a side stream: the pass is issued without waiting, and reads what that wrote."""
    graph = small_network()
    x = torch.rand(4, 2, 8, 8, device="cuda")
    slow = torch.randn(4096, 4096, device="cuda")
    method = parse_method("crown")[0]
    with torch.no_grad():
        wanted = Engine(graph, Ball("linf", 0.1).around(x), method)
        wanted.node(graph.output)
        compiled = NativePass(graph, Ball("linf", 0.1).around(x))
        first = compiled(graph.output, None, wanted.relaxations, upper=True)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            compiled(graph.output, None, wanted.relaxations, upper=True)  # the schedule of this stream
            assert compiled.hull is not None
            packed = compiled.hull[1]
            center = packed.clone()
            packed.zero_()
            torch.cuda.synchronize()
            for _ in range(50):
                slow = slow @ slow / 4096
            packed.copy_(center)
            before = torch.cuda.Event()
            before.record()
            torch.cuda.set_sync_debug_mode("error")
            low, _ = compiled(graph.output, None, wanted.relaxations, upper=True)
            torch.cuda.set_sync_debug_mode("default")
            assert not before.query()
        stream.synchronize()
    assert same_bits(low, first[0])
