"""The places where bounds usually break: kinks, single points, empty batches, ties, functions that are constant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.bounds.cases import points
from verifix.bounds import NAMED, bounds
from verifix.certify import certify
from verifix.graph import Graph, Node
from verifix.graph.sequential import walk
from verifix.operations import Clip, Dense, MaxPool, Shape, Sum, TwoPiece, fixed
from verifix.sets import Ball, Box
from verifix.sets.ball import NORMS, Norm

METHODS = (*NAMED, "interval:same", "backward:one", "both:zero", "filtered:same")
DTYPES = (torch.float32, torch.float64)


def graph_of(*layers: nn.Module, shape: Shape) -> Graph:
    graph = walk(nn.Sequential(*layers).eval(), shape)
    assert graph is not None
    return graph


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def near(found: Tensor, wanted: float | Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Equal up to what bounds are widened by in such small networks."""
    return bool(((found - wanted).abs() <= 5e3 * torch.finfo(dtype).eps).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("norm", "box"), [("linf", None), ("l2", (0, 1)), ("l1", (0, 1))])
def test_a_ball_of_radius_zero_is_its_center(
    method: str, dtype: torch.dtype, norm: Norm, box: tuple[float, float] | None
) -> None:
    torch.manual_seed(0)
    graph = graph_of(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2),
        nn.Tanh(), nn.Flatten(), nn.Linear(2, 4), nn.Hardtanh(-0.2, 0.3), nn.Linear(4, 3), nn.Sigmoid(),
        shape=(1, 4, 4),
    )  # fmt: skip
    x = torch.rand(2, 1, 4, 4, dtype=dtype)
    for name, value in graph.activations(x).items():
        lower, upper = bounds(graph, Ball(norm, 0.0, box).around(x), method, node=name)
        assert near(lower, value, dtype), name
        assert near(upper, value, dtype), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "activation", (nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(-2.0), nn.Hardtanh(0.0, 1.0), nn.Hardtanh(-1.0, 0.0))
)
def test_pre_activations_that_end_at_the_kink(method: str, activation: nn.Module) -> None:
    """``l = 0``, ``u = 0`` and ``l = u = 0`` are all stable, and bounds exact; widened, they are still right."""
    graph = graph_of(linear([[1.0], [1.0], [0.0]], [1.0, -1.0, 0.0]), activation, shape=(1,))
    inputs = Ball("linf", 1.0).around(torch.zeros(1, 1, dtype=torch.float64))  # [0, 2], [-2, 0], [0, 0]
    ends = graph(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    lower, upper = bounds(graph, inputs, method)
    assert (lower <= ends).all()
    assert (upper >= ends).all()
    if not isinstance(activation, nn.Hardtanh):  # which has another kink inside
        lower, upper = bounds(graph, inputs, method, rounding=False)
        assert torch.equal(lower[0], ends.amin(0))
        assert torch.equal(upper[0], ends.amax(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bias", (0.0, -1e-45, 1e-45, -1e-30, 1e-30))
def test_intervals_of_no_width_at_the_kink(method: str, bias: float) -> None:
    """Chords over nothing do not divide by zero."""
    for activation in (nn.ReLU(), nn.LeakyReLU(3.0), nn.Tanh(), nn.Sigmoid(), nn.ReLU6()):
        graph = graph_of(linear([[1.0]], [bias]), activation, linear([[5.0]], [1.0]), shape=(1,))
        for eps in (0.0, 1e-45, 1e-38, 1e-20):
            inputs = Ball("linf", eps).around(torch.zeros(1, 1))
            lower, upper = bounds(graph, inputs, method)
            value = graph(points(inputs, graph).flatten(0, 1))
            assert lower.double() <= value.min()
            assert value.max() <= upper.double()
            assert near(lower, value.min())
            assert near(upper, value.max())


@pytest.mark.parametrize("method", METHODS)
def test_dead_units(method: str) -> None:
    """Units that are never active contribute exactly nothing."""
    graph = graph_of(
        linear([[1.0, 2.0], [-1.0, 0.5]], [-50.0, -50.0]), nn.ReLU(), linear([[3.0, -7.0]], [0.25]), shape=(2,)
    )
    lower, upper = bounds(graph, Ball("linf", 1.0).around(torch.zeros(2, 2)), method)
    assert near(lower, 0.25)
    assert near(upper, 0.25)


@pytest.mark.parametrize("method", METHODS)
def test_a_leaky_slope_of_one_is_the_identity(method: str) -> None:
    """Also for interval bounds: there is nothing to lose in one layer."""
    inputs = Ball("l2", 0.7).around(torch.rand(2, 3, dtype=torch.float64))
    leaky, plain = (
        Graph((3,), [Node("0", operation, ("input",)), Node("1", Dense((3,), fixed(torch.eye(3))), ("0",))])
        for operation in (TwoPiece((3,), 1.0, 1.0), Dense((3,), fixed(torch.eye(3))))
    )
    for found, wanted in zip(bounds(leaky, inputs, method), bounds(plain, inputs, method), strict=True):
        assert near(found, wanted, torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", (0.0, 0.3, -1.7))
def test_a_clip_of_no_width_is_constant(method: str, level: float) -> None:
    graph = Graph((2,), [Node("0", Clip((2,), level, level), ("input",))])
    lower, upper = bounds(graph, Ball("linf", 5.0).around(torch.zeros(1, 2, dtype=torch.float64)), method)
    if method == "ibp":
        assert near(lower, level, torch.float64)
        assert near(upper, level, torch.float64)
    assert (lower <= level).all()
    assert (upper >= level).all()


@pytest.mark.parametrize("method", METHODS)
def test_ties_in_max_pooling(method: str) -> None:
    """Equal entries, equal bounds, and one entry that wins for certain."""
    graph = Graph((1, 2, 2), [Node("0", MaxPool((1, 2, 2), (2, 2), (2, 2), (0, 0), (1, 1), False), ("input",))])
    equal = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    lower, upper = bounds(graph, Ball("linf", 0.0).around(equal), method)
    assert near(lower, 0.5, torch.float64)
    assert near(upper, 0.5, torch.float64)
    lower, upper = bounds(graph, Ball("linf", 0.25).around(equal), method)
    assert near(lower, 0.25, torch.float64)
    assert near(upper, 0.75, torch.float64)
    winner = equal.clone()
    winner[0, 0, 1, 0] = 2.0
    lower, upper = bounds(graph, Ball("l1", 0.25).around(winner), method)
    assert near(lower, 1.75, torch.float64)
    assert near(upper, 2.25, torch.float64)


def test_max_pooling_keeps_the_winner_linear() -> None:
    """Where one entry is the maximum for certain, its difference with itself is zero."""
    graph = graph_of(nn.MaxPool2d(2), nn.Flatten(), linear([[1.0]], [0.0]), shape=(1, 2, 2))
    rows = torch.tensor([[1.0]])
    x = torch.tensor([[[[0.0, 0.1], [9.0, 0.2]]]])
    lower, upper = bounds(graph, Ball("linf", 1.0).around(x), "crown", rows=rows)
    assert near(upper - lower, 2.0)


def test_max_pooling_of_overlapping_windows_with_padding() -> None:
    """Padding is never the maximum, even where everything is negative."""
    graph = Graph((1, 3, 3), [Node("0", MaxPool((1, 3, 3), (3, 3), (1, 1), (1, 1), (1, 1), False), ("input",))])
    x = -5 + torch.rand(1, 1, 3, 3, dtype=torch.float64)
    for method in METHODS:
        lower, upper = bounds(graph, Ball("linf", 0.3).around(x), method)
        assert (upper < -3.6).all()
        assert (lower > -5.4).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_variance_of_zero(method: str) -> None:
    """Only the layer's epsilon keeps the scale finite: bounds are wide, and right."""
    layer = nn.BatchNorm1d(2)
    with torch.no_grad():
        layer.running_var.zero_()
        layer.running_mean.copy_(torch.tensor([0.1, -0.2]))
    graph = graph_of(layer, nn.ReLU(), linear([[1.0, -1.0]], [0.0]), shape=(2,))
    inputs = Ball("linf", 0.1).around(torch.zeros(1, 2))
    value = graph(points(inputs, graph).flatten(0, 1))
    lower, upper = bounds(graph, inputs, method)
    assert lower.double() <= value.min()
    assert value.max() <= upper.double()


@pytest.mark.parametrize("method", METHODS)
def test_one_unit_and_one_class(method: str) -> None:
    graph = graph_of(linear([[2.0]], [0.0]), nn.ReLU(), linear([[-3.0]], [1.0]), shape=(1,))
    x = torch.tensor([[1.0]])
    lower, upper = bounds(graph, Ball("linf", 0.5).around(x), method)
    assert near(lower, -8.0)
    assert near(upper, -2.0)
    result = certify(graph, x, torch.tensor([0]), Ball("linf", 0.5), method)
    assert result.verdicts.tolist() == ["verified"]  # there is no other class
    assert result.margins.shape == (1, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("norm", "box"), [("linf", None), ("l2", None), ("l2", (0, 1)), ("l1", (0, 1))])
def test_an_empty_batch(method: str, norm: Norm, box: tuple[float, float] | None) -> None:
    graph = graph_of(
        nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3), nn.Sigmoid(), shape=(1, 3, 3)
    )
    x = torch.zeros(0, 1, 3, 3)
    for eps in (0.1, torch.zeros(0)):
        for node in ("input", *graph.nodes):
            lower, upper = bounds(graph, Ball(norm, eps, box).around(x), method, node=node)
            assert lower.shape == upper.shape == (0, *graph.shape_of(node))
    result = certify(graph, x, torch.zeros(0, dtype=torch.int64), Ball(norm, 0.1, box), method)
    assert result.verdicts.tolist() == []
    assert result.margins.shape == (0, 3)
    lower, upper = bounds(graph, Box(x, x), method)
    assert lower.shape == (0, 3)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows(method: str) -> None:
    graph = graph_of(nn.Linear(2, 3), nn.ReLU(), shape=(2,))
    lower, upper = bounds(graph, Ball("linf", 0.1).around(torch.rand(4, 2)), method, rows=torch.zeros(0, 3))
    assert lower.shape == upper.shape == (4, 0)


@pytest.mark.parametrize("method", METHODS)
def test_bounds_of_the_input_are_its_hull(method: str) -> None:
    graph = graph_of(nn.Linear(2, 3), nn.ReLU(), shape=(2,))
    x = torch.rand(3, 2, dtype=torch.float64)
    for inputs in (Ball("linf", 0.2).around(x), Ball("l1", 0.5, (0, 1)).around(x), Box(x, x + 1)):
        for found, wanted in zip(bounds(graph, inputs, method, node="input"), inputs.hull(), strict=True):
            assert near(found, wanted, torch.float64)


@pytest.mark.parametrize("side", (torch.inf, 1e30))
def test_a_box_without_an_end(side: float) -> None:
    """A box that is infinite, or as good as that, on one side costs no precision."""
    graph = graph_of(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), shape=(3,))
    x = torch.rand(2, 3)
    for norm in NORMS:
        found, wanted = (bounds(graph, Ball(norm, 0.3, box).around(x), "crown") for box in ((-side, side), None))
        assert all(near(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_node_that_meets_itself(method: str) -> None:
    """``x - x`` is zero to the backward pass; to intervals it is not."""
    graph = Graph((2,), [Node("0", Sum([(2,), (2,)], -1.0), ("input", "input"))])
    lower, upper = bounds(graph, Ball("linf", 1.0).around(torch.zeros(1, 2)), method)
    assert near(lower, 0.0)
    assert near(upper, 0.0)
