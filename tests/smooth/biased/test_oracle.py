"""The nearest reserved point's label, and how far it is certain: against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.smooth.biased.search import NORMS, Norm
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.biased import NearestNeighbour
from verifix.smooth.biased import oracle as module

Point = list[float]


def exact_radius(points: list[Point], labels: list[int], x: Point, norm: Norm, tight: bool) -> tuple[set[int], Any]:
    """The labels of the nearest points, and the radius of T1 or as printed, or its square for l2; None if infinite."""
    rational = [[Fraction(value) for value in point] for point in points]
    center = [Fraction(value) for value in x]
    squares = [sum(((a - b) ** 2 for a, b in zip(point, center, strict=True)), Fraction(0)) for point in rational]
    nearest = {labels[i] for i, square in enumerate(squares) if square == min(squares)}
    if len(nearest) > 1:
        return nearest, Fraction(0)
    (label,) = nearest
    ours = [i for i, other in enumerate(labels) if other == label]
    if not tight:
        ours = [i for i in ours if squares[i] == min(squares)]
    radius = None
    for j in (j for j, other in enumerate(labels) if other != label):
        best = max(_ratio(squares[j] - squares[k], rational[k], rational[j], norm) for k in ours)
        radius = best if radius is None else min(radius, best)
    return nearest, radius


def _ratio(difference: Fraction, near: list[Fraction], far: list[Fraction], norm: Norm) -> Fraction:
    gaps = [abs(a - b) for a, b in zip(near, far, strict=True)]
    if difference <= 0:
        return Fraction(0)
    if norm == "l2":
        return difference**2 / (4 * sum(gap**2 for gap in gaps))
    return difference / (2 * (sum(gaps) if norm == "linf" else max(gaps)))


lattice = st.integers(-3, 3).map(float)
shifted = st.integers(-3, 3).map(lambda value: 1e8 + value / 4)  # float64 rounds their squares
wild = st.floats(-1e6, 1e6, width=32)
problems = st.sampled_from([lattice, shifted, wild]).flatmap(
    lambda number: st.integers(1, 3).flatmap(
        lambda d: st.tuples(
            st.lists(st.lists(number, min_size=d, max_size=d), min_size=1, max_size=7),
            st.lists(number, min_size=d, max_size=d),
        )
    )
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(problems, st.integers(0, 2**7 - 1), st.sampled_from(NORMS), st.booleans())
@example(([[0.0], [0.0]], [1.0]), 1, "l2", True)
@example(([[1e8, 0.0], [1e8 + 2, 0.0]], [1e8 + 1, 5e7]), 1, "l1", True)
def test_radius_is_below_the_exact_one(problem: Any, bits: int, norm: Norm, tight: bool) -> None:
    points, x = problem
    labels = [2 * (bits >> i & 1) - 1 for i in range(len(points))]
    oracle = NearestNeighbour(torch.tensor(points, dtype=torch.float64), torch.tensor(labels))
    found = oracle.neighbours(torch.tensor([x], dtype=torch.float64), norm, tight=tight)
    nearest, exact = exact_radius(points, labels, x, norm, tight)
    radius = found.radii.item()
    if exact is None:
        assert radius == float("inf")
        return
    if len(nearest) > 1:
        assert radius == 0
    else:
        assert radius == 0 or found.labels.tolist() == list(nearest)
    given = Fraction(radius) ** 2 if norm == "l2" else Fraction(radius)
    assert given < exact or given == exact == 0
    # and not much below, unless float64 took another point for the nearest: then it is a tie, and the radius zero
    told_apart = found.labels.tolist() == list(nearest)
    assert told_apart or radius == 0
    spread = max(abs(Fraction(a) - Fraction(b)) for point in points for a, b in zip(point, x, strict=True))
    if exact > 0 and tight and spread < 1e6 and told_apart:
        lost = Fraction(10) ** -9 * (spread**2 if norm == "l2" else spread)
        assert given * (1 + Fraction(10) ** -9) + lost >= exact


@pytest.mark.parametrize("norm", NORMS)
def test_near_ties(norm: Norm) -> None:
    """The opposing point mirrors the near one up to rounding, so that little more than rounding is left to certify."""
    generator = torch.Generator().manual_seed(3)
    positive = 0
    for trial in range(40):
        d = 2 + trial
        x, near = torch.randn(2, d, generator=generator, dtype=torch.float64)
        far = 2 * x - near
        far[0] += 2e-16 * (trial % 7) * far[0].abs() * (far[0] - x[0]).sign()
        oracle = NearestNeighbour(torch.stack([near, far]), torch.tensor([1, -1]))
        found = oracle.neighbours(x[None], norm)
        nearest, exact = exact_radius([near.tolist(), far.tolist()], [1, -1], x.tolist(), norm, True)
        given = Fraction(found.radii.item())
        assert (given**2 if norm == "l2" else given) < exact or given == 0
        assert given == 0 or nearest == set(found.labels.tolist())
        further = far + 1e-11 * (far - x)  # and here some is
        oracle = NearestNeighbour(torch.stack([near, further]), torch.tensor([1, -1]))
        positive += int(oracle.neighbours(x[None], norm).radii.item() > 0)
    assert positive == 40


def test_batches_and_shapes() -> None:
    """Images as inputs; one by one or together is the same, however small the tiles."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(40, 1, 4, 4, generator=generator)
    oracle = NearestNeighbour(points, torch.randint(0, 3, (40,), generator=generator))
    x = torch.rand(30, 1, 4, 4, generator=generator)
    for norm, tight in product(NORMS, (False, True)):
        whole = oracle.neighbours(x, norm, tight=tight)
        single = [oracle.neighbours(x[i : i + 1], norm, tight=tight) for i in range(len(x))]
        assert torch.equal(whole.radii, torch.cat([one.radii for one in single]))
        assert torch.equal(whole.labels, oracle(x))


