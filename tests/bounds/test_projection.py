"""Projected norms: what is estimated is the right number, input by input, and nothing else changes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from tests.bounds.cases import input_sets, points
from tests.networks import graphs, relu_network
from verifix.bounds import Engine, Estimator, Method, bounds, parse_method
from verifix.bounds.bundle import Bundle
from verifix.bounds.projection import Projection, mean_of_chi, mean_of_median
from verifix.bounds.starts import draw
from verifix.graph import INPUT, Graph, capture
from verifix.kernels.abs_median import abs_median
from verifix.operations import MaxPool
from verifix.sets import Ball, InputSet
from verifix.sets.ball import NORMS
from verifix.sets.base import Norm
from verifix.tensors import flatten

DOUBLE = torch.float64
KINDS: dict[Norm, str] = {"linf": "median", "l1": "median", "l2": "gaussian"}


def known_lines(graph: Graph, inputs: InputSet) -> Engine:
    """An engine that has exact bounds, and lines, for everything before the output."""
    engine = Engine(graph, inputs, parse_method("cap")[0])
    engine.rows(graph.output, torch.zeros(1, 1, *graph.shape).to(inputs.center), upper=False)
    return engine


def projected(engine: Engine, estimator: Estimator) -> tuple[Engine, Projection]:
    """One that estimates, on the lines of an engine that does not."""
    other = Engine(engine.graph, engine.inputs, dataclasses.replace(engine.method, estimator=estimator))
    other._known.relaxations, other._known.preactivations = dict(engine.relaxations), dict(engine._known.preactivations)
    assert other._projection is not None
    return other, other._projection


def errors_apart(graph: Graph, projection: Projection, name: str) -> tuple[Tensor, Tensor]:
    """Center, and one row for every error that a node depends on, each pushed forward by itself: the oracle."""
    projection._prepare(name)
    whole = [Bundle(graph, projection.slabs, projection.starts.center, points=True).at(name)]
    for source in (INPUT, *projection._sources(name)):
        shape = graph.shape_of(source)
        radius = projection.ball.radius if source == INPUT else projection.slabs[source].radius
        units = torch.eye(math.prod(shape), dtype=DOUBLE).reshape(1, -1, *shape)
        rows = Bundle(
            graph, projection.slabs, lambda step, s=source, r=radius[:, None] * units: r if step == s else None
        ).at(name)
        whole.append(torch.zeros(1, 1, *graph.shape_of(name), dtype=DOUBLE) if rows is None else rows)
    n = max(len(part) for part in whole if part is not None)
    center, first, *rest = (flatten(part.expand(n, *part.shape[1:]), 2) for part in whole if part is not None)
    norm = projection.ball.norm
    spread = first.abs().sum(1) if norm == "linf" else first.norm(dim=1) if norm == "l2" else first.abs().amax(1)
    return center[:, 0], spread + sum((part.abs().sum(1) for part in rest), torch.zeros_like(spread))


@settings(max_examples=60, deadline=None)
@given(st.data(), graphs(most=60))
@torch.no_grad()
def test_the_errors_of_all_sources_add_up_to_the_exact_bounds(data: st.DataObject, graph: Graph) -> None:
    """What random rows are combinations of, spelled out: with parallel lines it is the backward pass itself."""
    inputs = data.draw(input_sets(graph.input_shape, DOUBLE))
    ball = inputs.norm_ball()
    assume(ball is not None and ball.whole)
    assume(not any(isinstance(node.operation, MaxPool) for node in graph.nonlinear(graph.output)))
    exact = known_lines(graph, inputs)
    _, projection = projected(exact, Estimator("geometric", 2))
    center, spread = errors_apart(graph, projection, graph.output)
    lower, upper = (flatten(side, 1) for side in exact.node(graph.output))
    size = 1 + torch.maximum(lower.abs(), upper.abs()).amax(1, keepdim=True)
    torch.testing.assert_close((center - spread) / size, lower / size, rtol=0, atol=1e-8)
    torch.testing.assert_close((center + spread) / size, upper / size, rtol=0, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.data(), graphs(most=60))
def test_parallel_planes_hold_for_every_operation(data: st.DataObject, graph: Graph) -> None:
    """Max pooling included, whose lines are not parallel: points of the set stay within center and spread."""
    inputs = data.draw(input_sets(graph.input_shape, DOUBLE))
    with torch.no_grad():
        _, projection = projected(known_lines(graph, inputs), Estimator("geometric", 2))
        center, spread = errors_apart(graph, projection, graph.output)
    for x in points(inputs, graph):
        gap = (flatten(graph(x), 1) - center).abs() - spread
        assert (gap <= 1e-9 * (1 + center.abs() + spread)).all()


@torch.no_grad()
def test_the_terms_of_many_max_poolings_are_accounted() -> None:
    """Every one moves the center up by half of what it may add, though bounds and magnitudes stay the same."""
    model = nn.Sequential(*(nn.MaxPool2d((1, 2), 1) for _ in range(12)), nn.ReLU())
    x = torch.zeros(1, 1, 1, 16, dtype=DOUBLE)
    engine = Engine(
        capture(model, x), Ball("linf", 1.0).around(x), Method("backward", "same", Estimator("geometric", 500))
    )
    engine.rows("12", torch.zeros(1, 1, 1, 1, 4, dtype=DOUBLE))
    assert engine._projection is not None
    engine._projection._prepare("11")
    center = engine._projection._center.at("11")
    assert center is not None
    assert float((center / engine._magnitudes.at("11")).amax()) > 11
    assert (center <= engine._magnitudes.slack("11") * engine._magnitudes.at("11")).all()


@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_rows_have_the_scale_of_the_exact_norm(norm: Norm) -> None:
    """The median of many rows, whose scale is the sum of the norms of all errors."""
    graph = capture(relu_network((6, 9, 8, 4), 3), torch.zeros(1, 6, dtype=DOUBLE))
    inputs = Ball(norm, 0.4).around(torch.full((2, 6), 0.3, dtype=DOUBLE))
    k = 200_001
    _, projection = projected(known_lines(graph, inputs), Estimator(KINDS[norm], k))  # type: ignore[arg-type]
    center, spread = projection(graph.output, torch.ones(2, 4, dtype=torch.bool))
    center_exact, spread_exact = errors_apart(graph, projection, graph.output)
    torch.testing.assert_close(center, center_exact)
    torch.testing.assert_close(spread, spread_exact, rtol=6 * math.pi / 2 / math.sqrt(k), atol=0)


@pytest.mark.parametrize("k", [2, 5, 10, 50])
def test_estimates_are_unbiased(k: int) -> None:
    """Over 10,000 estimates of one norm: the mean is right within its standard error, the median of k is corrected."""
    count = 10_000
    vector = torch.linspace(-1, 2, 7, dtype=DOUBLE)
    cauchy = draw("cauchy", 0, "x", count * k, (7,), vector)[0] @ vector
    medians = abs_median(cauchy.reshape(count, k, 1))[0] / mean_of_median(k) / vector.abs().sum()
    normal = draw("normal", 0, "x", count * k, (7,), vector)[0] @ vector
    lengths = normal.reshape(count, k).norm(dim=1) / mean_of_chi(k) / vector.norm()
    for estimates in (medians, lengths) if k > 5 else (lengths,):  # of few Cauchy variables even the median is wild
        assert abs(float(estimates.mean()) - 1) < 4 * float(estimates.std()) / math.sqrt(count)


def test_labels_have_draws_of_their_own() -> None:
    """These two agree in 32 bits of a hash, which is all that torch's generator would read of a seed."""
    like = torch.zeros(1, dtype=DOUBLE)
    first, second, again = (draw("cauchy", 0, label, 4, (25,), like) for label in ("8607", "141558", "8607"))
    assert torch.equal(first, again)
    assert not (first == second).any()


