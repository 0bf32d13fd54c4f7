"""Exact transport distances and membership, against linear programs over all pairs of pixels and known values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.sets.wasserstein.programs import cheapest
from verifix.kernels.transport_project import plan_gradient, plan_image, project_plan
from verifix.sets import Wasserstein
from verifix.sets.wasserstein.distance import channel_cost, contains, distance
from verifix.sets.wasserstein.ground import GROUNDS
from verifix.sets.wasserstein.plans import check_plan

FLOW: dict[str, Any] = {"ground": "l1", "window": None, "transport": "flow"}


def images(seed: int, n: int = 2, shape: tuple[int, int, int] = (2, 3, 4), dtype: Any = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=dtype)
    x = torch.where(torch.rand(n, *shape, generator=generator) < 0.6, x, 0.0)
    x[:, 0, 0, 0] = 1.0
    return x


def moved(ball: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Random plans within the budget of each ball, and their images."""
    x, cost = ball.center, ball.cost
    generator = torch.Generator().manual_seed(seed + 1)
    plan = plan_gradient(torch.randn(x.shape, generator=generator, dtype=x.dtype), math.isqrt(len(cost)))
    plan[:, :, len(cost) // 2] += x
    plan, _ = project_plan(plan, x, cost, ball.budget)
    return plan, plan_image(plan)


@given(
    st.sampled_from(GROUNDS), st.sampled_from([1, 3, 5]), st.sampled_from(["normalised", "raw"]),
    st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=15)
def test_of_images_that_plans_make(ground: Any, window: int, mass: Any, eps: float, seed: int) -> None:
    ball = Wasserstein(eps, ground, window, mass).around(images(seed))
    plan, z = moved(ball, seed)
    found = distance(ball, z)
    unit = ball.center.sum((1, 2, 3)) if mass == "normalised" else torch.ones(2, dtype=torch.float64)
    for i in range(2):
        assert float(found[i] * unit[i]) == pytest.approx(cheapest(ball, i, z[i].numpy()), abs=1e-7)
    spent = check_plan(plan, ball.center, ball.cost, ball.budget).cost / unit
    assert (found <= spent + 1e-9).all()
    assert contains(ball, z, 1e-9).all()
    closer = Wasserstein(found * 0.99 - 1e-7 if eps == 1.0 else found.clamp(max=0), ground, window, mass)
    if bool((torch.as_tensor(closer.eps) >= 0).all()) and bool((found > 1e-3).all()):
        assert not contains(closer.around(ball.center), z).any()


@given(st.integers(0, 2**32))
@settings(max_examples=5)
def test_flows_reach_as_far_as_windows_that_hold_the_image(seed: int) -> None:
    x, z = images(seed), images(seed + 1)
    z = z * (x.sum((2, 3), keepdim=True) / z.sum((2, 3), keepdim=True).clamp(min=1e-9))
    kept = (z.sum((2, 3)) > 0).all(1) & (x.sum((2, 3)) > 0).all(1)
    x, z = x[kept], z[kept]
    flow = distance(Wasserstein(1.0, **FLOW).around(x), z)
    window = distance(Wasserstein(1.0, "l1", 7).around(x), z)
    assert torch.allclose(flow, window, atol=1e-7)
    assert torch.allclose(distance(Wasserstein(1.0, **FLOW).around(x.flip(2)), z.flip(2)), flow, atol=1e-7)


def test_known_distances() -> None:
    x, z = torch.zeros(1, 2, 4, 4, dtype=torch.float64), torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 0], x[0, 1, 3, 3] = 0.25, 0.75
    z[0, 0, 1, 2], z[0, 1, 3, 3] = 0.25, 0.75
    assert float(Wasserstein(0.0).distance(x, z)) == pytest.approx(0.25 * math.sqrt(5))
    assert float(Wasserstein(0.0, "squared-euclidean").distance(2 * x, 2 * z)) == pytest.approx(0.25 * 5)
    assert float(Wasserstein(0.0, "l1", mass="raw").distance(2 * x, 2 * z)) == pytest.approx(1.5)
    assert float(Wasserstein(0.0, **FLOW).distance(x, z)) == pytest.approx(0.75)
    assert float(Wasserstein(0.0, window=3).distance(x, z)) == math.inf
    assert float(Wasserstein(0.0).distance(x, x)) == 0
    assert float(Wasserstein(0.0).distance(x, x.flip(1))) == math.inf  # mass does not change the channel
    assert float(Wasserstein(0.0, **FLOW).distance(x, 1.001 * x)) == math.inf
    assert float(Wasserstein(0.0).distance(x, -x)) == math.inf
    assert float(Wasserstein(0.0).distance(x, x * torch.nan)) == math.inf


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5])
def test_rounding_to_float32_does_not_leave_the_ball(eps: float) -> None:
    ball = Wasserstein(eps).around(images(3, n=4, shape=(1, 9, 9), dtype=torch.float32))
    _, z = moved(ball, 3)
    assert z.dtype == torch.float32
    assert contains(ball, z).all()
    assert torch.isfinite(distance(ball, z)).all()
    off = z.clone()
    off[:, :, 4, 4] += 1e-3
    assert not contains(ball, off).any()


