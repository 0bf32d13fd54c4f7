"""Rules for free slopes: their spelling, what they draw, and that draws are of an input and of nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from tests.bounds.cases import input_sets
from tests.networks import graphs, relu_network
from tests.train.examples import settings as train_settings
from verifix.bounds import NAMED, Engine, Method, OptimisedSlopes, RandomSlopes, bounds, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph, capture
from verifix.operations import Lines
from verifix.sets import Ball


def slopes_of(method: str, inputs: Tensor, widths: tuple[int, ...] = (3, 50, 50, 3), eps: float = 0.5) -> list[Tensor]:
    """Lower slopes of the undecided units of each ReLU, and NaN at the others, ``(n, units)`` each."""
    graph = capture(relu_network(widths, 3).to(inputs.dtype), inputs)
    engine = Engine(graph, Ball("linf", eps).around(inputs), parse_method(method)[0])
    engine.prepare(graph.output)
    found = []
    for node in graph.nonlinear(graph.output):
        lower, upper = engine.preactivation(node)
        lines = engine.relaxations[node.name]
        assert isinstance(lines, Lines)
        found.append(lines.lower_slope.masked_fill((lower >= 0) | (upper <= 0), math.nan))
    return found


def points(n: int) -> Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


SPELLINGS = {
    "tight-smooth": Method("interval", OptimisedSlopes()),
    "tight-smooth:steps=3:step=0.5": Method("interval", OptimisedSlopes(3, 0.5)),
    "tight-smooth:start=same:slopes=own:restarts=4:seed=9": Method(
        "interval", OptimisedSlopes(start="same", slopes="own", restarts=4, seed=9)
    ),
    "backward:optimised:steps=20:step=1e-05": Method("backward", OptimisedSlopes(20, 1e-5)),
    "tight-smooth:step=1e20": Method("interval", OptimisedSlopes(step=1e20)),
    "interval:random": Method("interval", RandomSlopes()),
    "filtered:random:p=0.0:q=0.5:seed=2": Method("filtered", RandomSlopes(0.0, 0.5, 2)),
    "cap-ibp": Method("interval", "same"),
    "both:zero": Method("both", "zero"),
    "crown": NAMED["crown"],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str) -> None:
    assert parse_method(spelling) == (SPELLINGS[spelling],)
    assert str(SPELLINGS[spelling]) == spelling
    assert parse_method(f"ibp + {spelling.upper()}")[1] == SPELLINGS[spelling]


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("tight-smooth:step=-1", "step = -1.0: must be at least 0 and finite"),
        ("tight-smooth:step=inf", "step = inf: must be at least 0 and finite"),
        ("tight-smooth:step=nan", "step = nan: must be at least 0 and finite"),
        ("tight-smooth:step=far", "step = 'far': must be a number"),
        ("tight-smooth:steps=-1", "steps = -1: must be at least 0 and below 2**63"),
        ("tight-smooth:steps=1.5", "steps = '1.5': must be a whole number"),
        ("tight-smooth:restarts=0", "restarts = 0: must be at least 1 and at most 65536"),
        ("tight-smooth:restarts=65537", "restarts = 65537: must be at least 1 and at most 65536"),
        ("tight-smooth:seed=-1", "seed = -1: must be at least 0 and below 2**63"),
        ("tight-smooth:start=foo", "start = 'foo': choose one of uniform, same, adaptive, zero, one"),
        ("tight-smooth:slopes=mine", "slopes = 'mine': choose one of shared, own"),
        ("tight-smooth:eta=1", "eta = '1': optimised slopes have the options "
         "steps, step, start, slopes, restarts, seed"),
        ("tight-smooth:steps", "method = 'tight-smooth:steps': write its options as key=value, not 'steps'"),
        ("tight-smooth:seed=1:seed=1", "method = 'tight-smooth:seed=1:seed=1': has an option twice"),
        ("interval:random:p=0.5", "q = None: random slopes take both p and q, or neither"),
        ("interval:random:q=0.5", "p = None: random slopes take both p and q, or neither"),
        ("interval:random:p=1.5:q=0", "p = 1.5: must lie in [0, 1]"),
        ("interval:random:step=1", "step = '1': random slopes have the options p, q, seed"),
        ("crown-ibp:seed=1", "method = 'crown-ibp:seed=1': adaptive slopes have no options: leave them out"),
    ],
)  # fmt: skip
def test_messages(spelling: str, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_method(spelling)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_wrong_types() -> None:
    for make in (lambda: RandomSlopes("0", 1), lambda: OptimisedSlopes(steps=1.0), lambda: OptimisedSlopes(step=True)):
        with pytest.raises(InvalidType):
            make()  # type: ignore[no-untyped-call]
    with pytest.raises(InvalidType, match=r"^slopes is a int: pass a name"):
        Method("interval", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("slopes", ["random", "optimised"])
def test_nothing_is_estimated_between_lines_that_are_not_parallel(slopes: str) -> None:
    with pytest.raises(InvalidValue, match=f"has nothing to estimate in backward:{slopes}: use cap"):
        Method("backward", slopes, "median:50")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="has nothing to estimate"):
        parse_method(f"backward:{slopes}", "median:50")


def test_seeded() -> None:
    assert NAMED["tight-smooth"].seeded(5) == parse_method("tight-smooth:seed=5")[0]
    assert NAMED["crown"].seeded(5) is NAMED["crown"]


def test_training_draws_anew_at_each_step_and_validation_does_not() -> None:
    for spelling in ("tight-smooth:restarts=2:seed=3", "interval:random:p=0.0:q=0.5:seed=3", "ibp+tight-smooth:seed=3"):
        chosen = train_settings(method=spelling)
        assert chosen.methods(11)[-1] == parse_method(spelling)[-1].seeded(11)
        assert chosen.methods(11) != chosen.methods(12)
        assert chosen.exact_methods == parse_method(spelling)


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.5), (0.5, 1.0), (0.2, 0.7)])
def test_frequencies(p: float, q: float) -> None:
    """Each class of units by a binomial test, of 0.1% for all together."""
    spelling = f"interval:random:p={p}:q={q}"
    counts = torch.zeros(2, 2, dtype=torch.int64)
    x = points(100)
    for random, adaptive in zip(slopes_of(spelling, x), slopes_of("crown-ibp", x), strict=True):
        assert torch.equal(random.isnan(), adaptive.isnan())
        for which in (0, 1):
            drawn = random[adaptive == which]
            assert ((drawn == 0) | (drawn == 1)).all()
            counts[which] += torch.tensor([int(drawn.sum()), drawn.numel()])
    for (ones, units), probability in zip(counts.tolist(), (p, q), strict=True):
        assert units > 1000
        if probability in (0.0, 1.0):
            assert ones == units * probability
        else:
            assert stats.binomtest(ones, units, probability).pvalue > 0.001 / 6


def test_uniform() -> None:
    drawn = torch.cat([found[~found.isnan()] for found in slopes_of("interval:random", points(100))])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-3


@settings(max_examples=40)
@given(st.data(), graphs(), st.sampled_from(((0, 1, "adaptive"), (0, 0, "least"), (1, 1, "largest"))))
def test_certain_draws_are_rules(data: st.DataObject, graph: Graph, case: tuple[int, int, str]) -> None:
    """Of every activation; probability zero never happens, and one always."""
    p, q, rule = case
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    if rule == "adaptive":
        drawn, named = (bounds(graph, inputs, m) for m in (f"interval:random:p={p}:q={q}", "interval:adaptive"))
        for a, b in zip(drawn, named, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        return
    engine = Engine(graph, inputs, Method("interval", RandomSlopes(float(p), float(q))))
    engine.prepare(graph.output)
    for node in graph.nonlinear(graph.output):
        operation = node.operation
        if operation.free:  # type: ignore[attr-defined]
            lower, upper = engine.preactivation(node)
            shares = lower.new_full((len(lower), operation.free, *lower.shape[1:]), float(p))  # type: ignore[attr-defined]
            wanted, found = operation.lines(lower, upper, shares), engine.relaxations[node.name]  # type: ignore[attr-defined]
            assert torch.equal(wanted.lower_slope, found.lower_slope)  # type: ignore[attr-defined]
            assert torch.equal(wanted.upper_slope, found.upper_slope)  # type: ignore[attr-defined]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x.nan_to_num(-1.0), y.nan_to_num(-1.0)) for x, y in zip(a, b, strict=True))


def test_draws_are_of_the_input() -> None:
    """Not of its place in a batch, or of what else is in it; inputs that are the same have the same."""
    x = points(6)
    whole = slopes_of("interval:random", x)
    order = torch.tensor([3, 0, 3, 5])
    assert same([found[order] for found in whole], slopes_of("interval:random", x[order]))
    assert same([found[2:3] for found in whole], slopes_of("interval:random", x[2:3]))
    assert not torch.equal(whole[0][0].isnan(), torch.ones(50, dtype=torch.bool))


def test_draws_differ_by_input_node_and_seed() -> None:
    first, second = slopes_of("interval:random", points(4), eps=50.0)
    assert not (first.isnan() | second.isnan()).any()  # nothing is decided with so large a radius
    columns = torch.cat([first, second, *slopes_of("interval:random:seed=1", points(4), eps=50.0)])
    assert len(torch.unique(columns, dim=0)) == len(columns) == 16
    assert (torch.corrcoef(columns) - torch.eye(16)).abs().max() < 0.6


def test_draws_are_the_same_in_both_types() -> None:
    x = points(4).float()
    for short, long in zip(slopes_of("interval:random", x), slopes_of("interval:random", x.double()), strict=True):
        both = ~(short.isnan() | long.isnan())
        assert (short[both].double() - long[both]).abs().max() < 1e-6
