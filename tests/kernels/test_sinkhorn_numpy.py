"""The compiled projected Sinkhorn, called directly with numpy arrays: torch takes no part, so sanitizers can watch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address


def costs(window: int, symmetric: bool, seed: int) -> Array:
    side = np.arange(window) - window // 2
    cost = np.hypot(side[:, None], side).reshape(-1)
    if not symmetric:
        cost = np.random.default_rng(seed).uniform(0.5, 2, window * window)
        cost[window * window // 2] = 0
    return cost


ANY_CALL: dict[str, Any] = {
    "shape": st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 20), st.integers(1, 36)),
    "window": st.sampled_from([1, 3, 5, 7, 9]),
    "symmetric": st.booleans(),
    "dtype": st.sampled_from([np.float32, np.float64]),
    "seed": st.integers(0, 1000),
    "threads": st.integers(1, 3),
}
"""Images of every size, windows, costs and threads; conjugate Sinkhorn takes the same."""


def project(
    x: Array, w: Array, cost: Array, budget: Array, *, max_sweeps: int = 50, threads: int = 1, isa: str = "base",
    regularisation: float = 1000.0, change: dict[str, Any] | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    """z, column residual, plan cost, multiplier, sweeps, converged."""
    n = len(x)
    z = np.full_like(x, 7)
    numbers = [*(np.full(n, 7.0) for _ in range(3)), np.full(n, 7), np.full(n, False)]
    shape = [*x.shape, round(len(cost) ** 0.5)]
    arguments = {
        "x": address(x), "w": address(w), "cost": address(cost), "budget": address(budget), "shape": shape,
        "rule": [regularisation, 1e-3, 1.9, 0.35], "max_sweeps": max_sweeps, "z": address(z),
        "numbers": [address(number) for number in numbers], "dtype": x.dtype.name, "threads": threads, "isa": isa,
    }  # fmt: skip
    _C.projected_sinkhorn(**(arguments | (change or {})))
    return z, *numbers


@settings(max_examples=40, deadline=None)
@given(
    **ANY_CALL,
    regularisation=st.sampled_from([10.0, 1000.0, 1e5]),
)
def test_any_shape(
    shape: tuple[int, ...], window: int, symmetric: bool, dtype: Any, seed: int, threads: int, regularisation: float
) -> None:
    """The same bits from all instruction sets; mass stays in its channel, and the cost is within the budget."""
    random = np.random.default_rng(seed)
    x = np.maximum(random.uniform(-0.5, 1, shape), 0).astype(dtype)
    w = x + random.choice([-0.1, 0.1], shape).astype(dtype)
    mass = x.sum((1, 2, 3), dtype=np.float64)
    cost, budget = costs(window, symmetric, seed), 0.1 * mass
    wanted = project(x, w, cost, budget, max_sweeps=12, regularisation=regularisation)
    for isa in ISAS:
        found = project(x, w, cost, budget, max_sweeps=12, regularisation=regularisation, threads=threads, isa=isa)
        for got, want in zip(found, wanted, strict=True):
            assert np.array_equal(got, want)
    z, residual, plan_cost, multiplier, sweeps, _ = wanted
    assert (z >= 0).all() and np.isfinite(residual).all() and (plan_cost <= budget).all() and (multiplier >= 0).all()
    assert ((sweeps >= 0) & (sweeps <= 12)).all()
    rounding = 1e-6 if dtype == np.float32 else 1e-13
    moved = np.abs(z.sum((2, 3), dtype=np.float64) - x.sum((2, 3), dtype=np.float64))
    assert (moved <= rounding * (mass[:, None] + 1e-300)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [-1, 1, 3, 3, 3]}, "sizes must be >= 0"),
        ({"shape": [1, 1, 3, 3, 4]}, "windows odd"),
        ({"shape": [2**30, 2**10, 3, 3, 3]}, r"more than 2\^40"),
        ({"shape": [2**40, 2**40, 2**40, 2**40, 3]}, r"more than 2\^40"),
        ({"rule": [0.0, 1e-3, 1.9, 0.3]}, "regularisation"),
        ({"rule": [1e3, float("nan"), 1.9, 0.3]}, "tolerance"),
        ({"rule": [1e3, 1e-3, 2.0, 0.3]}, "relaxation"),
        ({"rule": [1e3, 1e-3, 1.9, 1.0]}, "momentum"),
        ({"max_sweeps": -1}, "sweeps"),
        ({"x": 0}, "a null pointer"),
        ({"z": 0}, "a null pointer"),
        ({"budget": 0}, "a null pointer"),
        ({"cost": 0}, "a null pointer"),
        ({"dtype": "float16"}, "dtype = float16"),
        ({"threads": 0}, "threads = 0"),
        ({"isa": "sse"}, "isa = sse"),
    ],
)
def test_second_line_of_defence(change: dict[str, Any], message: str) -> None:
    x, cost, budget = np.ones((1, 1, 3, 3)), costs(3, True, 0), np.ones(1)
    assert project(x, x, cost, budget)[5].all()
    with pytest.raises(ValueError, match=message):
        project(x, x, cost, budget, change=change)


@pytest.mark.parametrize("cost", [[1.0] * 9, [0.0] * 9, [-1.0] * 4 + [0.0] + [1.0] * 4, [float("inf")] * 4 + [0.0] * 5])
def test_costs_that_cannot_be(cost: list[float]) -> None:
    x = np.ones((1, 1, 3, 3))
    with pytest.raises(ValueError, match="must be 0 at the center"):
        project(x, x, np.array(cost), np.ones(1))
