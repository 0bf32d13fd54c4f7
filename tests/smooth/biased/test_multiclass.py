"""The logit-bias form: certificates of the engine against a search of the whole ball."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from tests.smooth.biased.search import NORMS, ORDER, Norm, uniform, whole
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.biased import BiasedLinear, BiasedLogits, NearestNeighbour


def plane_network(generator: torch.Generator, classes: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    return model.to(dtype)


def plane_problem(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> tuple[BiasedLogits, Tensor]:
    """A network on the plane with a few reserved points; labels of the oracle may leave classes out."""
    classes, n = whole(generator, 2, 4), whole(generator, 1, 6)
    points = torch.randn(n, 2, generator=generator)
    labels = torch.randint(0, whole(generator, 1, classes), (n,), generator=generator)
    model = plane_network(generator, classes, dtype)
    bias = BiasedLogits(model, NearestNeighbour(points, labels), alpha=uniform(generator, 0, 2), c=0.8)
    return bias, torch.randn(12, 2, generator=generator).to(dtype)


def grid(norm: Norm, side: int = 41) -> Tensor:
    """Points of the unit ball of the plane, its border among them, ``(m, 2)``."""
    ticks = torch.linspace(-1, 1, side, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    angles = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    border = torch.stack([angles.cos(), angles.sin()], 1)
    border = border / torch.linalg.vector_norm(border, ord=ORDER[norm], dim=1, keepdim=True)
    size = torch.linalg.vector_norm(points, ord=ORDER[norm], dim=1)
    return torch.cat([points[size <= 1], border])


def answers_on(biased: BiasedLogits, x: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """The classes at points of the balls, ``(n, m)``, evaluated in float64."""
    points = x.double()[:, None] + eps[:, None, None] * grid(norm)
    with torch.no_grad():
        return biased.logits(points.reshape(-1, 2)).argmax(1).reshape(points.shape[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_certificates_hold(norm: Norm, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    verified = beyond = 0
    for _ in range(14):
        biased, x = plane_problem(generator, dtype)
        y = biased.predict(x)
        eps = 0.4 * torch.rand(12, generator=generator, dtype=torch.float64)
        found = biased.certify(x, y, vx.Ball(norm, eps), "crown")
        certain = torch.from_numpy(found.verdicts == "verified")
        same = (answers_on(biased, x, 0.9999 * eps, norm) == y[:, None]).all(1)
        assert same[certain].all()
        assert (found.verdicts != "falsified").all()
        verified += int(certain.sum())
        beyond += int((certain & (eps > found.neighbour)).sum())
    assert verified > 60 and beyond > 2  # the latter whatever the oracle says


@pytest.mark.parametrize("norm", NORMS)
def test_radii_hold(norm: Norm) -> None:
    """And ``certify`` says verified at exactly the radius, and nothing at ``uncertified``."""
    generator = torch.Generator().manual_seed(1)
    positive = at_neighbour = 0
    for _ in range(6):
        biased, x = plane_problem(generator)
        found = biased.radius(x, norm=norm, max_eps=5.0, tolerance=1e-4)
        assert torch.equal(found.predictions, biased.predict(x))
        same = (answers_on(biased, x, 0.9999 * found.radii, norm) == found.predictions[:, None]).all(1)
        certain = torch.from_numpy(found.verdicts == "verified")
        assert same[certain].all()
        verdicts = biased.certify(x, found.predictions, vx.Ball(norm, found.radii), "crown").verdicts
        assert (verdicts[certain.numpy()] == "verified").all()
        limited = certain & torch.isfinite(found.uncertified)
        further = vx.Ball(norm, torch.where(limited, found.uncertified, 1.0))
        verdicts = biased.certify(x, found.predictions, further, "crown").verdicts
        assert (verdicts[limited.numpy()] != "verified").all()
        neighbour = biased.oracle.neighbours(x, norm).radii
        positive += int((found.radii > 0).sum())
        at_neighbour += int(((found.radii - neighbour).abs() <= 1e-4 * neighbour).sum())
    assert positive > 50 and at_neighbour > 5


def test_radii_grow_with_the_bias() -> None:
    """Where the oracle agrees, as far as its label lasts: in the end the radius is the oracle's own."""
    generator = torch.Generator().manual_seed(2)
    model = plane_network(generator, 3)
    oracle = NearestNeighbour(torch.randn(6, 2, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2]))
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    labels, neighbour = oracle(x), oracle.neighbours(x, "l2").radii
    before = torch.zeros(20, dtype=torch.float64)
    for alpha in (0.0, 1.0, 4.0, 1e4):
        found = BiasedLogits(model, oracle, alpha=alpha).radius(x, labels, norm="l2", max_eps=10.0)
        assert (found.radii >= torch.minimum(before, neighbour) * (1 - 2e-5)).all()
        before = found.radii
    assert (before <= neighbour).all() and (before > 0.9999 * neighbour).all()


