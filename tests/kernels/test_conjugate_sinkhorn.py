"""Conjugate Sinkhorn: points of the ball, a bound above all of them, and how both close in on the exact maximum."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_sinkhorn import cheapest, euclidean, images, masses, uneven
from verifix.errors import InvalidValue
from verifix.kernels.sinkhorn import conjugate_sinkhorn
from verifix.kernels.transport_linear import linear_support


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.just(2), st.integers(1, 2), st.integers(1, 4), st.integers(1, 5)),
    symmetric=st.booleans(),
    eps=st.floats(1e-4, 2.0),
    regularisation=st.sampled_from([0.1, 10.0, 1000.0, 1e6]),
    max_sweeps=st.sampled_from([0, 1, 100]),
)
def test_value_and_bound_around_the_exact_maximum(
    seed: int, shape: tuple[int, ...], symmetric: bool, eps: float, regularisation: float, max_sweeps: int
) -> None:
    x, _ = images(shape, seed)
    g = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cost, budget = (euclidean(5) if symmetric else uneven(3, seed)), eps * masses(x)
    exact = linear_support(x, g, torch.arange(2), cost, budget)[0]
    found = conjugate_sinkhorn(x, g, cost, budget, regularisation=regularisation, max_sweeps=max_sweeps)
    size = 1e-9 * (1 + g.abs().sum((1, 2, 3)))
    assert bool((found.upper >= exact - size).all())
    assert bool((found.value <= exact + size).all())
    assert bool((found.plan_cost <= budget).all())
    assert torch.allclose(found.z.sum((2, 3)), x.sum((2, 3)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("cost", [euclidean(3), uneven(3)], ids=["euclidean", "uneven"])
def test_points_have_cheap_plans(cost: torch.Tensor) -> None:
    x, _ = images((2, 1, 4, 4))
    g = torch.randn_like(x)
    found = conjugate_sinkhorn(x, g, cost, 0.1 * masses(x), regularisation=30.0)
    for i in range(2):
        assert cheapest(x[i], found.z[i], cost) <= 0.1 * float(masses(x)[i]) * (1 + 1e-7)
    assert torch.allclose(found.value, (g * found.z).sum((1, 2, 3)))


def test_less_entropy_is_tighter() -> None:
    x, _ = images((2, 1, 8, 8))
    g = torch.randn_like(x)
    budget = 0.1 * masses(x)
    exact = linear_support(x, g, torch.arange(2), euclidean(5), budget)[0]
    gaps = []
    for regularisation in (10.0, 100.0, 1000.0):
        found = conjugate_sinkhorn(x, g, euclidean(5), budget, regularisation=regularisation, max_sweeps=1000)
        assert bool(found.converged.all())
        gaps.append((found.upper - found.value).amax().item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01 * exact.abs().amax().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_at_the_edges(dtype: torch.dtype) -> None:
    x, g = images((5, 1, 3, 4), dtype=dtype)
    x[0], x[2, 0, 0, 0], g[3, 0, 0, 0] = 0, -1, math.nan
    budget = 0.1 * masses(x)
    budget[1], budget[4] = 0, math.inf
    found = conjugate_sinkhorn(x, g, euclidean(3), budget)
    assert torch.equal(found.z[:2], x[:2]) and found.converged.tolist() == [True, True, False, False, False]
    assert bool((found.upper[:2] >= found.value[:2]).all())
    assert bool(found.z[2:].isnan().all()) and bool(found.upper[2:].isnan().all())


def test_operator_and_bad_arguments() -> None:
    x, g = images((2, 1, 3, 4))
    torch.library.opcheck(
        torch.ops.verifix.conjugate_sinkhorn.default, (x, g, euclidean(3), 0.1 * masses(x), 10.0, 1e-6, 50)
    )
    with pytest.raises(InvalidValue, match="g = "):
        conjugate_sinkhorn(x, g.float(), euclidean(3), 0.1 * masses(x))
    with pytest.raises(InvalidValue, match="max_sweeps = -1"):
        conjugate_sinkhorn(x, g, euclidean(3), 0.1 * masses(x), max_sweeps=-1)
