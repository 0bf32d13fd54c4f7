"""The compiled pass at its corners: nothing to do, overflow, NaN, underflow, odd shapes."""

from __future__ import annotations

import pytest
import torch

from tests.bounds.cases import SLOPES, points
from tests.bounds.native_cases import (
    METHODS,
    Largest,
    assert_within,
    unit_rows,
)
from tests.networks import relu_network
from verifix.bounds import NAMED, Engine, bounds, parse_method
from verifix.bounds.lowered import Inexpressible
from verifix.bounds.native import NativePass
from verifix.certify import certify
from verifix.graph import INPUT, Graph, Node, capture
from verifix.graph.sequential import walk
from verifix.kernels.plan import Plan
from verifix.operations import (
    Clip,
    Convolution,
    Dense,
    Movement,
    Sum,
    TwoPiece,
    fixed,
)
from verifix.sets import Ball, Box


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
        assert native._backward.native is not None
        error = 4 * plain._magnitudes.error_of_rows(name, unit_rows((3,), torch.float64))
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
    assert native._backward.native is not None


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
                    ours,
                    torchs,
                    4 * plain._magnitudes.error_of_rows(name, unit_rows(shape, torch.float64)).reshape(2, *shape),
                )
            assert native._backward.native is not None


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
                ours = engine_._backward(name, None, engine_.relaxations, upper=True)
                units = unit_rows(graph.shape_of(name), dtype)
                torchs = engine_._backward.by_tiles(name, units, engine_.relaxations, upper=True)
                error = 2 * engine_._magnitudes.error_of_rows(name, units)
                assert_within(ours[0], torchs[0], error)
                assert_within(ours[1], torchs[1], error)
        assert engine_._backward.native is not None


def test_what_cannot_be_expressed_is_named() -> None:
    graph = Graph((1, 2, 2), [Node("top", Largest((1, 2, 2)), ("input",))])
    with pytest.raises(Inexpressible, match="Largest of node 'top'"):
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
