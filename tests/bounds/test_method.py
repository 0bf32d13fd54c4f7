"""Methods: their names, their intersections, and how bounds move when the set does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.bounds.cases import METHODS, input_sets
from tests.networks import graphs, relu_network
from verifix.bounds import NAMED, Engine, Method, bounds, intersect, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph, capture
from verifix.operations import Nonlinear, Slopes
from verifix.sets import Ball, Box
from verifix.sets.ball import NORMS, Norm

ROUNDING = 1e-12


def within(inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor]) -> bool:
    """Whether each interval lies in the other, up to rounding."""
    slack = ROUNDING * (1 + torch.maximum(outer[0].abs(), outer[1].abs()))
    return bool(((inner[0] >= outer[0] - slack) & (inner[1] <= outer[1] + slack)).all())


def test_names() -> None:
    assert parse_method("IBP + crown") == (NAMED["ibp"], NAMED["crown"])
    assert parse_method("backward:one") == (Method("backward", "one"),)
    assert parse_method(["cap+ibp", Method("both", "zero")]) == (NAMED["cap"], NAMED["ibp"], Method("both", "zero"))


@pytest.mark.parametrize("method", ("", "dream", "cap+", "backward:steep", "sideways:one", "backward:constant", []))
def test_unknown_names(method: str) -> None:
    with pytest.raises(InvalidValue):
        parse_method(method)


def test_wrong_types() -> None:
    with pytest.raises(InvalidType):
        parse_method(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue):
        Method("backward", "same", "mean")  # type: ignore[arg-type]


@settings(max_examples=40)
@given(st.data(), graphs(), st.lists(st.sampled_from(METHODS), min_size=1, max_size=3))
def test_intersection_is_the_best_of_each(data: st.DataObject, graph: Graph, methods: list[str]) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    lowers, uppers = zip(*(bounds(graph, inputs, method) for method in methods), strict=True)
    lower, upper = bounds(graph, inputs, methods)
    assert torch.equal(lower, torch.stack(lowers).amax(0))
    assert torch.equal(upper, torch.stack(uppers).amin(0))


def test_what_is_unknown_gives_way_to_what_is_known() -> None:
    known = (torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0]))
    lower, upper = intersect((torch.tensor([torch.nan, 2.0]), torch.tensor([2.0, torch.nan])), known)
    assert lower.tolist() == [1.0, 2.0]
    assert upper.tolist() == [2.0, 3.0]


@settings(max_examples=60)
@given(st.data(), graphs(), st.floats(0, 1), st.floats(0, 1))
def test_intervals_widen_with_eps(data: st.DataObject, graph: Graph, a: float, b: float) -> None:
    """Interval bounds do, in any network, and for every node. (Adaptive lines need not.)"""
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    norm = data.draw(st.sampled_from(NORMS))
    for name in graph.nodes:
        small, large = (
            bounds(graph, Ball(norm, eps).around(inputs.center), "ibp", node=name, rounding=False)
            for eps in sorted((a, b))
        )
        assert within(small, large)


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.integers(1, 6), st.sampled_from(NORMS), st.floats(0, 1), st.floats(0, 1))
def test_lines_widen_with_eps(seed: int, width: int, norm: Norm, a: float, b: float) -> None:
    """With slopes that do not depend on the interval (zero, one) and one hidden layer, lines only get worse."""
    model = relu_network((3, width, 2), seed)
    x = torch.rand(1, 3, dtype=torch.float64)
    for method in ("backward:zero", "backward:one"):
        small, large = (bounds(model, Ball(norm, eps).around(x), method, rounding=False) for eps in sorted((a, b)))
        assert within(small, large)


@settings(max_examples=30)
@given(st.integers(0, 2**20), st.sampled_from(NORMS), st.floats(0, 1.5), st.floats(0, 0.6))
def test_a_box_never_loosens(seed: int, norm: Norm, eps: float, room: float) -> None:
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    box = (x - room, x + 0.5 * room)
    for widths, methods in (
        ((3, 4, 4, 2), ("ibp",)),
        ((3, 5, 2), ("ibp", "backward:zero", "backward:one")),
        ((3, 2), METHODS),
    ):
        model = relu_network(widths, seed)
        for method in methods:
            inside = bounds(model, Ball(norm, eps, box).around(x), method, rounding=False)
            assert within(inside, bounds(model, Ball(norm, eps).around(x), method, rounding=False))
            assert within(inside, bounds(model, Box(*box), method, rounding=False))


@settings(max_examples=40)
@given(st.data(), graphs())
def test_both_is_never_looser_than_interval(data: st.DataObject, graph: Graph) -> None:
    """Pre-activation bounds of ``both`` lie in those of the interval pass, at every node."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    interval, both = (Engine(graph, inputs, Method(kind, "adaptive"), rounding=False) for kind in ("interval", "both"))
    for name in graph.nodes:
        assert within(both._preactivation(name), interval._preactivation(name))


