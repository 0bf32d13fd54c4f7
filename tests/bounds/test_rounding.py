"""Bounds hold in real arithmetic: what floating point may have added or lost is inside their widening."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.bounds.cases import METHODS, bounds, input_sets, points
from tests.networks import graphs, relu_network
from verifix.bounds import NAMED, Engine, OptimisedSlopes, parse_method
from verifix.bounds.backward import backward
from verifix.bounds.rounding import plain_arithmetic, relative_error
from verifix.certify import certify
from verifix.graph import Graph, Node
from verifix.graph.lowering import moved
from verifix.graph.sequential import walk
from verifix.operations import Clip, Dense, MaxPool, Nonlinear, Relaxation, Sigmoid, Tanh, TwoPiece, fixed
from verifix.sets import Ball, Box

SLOPES = ("same", "adaptive", "zero", "one", "constant")
WAYS = tuple(itertools.product(METHODS, (False, True)))
SINGLE = tuple(
    method
    for method in METHODS
    if not any(isinstance(part.slopes, OptimisedSlopes) for part in parse_method(method)) and "+" not in method
)
"""Those whose lines an engine keeps: optimised ones are of the rows asked for, and of the signs of float32."""


def exact(relaxation: Relaxation) -> Relaxation:
    """The same lines, as float64 numbers."""
    fields = {field.name: getattr(relaxation, field.name) for field in dataclasses.fields(relaxation)}  # type: ignore[arg-type]
    wide = {
        key: value.double() for key, value in fields.items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    if fields.get("upper_slope") is fields.get("lower_slope") is not None:
        wide["upper_slope"] = wide["lower_slope"]
    return dataclasses.replace(relaxation, **wide)  # type: ignore[type-var]


@settings(max_examples=150)
@given(st.data(), st.booleans(), st.sampled_from(SINGLE), st.booleans())
def test_passes(data: st.DataObject, wild: bool, method: str, compiled: bool) -> None:
    """A backward pass in float32 is within its error of the pass in float64 that uses the very same lines."""
    graph = data.draw(graphs(wild=wild))
    inputs = data.draw(input_sets(graph.input_shape, torch.float32))
    engine = Engine(graph, inputs, parse_method(method)[0])
    size = graph.shape[0]
    rows = torch.cat([torch.eye(size), torch.randn(2, size, generator=torch.Generator().manual_seed(0))])[None]
    with torch.set_grad_enabled(not compiled):
        lower, upper = engine.rows(graph.output, rows)
    lines: Mapping[str, Relaxation] = {name: exact(relaxation) for name, relaxation in engine.relaxations.items()}
    low, high = backward(graph, graph.output, rows.double(), lines, inputs.to(torch.float64))
    assert upper is not None
    assert high is not None
    known = torch.isfinite(lower) & torch.isfinite(upper)
    assert known.all() or wild
    assert (lower.double() <= low)[known].all()
    assert (upper.double() >= high)[known].all()


@settings(max_examples=150)
@given(st.data(), graphs(wild=True), st.sampled_from(METHODS), st.booleans())
def test_wild_networks(data: st.DataObject, graph: Graph, method: str, compiled: bool) -> None:
    """With weights of every order of magnitude, bounds that are known hold; the others are NaN or infinite."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float32))
    x = points(inputs, graph)
    values = graph.activations(x.flatten(0, 1))
    for name in graph.nodes:
        lower, upper = bounds(compiled, graph, inputs, method, node=name)
        value = values[name].unflatten(0, x.shape[:2])
        assert not (lower.double() > value).any(), name
        assert not (upper.double() < value).any(), name
        assert not torch.isposinf(lower).any()
        assert not torch.isneginf(upper).any()


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=6),
    st.integers(0, 2**20),
    st.sampled_from((1.0, 30.0)),
    st.floats(0, 0.5),
)
def test_float32_encloses_float64(widths: list[int], seed: int, scale: float, eps: float) -> None:
    """Interval bounds in float32 contain the exact ones, however deep the network."""
    model = relu_network(tuple(widths), seed, scale, bias=scale).float()
    x = torch.rand(2, widths[0], generator=torch.Generator().manual_seed(seed))
    graph = walk(model, (widths[0],))
    assert graph is not None
    ball = Ball("linf", eps)
    narrow = bounds(False, graph, ball.around(x.double()), "ibp", rounding=False)
    wide = bounds(False, graph, ball.around(x), "ibp")
    assert (wide[0].double() <= narrow[0]).all()
    assert (wide[1].double() >= narrow[1]).all()


