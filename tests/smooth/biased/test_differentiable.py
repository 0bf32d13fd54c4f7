"""Theorem 8 and its tightenings: tanh networks, and quadratic functions whose curvature is known exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.smooth.biased.search import NORMS, Norm, random_oracle, search, uniform, violations, whole
from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation
from verifix.smooth.biased import BiasedDifferentiable, BiasedLinear, NearestNeighbour, SmoothFunction, SmoothNetwork


def bilinear_norm(matrix: Tensor, norm: Norm) -> float:
    """The largest ``u' A v`` with u and v of norm 1: attained at corners of the ball for l1 and l_inf."""
    if norm == "l2":
        return float(torch.linalg.matrix_norm(matrix, 2)) * (1 + 1e-12)
    if norm == "l1":
        return float(matrix.abs().max())
    d = len(matrix)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d).reshape(-1, d)
    return float((corners @ matrix).abs().sum(1).max()) * (1 + 1e-12)


def quadratic(generator: torch.Generator, d: int, norm: Norm) -> BiasedDifferentiable:
    half = torch.randn(d, d, generator=generator, dtype=torch.float64)
    matrix = (half + half.T) / 2 * uniform(generator, 0, 2)
    slope = torch.randn(d, generator=generator, dtype=torch.float64)
    offset = uniform(generator, -2, 2)

    def function(x: Tensor) -> Tensor:
        return ((x @ matrix) * x).sum(1) / 2 + x @ slope + offset

    base = SmoothFunction(function, bilinear_norm(matrix, norm), value_error=1e-12, gradient_error=1e-12)
    alpha = 0.0 if whole(generator, 0, 9) == 0 else uniform(generator, 0, 2)
    return BiasedDifferentiable(base, random_oracle(generator, d), alpha=alpha, norm=norm)


def random_network(generator: torch.Generator, d: int, activation: Callable[[], nn.Module], outputs: int = 1) -> Any:
    widths = [d, *(whole(generator, 1, 6) for _ in range(whole(generator, 1, 2))), outputs]
    layers: list[nn.Module] = []
    for inputs, wide in itertools.pairwise(widths):
        layer = nn.Linear(inputs, wide).double()
        with torch.no_grad():
            layer.weight.normal_(0, 1.2 / inputs**0.5, generator=generator)
            layer.bias.normal_(0, 0.5, generator=generator)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def network(generator: torch.Generator, d: int, norm: Norm) -> BiasedDifferentiable:
    activation = [nn.Tanh, nn.Tanh, nn.Sigmoid, nn.Softplus, lambda: nn.Softplus(beta=3)][whole(generator, 0, 4)]
    base = SmoothNetwork(random_network(generator, d, activation))
    return BiasedDifferentiable(base, random_oracle(generator, d), alpha=uniform(generator, 0, 1.5), norm=norm)


def check(build: Any, cases: int, inputs: int, seed: int) -> None:
    larger = searched = 0
    limits: set[str] = set()
    for _, _, tight, printed, violated in search(build, cases, inputs, seed=seed):
        assert violated == 0
        assert tight.float_sound
        assert (tight.radii >= printed.radii).all()
        larger += int((tight.radii > printed.radii * (1 + 1e-9)).sum())
        searched += int((tight.radii > 1e-9).sum())
        limits |= set(tight.limits.tolist())
    assert larger > 0.3 * cases * inputs and searched > 0.8 * cases * inputs
    assert limits == {"boundary", "neighbour", "flip"}