def test_the_mean_of_the_median_against_order_statistics() -> None:
    # of 2: P(min |C| > x) = P(|C| > x)^2, with mean 4 log 2 / pi; of 3, by simulation
    assert mean_of_median(2) == pytest.approx(4 * math.log(2) / math.pi, rel=1e-8)
    generator = torch.Generator().manual_seed(0)
    for k in (11, 50):
        simulated = torch.empty(200_000, k, dtype=DOUBLE).cauchy_(generator=generator).abs().sort(1)[0][:, (k - 1) // 2]
        assert mean_of_median(k) == pytest.approx(float(simulated.mean()), abs=4 * float(simulated.std()) / 447)
    assert mean_of_chi(1) == pytest.approx(math.sqrt(2 / math.pi))


def network() -> tuple[nn.Sequential, Graph]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 50), nn.LeakyReLU(0.1), nn.Linear(50, 4)).double()
    return model, capture(model, torch.zeros(1, 40, dtype=DOUBLE))


@torch.no_grad()
def test_what_is_found_for_an_input_does_not_depend_on_its_batch() -> None:
    """Some inputs have so few errors that they are bounded exactly, next to others that are estimated."""
    _, graph = network()
    x = torch.rand(6, 40, dtype=DOUBLE)
    eps = torch.full((6, 40), 0.05, dtype=DOUBLE)
    eps[1:3, 5:] = 0.0
    eps[4] = 0.0
    for estimator in ("median:30", Estimator("geometric", 45, delta=0.5)):
        method = Method("backward", "same", estimator)  # type: ignore[arg-type]
        sets = Ball("linf", eps).around(x)
        engine = Engine(graph, sets, method)
        together = engine.node("2")
        alone = [Engine(graph, sets.select(slice(i, i + 1)), method).node("2") for i in range(6)]
        for side in (0, 1):
            torch.testing.assert_close(together[side], torch.cat([b[side] for b in alone]), rtol=1e-12, atol=1e-12)
        exact = Engine(graph, sets, parse_method("cap")[0]).node("2")
        same = (together[0] - exact[0]).abs().amax(1) < 1e-9
        assert same.tolist() == [False, True, True, False, True, False]
        confidence = engine.confidence()
        if confidence is not None:
            assert confidence.estimates.tolist() == [0 if s else 50 for s in same]  # the first layer is exact