def test_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    oracle = NearestNeighbour(torch.randn(50, 6, generator=generator), torch.randint(0, 4, (50,), generator=generator))
    x = torch.randn(25, 6, generator=generator)
    usual = oracle.neighbours(x, "linf")
    monkeypatch.setattr(module, "TILE", 1000)
    assert torch.equal(usual.radii, oracle.neighbours(x, "linf").radii)


@pytest.mark.parametrize("norm", NORMS)
def test_labels_stay_within(norm: Norm) -> None:
    """Of three classes, at random points of the balls; float32 points with float64 inputs."""
    generator = torch.Generator().manual_seed(2)
    oracle = NearestNeighbour(torch.randn(12, 2, generator=generator), torch.randint(0, 3, (12,), generator=generator))
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    found = oracle.neighbours(x, norm)
    steps = torch.randn(200, 300, 2, generator=generator, dtype=torch.float64)
    order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[norm]
    steps = steps / torch.linalg.vector_norm(steps, ord=order, dim=2, keepdim=True)
    for scale, stays in ((0.9999, True), (1.1, False)):
        points = x[:, None] + scale * found.radii[:, None, None] * steps
        same = oracle(points.reshape(-1, 2)).reshape(200, 300) == found.labels[:, None]
        if stays:
            assert same.all()
        else:  # the radius of most inputs is that of the cell itself: some of these points are beyond it
            assert (~same).any(1).float().mean() > 0.5


class TestBadInput:
    points = torch.zeros(2, 3)

    @pytest.mark.parametrize(
        ("points", "labels", "message"),
        [
            (torch.zeros(3), torch.tensor([1, 1, 1]), r"points = tensor of shape \(3,\)"),
            (torch.zeros(0, 3), torch.zeros(0).long(), r"must be \(N, \*shape\) with N >= 1"),
            (points.long(), torch.tensor([1, -1]), "points is a Tensor"),
            (points + float("nan"), torch.tensor([1, -1]), "NaN or infinity"),
            (points, [1, -1], "labels is a list"),
            (points, torch.tensor([1.0, -1.0]), r"labels is a Tensor: pass whole numbers, not torch.float32"),
            (points, torch.tensor([True, False]), "not torch.bool"),
            (points, torch.tensor([1]), r"labels = tensor of shape \(1,\): must be \(2,\)"),
        ],
    )
    def test_refused(self, points: Any, labels: Any, message: str) -> None:
        with pytest.raises((InvalidValue, InvalidType), match=message):
            NearestNeighbour(points, labels)

    def test_other_inputs(self) -> None:
        oracle = NearestNeighbour(self.points, torch.tensor([1, -1]))
        with pytest.raises(InvalidValue, match=r"x = tensor of shape \(1, 2\): must be \(n, 3\)"):
            oracle(torch.zeros(1, 2))
        with pytest.raises(InvalidValue, match="norm = 'l7'"):
            oracle.neighbours(torch.zeros(1, 3), "l7")  # type: ignore[arg-type]