@pytest.mark.parametrize("build", [quadratic, network])
def test_no_violation(build: Any) -> None:
    check(build, 250, 20, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("build", [quadratic, network])
def test_no_violation_in_a_hundred_thousand_cases(build: Any) -> None:
    check(build, 5000, 20, seed=1)


def test_printed_radii_hold_too() -> None:
    generator = torch.Generator().manual_seed(4)
    for classifier, x, _, printed, _ in search(quadratic, 60, 10, count=8, seed=4):
        assert violations(generator, classifier, x, printed.radii) == 0


class TestTight:
    """On the line, ``g = 1 - x^2`` has curvature 2, and T4 is exact where it bends the worst way."""

    bowl = SmoothFunction(lambda x: 1 - x[:, 0] ** 2, 2.0, value_error=0.0, gradient_error=0.0)
    alone = NearestNeighbour(torch.zeros(1, 1), torch.tensor([1]))

    def test_without_bias(self) -> None:
        """r = (sqrt(G^2 + 2 L m) - G) / L with G = 2 x, m = 1 - x^2: 1 - x, exactly the distance to the root."""
        x = torch.linspace(0, 0.9, 10, dtype=torch.float64)[:, None]
        classifier = BiasedDifferentiable(self.bowl, self.alone, alpha=0.0)
        tight, printed = classifier.certify(x), classifier.certify(x, tight=False)
        assert torch.allclose(tight.radii, 1 - x[:, 0], rtol=1e-13, atol=0)
        assert (tight.radii < 1 - x[:, 0]).all()
        ratio = tight.radii / printed.radii
        assert (ratio > 1).all() and ratio[0].item() == pytest.approx(math.sqrt(2), rel=1e-12)

    def test_as_printed(self) -> None:
        """The formula of theorem 8 itself, where it does not cancel."""
        x = torch.tensor([[0.25]], dtype=torch.float64)
        alpha, curvature, slope = 0.75, 2.0, 0.5
        margin = 1 - 0.0625 + alpha * slope
        b = alpha * curvature + slope
        expected = (math.sqrt(b * b + 4 * curvature * margin) - b) / (2 * curvature)
        found = BiasedDifferentiable(self.bowl, self.alone, alpha=alpha).certify(x, tight=False)
        assert found.radii.item() == pytest.approx(expected, rel=1e-13)

    def test_local_curvature(self) -> None:
        """Radii end where the constant is no longer known to hold."""
        local = SmoothFunction(lambda x: 1 - x[:, 0] ** 2, 2.0, within=0.25)
        found = BiasedDifferentiable(local, self.alone, alpha=0.0).certify(torch.tensor([[0.5], [0.9]]).double())
        assert found.radii.tolist() == [0.25, pytest.approx(0.1)]
        assert found.limits.tolist() == ["within", "boundary"]
        assert not found.float_sound  # nobody said how g rounds


@pytest.mark.parametrize("norm", NORMS)
def test_linear_is_a_case(norm: Norm) -> None:
    """Theorem 8 at curvature 0 is theorem 6, printed or tight."""
    generator = torch.Generator().manual_seed(5)
    a, oracle = torch.randn(3, generator=generator, dtype=torch.float64), random_oracle(generator, 3)
    base = SmoothFunction(lambda x: x @ a + 0.25, 0.0)
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    for tight in (False, True):
        linear = BiasedLinear(a, 0.25, oracle, alpha=0.7, norm=norm).certify(x, tight=tight)
        other = BiasedDifferentiable(base, oracle, alpha=0.7, norm=norm).certify(x, tight=tight)
        assert torch.allclose(linear.radii, other.radii, rtol=1e-12, atol=1e-13)
        assert torch.equal(linear.predictions, other.predictions)


def test_zero_gradient() -> None:
    """At the top of the bowl the bias vanishes, and with it the oracle's say; a constant never changes."""
    oracle = NearestNeighbour(torch.tensor([[0.0], [2.0]]), torch.tensor([-1, 1]))
    classifier = BiasedDifferentiable(TestTight.bowl, oracle, alpha=0.5)
    found = classifier.certify(torch.zeros(1, 1))
    assert found.predictions.tolist() == [1] and found.oracle.tolist() == [-1]
    assert found.radii.item() == pytest.approx((math.sqrt(1 + 4) - 1) / 2, rel=1e-12)  # B = alpha L = 1, m = 1
    constant = SmoothFunction(lambda x: torch.full((len(x),), -2.0, dtype=x.dtype), 0.0)
    assert BiasedDifferentiable(constant, oracle, alpha=0.5).certify(torch.zeros(1, 1)).radii.isinf().all()


class TestBadInput:
    oracle = NearestNeighbour(torch.zeros(2, 2), torch.tensor([1, -1]))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((3, 1.0), "function is a int"),
            ((lambda x: x, -1.0), "curvature = -1.0"),
            ((lambda x: x, math.inf), "curvature = inf"),
            ((lambda x: x, True), "curvature is a bool"),
        ],
    )
    def test_functions(self, arguments: Any, message: str) -> None:
        with pytest.raises((InvalidValue, InvalidType), match=message):
            SmoothFunction(*arguments)
        with pytest.raises(InvalidValue, match=r"within = 0: must be above 0"):
            SmoothFunction(lambda x: x, 1.0, within=0)

    def test_shape_of_outputs(self) -> None:
        classifier = BiasedDifferentiable(SmoothFunction(lambda x: x, 1.0), self.oracle, alpha=1.0)
        with pytest.raises(InvalidValue, match=r"function = output of shape \(1, 2\): must return \(1,\)"):
            classifier.certify(torch.zeros(1, 2))

    def test_no_base(self) -> None:
        with pytest.raises(InvalidType, match="base is a Linear: pass a SmoothNetwork or a SmoothFunction"):
            BiasedDifferentiable(nn.Linear(2, 1), self.oracle, alpha=1.0)  # type: ignore[arg-type]

    def test_relu(self) -> None:
        """Assumption 7 fails; the message says what to do."""
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        for base in (SmoothNetwork, lambda model: SmoothFunction(model, 1.0)):
            with pytest.raises(UnsupportedOperation, match=r"ReLU\(\): its gradient jumps.*use BiasedLogits"):
                base(model)
