"""Optimised slopes: one step by its definition, what they become without steps, and what certificates make of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

import verifix as vx
from tests.bounds.cases import bounds, input_sets
from tests.networks import graphs, relu_network
from verifix.bounds import Engine, Method, OptimisedSlopes, optimised, parse_method
from verifix.bounds.optimised import lines_of_rows
from verifix.bounds.slopes import uniform
from verifix.certify import Margins
from verifix.data import load
from verifix.draws import Draws
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.operations import Lines, Nonlinear
from verifix.sets import Ball, Union, Wasserstein
from verifix.train import robust_logits

OPTIMISED = (
    "tight-smooth",
    "tight-smooth:restarts=3:seed=5",
    "tight-smooth:slopes=own",
    "tight-smooth:steps=4:step=0.3:slopes=own:start=same",
    "backward:optimised:start=adaptive",
    "filtered:optimised:restarts=2",
)
EVERY = (*OPTIMISED, "ibp", "crown-ibp", "cap-ibp", "interval:zero", "interval:one", "cap", "crown", "interval:random",
         "interval:random:p=0.2:q=0.7", "ibp+tight-smooth")  # fmt: skip


def points(n: int = 5, size: int = 3) -> Tensor:
    return torch.rand(n, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def problem(n: int = 5, eps: float = 0.4) -> tuple[Graph, Tensor, Tensor, Ball]:
    """A network with two hidden layers, in which many units are undecided; inputs, labels, and a ball."""
    x = points(n)
    graph = capture(relu_network((3, 20, 20, 4), 1), x)
    return graph, x, graph(x).argmax(1), Ball("linf", eps)


def margins(graph: Graph, x: Tensor, y: Tensor, ball: Ball, method: str, rounding: bool = False) -> Tensor:
    """The engine's own lower bounds of the margins, without gradients: on the compiled plan where there is one."""
    inputs = ball.around(x)
    rows = Margins(y, graph.shape[0]).rows(slice(None), x)
    (choice,) = parse_method(method)
    with torch.no_grad():
        return Engine(graph, inputs, choice, rounding=rounding).rows(graph.output, rows, upper=False)[0]


# --- the rule ---------------------------------------------------------------------------------------------------------