@torch.no_grad()
def test_exact_where_it_takes_no_more_rows() -> None:
    _, graph = network()
    sets = Ball("linf", 0.05).around(torch.rand(2, 40, dtype=DOUBLE))
    exact = Engine(graph, sets, parse_method("cap")[0])
    rows = torch.eye(4, dtype=DOUBLE)[None]
    few = Engine(graph, sets, Method("backward", "same", Estimator("median", 60)))
    torch.testing.assert_close(few.rows("4", rows), exact.rows("4", rows), rtol=1e-12, atol=1e-12)
    estimated = Engine(graph, sets, Method("backward", "same", Estimator("median", 49)))
    # the first layer is bounded by intervals, which are exact there
    torch.testing.assert_close(estimated.node("0"), exact.node("0"), rtol=1e-12, atol=1e-12)
    assert ((estimated.node("2")[0] - exact.node("2")[0]).abs() > 1e-6).all()


@torch.no_grad()
def test_margins_are_exact_given_the_hidden_bounds() -> None:
    _, graph = network()
    sets = Ball("linf", 0.05).around(torch.rand(2, 40, dtype=DOUBLE))
    estimated = Engine(graph, sets, Method("backward", "same", Estimator("median", 30)))
    rows = torch.eye(4, dtype=DOUBLE)[None]
    got = estimated.rows("4", rows)
    exact = Engine(graph, sets, parse_method("cap")[0])
    exact._known.relaxations, exact._known.preactivations = estimated.relaxations, estimated._known.preactivations
    torch.testing.assert_close(got, exact.rows("4", rows), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("estimator", [Estimator("median", 5), Estimator("geometric", 55, delta=0.5)])
@torch.no_grad()
def test_outputs_are_exact_given_the_hidden_bounds(estimator: Estimator) -> None:
    """However many they are: nothing is left of delta for them."""
    torch.manual_seed(0)
    model = nn.Sequential(*list(network()[0])[:4], nn.Linear(50, 70)).double()
    sets = Ball("linf", 0.05).around(torch.rand(2, 40, dtype=DOUBLE))
    estimated = Engine(capture(model, sets.center), sets, Method("backward", "same", estimator))
    got = estimated.node("4")
    exact = Engine(capture(model, sets.center), sets, parse_method("cap")[0])
    exact._known.relaxations, exact._known.preactivations = (
        dict(estimated.relaxations),
        dict(estimated._known.preactivations),
    )
    torch.testing.assert_close(got, exact._backward_node("4"), rtol=1e-14, atol=1e-14)


@torch.no_grad()
def test_seeds_matter_and_repeat() -> None:
    _, graph = network()
    sets = Ball("linf", 0.05).around(torch.rand(2, 40, dtype=DOUBLE))

    def lower(seed: int) -> Tensor:
        return Engine(graph, sets, Method("backward", "same", Estimator("median", 30, seed=seed))).node("2")[0]

    assert torch.equal(lower(3), lower(3))
    assert not torch.equal(lower(3), lower(4))


@pytest.mark.parametrize("intermediate", ["both", "filtered"])
@torch.no_grad()
def test_intervals_are_kept_where_they_are_better(intermediate: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(90, 200), nn.ReLU(), nn.Linear(200, 190), nn.ReLU(), nn.Linear(190, 2)).double()
    sets = Ball("linf", 0.01).around(torch.rand(3, 90, dtype=DOUBLE))
    graph = capture(model, sets.center)
    estimator = Estimator("geometric", 80, delta=0.5)
    engine = Engine(graph, sets, Method(intermediate, "same", estimator))  # type: ignore[arg-type]
    lower, upper = engine.node("2")
    low, high = Engine(graph, sets, Method("both", "same"))._interval_node("2")
    settled = graph.node("3").operation.settled(low, high)  # type: ignore[attr-defined]
    wanted = settled.new_ones(settled.shape) if intermediate == "both" else ~settled
    assert (lower >= low - 1e-9)[wanted].all()
    assert (upper <= high + 1e-9)[wanted].all()
    assert ((lower > low + 1e-6) & wanted).any()
    confidence = engine.confidence()
    assert confidence is not None  # what intervals settle is not estimated, and does not count
    assert confidence.estimates.tolist() == wanted.sum(1).tolist()
    assert 0 < int(settled.sum()) < settled.numel()


@pytest.mark.parametrize("norm", NORMS)
def test_gradients(norm: Norm) -> None:
    model = relu_network((5, 6, 7, 3), 1)
    x = torch.rand(2, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    graph = capture(model, x)
    method = Method("backward", "same", Estimator(KINDS[norm], 4, seed=2))  # type: ignore[arg-type]
    rows = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]], dtype=DOUBLE)

    def margins(point: Tensor, *_: Tensor) -> Tensor:
        return Engine(graph, Ball(norm, 0.3).around(point), method, rounding=False).rows(graph.output, rows)[0]

    assert gradcheck(margins, (x.requires_grad_(), *model.parameters()))