@settings(max_examples=100)
@given(
    st.integers(2, 40),
    st.integers(0, 2**20),
    st.sampled_from(tuple(NAMED)),
    st.sampled_from((torch.float32, torch.float64)),
    st.booleans(),
)
def test_cancellation_in_rational_arithmetic(
    size: int, seed: int, method: str, dtype: torch.dtype, compiled: bool
) -> None:
    """Two linear layers whose large terms cancel, against the exact range in fractions."""
    generator = torch.Generator().manual_seed(seed)
    first = (torch.randn(size, size, generator=generator, dtype=torch.float64) * 1e4).float()
    second = torch.randn(1, size, generator=generator, dtype=torch.float64).float()
    offset = -(first.double() @ torch.ones(size, dtype=torch.float64)).float()
    graph = Graph(
        (size,),
        [
            Node("0", Dense((size,), fixed(first), fixed(offset)), ("input",)),
            Node("1", Dense((size,), fixed(second)), ("0",)),
        ],
    )
    x = 1 + 1e-6 * torch.randn(1, size, generator=generator, dtype=torch.float64).to(dtype)
    lower, upper = bounds(compiled, graph, Ball("linf", 2.0**-30).around(x), method)
    row = [sum(Fraction(float(second[0, i])) * Fraction(float(first[i, j])) for i in range(size)) for j in range(size)]
    middle = sum(Fraction(float(second[0, i])) * Fraction(float(offset[i])) for i in range(size))
    middle += sum(r * Fraction(float(v)) for r, v in zip(row, x[0], strict=True))
    spread = sum(abs(r) for r in row) * Fraction(2.0**-30)
    assert Fraction(lower.item()) <= middle - spread
    assert Fraction(upper.item()) >= middle + spread


def test_plain_float32_bounds_would_be_wrong() -> None:
    """The widening is needed: without it, a bound of the network above misses values that the network takes."""
    wrong = 0
    for seed in range(20):
        weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)) * 1e4
        graph = Graph((64,), [Node("0", Dense((64,), fixed(weight)), ("input",))])
        x = torch.ones(1, 64)
        lower, upper = bounds(False, graph, Ball("linf", 0).around(x), "cap", rounding=False)
        value = graph(x.double())
        wrong += int(not lower.double() <= value <= upper.double())
        lower, upper = bounds(False, graph, Ball("linf", 0).around(x), "cap")
        assert lower.double() <= value <= upper.double()
    assert wrong > 5


OPERATIONS: dict[str, Nonlinear] = {
    "relu": TwoPiece((400,)),
    "leaky": TwoPiece((400,), 0.1, 1.0),
    "steep": TwoPiece((400,), 2.5, 1.0),
    "tent": TwoPiece((400,), 0.3, -2.0),
    "absolute": TwoPiece((400,), -1.0, 1.0),
    "hardtanh": Clip((400,), -0.1, 0.7),
    "floor": Clip((400,), 0.3, torch.inf),
    "ceiling": Clip((400,), -torch.inf, -0.3),
    "point": Clip((400,), 0.3, 0.3),
    "sigmoid": Sigmoid((400,)),
    "tanh": Tanh((400,)),
    "maximum": MaxPool((4, 10, 10), (3, 2), (2, 1), (1, 1), (1, 1), False),
}


