"""Theorem 6 and its tightenings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.smooth.biased.search import NORMS, Norm, random_oracle, search, uniform, whole
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.biased import BiasedLinear, NearestNeighbour


def build(generator: torch.Generator, d: int, norm: Norm) -> BiasedLinear:
    a = torch.randn(d, generator=generator, dtype=torch.float64)
    if whole(generator, 0, 19) == 0:
        a = torch.zeros_like(a)
    alpha = 0.0 if whole(generator, 0, 9) == 0 else uniform(generator, 0, 3)
    return BiasedLinear(a, uniform(generator, -2, 2), random_oracle(generator, d), alpha=alpha, norm=norm)


def check(cases: int, inputs: int, seed: int) -> None:
    """No violation, and the tightenings are never smaller than the printed radius but often larger."""
    larger = searched = 0
    limits: set[str] = set()
    for _, _, tight, printed, violated in search(build, cases, inputs, seed=seed):
        assert violated == 0
        assert (tight.radii >= printed.radii).all()
        larger += int((tight.radii > printed.radii * (1 + 1e-9)).sum())
        searched += int((tight.radii > 1e-9).sum())
        limits |= set(tight.limits.tolist())
    assert larger > 0.1 * cases * inputs and searched > 0.6 * cases * inputs
    assert limits == {"boundary", "neighbour", "flip"}


def test_no_violation() -> None:
    check(500, 20, seed=0)


@pytest.mark.slow
def test_no_violation_in_a_hundred_thousand_cases() -> None:
    check(5000, 20, seed=1)


def line(labels: list[int], points: list[float]) -> NearestNeighbour:
    return NearestNeighbour(torch.tensor(points, dtype=torch.float64)[:, None], torch.tensor(labels))


def certify(oracle: NearestNeighbour, x: float, b: float = 0.0, alpha: float = 1.0, **how: Any) -> Any:
    """Of ``x + b`` on the line."""
    classifier = BiasedLinear(torch.ones(1), b, oracle, alpha=alpha)
    return classifier.certify(torch.tensor([[x]], dtype=torch.float64), **how)


class TestTight:
    """On the line every radius is the distance to where the prediction does change."""

    @pytest.mark.parametrize(
        ("x", "b", "alpha", "radius", "limit"),
        [
            (3.0, 0.0, 1.0, 3.0, "neighbour"),  # the oracle flips at 0, and there x + b = 0 < alpha
            (0.5, 2.0, 1.0, 1.5, "flip"),  # the oracle flips at 0; the sign at -1, where 2 - 1 - 1 = 0: T3
            (-0.5, 2.0, 1.0, 0.5, "boundary"),  # predicted 1 against the oracle: T2
            (5.0, -4.0, 1.0, 2.0, "boundary"),  # the sign changes at 3, before the oracle does
            (4.0, 0.0, 0.0, 4.0, "boundary"),  # no bias: the oracle does not matter
        ],
    )
    def test_radius(self, x: float, b: float, alpha: float, radius: float, limit: str) -> None:
        oracle = line([-1, 1], [-4.0, 4.0])
        found = certify(oracle, x, b, alpha)
        assert 0 < radius - found.radii.item() < 1e-14 * radius
        assert found.limits.tolist() == [limit]
        classifier = BiasedLinear(torch.ones(1), b, oracle, alpha=alpha)
        ends = torch.tensor([[x - 0.999 * radius], [x + 0.999 * radius]], dtype=torch.float64)
        assert (classifier.predict(ends) == found.predictions).all()
        beyond = torch.tensor([[x - 1.001 * radius], [x + 1.001 * radius]], dtype=torch.float64)
        # what is certified by T3 alone need not change there: the oracle flips elsewhere
        assert (classifier.predict(beyond) != found.predictions).any()

    def test_another_point_of_the_label_protects(self) -> None:
        """T1: the far one of two points beats the opposing one for longer than the near one does."""
        oracle = NearestNeighbour(
            torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, -1.0]], dtype=torch.float64), torch.tensor([1, 1, -1])
        )
        classifier = BiasedLinear(torch.tensor([0.0, 1.0]), 0.0, oracle, alpha=50.0)
        x = torch.tensor([[0.9, 1.0]], dtype=torch.float64)
        tight, printed = classifier.certify(x), classifier.certify(x, tight=False)
        expected = max(
            (torch.dist(x[0], oracle.points[2]) ** 2 - torch.dist(x[0], k) ** 2) / (2 * torch.dist(k, oracle.points[2]))
            for k in oracle.points[:2]
        )
        assert tight.radii.item() == pytest.approx(expected.item(), rel=1e-12)
        assert printed.radii.item() < 0.95 * tight.radii.item()


@pytest.mark.parametrize("norm", NORMS)
def test_boundary_is_reached(norm: Norm) -> None:
    """Just beyond the boundary term, in the steepest direction, the prediction changes; just within nowhere."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        a = torch.randn(3, generator=generator, dtype=torch.float64)
        oracle = NearestNeighbour(torch.randn(4, 3, generator=generator), torch.ones(4, dtype=torch.int64))
        classifier = BiasedLinear(a, uniform(generator, -1, 1), oracle, alpha=uniform(generator, 0, 2), norm=norm)
        x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
        found = classifier.certify(x)
        assert found.neighbour.isinf().all()
        steepest = {"linf": a.sign(), "l2": a / a.norm(), "l1": a.sign() * (a.abs() == a.abs().max())}[norm]
        step = -found.predictions * found.radii * steepest
        assert torch.equal(classifier.predict(x + 0.999999 * step), found.predictions)
        if found.limits[0] == "boundary":
            assert not torch.equal(classifier.predict(x + 1.000001 * step), found.predictions)