@pytest.mark.parametrize("native", (True, False))
@settings(max_examples=40)
@given(st.data(), graphs(), st.sampled_from(("same", "adaptive")))
def test_filtered_by_definition(native: bool, data: st.DataObject, graph: Graph, slopes: Slopes) -> None:
    """Where intervals settle every reader their bounds are taken, elsewhere the better ones; input by input."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    method = Method("filtered", slopes)
    with torch.no_grad():
        engine = Engine(graph, inputs, method, native=native)
        for node in graph.nonlinear(graph.output):
            name = node.inputs[0]
            found = engine._preactivation(name)
            low, high = engine._interval_node(name)
            readers = [n.operation for n in graph.nodes.values() if name in n.inputs]
            settled = torch.ones_like(low, dtype=torch.bool)
            for reader in readers:
                if isinstance(reader, Nonlinear):
                    settled &= reader.settled(low, high)
            better = engine._backward_node(name)
            wanted = (
                torch.where(settled, low, torch.maximum(low, better[0])),
                torch.where(settled, high, torch.minimum(high, better[1])),
            )
            assert within(found, wanted)
            assert within(wanted, found)
        for i in range(len(inputs)):
            alone = Engine(graph, inputs.select(slice(i, i + 1)), method, native=native).node(graph.output)
            together = engine.node(graph.output)
            assert within((together[0][i : i + 1], together[1][i : i + 1]), alone)


@settings(max_examples=40)
@given(st.data(), graphs(), st.sampled_from(METHODS))
def test_rows_of_the_identity_are_the_node(data: st.DataObject, graph: Graph, method: str) -> None:
    """Entries of a node; ``both`` and ``filtered`` intersect those with the interval pass besides."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    rows = torch.eye(graph.shape[0], dtype=torch.float64)
    node = bounds(graph, inputs, method)
    for given_rows in (rows, rows.expand(len(inputs), -1, -1)):
        lower, upper = bounds(graph, inputs, method, rows=given_rows)
        assert within(node, (lower, upper))
        assert within((lower, upper), node) or "both" in method or "filtered" in method
    high, low = bounds(graph, inputs, method, rows=-rows)
    assert within((-low, -high), (lower, upper))
    assert within((lower, upper), (-low, -high))


def test_differences_are_bounded_as_such() -> None:
    """The margin of a network against itself is zero, where the difference of bounds is not."""
    model = relu_network((2, 6, 2), 0)
    with torch.no_grad():
        model[2].weight[1] = model[2].weight[0]
        model[2].bias[1] = model[2].bias[0]
    inputs = Ball("linf", 0.5).around(torch.rand(1, 2, dtype=torch.float64))
    lower, upper = bounds(model, inputs, "crown", rows=torch.tensor([[1.0, -1.0]]))
    assert lower.abs().item() < 1e-10
    assert upper.abs().item() < 1e-10
    low, high = bounds(model, inputs, "crown")
    assert (high - low).min() > 0.1


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("node", {"node": "nowhere"}),
        ("rows", {"rows": torch.ones(3, 5)}),
        ("rows", {"rows": torch.full((1, 2), torch.nan)}),
        ("memory", {"memory": 0}),
        ("x", {"inputs": Ball("linf", 0.1).around(torch.rand(1, 4, dtype=torch.float64))}),
    ],
)
def test_wrong_values(argument: str, options: dict[str, object]) -> None:
    x = torch.rand(1, 3, dtype=torch.float64)
    arguments = {"inputs": Ball("linf", 0.1).around(x), **options}
    with pytest.raises(InvalidValue, match=argument):
        bounds(capture(relu_network((3, 4, 2), 0), x), **arguments)  # type: ignore[arg-type]


def test_wrong_types_of_arguments() -> None:
    model = relu_network((3, 4, 2), 0)
    x = torch.rand(1, 3, dtype=torch.float64)
    for arguments in (
        {"inputs": x},
        {"inputs": Ball("linf", 0.1)},
        {"rows": [[1.0, 2.0]]},
        {"memory": 1.5},
        {"memory": True},
    ):
        with pytest.raises(InvalidType):
            bounds(model, **{"inputs": Ball("linf", 0.1).around(x), **arguments})  # type: ignore[arg-type]
