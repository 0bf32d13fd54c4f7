"""Projections: inside, nearest, and steady."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import bisect, minimize
from torch import Tensor

from tests.sets.oracles import Case, cases
from verifix.sets import Ball, LpBall, project
from verifix.sets.ball import NORMS, Norm


def off_center(case: Case, scale: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return case.x + scale * torch.randn(case.x.shape, generator=generator, dtype=torch.float64)


@given(case=cases(), scale=st.sampled_from([0.01, 0.5, 3.0, 1e4]), seed=st.integers(0, 2**32))
@settings(max_examples=300)
def test_projection_is_inside_and_nearest(case: Case, scale: float, seed: int) -> None:
    sets, v = case.sets, off_center(case, scale, seed)
    nearest = sets.project(v)
    assert sets.contains(nearest).all()
    # nearest <=> <v - p, z - p> <= 0 for every z of the set; the support function is the largest left side
    away = (v - nearest)[:, None]
    beyond = (sets.support(away)[:, 0] - (away[:, 0] * nearest).sum(1)).clamp(min=0)
    assert (beyond <= 1e-9 * (1 + away.abs().sum((1, 2)))).all()


@given(case=cases(), scale=st.sampled_from([0.01, 0.5, 3.0]), seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_projection_in_float32_is_inside_too_and_as_near(case: Case, scale: float, seed: int) -> None:
    box = None if case.box is None else (0.0, 1.0)
    sets = Case(case.x.float(), case.rows.float(), case.norm, case.eps, box).sets
    v = off_center(case, scale, seed).float()
    nearest = sets.project(v)
    assert nearest.dtype == torch.float32
    assert sets.contains(nearest).all()
    torch.testing.assert_close(nearest.double(), sets.to(torch.float64).project(v.double()), rtol=1e-5, atol=1e-5)


@given(case=cases(), seed=st.integers(0, 2**32))
def test_a_point_of_the_set_is_its_own_projection(case: Case, seed: int) -> None:
    sets = case.sets
    once = sets.project(off_center(case, 1.0, seed))
    torch.testing.assert_close(sets.project(once), once, rtol=0, atol=1e-12)
    assert torch.equal(sets.project(case.x), case.x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_projection_agrees_with_a_general_solver(norm: Norm, box: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(3)
    for _ in range(6):
        x, v, w = rng.random(3), 3 * rng.standard_normal(3), rng.random(3) + 0.1
        sets = Ball(norm, torch.from_numpy(w)[None], box).around(torch.from_numpy(x)[None])
        ours = sets.project(torch.from_numpy(v)[None])[0].numpy()
        theirs = solve(norm, x, v, w, box)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert np.linalg.norm(ours - v) <= np.linalg.norm(theirs - v) + 1e-6


def solve(norm: Norm, x: np.ndarray, v: np.ndarray, w: np.ndarray, box: tuple[float, float] | None) -> np.ndarray:
    """The nearest point by sequential quadratic programming; every norm as smooth constraints."""

    def within(z: np.ndarray) -> np.ndarray:
        d = (z - x) / w
        if norm == "l2":
            return np.array([1 - d @ d])
        signs = np.array(np.meshgrid(*[[-1, 1]] * len(d))).reshape(len(d), -1).T
        return 1 - (signs @ d if norm == "l1" else np.concatenate([d, -d]))

    solved = minimize(
        lambda z: ((z - v) ** 2).sum(), x, jac=lambda z: 2 * (z - v), method="SLSQP",
        bounds=None if box is None else [box] * len(x), constraints={"type": "ineq", "fun": within},
        options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert solved.success or "Positive directional derivative" in solved.message  # no descent left: converged
    assert (within(solved.x) >= -1e-7).all()
    return solved.x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-30, 1e-7, 8 / 255, 1e6])
def test_projection_stays_inside_whatever_the_cast_rounds(norm: Norm, dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(64, 1, 6, 5, generator=generator, dtype=dtype)
    for box in (None, (0.0, 1.0)):
        sets = Ball(norm, eps, box).around(x)
        moved = sets.project(x + 3 * eps * torch.randn(x.shape, generator=generator, dtype=dtype))
        assert sets.contains(moved).all()
        if eps > 1e-3:
            assert (moved != x).any(dim=(1, 2, 3)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_uses_the_whole_radius(norm: Norm) -> None:
    x = torch.zeros(1, 4)
    direction = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    moved = Ball(norm, 0.25).around(x).project(1e3 * direction)
    size = torch.linalg.vector_norm(moved.double(), ord={"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm])
    assert 0.25 * (1 - 1e-6) <= size.item() <= 0.25


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_cast_cannot_stay_inside_the_center_is_returned(norm: Norm) -> None:
    x = torch.full((1, 2), 1e6)
    sets = Ball(norm, 1e-9).around(x)
    assert torch.equal(sets.project(x + 1.0), x)
    assert isinstance(sets, LpBall)


def bisected(norm: Norm, v: np.ndarray, w: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The projection of one step ``v``, its multiplier found by bisection."""
    free = w > 0
    v, radius = np.where(free, v, 0.0), np.where(free, w, 1.0)

    def moved(m: float) -> np.ndarray:
        far = v / (1 + m / radius**2) if norm == "l2" else np.sign(v) * np.maximum(np.abs(v) - m / radius, 0)
        return np.clip(far, low, high)

    def excess(m: float) -> float:
        return float(np.linalg.norm(moved(m) / radius, 2 if norm == "l2" else 1)) - 1

    return moved(0.0 if excess(0.0) <= 0 else bisect(excess, 0.0, np.linalg.norm(v * radius), xtol=1e-300, rtol=1e-15))


