"""Projected Sinkhorn: against the paper's algorithm, against scipy, and that every point is in the ball."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.special import lambertw
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import native, sinkhorn_reference
from verifix.kernels.sinkhorn import SinkhornResult, projected_sinkhorn
from verifix.kernels.sinkhorn_reference import Rule, around, gathered

FIELDS = ("z", "column_residual", "plan_cost", "multiplier", "sweeps", "converged")
quick = settings(max_examples=25)


def euclidean(window: int) -> Tensor:
    radius = window // 2
    sides = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return torch.hypot(sides[:, None], sides).reshape(-1)


def uneven(window: int, seed: int = 0) -> Tensor:
    """Costs without any symmetry."""
    cost = torch.rand(window * window, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    cost[window * window // 2] = 0
    return cost


def images(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images with black pixels, and points to project: a step of 0.1 of either sign for each pixel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    x = torch.where(x > 0.4, x, 0.0)
    w = x + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64).sign()
    return x.to(dtype), w.to(dtype)


def masses(x: Tensor) -> Tensor:
    return x.double().sum((1, 2, 3))


def equal(a: SinkhornResult, b: SinkhornResult) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def cheapest(x: Tensor, z: Tensor, cost: Tensor) -> float:
    """The least cost of a plan of the window from x to z, (C, H, W), by linear programming; inf where there is none."""
    channels, height, width = x.shape
    radius = math.isqrt(len(cost)) // 2
    moves = [
        (c * height * width + i * width + j, c * height * width + p * width + q,
         float(cost[(p - i + radius) * (2 * radius + 1) + q - j + radius]))
        for c in range(channels) for i in range(height) for j in range(width)
        for p in range(max(0, i - radius), min(height, i + radius + 1))
        for q in range(max(0, j - radius), min(width, j + radius + 1))
    ]  # fmt: skip
    size, count = x.numel(), len(moves)
    rows = np.zeros((2 * size, count))
    for number, (source, target, _) in enumerate(moves):
        rows[source, number] = rows[size + target, number] = 1
    goal = np.concatenate([x.double().numpy().reshape(-1), z.double().numpy().reshape(-1)])
    goal[size:] *= goal[:size].sum() / goal[size:].sum()
    found = linprog([move[2] for move in moves], A_eq=rows, b_eq=goal, method="highs")
    return float(found.fun) if found.success else math.inf


def algorithm_8(x: Tensor, w: Tensor, cost: Tensor, eps: float, regularisation: float, sweeps: int) -> Tensor:
    """The paper's pseudocode, for one image of mass 1."""
    radius = math.isqrt(len(cost)) // 2
    c = cost.reshape(-1, 1, 1, 1)
    beta, psi = torch.full_like(x, -math.log(x.numel())), 1.0
    for _ in range(sweeps):
        kernel = torch.exp(-psi * c - 1)
        v = around(beta.exp(), radius)
        u = x / (kernel * v).sum(0)
        arrives = gathered(kernel * u, radius)
        argument = regularisation * torch.exp(regularisation * w) * arrives
        beta = regularisation * w - torch.from_numpy(lambertw(argument.numpy()).real)
        plan = kernel * u * around(beta.exp(), radius)
        gradient, curvature = float((c * plan).sum()) - eps, float((c * c * plan).sum())
        step = 1.0
        while psi + step * gradient / curvature < 0:
            step /= 2
            if step < 1e-9:
                step = 0.0
        psi += step * gradient / curvature
    return w - beta / regularisation


@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize(("regularisation", "eps"), [(100.0, 0.1), (1000.0, 0.02)])
def test_the_papers_algorithm_run_to_the_end(window: int, regularisation: float, eps: float) -> None:
    x, w = images((1, 2, 6, 7))
    mass = masses(x)
    cost = euclidean(window)
    found = projected_sinkhorn(x, w, cost, eps * mass, regularisation=regularisation, tolerance=1e-9, max_sweeps=5000)
    assert bool(found.converged)
    wanted = algorithm_8(x[0] / mass, w[0] / mass, cost, eps, regularisation, 800) * mass
    assert float((found.z[0] - wanted).abs().sum() / mass) < 5e-9


