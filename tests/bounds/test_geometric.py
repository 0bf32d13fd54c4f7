"""Certificates with a failure probability: how often they fail, all estimates of a certificate together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from tests.bounds.cases import input_sets
from tests.networks import graphs, relu_network
from verifix.bounds import Engine, Estimator, Method, parse_method, starts
from verifix.bounds import confidence as confidence_of
from verifix.bounds.bundle import Bundle
from verifix.bounds.starts import Drawn, draw
from verifix.graph import Graph, capture
from verifix.operations import Shape
from verifix.sets import Ball, InputSet
from verifix.sets.base import Norm

DOUBLE = torch.float64
HIDDEN = ("2", "4")
"""The nodes whose norms are estimated; the first layer's are exact."""
K = 120


def setting(norm: Norm, n: int = 4) -> tuple[Graph, InputSet]:
    model = relu_network((140, 150, 145, 140, 3), 0)
    x = torch.rand(n, 140, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    return capture(model, x), Ball(norm, {"linf": 0.03, "l2": 0.2, "l1": 0.5}[norm]).around(x)


def failed(graph: Graph, inputs: InputSet, estimator: Estimator) -> Tensor:
    """For each input, whether any estimate of a certificate is below the norm that it stands for."""
    engine = Engine(graph, inputs, Method("backward", "same", estimator))
    engine.rows(graph.output, torch.zeros(1, 1, 3, dtype=DOUBLE), upper=False)
    exact = Engine(graph, inputs, Method("backward", "same"))
    exact._known.relaxations, exact._known.preactivations = engine.relaxations, engine._known.preactivations
    found = torch.zeros(len(inputs), dtype=torch.bool)
    for name in ("0", *HIDDEN):
        lower, upper = exact._backward_node(name)  # on the very lines that the estimates were made for
        low, high = engine._known.preactivations[name]
        assert not torch.equal(low, lower) or name == "0"
        found |= ((low > lower + 1e-9) | (high < upper - 1e-9)).any(1)
    return found


@pytest.mark.parametrize(("delta", "seeds"), [(0.1, 100), (0.01, 60)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@torch.no_grad()
def test_whole_certificates_fail_less_often_than_delta(norm: Norm, delta: float, seeds: int) -> None:
    graph, inputs = setting(norm)
    # one input for each seed counts: inputs share draws
    count = sum(bool(failed(graph, inputs, Estimator("geometric", K, 1, delta, seed))[0]) for seed in range(seeds))
    assert binom.sf(count - 1, seeds, delta) > 1e-3, f"{count} of {seeds} failed"


@torch.no_grad()
def test_without_the_factor_they_fail_nearly_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail."""
    monkeypatch.setattr(confidence_of, "inflation", lambda level, k, groups: 1.0)
    graph, inputs = setting("linf")
    count = sum(bool(failed(graph, inputs, Estimator("geometric", K, 1, 0.1, seed))[0]) for seed in range(20))
    assert count >= 18


@torch.no_grad()
def test_half_of_the_factor_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level is not far from what is needed: at half of its logarithm certificates fail too often."""
    whole = confidence_of.inflation
    monkeypatch.setattr(confidence_of, "inflation", lambda level, k, groups: math.sqrt(whole(level, k, groups)))
    graph, inputs = setting("linf")
    count = sum(bool(failed(graph, inputs, Estimator("geometric", K, 1, 0.1, seed))[0]) for seed in range(20))
    assert count >= 10


@torch.no_grad()
def test_groups_hold_as_well() -> None:
    graph, inputs = setting("linf")
    count = sum(bool(failed(graph, inputs, Estimator("geometric", K // 3, 3, 0.1, seed))[0]) for seed in range(60))
    assert binom.sf(count - 1, 60, 0.1) > 1e-3


@torch.no_grad()
def test_what_was_estimated_is_counted() -> None:
    for norm, terms in (("linf", 1), ("l1", 1), ("l2", 2)):
        graph, inputs = setting(norm)  # type: ignore[arg-type]
        engine = Engine(graph, inputs, Method("backward", "same", Estimator("geometric", K, delta=0.1, seed=5)))
        engine.rows(graph.output, torch.zeros(1, 1, 3, dtype=DOUBLE), upper=False)
        confidence = engine.confidence()
        assert confidence is not None
        # under an l2 ball the first layer has a norm to estimate, too
        first = 150 if norm == "l2" else 0
        assert confidence.estimates.tolist() == [first + terms * (145 + 140)] * 4
        assert (confidence.delta, confidence.k, confidence.groups, confidence.seed) == (0.1, K, 1, 5)
    assert Engine(graph, inputs, parse_method("cap")[0]).confidence() is None


@torch.no_grad()
def test_activations_of_the_input_itself_are_no_estimates() -> None:
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(200, 190), torch.nn.ReLU(), torch.nn.Linear(190, 2))
    x = torch.rand(2, 200, dtype=DOUBLE) - 0.5
    engine = Engine(
        capture(model.double(), x), Ball("linf", 0.1).around(x), Method("backward", "same", Estimator("geometric", K))
    )
    engine.rows("3", torch.eye(2, dtype=DOUBLE)[None], upper=False)
    confidence = engine.confidence()
    assert confidence is not None
    assert confidence.estimates.tolist() == [190, 190]
    assert engine._projection is not None
    assert engine._projection.account is not None
    assert float(engine._projection.account._left.max()) < 1e-12  # nothing is kept for them


@pytest.mark.parametrize("size", [1e-100, 1e-165, 1e-250])
@torch.no_grad()
def test_squares_that_underflow_are_not_lost(size: float) -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(140, 150, bias=False), torch.nn.ReLU(), torch.nn.Linear(150, 2)
    ).double()
    sets = Ball("l2", size).around(torch.zeros(1, 140, dtype=DOUBLE))
    graph = capture(model, torch.ones(1, 140, dtype=DOUBLE))
    _, upper = Engine(graph, sets, Method("backward", "same", Estimator("geometric", K, delta=0.01))).node("0")
    _, exact = Engine(graph, sets, Method("backward", "same")).node("0")
    assert (upper >= exact * (1 - 1e-6)).all()


def drawn_in_single(kind: Drawn, seed: int, label: str, k: int, shape: Shape, like: Tensor) -> Tensor:
    return draw(kind, seed, label, k, shape, like.float()).to(like)


@pytest.fixture(scope="module")
def same_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starts, "draw", drawn_in_single)
        yield


@pytest.mark.usefixtures("same_draws")
@settings(max_examples=60, deadline=None)
@given(st.data(), graphs(most=60))
@torch.no_grad()
def test_the_rounding_of_rows_is_covered(data: st.DataObject, graph: Graph) -> None:
    """Rows in float32 against the same rows in float64, through the same planes."""
    inputs = data.draw(input_sets(graph.input_shape, torch.float32))
    method = Method("backward", "same", Estimator("geometric", 2))
    engine = Engine(graph, inputs, parse_method("cap")[0])
    engine.rows(graph.output, torch.zeros(1, 1, *graph.shape), upper=False)
    single = Engine(graph, inputs, method)
    single._known.relaxations, single._known.preactivations = engine.relaxations, engine._known.preactivations
    double = Engine(graph, inputs.to(DOUBLE), method)
    for name, line in engine.relaxations.items():
        fields = {f.name: getattr(line, f.name) for f in dataclasses.fields(line)}  # type: ignore[arg-type]
        kept = {
            name: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in fields.items()
        }
        if fields.get("lower_slope") is fields.get("upper_slope"):
            kept["upper_slope"] = kept.get("lower_slope")
        double.relaxations[name] = type(line)(**{name: kept[name] for name in fields})  # parallel lines stay so
    double._known.preactivations = {
        name: (a.double(), b.double()) for name, (a, b) in engine._known.preactivations.items()
    }
    found = []
    for one in (single, double):
        projection = one._projection
        assert projection is not None
        projection._prepare(graph.output)
        largest: list[Tensor] = []
        start = projection.starts.drawn("cauchy", "x", 5, largest)
        found.append(Bundle(graph, projection.slabs, start).at(graph.output))
    assert (found[0] is None) == (found[1] is None)
    if found[0] is not None and found[1] is not None:
        gap = (found[0].double() - found[1]).abs().flatten(2)
        error = single._magnitudes.error_of_draws(graph.output)
        allowed = torch.stack(largest).amax(0)[:, None] * error.double().flatten(1)[:, None]
        assert (gap <= allowed).all()
