"""The compiled transport plans, called directly with numpy arrays: torch takes no part, so sanitizers can watch.

All instruction sets, numbers of threads and the CUDA code on the host agree in every bit, and with the conditions that
only the projection meets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.cuda_on_host import build
from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address

Shape = tuple[int, int, int, int, int]  # n, channels, window, height, width
Run = Callable[..., None]


@functools.cache
def host() -> Any:
    return build([Path(__file__).with_name("transport_project_on_host.cpp")])


def everywhere(name: str) -> list[Run]:
    """The function of that name, in every way to run it."""
    cpu, cuda = getattr(_C, name), getattr(host(), name)
    ways = [functools.partial(cpu, threads=threads, isa=isa) for isa in ISAS for threads in (1, 3)]
    return [*ways, *(functools.partial(cuda, stream=order) for order in (0, 1))]


def project(run: Run, plan: Array, x: Array, cost: Array, budget: Array, start: Array | None) -> tuple[Array, Array]:
    shape = (*plan.shape[:2], int(np.sqrt(plan.shape[2])), *plan.shape[3:])
    out, multiplier = np.full_like(plan, 7), np.full(len(plan), -7.0)
    run(
        plan=address(plan), x=address(x), cost=address(cost), budget=address(budget), start=address(start),
        out=address(out), multiplier=address(multiplier), shape=shape, dtype=plan.dtype.name,
    )  # fmt: skip
    return out, multiplier


def everyone_projects(*arguments: Any) -> tuple[Array, Array]:
    first, *others = [project(run, *arguments) for run in everywhere("project_plan")]
    for other in others:
        assert np.array_equal(first[0], other[0], equal_nan=True)
        assert np.array_equal(first[1], other[1], equal_nan=True)
    return first


def inside(window: int, height: int, width: int) -> Array:
    """(K, H, W): whether an offset ends in the image."""
    d = np.arange(window**2)[:, None, None]
    i, j = np.arange(height)[:, None] + d // window - window // 2, np.arange(width) + d % window - window // 2
    return (i >= 0) & (i < height) & (j >= 0) & (j < width)


def euclidean(window: int) -> Array:
    step = np.arange(window) - window // 2
    return np.hypot(step[:, None], step).ravel().astype(float)


def problem(shape: Shape, dtype: Any, seed: int) -> tuple[Array, Array, Array]:
    """A plan, an image with black pixels, and costs, some of them equal."""
    n, channels, window, height, width = shape
    numbers = np.random.default_rng(seed)
    x = numbers.random((n, channels, height, width)) * (numbers.random((n, channels, height, width)) < 0.6)
    x = x.astype(dtype)
    plan = numbers.standard_normal((n, channels, window**2, height, width)).astype(dtype)
    plan *= dtype(numbers.choice([0.01, 1.0, 100.0]))
    plan[:, :, window**2 // 2] += x
    return plan, x, euclidean(window)


def check_conditions(plan: Array, x: Array, cost: Array, budget: Array, out: Array, multiplier: Array) -> None:
    """That the answer is feasible, and that its gradient is a combination of those of the constraints (KKT)."""
    wide, moved = plan.astype(float), out.astype(float)
    kept = np.broadcast_to(inside(int(np.sqrt(len(cost))), *x.shape[2:]), moved.shape)
    price = cost[:, None, None]
    spent = (moved * price).sum((1, 2, 3, 4))
    rounding = 1e-6 if plan.dtype == np.float32 else 1e-9
    assert (moved >= 0).all()
    assert not moved[~kept].any()
    assert (spent <= budget).all()
    assert (np.abs(moved.sum(2) - x) <= (1e-6 if plan.dtype == np.float32 else 1e-14) * x).all()
    finite = np.where(np.isfinite(budget), budget, 0.0)
    scale = np.abs(np.where(kept, wide, 0)).max(initial=0) + 1 + multiplier.max(initial=0)
    assert ((multiplier == 0) | (finite - spent <= 3 * rounding * finite + 1e-13 * scale)).all()
    assert (multiplier >= 0).all()
    # what is left of each entry is the threshold of its row where it is positive, and at most that elsewhere; what
    # shrinking moves for the sake of the budget stays in the center, and is no more than rounding
    left = np.where(kept, wide - multiplier[:, None, None, None, None] * price - moved, -np.inf)
    threshold = np.where(moved > 2 * rounding * x[:, :, None], left, np.inf).min(2, keepdims=True)
    excess = np.where(np.isfinite(threshold), left - threshold, 0)
    assert excess.max(initial=0) <= 4 * rounding * scale


shapes = st.tuples(
    st.integers(0, 3), st.integers(1, 2), st.sampled_from([1, 3, 5, 7, 9]), st.integers(1, 6), st.integers(1, 20)
)
budgets = st.sampled_from([0.0, 1e-9, 0.01, 0.3, 1.0, 50.0, np.inf])
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(shapes, st.sampled_from([np.float32, np.float64]), budgets, st.booleans(), st.integers(0, 2**32))
def test_conditions_of_the_projection(shape: Shape, dtype: Any, eps: float, warm: bool, seed: int) -> None:
    plan, x, cost = problem(shape, dtype, seed)
    mass = x.astype(float).sum((1, 2, 3))
    budget = np.full(len(x), np.inf) if eps == np.inf else eps * mass
    start = np.random.default_rng(seed).random(len(x)) if warm else None
    out, multiplier = everyone_projects(plan, x, cost, budget, start)
    check_conditions(plan, x, cost, budget, out, multiplier)
    again, still = everyone_projects(out, x, cost, budget, None)
    assert np.array_equal(again, out)
    assert not still.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_costs_that_are_equal_or_nothing(dtype: Any) -> None:
    plan, x, _ = problem((2, 1, 3, 5, 4), dtype, 1)
    for cost in (np.zeros(9), np.where(np.arange(9) == 4, 0.0, 1.0), np.array([0, 0, 1, 1, 0, 1, 1, 0, 2.0])):
        budget = 0.2 * x.astype(float).sum((1, 2, 3))
        out, multiplier = everyone_projects(plan, x, cost, budget, None)
        check_conditions(plan, x, cost, budget, out, multiplier)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_without_a_projection_get_nan_and_no_other_does(dtype: Any) -> None:
    plan, x, cost = problem((9, 1, 3, 4, 4), dtype, 2)
    x[:, :, 1, 1] = 0.5
    budget = np.full(9, 0.7)
    wanted = everyone_projects(plan, x, cost, budget, None)
    plan[0, 0, 2, 1, 1] = np.nan
    plan[1, 0, 2, 1, 1] = np.inf
    x[2, 0, 0, 0] = np.nan
    x[3, 0, 0, 0] = -1e-9
    x[4, 0, 0, 0] = np.inf
    budget[5], budget[6] = np.nan, -1.0
    plan[7, 0, 0, 0, :] = np.nan  # leaves the image, upwards
    x[8] = 0
    plan[8] = np.nan  # no mass to move
    out, multiplier = everyone_projects(plan, x, cost, budget, np.full(9, np.nan))
    assert np.isnan(out[:7]).all()
    assert np.isnan(multiplier[:7]).all()
    assert np.allclose(out[7], wanted[0][7], rtol=1e-6 if dtype == np.float32 else 1e-12)
    assert not out[8].any()
    assert multiplier[8] == 0
    out, multiplier = everyone_projects(plan, x, np.where(cost > 1, np.nan, cost), np.ones(9), None)
    assert np.isnan(out).all()
    assert np.isnan(multiplier).all()


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30])
def test_any_scale(size: float) -> None:
    plan, x, cost = problem((2, 1, 3, 4, 4), np.float64, 3)
    budget = 0.1 * x.sum((1, 2, 3))
    wanted, multiplier = everyone_projects(plan, x, cost, budget, None)
    out, scaled = everyone_projects(plan * size, x * size, cost, budget * size, None)
    assert np.allclose(out / size, wanted, rtol=1e-9, atol=1e-12)
    assert np.allclose(scaled / size, multiplier, rtol=1e-9)


@quick
@given(shapes, st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32))
def test_images_of_plans_and_their_adjoint(shape: Shape, dtype: Any, seed: int) -> None:
    n, channels, window, height, width = shape
    numbers = np.random.default_rng(seed)
    plan = numbers.integers(-99, 99, (n, channels, window**2, height, width)).astype(dtype)  # sums of these are exact
    g = numbers.integers(-99, 99, (n, channels, height, width)).astype(dtype)
    wide, reach, r = np.zeros((n, channels, height + 2 * window, width + 2 * window)), window, window // 2
    spread = np.zeros_like(plan)
    padded = np.pad(g, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    for d in range(window**2):
        rows = slice(reach + d // window - r, reach + d // window - r + height)
        columns = slice(reach + d % window - r, reach + d % window - r + width)
        wide[:, :, rows, columns] += plan[:, :, d]
        spread[:, :, d] = padded[:, :, rows, columns]
    image = wide[:, :, reach : reach + height, reach : reach + width]
    settled: dict[str, Any] = {"shape": shape, "dtype": np.dtype(dtype).name}
    for run in everywhere("plan_image"):
        got = np.full_like(g, 7)
        run(plan=address(plan), image=address(got), **settled)
        assert np.array_equal(got, image)
    for run in everywhere("plan_gradient"):
        got = np.full_like(plan, 7)
        run(image=address(g), plan=address(got), **settled)
        assert np.array_equal(got, spread)


def test_what_cannot_be_is_refused() -> None:
    x = np.zeros(1)
    for shape in ((1, 1, 2, 1, 1), (-1, 1, 3, 1, 1), (2**31, 2**31, 3, 2**31, 1)):
        with pytest.raises(ValueError, match="shape"):
            _C.plan_image(plan=0, image=0, shape=shape, dtype="float64", threads=1, isa="base")
    with pytest.raises(ValueError, match="null pointer"):
        _C.plan_gradient(image=address(x), plan=0, shape=(1, 1, 1, 1, 1), dtype="float64", threads=1, isa="base")
    with pytest.raises(ValueError, match="threads"):
        _C.plan_image(plan=address(x), image=address(x), shape=(1,) * 5, dtype="float64", threads=0, isa="base")