def by_dual_ascent(x: Tensor, w: Tensor, cost: Tensor, eps: float, regularisation: float) -> Tensor:
    """Equation (5.6) maximised by scipy over alpha, beta and psi; only pixels with mass have an alpha."""
    radius = math.isqrt(len(cost)) // 2
    source, c = x.reshape(-1) > 0, cost.reshape(-1, 1, 1, 1)
    inside = around(torch.ones_like(x), radius) > 0
    size = x.numel()

    def negative(variables: Any) -> tuple[float, Any]:
        point = torch.tensor(variables, requires_grad=True)
        alpha = torch.where(source, point[:size], -math.inf).reshape(x.shape)
        beta, psi = point[size : 2 * size].reshape(x.shape), point[-1]
        plan = torch.exp(alpha - psi * c - 1 + torch.where(inside, around(beta, radius), -math.inf))
        linear = (torch.where(source, point[:size], 0.0) * x.reshape(-1)).sum() + (beta * w).sum()
        value = -((beta**2).sum() / (2 * regularisation) - linear + psi * eps + plan.sum())
        (-value).backward()
        assert point.grad is not None
        return -float(value.detach()), point.grad.numpy()

    start = np.concatenate([np.zeros(2 * size), np.ones(1)])
    bounds = [(None, None)] * (2 * size) + [(0, None)]
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 40}
    found = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return w - torch.from_numpy(found.x[size : 2 * size]).reshape(x.shape) / regularisation


@pytest.mark.parametrize("cost", [euclidean(3), uneven(3)], ids=["euclidean", "uneven"])
@pytest.mark.parametrize("eps", [0.05, 5.0])
def test_scipy_on_nine_pixels(cost: Tensor, eps: float) -> None:
    x, w = images((1, 1, 3, 3), seed=1)
    mass = masses(x)
    found = projected_sinkhorn(x, w, cost, eps * mass, regularisation=50.0, tolerance=1e-9)
    assert bool(found.converged)
    assert (eps == 5.0) == (float(found.multiplier) == 0)
    reached = around(x[0], 1).sum(0) > 0
    wanted = torch.where(reached, by_dual_ascent(x[0] / mass, w[0] / mass, cost, eps, 50.0), 0.0) * mass
    assert float((found.z[0] - wanted).abs().max()) < 2e-6