def test_no_bias_is_the_network() -> None:
    generator = torch.Generator().manual_seed(3)
    model = plane_network(generator, 3)
    oracle = NearestNeighbour(torch.randn(4, 2, generator=generator), torch.tensor([0, 1, 2, 0]))
    x = torch.randn(15, 2, generator=generator, dtype=torch.float64)
    ours = BiasedLogits(model, oracle, alpha=0.0).radius(x, norm="linf", max_eps=1.0)
    theirs = vx.radius(model, x, norm="linf", max_eps=1.0)
    assert torch.equal(ours.predictions, theirs.predictions)
    assert torch.allclose(ours.radii, theirs.radii, rtol=3e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_two_classes_are_the_binary_form(norm: Norm) -> None:
    """Of a linear network: theorem 6 with c the dual norm of the difference of its rows; labels 0, 1 for -1, 1.

    The margin is ``|g| + alpha c`` with ``g`` the difference of the logits, and the radii are the same.
    """
    generator = torch.Generator().manual_seed(4)
    model = nn.Linear(2, 2).double()
    a = (model.weight[1] - model.weight[0]).detach()
    b = float((model.bias[1] - model.bias[0]).detach())
    points, labels = torch.randn(5, 2, generator=generator), torch.tensor([0, 1, 1, 0, 1])
    c = float(torch.linalg.vector_norm(a, ord={"linf": 1.0, "l2": 2.0, "l1": math.inf}[norm]))
    x = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    binary = BiasedLinear(a, b, NearestNeighbour(points, 2 * labels - 1), alpha=0.3, norm=norm).certify(x)
    found = BiasedLogits(model, NearestNeighbour(points, labels), alpha=0.3, c=c).radius(
        x, norm=norm, tolerance=1e-9, max_eps=20.0
    )
    assert torch.equal(2 * found.predictions - 1, binary.predictions)
    assert torch.allclose(found.radii, binary.radii, rtol=3e-9, atol=1e-12)


def test_falsified_and_tied() -> None:
    """A wrong label is falsified by the input itself; at a tie of the oracle only what does not rest on it holds."""
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.bias.zero_()
    oracle = NearestNeighbour(torch.tensor([[0.0], [4.0]]), torch.tensor([0, 1]))
    biased = BiasedLogits(model, oracle, alpha=1.0)
    x, ball = torch.tensor([[2.0], [2.0], [-1.0]]), vx.Ball("linf", 0.5)
    found = biased.certify(x, torch.tensor([1, 0, 1]), ball, "ibp")
    assert found.neighbour[:2].tolist() == [0, 0]
    assert found.verdicts.tolist() == ["verified", "falsified", "falsified"]  # 2 - 0.5 exceeds the bias of 1
    assert found.margins[0, 0].item() == pytest.approx(0.5, rel=1e-5)
    strong = BiasedLogits(model, oracle, alpha=3.0).certify(x[:1], torch.tensor([1]), ball, "ibp")
    assert strong.verdicts.tolist() != ["verified"]


def test_logits() -> None:
    model = nn.Linear(2, 3)
    oracle = NearestNeighbour(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([2, 0]))
    x = torch.tensor([[0.1, 0.0], [2.0, 1.0]])
    expected = model(x).double() + 0.75 * torch.tensor([[0, 0, 1], [1, 0, 0]])
    assert torch.allclose(BiasedLogits(model, oracle, alpha=1.5, c=0.5).logits(x), expected)


class TestBadInput:
    oracle = NearestNeighbour(torch.zeros(2, 2), torch.tensor([0, 1]))

    def test_made(self) -> None:
        model = nn.Linear(2, 2)
        for arguments, message in (
            ((torch.tanh, self.oracle, 1.0, 1.0), "model is a"),
            ((model, None, 1.0, 1.0), "oracle is a NoneType"),
            ((model, self.oracle, -1.0, 1.0), "alpha = -1.0"),
            ((model, self.oracle, 1.0, math.inf), "c = inf"),
            ((model, self.oracle, 1e200, 1e200), r"alpha \* c = inf"),
            ((model, NearestNeighbour(torch.zeros(1, 2), torch.tensor([-1])), 1.0, 1.0), "oracle = label -1"),
        ):
            with pytest.raises((InvalidType, InvalidValue), match=message):
                BiasedLogits(arguments[0], arguments[1], alpha=arguments[2], c=arguments[3])  # type: ignore[arg-type]

    def test_asked(self) -> None:
        biased: Any = BiasedLogits(nn.Linear(2, 2), self.oracle, alpha=1.0)
        x, y, ball = torch.zeros(1, 2), torch.tensor([0]), vx.Ball("l2", 0.1)
        with pytest.raises(InvalidType, match="inputs is a float: pass a Ball"):
            biased.certify(x, y, 0.1)
        with pytest.raises(InvalidValue, match="eps = one radius for each coordinate"):
            biased.certify(x, y, vx.Ball("l2", torch.tensor([[0.1, 0.2]])))
        with pytest.raises(InvalidValue, match="label 2"):
            biased.certify(x, torch.tensor([2]), ball)
        with pytest.raises(InvalidValue, match="tolerance = 2"):
            biased.radius(x, tolerance=2)
        with pytest.raises(InvalidValue, match=r"x = inputs of torch\.float64: must be torch\.float32"):
            biased.radius(x.double())
        with pytest.raises(InvalidValue, match="x = tensor of shape"):
            biased.certify(torch.zeros(1, 3), y, ball)
        many = BiasedLogits(nn.Linear(2, 2), NearestNeighbour(torch.zeros(1, 2), torch.tensor([2])), alpha=1.0)
        with pytest.raises(InvalidValue, match="oracle = label 2: the network has 2 classes, from 0"):
            many.predict(x)