@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=12)
@given(
    st.integers(0, 2**20),
    st.sampled_from((1e-30, 1e-6, 1e-3, 1.0, 30.0, 1e6, 1e30)),
    st.sampled_from((0.0, 1e-7, 1e-3, 1.0, 1e3)),
)
def test_lines(name: str, dtype: torch.dtype, slopes: str, seed: int, size: float, width: float) -> None:
    """Lines, taken as exact numbers, enclose their operation up to the roundings that are accounted for."""
    operation = OPERATIONS[name]
    shape = operation.inputs[0]
    generator = torch.Generator().manual_seed(seed)
    lower = (size * torch.randn(1, *shape, generator=generator, dtype=torch.float64)).to(dtype)
    upper = lower + (size * width * torch.rand(1, *shape, generator=generator, dtype=torch.float64)).to(dtype)
    lower[torch.rand(lower.shape, generator=generator) < 0.1] = 0.0
    upper[torch.rand(upper.shape, generator=generator) < 0.1] = 0.0
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    relaxation = operation.lines(lower, upper, slopes)  # type: ignore[arg-type]
    lines = exact(relaxation)
    magnitude = relaxation.magnitude(torch.maximum(lower.abs(), upper.abs()), lower, upper).flatten(1).double()
    allowed = (
        operation.roundings * torch.finfo(dtype).eps / 2 * magnitude + operation.roundings * torch.finfo(dtype).tiny
    )
    rows = torch.eye(magnitude.shape[1], dtype=torch.float64).reshape(1, -1, *operation.shape)
    for share in (0.0, 1.0, 0.5, torch.rand(lower.shape, generator=generator, dtype=torch.float64)):
        z = lower.double() + share * (upper.double() - lower.double())
        value = operation.forward(z).flatten(1)
        for side, sign in ((lines.below(rows), 1.0), (lines.above(rows), -1.0)):
            pulled, offset = side
            line = offset if pulled is None else (pulled.flatten(2) @ z.flatten(1)[:, :, None])[..., 0] + offset
            assert (sign * (line - value) <= allowed).all(), (
                f"off by {(sign * (line - value) / allowed).max():.3g} of what is allowed"
            )


@pytest.mark.parametrize("method", (*NAMED, "backward:one", "both:zero", "filtered:same"))
@pytest.mark.parametrize("size", (1e10, 1e20, 1e30, 3e38))
@pytest.mark.parametrize("norm", ("linf", "l2", "l1"))
@pytest.mark.parametrize("compiled", (False, True))
def test_overflow_is_never_a_proof(method: str, size: float, norm: str, compiled: bool) -> None:
    """Weights so large that products overflow: bounds are right, or NaN, or infinite."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        weights = [torch.randn(shape, generator=generator) for shape in ((4, 2), (3, 4), (1, 3))]
        weights[seed % 3] = weights[seed % 3].clamp(-1, 1) * size
        weights[(seed + 1) % 3] = weights[(seed + 1) % 3] * (size if seed >= 3 else 1e-20)
        weights = [weight.clamp(-3.4e38, 3.4e38) for weight in weights]
        nodes = []
        for position, weight in enumerate(weights):
            shape = (weight.shape[1],)
            nodes.append(Node(f"w{position}", Dense(shape, fixed(weight)), (nodes[-1].name if nodes else "input",)))
            if position < 2:
                nodes.append(Node(f"r{position}", TwoPiece((weight.shape[0],)), (nodes[-1].name,)))
        graph = Graph((2,), nodes)
        inputs = Ball(norm, 0.5).around(torch.rand(1, 2, generator=generator))
        lower, upper = (side.double() for side in bounds(compiled, graph, inputs, method))
        value = graph(points(inputs, graph).flatten(0, 1))
        assert not (lower > value.min()).any()
        assert not (upper < value.max()).any()


def test_width_beyond_the_largest_float() -> None:
    """``u - l`` overflows although both are finite: the chord's slope must not become zero."""
    for operation in (
        TwoPiece((1,)),
        Clip((1,), 0.0, torch.inf),
        TwoPiece((1,), 0.1, 1.0),
        TwoPiece((1,), -1.0, 1.0),
        Tanh((1,)),
    ):
        first, last = torch.tensor([[3e38]]), torch.tensor([[1e-30]])
        graph = Graph((1,), [
            Node("0", Dense((1,), fixed(first)), ("input",)),
            Node("1", operation, ("0",)), Node("2", Dense((1,), fixed(last)), ("1",)),
        ])  # fmt: skip
        for method, compiled in WAYS:
            _, upper = bounds(compiled, graph, Ball("linf", 1.0).around(torch.zeros(1, 1)), method)
            assert not upper.double() < graph(torch.ones(1, 1).double()), (operation, method)