class TestCorners:
    def test_no_opposing_point(self) -> None:
        for oracle in (line([1], [5.0]), line([-1, -1, -1], [1.0, 2.0, 2.0])):
            found = certify(oracle, 1.5, alpha=0.25)
            assert found.neighbour.isinf().all()
            assert found.limits.tolist() == ["boundary"]
            assert found.radii.item() == pytest.approx(1.5 + 0.25 * oracle.labels[0].item(), rel=1e-14)

    @pytest.mark.parametrize("tight", [False, True])
    def test_doubt_of_the_oracle(self, tight: bool) -> None:
        """A tie, and a point that is reserved twice with different labels."""
        for oracle, x in ((line([1, -1], [1.0, 3.0]), 2.0), (line([1, -1, 1], [2.0, 2.0, 9.0]), 2.5)):
            found = certify(oracle, x, alpha=7.0, tight=tight)
            assert (found.neighbour == 0).all() and (found.radii == 0).all()

    def test_a_doubt_that_does_not_matter(self) -> None:
        """T3: at a tie the answer is the same for either label if the base margin exceeds the bias."""
        oracle = line([1, -1], [1.0, 3.0])
        assert certify(oracle, 2.0, alpha=1.5).radii.item() == pytest.approx(0.5, rel=1e-14)
        assert certify(oracle, 2.0, alpha=1.5, tight=False).radii.item() == 0

    def test_at_a_reserved_point(self) -> None:
        found = certify(line([-1, 1], [0.0, 3.0]), 3.0, alpha=9.0)
        assert found.oracle.tolist() == [1]
        assert 1.5 - 1e-14 < found.neighbour.item() < 1.5

    def test_constant_base(self) -> None:
        """With a = 0 nothing can change; with b = 0 too, it is on the boundary."""
        oracle = line([-1, 1], [-1.0, 1.0])
        for b, radius in ((0.5, math.inf), (-1e-300, math.inf), (0.0, 0.0)):
            for tight in (False, True):
                classifier = BiasedLinear(torch.zeros(1), b, oracle, alpha=3.0)
                found = classifier.certify(torch.tensor([[4.0]]), tight=tight)
                assert found.boundary.item() == radius
                assert found.radii.item() == (radius if tight else min(radius, found.neighbour.item()))

    def test_on_the_boundary(self) -> None:
        assert certify(line([1, -1], [-1.0, 1.0]), -0.25, b=-0.75, alpha=1.0).radii.item() == 0

    def test_no_inputs(self) -> None:
        classifier = BiasedLinear(torch.ones(2), 0.0, NearestNeighbour(torch.zeros(1, 2), torch.tensor([1])), alpha=1.0)
        found = classifier.certify(torch.zeros(0, 2))
        assert found.radii.shape == (0,) and found.limits.shape == (0,)

    @pytest.mark.parametrize("size", [1e-200, 1e-155, 1e155, 1e300])
    def test_scales(self, size: float) -> None:
        """Squares under- and overflow: a radius may be lost then, but never gained."""
        oracle = NearestNeighbour(torch.tensor([[0.0, 0.0], [size, 0.0]], dtype=torch.float64), torch.tensor([1, -1]))
        for norm in NORMS:
            classifier = BiasedLinear(torch.ones(2), 1.0, oracle, alpha=5.0, norm=norm)
            found = classifier.certify(torch.tensor([[size / 8, size / 16]], dtype=torch.float64))
            assert (found.neighbour <= 0.375 * size).all()


class TestBadInput:
    oracle = NearestNeighbour(torch.zeros(2, 3), torch.tensor([1, -1]))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"alpha": -1.0}, "alpha = -1.0: must be finite and at least 0"),
            ({"alpha": math.nan}, "alpha = nan"),
            ({"alpha": "1"}, "alpha is a str: pass a number"),
            ({"norm": "l3"}, "norm = 'l3': choose one of linf, l2, l1"),
            ({"a": torch.ones(2)}, r"a = tensor of shape \(2,\): must be \(3,\), as one input"),
            ({"a": [1.0, 2.0, 3.0]}, "a is a list"),
            ({"a": torch.tensor([1.0, math.inf, 0.0])}, "a = 1 of 1 inputs with NaN or infinity"),
            ({"b": math.inf}, "b = inf: must be finite"),
            ({"b": torch.zeros(1)}, "b is a Tensor: pass a number"),
            ({"oracle": lambda x: x}, "oracle is a function: pass a NearestNeighbour"),
            ({"oracle": NearestNeighbour(torch.zeros(2, 3), torch.tensor([1, 0]))}, "oracle = label 0 at 1"),
        ],
    )
    def test_refused(self, change: dict[str, Any], message: str) -> None:
        arguments: dict[str, Any] = {"a": torch.ones(3), "b": 0.0, "oracle": self.oracle, "alpha": 1.0, **change}
        with pytest.raises((InvalidValue, InvalidType), match=message):
            BiasedLinear(
                arguments["a"], arguments["b"], arguments["oracle"], alpha=arguments["alpha"],
                norm=arguments.get("norm", "l2"),
            )  # fmt: skip

    @pytest.mark.parametrize("x", [torch.zeros(1, 2), torch.full((1, 3), math.nan), torch.zeros(1, 3).long()])
    def test_inputs(self, x: Tensor) -> None:
        with pytest.raises((InvalidValue, InvalidType)):
            BiasedLinear(torch.ones(3), 0.0, self.oracle, alpha=1.0).certify(x)