def by_hand(x: Tensor, y: int, eps: float, rule: OptimisedSlopes, steps: int) -> Tensor:
    """Margins of one input of the network of :func:`problem`, by equation 7 written out for two hidden layers."""
    first, second, last = (layer for layer in relu_network((3, 20, 20, 4), 1) if isinstance(layer, nn.Linear))
    others = [j for j in range(4) if j != y]
    rows = (last.weight[y] - last.weight[others]).detach()
    constant = (last.bias[y] - last.bias[others]).detach()

    def image(layer: nn.Linear, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        middle, radius = layer.weight @ (low + high) / 2 + layer.bias, layer.weight.abs() @ (high - low) / 2
        return (middle - radius).detach(), (middle + radius).detach()

    one = image(first, x - eps, x + eps)
    two = image(second, one[0].clamp(min=0), one[1].clamp(min=0))
    graph = capture(relu_network((3, 20, 20, 4), 1), x[None])
    draws = Draws(rule.seed, x[None])
    places = [list(graph.nodes).index(node.name) for node in graph.nonlinear(graph.output)]
    slopes = [uniform(draws, place, 0, low[None], 1)[0, 0] for place, (low, _) in zip(places, (one, two), strict=True)]

    def bound(slopes: list[Tensor]) -> Tensor:
        forms, total = rows, constant
        for layer, (low, high), slope in ((second, two, slopes[1]), (first, one, slopes[0])):
            free = torch.where(high <= 0, 0.0, torch.where(low >= 0, 1.0, slope))
            chord = high.clamp(min=0) / (high.clamp(min=0) - low.clamp(max=0))
            plus, minus = forms.clamp(min=0), forms.clamp(max=0)
            total = total + minus @ (-chord * low.clamp(max=0))
            forms = plus * free + minus * chord
            total = total + forms @ layer.bias.detach()
            forms = forms @ layer.weight.detach()
        return total + forms @ x - eps * forms.abs().sum(1)

    for _ in range(steps):
        leaves = [slope.detach().requires_grad_() for slope in slopes]
        logits = torch.cat([torch.zeros(1, dtype=torch.float64), -bound(leaves)])
        loss = F.cross_entropy(logits[None], torch.zeros(1, dtype=torch.int64))
        found = torch.autograd.grad(loss, leaves)
        slopes = [(s - rule.step * g.sign()).clamp(0, 1).detach() for s, g in zip(leaves, found, strict=True)]
    return bound(slopes)


@pytest.mark.parametrize(("step", "steps", "seed"), [(2.0, 1, 0), (1.0, 1, 3), (0.3, 1, 0), (0.3, 3, 1), (0.0, 2, 0)])
def test_equation_7(step: float, steps: int, seed: int) -> None:
    graph, x, y, ball = problem()
    rule = OptimisedSlopes(steps, step, seed=seed)
    found = margins(graph, x, y, ball, str(Method("interval", rule)))
    wanted = torch.stack([by_hand(x[i], int(y[i]), 0.4, rule, steps) for i in range(len(x))])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_one_long_step_ends_at_zero_or_one() -> None:
    graph, x, y, ball = problem()
    rows = Margins(y, 4).rows(slice(None), x)
    engine = Engine(graph, ball.around(x), parse_method("tight-smooth")[0])
    _, lines = lines_of_rows(engine, graph.output, rows)
    kept = undecided = 0
    for node in graph.nonlinear(graph.output):
        lower, upper = engine.preactivation(node)
        line = lines[node.name]
        assert isinstance(line, Lines)
        slopes = line.lower_slope[(lower < 0) & (upper > 0)]
        kept += int(((slopes > 0) & (slopes < 1)).sum())
        undecided += len(slopes)
    assert undecided > 100
    assert (
        kept < undecided / 4
    )  # units without a gradient, of which no row has a positive coefficient, stay where they are


# --- without steps ----------------------------------------------------------------------------------------------------

WITHOUT_STEPS = {
    "tight-smooth:step=0:seed=3": "interval:random:seed=3",
    "tight-smooth:steps=0": "interval:random",
    "backward:optimised:steps=0:start=adaptive": "crown",
}


@pytest.mark.parametrize("optimised", WITHOUT_STEPS)
@settings(max_examples=30)
@given(st.data(), graphs(), st.booleans())
def test_without_steps_they_are_their_start(optimised: str, data: st.DataObject, graph: Graph, compiled: bool) -> None:
    """Lower bounds alone, as of margins, bit for bit, whatever the activations are.

    Of both sides at once some sets make center and radius, which rounds otherwise; and bounds are not widened for
    rounding, as where one lies on a kink that decides on the lines.
    """
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    rows = torch.randn(len(inputs), 3, *graph.shape, dtype=torch.float64)
    names = (optimised, WITHOUT_STEPS[optimised])
    if "adaptive" not in optimised:
        with torch.set_grad_enabled(not compiled):
            engines = [Engine(graph, inputs, parse_method(name)[0], rounding=False) for name in names]
            low, start = (engine.rows(graph.output, rows, upper=False)[0] for engine in engines)
        assert torch.equal(low, start)
    found, wanted = (bounds(compiled, graph, inputs, name, rows=rows, rounding=False) for name in names)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@settings(max_examples=30)
@given(st.data(), graphs(), st.sampled_from(("same", "adaptive", "zero", "one")), st.sampled_from(("shared", "own")))
def test_starts_are_the_rules_of_their_names(data: st.DataObject, graph: Graph, start: str, slopes: str) -> None:
    """Where slopes are free: other activations have adaptive lines."""
    nodes = graph.nonlinear(graph.output)
    assume(start == "adaptive" or all(isinstance(n.operation, Nonlinear) and n.operation.free for n in nodes))
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    found = bounds(True, graph, inputs, f"tight-smooth:steps=0:start={start}:slopes={slopes}")
    for a, b in zip(found, bounds(True, graph, inputs, f"interval:{start}"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- never looser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slopes", ["shared", "own"])
def test_more_starts_are_never_looser(slopes: str) -> None:
    graph, x, y, ball = problem()
    found = [margins(graph, x, y, ball, f"tight-smooth:restarts={r}:slopes={slopes}") for r in (1, 2, 4)]
    assert torch.equal(found[0], margins(graph, x, y, ball, f"tight-smooth:slopes={slopes}"))
    for fewer, more in itertools.pairwise(found):
        assert (more >= fewer).all()
        assert (more > fewer).any()


@pytest.mark.parametrize("eps", [0.05, 0.3, 1.0])
def test_joined_with_crown_ibp_they_are_never_looser(eps: float) -> None:
    graph, x, y, _ = problem(20)
    ball = Ball("linf", eps)
    single, joined = (
        vx.certify(graph, x, y, ball, m).margins for m in ("crown-ibp", "tight-smooth:slopes=own+crown-ibp")
    )
    assert (joined >= single).all()
    assert (joined > single).any()


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network of 64, 64, 32 and 10 units that ``tight-smooth`` trained on the first 1000 digits of the training set,
    at eps 0.1 in [0, 1], over 8 epochs in batches of 50, 4.8 of them the ramp of eps; and 200 digits of the test set.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with np.load(Path(__file__).with_name("tight_smooth_digits.npz")) as weights:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    digits = load("digits:test").first(200)
    return model.double(), digits.images.double(), digits.labels


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.15])
def test_the_order_of_figure_3(trained: tuple[nn.Sequential, Tensor, Tensor], eps: float) -> None:
    """Lee et al.: on a network that was trained with it, mean margins of the proposed method are the best, then those
    of CROWN-IBP, CAP-IBP and random slopes. Also of the loss that is trained."""
    model, x, y = trained
    graph, inputs = capture(model, x), Ball("linf", eps, (0, 1)).around(x)
    methods = ("tight-smooth", "crown-ibp", "cap-ibp", "interval:random")
    with torch.no_grad():
        logits = [robust_logits(graph, y, inputs, method) for method in methods]
    means = [-float(worst.mean()) for worst in logits]
    losses = [float(F.cross_entropy(worst, y)) for worst in logits]
    assert means == sorted(means, reverse=True)
    assert losses == sorted(losses)
    assert len(set(means)) == len(methods)


def test_what_optimising_more_is_worth(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    """Slopes for each row are tighter than shared ones, and many short steps than one."""
    model, x, y = trained
    graph, ball = capture(model, x), Ball("linf", 0.1, (0, 1))
    methods = ("tight-smooth", "tight-smooth:slopes=own", "tight-smooth:slopes=own:steps=20:step=0.1")
    means = [float(margins(graph, x, y, ball, method).mean()) for method in methods]
    assert means == sorted(means)


# --- one engine for training and certification ------------------------------------------------------------------------


@pytest.mark.parametrize("method", EVERY)
def test_training_certificates_and_bounds_are_the_same_numbers(method: str) -> None:
    """With gradients and without, with the account of rounding and without it, to float64 rounding."""
    graph, x, y, ball = problem()
    inputs, specification = ball.around(x), Margins(y, 4)
    rows = specification.rows(slice(None), x)
    worst = robust_logits(graph, y, inputs, method)
    assert worst.requires_grad
    trained = -worst.detach().gather(1, specification.others)
    with torch.no_grad():
        engine = torch.stack([margins(graph, x, y, ball, part) for part in method.split("+")]).amax(0)
        asked = bounds(False, graph, inputs, method, rows=rows)[0].detach()
        compiled = bounds(True, graph, inputs, method, rows=rows)[0]
        certified = vx.certify(graph, x, y, ball, method).margins.gather(1, specification.others)
    for found in (engine, asked, compiled, certified):
        torch.testing.assert_close(found, trained, rtol=0, atol=1e-11)
    for found in (asked, compiled, certified):
        assert (found <= trained).all()  # widened by their rounding


@pytest.mark.parametrize("method", [*OPTIMISED, "interval:random", "interval:random:p=0.2:q=0.7", "cap-ibp"])
@pytest.mark.parametrize("parameters", [True, False])
def test_gradients(method: str, parameters: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole at a fixed seed, away from changes of signs; in inputs with the draws of the first of them, since
    those are not continuous."""
    x = points(2)
    model = relu_network((3, 5, 4, 3), 1)
    graph, y = capture(model, x), torch.tensor([0, 2])
    streams = Draws(0, x).streams
    monkeypatch.setattr("verifix.draws._keys", lambda at: streams.repeat_interleave(len(at) // len(streams)))
    # shares that a start from the bounds leaves between 0 and 1 are constants to autograd, and not to differences
    method = method.replace("steps=4:step=0.3", "step=2.0")

    def loss(at: Tensor) -> Tensor:
        return F.cross_entropy(robust_logits(graph, y, Ball("linf", 0.3).around(at), method), y)

    if parameters:
        assert gradcheck(lambda *_: loss(x), tuple(model.parameters()))
    else:
        assert gradcheck(loss, x.requires_grad_())


def test_inference_mode_has_no_gradients_to_step_along() -> None:
    graph, x, y, ball = problem()
    with torch.inference_mode():
        for method in ("interval:random", "tight-smooth:steps=0"):
            vx.certify(graph, x, y, ball, method)
        with pytest.raises(InvalidValue, match=r"take gradient steps.*use torch\.no_grad\(\) instead"):
            vx.certify(graph, x, y, ball, "tight-smooth")
        inside = ball.around(x.clone())
    with torch.no_grad(), pytest.raises(InvalidValue, match=r"take gradient steps.*use torch\.no_grad\(\) instead"):
        vx.bounds(graph, inside, "tight-smooth")


def test_slopes_are_constants_to_gradients() -> None:
    """Of short steps: the gradient is that of the bounds at the slopes that were found."""
    graph, x, y, ball = problem(1)
    rows = Margins(y, 4).rows(slice(None), x)
    method = parse_method("tight-smooth:step=0.3:start=same")[0]
    model = graph.model
    assert model is not None
    engine = Engine(graph, ball.around(x), method, rounding=False)
    engine.prepare(graph.output)
    shares = {
        node.name: node.operation.shares(*engine.preactivation(node), "same").detach()  # type: ignore[attr-defined]
        for node in graph.nonlinear(graph.output)
    }
    fixed = optimised._descended(engine, graph.output, rows, method.slopes, shares)  # type: ignore[arg-type]
    at_fixed = engine.derived(relaxations=optimised._lines(engine, graph.output, fixed, detached=False))
    parameters = tuple(model.parameters())
    found, wanted = (
        torch.autograd.grad(part.rows(graph.output, rows, upper=False)[0].sum(), parameters, retain_graph=True)
        for part in (engine, at_fixed)
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tight-smooth", "tight-smooth:slopes=own:restarts=2", "backward:optimised"])
def test_any_budget(method: str) -> None:
    """Parts of a batch, of the rows with slopes of their own, and of the rows of one input that share slopes."""
    graph, x, _, ball = problem(5)
    inputs = ball.around(x)
    rows = torch.randn(
        5, 12 if "own" in method else 60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    (choice,) = parse_method(method)
    with torch.no_grad():
        found = [Engine(graph, inputs, choice, memory=m).rows(graph.output, rows) for m in (1 << 30, 60_000, 20_000, 1)]
    for lower, upper in found[1:]:
        torch.testing.assert_close(lower, found[0][0], rtol=0, atol=1e-11)
        assert upper is not None
        torch.testing.assert_close(upper, found[0][1], rtol=0, atol=1e-11)


# --- all that certifies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OPTIMISED)
def test_nodes_and_rows(method: str) -> None:
    """Bounds of hidden nodes are bounds of their unit rows, and upper ones those of the rows with other signs."""
    graph, x, _, ball = problem()
    inputs = ball.around(x)
    samples = ball.around(x.repeat(200, 1))
    near = samples.center + 0.4 * (2 * torch.rand(samples.center.shape, dtype=torch.float64) - 1)
    for name in graph.nodes:
        size = graph.shape_of(name)[0]
        rows = torch.eye(size, dtype=torch.float64)
        with torch.no_grad():
            lower, upper = vx.bounds(graph, inputs, method, node=name)
            from_rows = vx.bounds(graph, inputs, method, node=name, rows=rows)
            turned = vx.bounds(graph, inputs, method, node=name, rows=-rows)
        assert torch.equal(lower, from_rows[0])
        assert torch.equal(upper, from_rows[1])
        assert torch.equal(-lower, turned[1])
        assert torch.equal(-upper, turned[0])
        values = graph.activations(near)[name].reshape(200, len(x), size)
        assert (values >= lower).all()
        assert (values <= upper).all()


def test_radii_cascades_detection_and_sets_take_them(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    model, x, y = trained
    x, y = x[:12], y[:12]
    graph, box, method = capture(model, x), (0, 1), "tight-smooth:restarts=2"
    found = vx.radius(graph, x, y, box=box, method=method)
    certified = found.radii > 0
    assert certified.sum() > 5
    for i in certified.nonzero()[:, 0].tolist():
        at = vx.certify(graph, x[i : i + 1], y[i : i + 1], Ball("linf", float(found.radii[i]), box), method)
        assert at.verified.all()
    ball = Ball("linf", 0.05, box)
    members = [Ball("linf", 0.05, box), Ball("l2", 0.3, box)]
    union = vx.certify(graph, x, y, Union(*members), method).margins
    each = torch.stack([vx.certify(graph, x, y, member, method).margins for member in members])
    assert torch.equal(union, each.amin(0))
    image = x.reshape(len(x), 1, 8, 8)
    blurred = vx.certify(model, image, y, Wasserstein(0.02), method)
    assert set(blurred.verdicts) <= {"verified", "falsified", "unknown"}
    assert blurred.verified.any()
    flagged = vx.detect(graph, x, ball, method).flagged
    assert torch.equal(~flagged, vx.certify(graph, x, graph(x).argmax(1), ball, method).verified)
    cascade = vx.Cascade([model, model], ball, method)
    assert torch.equal(cascade.certify(x, y).verified, vx.certify(graph, x, y, ball, method).verified)