def test_infinite_coefficients_are_not_a_proof() -> None:
    """1e20 * 1e20 overflows to a coefficient of +inf on something tiny; the other term is what decides."""
    first = torch.tensor([[1e20, 0.0], [0.0, 1e19]])
    last = torch.tensor([[0.0, 0.0], [-1e20, 2e19]])  # margin f_0 - f_1 = 1e40 z_0 - 2e38 z_1
    graph = Graph((2,), [
        Node("0", TwoPiece((2,)), ("input",)),
        Node("1", Dense((2,), fixed(first)), ("0",)), Node("2", Dense((2,), fixed(last)), ("1",)),
    ])  # fmt: skip
    x, y = torch.tensor([[1e-31, 1.0]]), torch.tensor([0])
    assert graph(x.double())[0, 0] < graph(x.double())[0, 1]
    for method, compiled in WAYS:
        for dtype in (torch.float32, torch.float64):
            result = certify(graph, x.to(dtype), y, Ball("linf", 0.0), method)
            assert result.verdicts.tolist() != ["verified"]
        lower, upper = bounds(compiled, graph, Ball("linf", 0.0).around(x), method)
        assert not torch.isposinf(lower).any()
        assert not torch.isneginf(upper).any()


def test_not_a_number_is_unknown() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = walk(model, (2,))
    assert graph is not None
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    x = torch.rand(3, 2)
    for method, compiled in WAYS:
        result = certify(graph, x, torch.zeros(3, dtype=torch.int64), Ball("linf", 0.0), method)
        assert result.verdicts.tolist() == ["unknown"] * 3
        lower, upper = bounds(compiled, graph, Ball("linf", 0.1).around(x), method)
        assert torch.isnan(lower).all()
        assert torch.isnan(upper).all()


@pytest.mark.parametrize("norm", ("linf", "l2", "l1"))
@pytest.mark.parametrize("box", (None, (-1, 1)))
@pytest.mark.parametrize("size", (1e-20, 1e-25, 1e-38, 1e-44))
def test_underflow(norm: str, box: tuple[float, float] | None, size: float) -> None:
    """Products and squares below the smallest float are not lost: neither tiny weights, nor tiny inputs."""
    for inner, outer, radius in (
        (size, 1.0, 1.0),
        (1.0, size, 1.0),
        (size, 1e30, 1.0),
        (size, 1e38, size),
        (1.0, 1e30, size),
    ):
        first, last = torch.full((2, 4), inner), torch.full((1, 2), outer)
        graph = Graph((4,), [
            Node("0", Dense((4,), fixed(first)), ("input",)),
            Node("1", Dense((2,), fixed(last)), ("0",)), Node("2", TwoPiece((1,)), ("1",)),
        ])  # fmt: skip
        inputs = Ball(norm, radius, box).around(torch.zeros(1, 4))
        value = graph(points(inputs, graph).flatten(0, 1))
        assert value.max() > 0
        for method, compiled in WAYS:
            for name in ("1", "2"):
                assert not bounds(compiled, graph, inputs, method, node=name)[1].double() < value.max(), (method, name)


def test_subnormal_inputs() -> None:
    tiny = torch.tensor([[1e-40, -3e-42, 1.4e-45]])
    weight = torch.tensor([[1e30, -1e30, 1e38]])
    graph = Graph((3,), [Node("0", Dense((3,), fixed(weight)), ("input",)), Node("1", TwoPiece((1,)), ("0",))])
    for inputs in (Ball("linf", 0.0).around(tiny), Ball("l2", 1e-41).around(tiny), Box(tiny, tiny + 1e-40)):
        value = graph(points(inputs, graph).flatten(0, 1))
        for method, compiled in WAYS:
            lower, upper = bounds(compiled, graph, inputs, method)
            assert lower.double() <= value.min()
            assert value.max() <= upper.double()