@pytest.mark.parametrize("norm", ["l2", "l1"])
@given(data=st.data())
@settings(max_examples=100)
def test_projection_is_that_of_bisection(norm: Norm, data: st.DataObject) -> None:
    case = data.draw(cases(norms=(norm,), most=12))
    v = off_center(case, data.draw(st.sampled_from([0.5, 3.0, 1e4])), data.draw(st.integers(0, 2**32)))
    found, center = case.sets.project(v), case.x
    weights = case.sets.eps.expand_as(center)
    for i in range(len(v)):
        low, high = (np.full(v.shape[1], side) for side in (-np.inf, np.inf))
        if case.sets.box is not None:
            low, high = ((side.expand_as(center)[i] - center[i]).numpy() for side in case.sets.box)
        expected = bisected(norm, (v - center)[i].numpy(), weights[i].numpy(), low, high)
        np.testing.assert_allclose((found - center)[i].numpy(), expected, rtol=0, atol=1e-9)


_DRAWN = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(6))
IMAGES = {"sparse": (_DRAWN - 0.7).clamp(min=0), "grey": 0.4 + 0.2 * _DRAWN, "black": torch.zeros(40, 1, 28, 28)}


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.5), ("l2", 0.1), ("l1", 12.0), ("l1", 0.5)])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("images", IMAGES)
def test_a_multiplier_takes_few_evaluations(
    norm: Norm, eps: float, box: tuple[float, float] | None, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, counts = IMAGES[images], []
    solve = project._solve

    def counting(evaluate: project.Evaluate, *rest: Tensor) -> Tensor:
        count = itertools.count()
        steps = solve(lambda *given: (next(count), evaluate(*given))[1], *rest)
        counts.append(next(count))
        return steps

    monkeypatch.setattr(project, "_solve", counting)
    sets = Ball(norm, eps, box).around(x)
    for noise in (0.02, 0.3):
        v = x + noise * torch.randn(x.shape)
        v[:, :, ::5, ::7] += 1.0
        assert sets.contains(sets.project(v)).all()
    assert 1 <= max(counts) <= 16  # 50 to 100 by bisection


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_projection_of_an_image_does_not_depend_on_the_others(norm: Norm, box: tuple[float, float] | None) -> None:
    x = IMAGES["sparse"][:8]
    eps = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 500.0], dtype=torch.float64)
    v = x + 0.3 * torch.randn(x.shape)
    together = Ball(norm, eps, box).around(x).project(v)
    for i in range(len(x)):
        alone = Ball(norm, eps[i : i + 1], box).around(x[i : i + 1]).project(v[i : i + 1])
        assert torch.equal(alone[0], together[i])
    assert torch.equal(together[0], x[0])


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_radii_of_rows_of_an_image(norm: Norm) -> None:
    """Radii that are neither one number nor one for each coordinate."""
    x, v = torch.zeros(2, 3, 2), torch.rand(2, 3, 2)
    eps = torch.tensor([[[0.1], [0.2], [0.0]]], dtype=torch.float64)
    moved = Ball(norm, eps).around(x).project(v)
    assert torch.equal(moved, Ball(norm, eps.expand(2, 3, 2)).around(x).project(v))
    assert (moved[:, 2] == 0).all() and (moved[:, :2] != 0).any(dim=(1, 2)).all()


def test_radii_too_small_for_squares_and_points_far_away() -> None:
    for norm, eps, far in itertools.product(("l2", "l1"), (1e-300, 1e-200, 1.0), (1.0, 1e100, 1e300)):
        sets = Ball(norm, eps).around(torch.zeros(1, 5, dtype=torch.float64))
        assert sets.contains(sets.project(far * torch.randn(1, 5, dtype=torch.float64))).all()