@pytest.mark.parametrize("window", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("costs", [euclidean, uneven])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_code_does_what_the_reference_does(window: int, costs: Any, dtype: torch.dtype) -> None:
    x, w = images((3, 2, 5, 18), dtype=dtype)
    budget, cost = 0.1 * masses(x), costs(window)
    rule = Rule(1000.0, 1e-4, 300, 1.9, 0.35)
    wanted = SinkhornResult(*sinkhorn_reference.projected_sinkhorn(x, w, cost, budget, rule))
    found = projected_sinkhorn(x, w, cost, budget, tolerance=1e-4, max_sweeps=300)
    assert bool((found.converged == wanted.converged).all()) and bool((window == 1) | found.converged.all())
    assert torch.allclose(found.z, wanted.z, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-6)
    assert int((found.sweeps - wanted.sweeps).abs().max()) <= (0 if dtype == torch.float64 else 2)
    assert bool((found.plan_cost <= budget).all())
    assert bool((found.column_residual[found.converged] <= 1e-4).all())


@pytest.mark.parametrize("costs", [euclidean, uneven])
@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instruction_sets_threads_and_batches_give_the_same_bits(
    window: int, costs: Any, dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = images((5, 3, 17, 21), dtype=dtype)
    budget, cost = 0.1 * masses(x), costs(window)
    monkeypatch.setattr(native, "isa", lambda: "base")
    wanted = projected_sinkhorn(x, w, cost, budget)
    monkeypatch.setattr(native, "isa", lambda: isa)
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert equal(projected_sinkhorn(x, w, cost, budget), wanted)
    alone = [projected_sinkhorn(x[i : i + 1], w[i : i + 1], cost, budget[i : i + 1]) for i in range(5)]
    assert torch.equal(torch.cat([one.z for one in alone]), wanted.z)
    assert torch.equal(torch.cat([one.sweeps for one in alone]), wanted.sweeps)


@quick
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.just(1), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    window=st.sampled_from([3, 5]),
    eps=st.floats(1e-4, 1.0),
    regularisation=st.sampled_from([1.0, 100.0, 3000.0, 1e5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    max_sweeps=st.sampled_from([0, 1, 5, 400]),
    size=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_every_point_is_in_the_ball(
    seed: int, shape: tuple[int, ...], window: int, eps: float, regularisation: float, dtype: torch.dtype,
    max_sweeps: int, size: float,
) -> None:  # fmt: skip
    """Converged or not: a linear program finds a plan that is cheap enough."""
    x, w = images(shape, seed, dtype)
    w = x + size / 0.1 * (w - x)
    mass, cost = masses(x), euclidean(window)
    found = projected_sinkhorn(x, w, cost, eps * mass, regularisation=regularisation, max_sweeps=max_sweeps)
    assert int(found.sweeps) <= max_sweeps
    assert bool((found.z >= 0).all())
    assert float(found.plan_cost) <= eps * float(mass)
    rounding = 1e-6 if dtype == torch.float32 else 1e-13
    assert float((masses(found.z) - mass).abs()) <= rounding * float(mass)
    if float(mass) > 0:
        largest = float(cost.max()) * rounding * float(mass)
        for plane in range(shape[1]):
            lost = abs(float(found.z[0, plane].double().sum() - x[0, plane].double().sum()))
            assert lost <= rounding * float(mass)
        if dtype == torch.float64:
            assert cheapest(x[0], found.z[0], cost) <= eps * float(mass) * (1 + 1e-7) + 10 * largest + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_regularisation_neither_overflows_nor_leaves_the_ball(dtype: torch.dtype) -> None:
    """exp(lambda w) is 10^2000 here."""
    x, w = images((2, 1, 8, 8), dtype=dtype)
    mass, cost = masses(x), euclidean(5)
    found = projected_sinkhorn(x, w, cost, 0.1 * mass, regularisation=1e5, max_sweeps=3000, tolerance=1e-2)
    assert bool(torch.isfinite(found.z).all()) and bool((found.plan_cost <= 0.1 * mass).all())
    assert bool(torch.isfinite(found.column_residual).all())
    near = projected_sinkhorn(x, w, cost, 0.1 * mass, regularisation=1000.0)
    nearer, farther = ((w - one.z).double().square().sum((1, 2, 3)) for one in (found, near))
    assert bool((nearer < farther).all())


def test_the_budget_is_used_and_the_residual_is_that_of_the_paper() -> None:
    x, w = images((2, 1, 9, 9))
    mass = masses(x)
    found = projected_sinkhorn(x, w, euclidean(5), 0.05 * mass, tolerance=1e-6)
    assert bool(found.converged.all())
    assert torch.allclose(found.plan_cost, 0.05 * mass, rtol=2e-6, atol=0)
    one = sinkhorn_reference._Projection(x[0] / mass[0], w[0] / mass[0], euclidean(5), 0.05, Rule(1e3, 1e-6, 0, 1, 0))
    for _ in range(int(found.sweeps[0])):
        one.sweep()
    assert float(found.column_residual[0]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_at_the_edges(dtype: torch.dtype) -> None:
    """All zero; budget 0; a black channel; one bright pixel in a corner; what is no image."""
    x, w = images((8, 2, 4, 5), dtype=dtype)
    x[0] = 0
    x[2, 0] = 0
    x[3] = 0
    x[3, 1, 0, 0] = 1
    x[4, 0, 0, 0] = math.nan
    w[5, 0, 0, 0] = math.inf
    x[6, 1, 2, 2] = -0.1
    budget = 0.1 * masses(x).nan_to_num(1)
    budget[1], budget[7] = 0, math.nan
    found = projected_sinkhorn(x, w, euclidean(3), budget, regularisation=100.0)
    assert torch.equal(found.z[:2], x[:2]) and found.sweeps[:2].tolist() == [0, 0]
    assert found.converged.tolist() == [True, True, True, True, False, False, False, False]
    assert bool(found.z[2:4].isfinite().all()) and bool((found.z[2, 0] == 0).all())
    assert bool((found.z[3, 0] == 0).all()) and float(found.z[3].sum()) == pytest.approx(1, rel=1e-6)
    assert bool(found.z[4:].isnan().all()) and bool(found.column_residual[4:].isnan().all())
    rule = Rule(100.0, 1e-3, 1000, 1.9, 0.35)
    wanted = SinkhornResult(*sinkhorn_reference.projected_sinkhorn(x, w, euclidean(3), budget, rule))
    assert torch.allclose(found.z, wanted.z, atol=1e-5, equal_nan=True)
    assert torch.equal(found.converged, wanted.converged)


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 0, 4, 4), (2, 1, 0, 4), (2, 1, 4, 0)])
def test_empty_batches_and_images(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    found = projected_sinkhorn(x, x, euclidean(5), torch.ones(shape[0], dtype=torch.float64))
    assert found.z.shape == shape and bool(found.converged.all())


@pytest.mark.parametrize("cost", [euclidean(5), uneven(3)], ids=["euclidean", "uneven"])
def test_operator(cost: Tensor) -> None:
    x, w = images((2, 1, 4, 5))
    arguments = (x, w, cost, 0.1 * masses(x), 1000.0, 1e-3, 50, 1.9, 0.35)
    torch.library.opcheck(torch.ops.verifix.projected_sinkhorn.default, arguments)
    transposed = projected_sinkhorn(x.mT.contiguous().mT, w, cost, arguments[3])
    assert equal(transposed, projected_sinkhorn(x, w, cost, arguments[3]))


GOOD: dict[str, Any] = {
    "x": torch.rand(2, 1, 3, 3), "w": torch.rand(2, 1, 3, 3), "cost": euclidean(3),
    "budget": torch.ones(2, dtype=torch.float64),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(2, 3, 3)}, "x.shape"),
        ({"x": torch.rand(2, 1, 3, 3).half()}, "x.dtype"),
        ({"w": torch.rand(2, 1, 3, 4)}, "w = "),
        ({"w": torch.rand(2, 1, 3, 3).double()}, "w = "),
        ({"cost": torch.ones(4, dtype=torch.float64)}, "window of odd size"),
        ({"cost": torch.ones(9, dtype=torch.float64)}, "0 at the center"),
        ({"cost": torch.zeros(9, dtype=torch.float64)}, "positive elsewhere"),
        ({"cost": euclidean(3).float()}, "torch.float64"),
        ({"cost": euclidean(3) * math.inf}, "0 at the center"),
        ({"budget": torch.ones(3, dtype=torch.float64)}, "budget"),
        ({"budget": torch.ones(2)}, "budget"),
        ({"regularisation": 0.0}, "regularisation = 0.0"),
        ({"regularisation": math.nan}, "regularisation = nan"),
        ({"tolerance": -1.0}, "tolerance = -1.0"),
        ({"max_sweeps": -1}, "max_sweeps = -1"),
        ({"relaxation": 2.0}, "relaxation = 2.0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        projected_sinkhorn(**(GOOD | change))


@pytest.mark.parametrize("change", [{"x": 1.0}, {"budget": 0.1}, {"regularisation": "1"}, {"tolerance": True}])
def test_bad_types(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidType):
        projected_sinkhorn(**(GOOD | change))