def test_normalisation_whose_shift_cancels() -> None:
    """``bias - mean * scale`` is small, its terms are not: their rounding counts, in float64 too."""
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(50).double()
    with torch.no_grad():
        layer.running_mean.uniform_(1e9, 2e9)
        layer.running_var.uniform_(0.1, 3)
        layer.bias.copy_(layer.running_mean / torch.sqrt(layer.running_var + layer.eps) + torch.rand(50))
    graph = walk(nn.Sequential(layer), (50,))
    assert graph is not None
    lower, upper = bounds(False, graph, Ball("linf", 0.0).around(torch.zeros(1, 50, dtype=torch.float64)), "cap")
    wide = np.longdouble
    mean, variance, bias = (
        value.detach().numpy().astype(wide) for value in (layer.running_mean, layer.running_var, layer.bias)
    )
    value = bias - mean / np.sqrt(variance + wide(layer.eps))
    assert (lower[0].detach().numpy() <= value).all()
    assert (upper[0].detach().numpy() >= value).all()


def test_constants_are_not_cut_to_float32() -> None:
    """Slopes and fillings are Python numbers: in float64 a slope of 0.1 is 0.1, and a padding of 0.1 is 0.1."""
    padding = moved((1,), lambda x: F.pad(x, (1, 0), value=-1), 0.1)
    graph = Graph((1,), [Node("leaky", TwoPiece((1,), 0.1, 1.0), ("input",)), Node("pad", padding, ("leaky",))])
    x = torch.full((1, 1), -5.0, dtype=torch.float64)
    for method, compiled in WAYS:
        lower, upper = bounds(compiled, graph, Ball("linf", 0.5).around(x), method)
        assert lower[0].tolist() == pytest.approx([0.1, -0.55], abs=1e-13)
        assert upper[0].tolist() == pytest.approx([0.1, -0.45], abs=1e-13)


def test_half_precision_is_left_to_float64() -> None:
    """Where the analysis does not hold, it says so: half precision proves nothing by itself."""
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2))
    graph = walk(model, (40,))
    assert graph is not None
    assert relative_error(graph, graph.output, torch.float16) == torch.inf
    lower, upper = bounds(False, graph, Ball("linf", 0.01).around(torch.rand(1, 40).half()), "ibp")
    assert not torch.isfinite(lower).any()
    assert not torch.isfinite(upper).any()


SWITCHES = ("cuda.matmul", "cudnn.conv", "mkldnn.conv", "mkldnn.matmul")


@pytest.mark.parametrize("switch", SWITCHES)
def test_plain_arithmetic(switch: str) -> None:
    """Whatever precision the user chose, bounds are computed in the full one, and the choice is put back."""
    family, operation = switch.split(".")
    target = getattr(getattr(torch.backends, family), operation)
    before = target.fp32_precision
    try:
        target.fp32_precision = "tf32"
        with plain_arithmetic():
            assert target.fp32_precision == "ieee"
        assert target.fp32_precision == "tf32"
        with pytest.raises(KeyError), plain_arithmetic():
            raise KeyError
        assert target.fp32_precision == "tf32"
    finally:
        target.fp32_precision = before


def test_autocast_does_not_reach_the_bounds() -> None:
    graph = walk(nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3)), (30,))
    assert graph is not None
    inputs = Ball("linf", 0.1).around(torch.rand(2, 30))
    plain = bounds(False, graph, inputs, "crown")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = bounds(False, graph, inputs, "crown")
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


def test_convolutions_are_sums_of_products() -> None:
    """No fast algorithm: an entry is as near as any order of summation brings it, also where oneDNN is switched off."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, 12, 12, generator=generator) * torch.logspace(-4, 4, 12)[:, None]
    weight = torch.randn(32, 8, 3, 3, generator=generator)
    with torch.backends.mkldnn.flags(enabled=False), plain_arithmetic():
        computed = F.conv2d(x, weight)
    exact = F.conv2d(x.double(), weight.double())
    size = F.conv2d(x.abs().double(), weight.abs().double())
    assert ((computed - exact).abs() <= 8 * 3 * 3 * torch.finfo(torch.float32).eps / 2 * size).all()
