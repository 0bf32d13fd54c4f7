"""APGD against the paper's algorithm written down once more, and what holds whatever it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import relu_network
from verifix.attack import APGD, PGD, Targeted, TargetedAPGD, Untargeted, Violates
from verifix.attack.apgd import checkpoints
from verifix.attack.steps import random_start
from verifix.certify import Rows
from verifix.draws import Draws
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball
from verifix.sets.base import Norm

BALLS = {"linf": Ball("linf", 0.15, (0, 1)), "l2": Ball("l2", 0.4, (0, 1)), "l1": Ball("l1", 0.8, (0, 1))}


def toy(n: int = 12, seed: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64, inputs, and the labels that it gives them."""
    network = relu_network((8, 16, 5), seed, scale=2.0).double()
    x = torch.rand(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return network, x, network(x).argmax(1).detach()


class Recorder:
    """A network that remembers what it was asked."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.seen = network, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.network(x)
        return logits


def dlr(z: Tensor, label: int) -> Tensor:
    """Equation 6 of Croce and Hein 2020."""
    order = z.sort(descending=True).values
    other = max(z[k] for k in range(len(z)) if k != label)
    return -(z[label] - other) / (order[0] - order[2])


def targeted_dlr(z: Tensor, label: int, target: int) -> Tensor:
    """Equation 7."""
    order = z.sort(descending=True).values
    return -(z[label] - z[target]) / (order[0] - (order[2] + order[3]) / 2)


def cross_entropy(z: Tensor, label: int) -> Tensor:
    return torch.logsumexp(z, 0) - z[label]


def paper(network, loss, x, start, norm, eps, steps):  # type: ignore[no-untyped-def]
    """Algorithm 1 of Croce and Hein 2020 for one input in l_inf or l2: the points ``x(0), ..., x(steps)``."""

    def f(z: Tensor) -> tuple[float, Tensor]:
        z = z.clone().requires_grad_(True)
        value = loss(network(z[None])[0])
        return float(value.detach()), torch.autograd.grad(value, z)[0]

    def project(z: Tensor) -> Tensor:
        if norm == "linf":
            return torch.clamp(torch.clamp(z, x - eps, x + eps), 0, 1)
        d, low, high = z - x, 0.0, 1e6  # clip(d / (1 + m)), by bisection
        if torch.clamp(z, 0, 1).sub(x).norm() <= eps:
            return torch.clamp(z, 0, 1)
        for _ in range(90):
            m = (low + high) / 2
            low, high = (m, high) if torch.clamp(x + d / (1 + m), 0, 1).sub(x).norm() > eps else (low, m)
        return torch.clamp(x + d / (1 + high), 0, 1)

    def ahead(z: Tensor, g: Tensor, eta: float) -> Tensor:
        return project(z + eta * (g.sign() if norm == "linf" else g / (g.norm() or 1.0)))

    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    marks = [math.ceil(round(share * steps, 9)) for share in p]
    eta, points, values = 2 * eps, [start], [f(start)[0]]
    points.append(ahead(start, f(start)[1], eta))
    values.append(f(points[1])[0])
    best, best_point = max(zip(values, points, strict=True), key=lambda pair: pair[0])
    etas, bests, rises, mark = {0: eta}, {0: values[0]}, int(values[1] > values[0]), 1
    now, before = points[1], points[0]
    for k in range(1, steps):
        z = ahead(now, f(now)[1], eta)
        now, before = project(now + 0.75 * (z - now) + 0.25 * (now - before)), now
        value = f(now)[0]
        rises += int(value > values[-1])
        points.append(now)
        values.append(value)
        if value > best:
            best, best_point = value, now
        if k + 1 == marks[mark]:
            length = marks[mark] - marks[mark - 1]
            etas[mark], bests[mark] = eta, best
            if rises < 0.75 * length or (etas[mark - 1] == eta and bests[mark - 1] == best):
                eta, now, values[-1] = eta / 2, best_point, best
            mark, rises = mark + 1, 0
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross-entropy", "dlr"])
def test_the_points_are_those_of_algorithm_1(norm: Norm, loss: str) -> None:
    network, x, y = toy(4)
    recorder, ball, steps = Recorder(network), BALLS[norm], 45
    start = random_start(ball.around(x), Draws(7, x), torch.arange(len(x)), sample=0)
    result = APGD(steps=steps, loss=loss)(recorder, x, y, ball, seed=7, stop=False)
    asked = torch.stack(recorder.seen[2:-1])  # without the first questions about the inputs, and the last
    assert len(asked) == steps + 1
    assert (result.forwards == steps + 3).all() and (result.backwards == steps).all()
    halved = 0
    for i in range(len(x)):
        label, eps = int(y[i]), float(ball.eps)
        chosen = (
            (lambda z, label=label: dlr(z, label)) if loss == "dlr" else lambda z, label=label: cross_entropy(z, label)
        )
        expected = torch.stack(paper(network, chosen, x[i], start[i], norm, eps, steps))
        torch.testing.assert_close(asked[:, i], expected, rtol=0, atol=1e-6)
        halved += int((expected[-1] - expected[-2]).norm() < 0.01 * (expected[1] - expected[0]).norm())
    assert halved > 0


@pytest.mark.parametrize("norm", BALLS)
def test_it_is_stronger_than_pgd_and_never_leaves_the_set(norm: Norm) -> None:
    network, x, y = toy(60)
    ball = BALLS[norm]
    by_pgd = PGD(steps=40)(network, x, y, ball, stop=False)
    by_apgd = APGD(steps=40)(network, x, y, ball, stop=False)
    assert by_apgd.feasible.all() and by_apgd.success.double().mean() >= by_pgd.success.double().mean()
    assert by_apgd.margins.mean() <= by_pgd.margins.mean() + 1e-2
    assert (by_apgd.distance <= float(ball.eps) * (1 + 1e-9)).all()


def test_the_smallest_margin_of_a_linear_network_is_found() -> None:
    """In l1 it lies at a corner of the ball and the box, which sparse steps have to find."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    x, y = torch.rand(10, 30, generator=generator, dtype=torch.float64), torch.zeros(10, dtype=torch.int64)
    for ball in BALLS.values():
        result = APGD(steps=100, loss="margin")(lambda z: z @ weight.T, x, y, ball, stop=False)
        smallest = -ball.around(x).support((weight[1] - weight[0])[None, None])[:, 0]
        torch.testing.assert_close(result.margins, smallest, rtol=0, atol=1e-9)
        assert (result.margins >= smallest - 1e-9).all()


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("attack", [APGD(steps=25, restarts=2), APGD(steps=25, loss="dlr"), TargetedAPGD(steps=15)])
def test_an_input_alone_is_attacked_as_in_a_batch(norm: Norm, attack: APGD) -> None:
    network, x, y = toy()

    def one_by_one(z: Tensor) -> Tensor:
        return torch.cat([network(row[None]) for row in z]) if len(z) else network(z)

    together = attack(one_by_one, x, y, BALLS[norm], seed=3)
    parts = attack(one_by_one, x, y, BALLS[norm], seed=3, batch=5)
    assert torch.equal(together.examples, parts.examples)
    for i in range(0, len(x), 3):
        alone = attack(one_by_one, x[i : i + 1], y[i : i + 1], BALLS[norm], seed=3)
        assert torch.equal(alone.examples[0], together.examples[i])
        assert alone.forwards[0] == together.forwards[i] and alone.success[0] == together.success[i]


def test_restarts_find_no_less_and_other_seeds_other_points() -> None:
    network, x, y = toy(40)
    once = APGD(steps=5)(network, x, y, BALLS["linf"], stop=False)
    more = APGD(steps=5, restarts=4)(network, x, y, BALLS["linf"], stop=False)
    assert (more.margins <= once.margins).all() and (more.margins < once.margins).any()
    assert (more.backwards == 20).all()
    other = APGD(steps=5)(network, x, y, BALLS["linf"], stop=False, seed=1)
    assert not torch.equal(other.examples, once.examples)


def test_it_starts_where_it_is_told_to() -> None:
    network, x, y = toy()
    recorder, start = Recorder(network), BALLS["linf"].around(x).hull()[0]
    APGD(steps=3)(recorder, x, y, BALLS["linf"], start=start, stop=False)
    assert torch.equal(recorder.seen[2], start)


@pytest.mark.parametrize("steps", [1, 2, 5, 100, 500])
def test_checkpoints_come_faster_and_faster(steps: int) -> None:
    marks = sorted(checkpoints(steps))
    assert marks[-1] <= steps and marks[0] >= 1
    if steps == 100:
        assert (np.diff([0, *marks])[:-1] >= np.diff([0, *marks])[1:]).all()


class TestCriteria:
    def test_target(self) -> None:
        network, x, y = toy(40)
        targets = (y + 1) % 5
        for loss in ("cross-entropy", "dlr", "margin"):
            result = APGD(steps=30, loss=loss)(network, x, Targeted(targets, y), Ball("linf", 0.5, (0, 1)))
            assert result.success.any()
            found = network(result.examples).argmax(1)
            assert (found[result.success] == targets[result.success]).all()

    def test_specification(self) -> None:
        network, x, _ = toy()
        rows = Rows(torch.eye(5, dtype=torch.float64)[:1])  # logit 0 stays positive
        result = APGD(steps=30, loss="margin")(network, x, rows, BALLS["linf"])
        assert ((network(result.examples)[:, 0] < 0) == result.success).all()
        with pytest.raises(InvalidValue, match="Violates has no class to measure it by: use margin"):
            APGD()(network, x, rows, BALLS["linf"])
        with pytest.raises(InvalidValue, match="Violates"):
            TargetedAPGD()(network, x, Violates(rows), BALLS["linf"])

    def test_classes_for_dlr(self) -> None:
        two = nn.Linear(8, 2).double()
        x, y = torch.rand(3, 8, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
        with pytest.raises(InvalidValue, match="at least 3 classes"):
            APGD(loss="dlr")(two, x, y, BALLS["linf"])
        with pytest.raises(InvalidValue, match="at least 4 classes"):
            TargetedAPGD()(two, x, y, BALLS["linf"])
        assert TargetedAPGD(loss="margin", steps=5)(two, x, y, BALLS["linf"]).feasible.all()


class TestTargets:
    def test_losses_are_those_of_the_other_classes_in_turn(self) -> None:
        """The first step from a start is along the gradient of equation 7 for the right target."""
        network, x, y = toy(6)
        recorder, ball = Recorder(network), BALLS["linf"]
        TargetedAPGD(steps=1, targets=3)(recorder, x, y, ball, stop=False, seed=2)
        starts, ends = recorder.seen[2:-1:2], recorder.seen[3:-1:2]
        assert len(starts) == len(ends) == 3
        for rank in range(3):
            for i in range(len(x)):
                order = [c for c in network(x)[i].argsort(descending=True).tolist() if c != y[i]]
                z = starts[rank][i].clone().requires_grad_(True)
                targeted_dlr(network(z[None])[0], int(y[i]), order[rank]).backward()
                moved = ball.around(x[i : i + 1]).project((z + 0.3 * z.grad.sign())[None])[0]
                torch.testing.assert_close(ends[rank][i], moved, rtol=0, atol=1e-12)

    def test_all_classes_at_most(self) -> None:
        network, x, y = toy(3)
        recorder = Recorder(network)
        TargetedAPGD(steps=1, targets=99, restarts=2)(recorder, x, y, BALLS["linf"], stop=False)
        assert len(recorder.seen) == 3 + 2 * 2 * 4

    def test_any_other_class_is_a_success(self) -> None:
        network, x, y = toy(40)
        result = TargetedAPGD(steps=20, targets=1)(network, x, y, BALLS["linf"])
        assert torch.equal(result.success, network(result.examples).argmax(1) != y)
        assert result.success.any()
        explicit = TargetedAPGD(steps=20, targets=1)(network, x, Untargeted(y), BALLS["linf"])
        assert torch.equal(explicit.examples, result.examples)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"steps": 0}, InvalidValue),
        ({"restarts": 1.5}, InvalidType),
        ({"loss": "hinge"}, InvalidValue),
        ({"momentum": 0.0}, InvalidValue),
        ({"momentum": float("nan")}, InvalidValue),
        ({"progress": 1.5}, InvalidValue),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        APGD(**settings)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="targets"):
        TargetedAPGD(targets=0)