def test_each_norm_has_its_estimator() -> None:
    model = relu_network((3, 4, 2), 0)
    x = torch.rand(1, 3, dtype=DOUBLE)
    with pytest.raises(ValueError, match="gaussian"):
        bounds(model, Ball("l2", 0.1).around(x), Method("backward", "same", Estimator("median")))
    for norm in ("linf", "l1"):
        with pytest.raises(ValueError, match="median"):
            bounds(model, Ball(norm, 0.1).around(x), Method("backward", "same", Estimator("gaussian")))  # type: ignore[arg-type]


@torch.no_grad()
def test_a_wide_network_in_float32_within_a_box() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )  # fmt: skip
    x = torch.rand(4, 1, 8, 8)
    sets = Ball("linf", 0.05, box=(0, 1)).around(x)
    exact = Engine(capture(model, x), sets, parse_method("cap")[0]).node("2")
    spreads = []
    for seed in range(20):
        engine = Engine(capture(model, x), sets, Method("backward", "same", Estimator("median", 50, seed=seed)))
        lower, upper = engine.node("2")
        assert lower.dtype == torch.float32
        spreads.append(upper - lower)
    ratio = torch.stack(spreads).mean(0) / (exact[1] - exact[0])
    assert abs(float(ratio.mean()) - 1) < 0.1