def test_membership_without_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image itself, and what another mass, a negative or missing number, the box or a linear form rules out."""

    def refuse(*_: Any) -> float:
        raise AssertionError("a linear program was solved")

    monkeypatch.setattr("verifix.sets.wasserstein.distance.channel_cost", refuse)
    x = images(5, n=1)
    far = x.flip(3)
    for variant in ("balanced", "balanced-box", "clamp-after"):
        ball = Wasserstein(0.01, variant=variant).around(x)
        assert contains(ball, x).all()
        assert not contains(ball, -x).any()
        assert not contains(ball, x * torch.nan).any()
        assert not contains(ball, x, tolerance=-1.0).any()
        if variant != "balanced":
            assert not contains(ball, x * 1.5).any()
        if variant != "clamp-after":
            assert not contains(ball, x * 0.999).any()
            assert not contains(ball, far).any()


def test_what_clamping_leaves() -> None:
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    x[0, 0, 0] = torch.tensor([0.8, 0.6, 0.0], dtype=torch.float64)
    z = torch.tensor([[[[0.0, 1.0, 0.0]]]], dtype=torch.float64)  # all of it in the middle, 0.4 lost
    after = Wasserstein(0.8 / 1.4, window=3, variant="clamp-after")
    assert float(after.distance(x, z)) == pytest.approx(0.8 / 1.4)
    assert after.contains(x, z, 1e-9).all()
    assert not Wasserstein(0.79 / 1.4, window=3, variant="clamp-after").contains(x, z).any()
    assert not Wasserstein(9.0, window=3).contains(x, z).any()
    full = torch.tensor([[[[0.0, 1.4, 0.0]]]], dtype=torch.float64)
    assert Wasserstein(0.6, window=3).contains(x, full).all()
    assert not Wasserstein(0.6, window=3, variant="balanced-box").contains(x, full).any()
    assert not after.contains(x, full).any()
    assert float(after.distance(x, full)) == math.inf


@pytest.mark.parametrize("kind", [{}, FLOW])
@pytest.mark.parametrize("variant", ["balanced", "balanced-box", "clamp-after"])
def test_where_nothing_can_move(kind: dict[str, Any], variant: Any) -> None:
    """A black channel gains nothing, a black image neither, and a single pixel keeps what it has."""
    threat = Wasserstein(0.1, mass="raw", variant=variant, **kind)
    x = images(3)[:1]
    x[:, 1] = 0
    more = x.clone()
    more[0, 1, 0, 0] = 0.1
    pixel = x[:, :1, :1, :1]
    for center, z in ((x, more), (0 * x, x), (x, 0 * x), (pixel, 0.5 * pixel), (0.5 * pixel, pixel)):
        assert threat.distance(center, z).tolist() == [math.inf]
        assert threat.contains(center, z).tolist() == [False]
        assert threat.contains(center, center).tolist() == [True]
    assert threat.distance(pixel, pixel * (1 + 2.0**-40)).tolist() == [0.0]


def test_what_a_plan_violates() -> None:
    ball = Wasserstein(0.3).around(images(6))
    plan, z = moved(ball, 6)
    x, cost, budget = ball.center, ball.cost, ball.budget
    clean = check_plan(plan, x, cost, budget, (0.0, 9.0))
    assert clean.feasible(1e-9).all()
    assert not check_plan(plan, x, cost, clean.cost * 0.99).feasible(1e-9).any()
    assert torch.allclose(check_plan(plan, x, cost, clean.cost - 0.1).excess, torch.full((2,), 0.1).double())
    assert torch.allclose(check_plan(plan, x, cost, budget, (0.0, 0.5)).outside, z.amax((1, 2, 3)) - 0.5)
    worse = plan.clone()
    worse[0, 0, 12, 0, 0] -= 0.25 + plan[0, 0, 12, 0, 0]
    report = check_plan(worse, x, cost, budget)
    assert float(report.negative[0]) == pytest.approx(0.25)
    assert float(report.mass[0] * x[0].sum()) == pytest.approx(0.25 + float(plan[0, 0, 12, 0, 0]))
    assert float(report.rows[0]) == pytest.approx(0.25 + float(plan[0, 0, 12, 0, 0]))
    assert report.feasible(1e-9).tolist() == [False, True]
    worse = plan.clone()
    worse[1, 0, 0, 0, 0] = 0.5  # up and to the left of the corner
    assert float(check_plan(worse, x, cost, budget).leaving[1]) == 0.5
    assert not check_plan(plan * torch.nan, x, cost, budget).feasible(1e-9).any()


def test_against_pot() -> None:
    """Another solver, on 28 x 28, where it is installed; every pixel may send to every other one."""
    ot = pytest.importorskip("ot")
    numbers = np.random.default_rng(0)
    x, z = (np.where(numbers.random((28, 28)) < 0.05, numbers.random((28, 28)), 0.0) for _ in range(2))
    z *= x.sum() / z.sum()
    place = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij"), -1).reshape(-1, 2).astype(float)
    from_, to = x.ravel() > 0, z.ravel() > 0
    for norm, cost in ((1, None), (2, np.hypot(*np.meshgrid(np.arange(-27, 28), np.arange(-27, 28))).ravel())):
        metric = np.linalg.norm(place[from_][:, None] - place[to][None], ord=norm, axis=2)
        wanted = ot.emd2(x.ravel()[from_], z.ravel()[to], metric)
        assert channel_cost(x, z, cost, 2.0**-30) == pytest.approx(wanted, rel=1e-7)
