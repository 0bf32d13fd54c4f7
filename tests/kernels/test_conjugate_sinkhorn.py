"""Conjugate Sinkhorn: points of the ball, a bound above all of them, and how both close in on the exact maximum."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_sinkhorn import cheapest, euclidean, images, masses, uneven
from verifix.errors import InvalidValue
from verifix.kernels import native, sinkhorn_reference
from verifix.kernels.sinkhorn import ConjugateResult, conjugate_sinkhorn
from verifix.kernels.sinkhorn_reference import around
from verifix.kernels.transport_linear import linear_support

FIELDS = ("z", "value", "upper", "plan_cost", "multiplier", "sweeps", "converged")


def forms(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images with black pixels, and linear forms."""
    g = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return images(shape, seed, dtype)[0], g.to(dtype)


def edges(x: Tensor, g: Tensor) -> Tensor:
    """Makes six images and forms special; their budgets."""
    x[0], x[2, 0, 0, 0], g[3, 0, 0, 0], x[5, 0, 1, 1] = 0, -1, math.nan, math.inf
    budget = 0.1 * masses(x).nan_to_num(1, 1)
    budget[1], budget[4] = 0, math.inf
    return budget


def equal(a: ConjugateResult, b: ConjugateResult) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def check_conjugate(
    found: ConjugateResult, x: Tensor, g: Tensor, cost: Tensor, budget: Tensor, regularisation: float
) -> None:
    """Against the reference. Where lambda is large, steps of the multiplier amplify the rounding of lambda g."""
    wanted = ConjugateResult(*sinkhorn_reference.conjugate_sinkhorn(x, g, cost, budget, regularisation, 1e-6, 100))
    rounding, of_bound = (1e-12, 1e-12) if regularisation <= 1 else (1e-6, 1e-9)
    assert torch.equal(found.converged, wanted.converged)
    assert torch.equal(found.sweeps, wanted.sweeps)
    for name, relative in {"value": rounding, "plan_cost": rounding, "multiplier": rounding, "upper": of_bound}.items():
        assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=relative, atol=1e-13, equal_nan=True)
    entries = rounding if x.dtype == torch.float64 else 1e-6
    assert torch.allclose(found.z, wanted.z, rtol=0, atol=entries, equal_nan=True)
    assert bool((found.plan_cost <= budget).logical_or(found.plan_cost.isnan()).all())


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


@pytest.mark.parametrize("window", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("costs", [euclidean, uneven])
@pytest.mark.parametrize("regularisation", [1.0, 1000.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_code_does_what_the_reference_does(
    window: int, costs: Any, regularisation: float, dtype: torch.dtype
) -> None:
    x, g = forms((3, 2, 5, 18), dtype=dtype)
    budget, cost = 0.1 * masses(x), costs(window)
    found = conjugate_sinkhorn(x, g, cost, budget, regularisation=regularisation)
    check_conjugate(found, x, g, cost, budget, regularisation)
    assert bool(found.converged.all())


@pytest.mark.parametrize("costs", [euclidean, uneven])
@pytest.mark.parametrize("window", [3, 5, 7, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instruction_sets_threads_and_batches_give_the_same_bits(
    window: int, costs: Any, dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, g = forms((5, 3, 17, 21), dtype=dtype)
    budget, cost = 0.1 * masses(x), costs(window)
    monkeypatch.setattr(native, "isa", lambda: "base")
    wanted = conjugate_sinkhorn(x, g, cost, budget)
    monkeypatch.setattr(native, "isa", lambda: isa)
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert equal(conjugate_sinkhorn(x, g, cost, budget), wanted)
    alone = [conjugate_sinkhorn(x[i : i + 1], g[i : i + 1], cost, budget[i : i + 1]) for i in range(5)]
    for name in FIELDS:
        assert torch.equal(torch.cat([getattr(one, name) for one in alone]), getattr(wanted, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_at_the_edges(dtype: torch.dtype) -> None:
    """All zero; budget 0; what is no image, no form and no budget."""
    x, g = forms((6, 1, 4, 5), dtype=dtype)
    budget = edges(x, g)
    found = conjugate_sinkhorn(x, g, euclidean(3), budget)
    assert torch.equal(found.z[:2], x[:2]) and found.converged.tolist() == [True, True] + 4 * [False]
    assert bool((found.upper[:2] >= found.value[:2]).all()) and found.upper[0] == 0
    assert bool(found.z[2:].isnan().all()) and bool(found.upper[2:].isnan().all())
    check_conjugate(found, x, g, euclidean(3), budget, 1000.0)


@pytest.mark.parametrize("size", [1.0, 1e6, 1e300])
@pytest.mark.parametrize("regularisation", [1e-12, 1e6, 1e12, 1e300])
def test_nothing_overflows(regularisation: float, size: float) -> None:
    """exp(lambda g) is beyond any number; the point, its cost and the bound are good all the same."""
    x, g = forms((2, 1, 6, 7))
    g, budget = size * g, 0.1 * masses(x)
    found = conjugate_sinkhorn(x, g, euclidean(5), budget, regularisation=regularisation, max_sweeps=300)
    exact = linear_support(x, g, torch.arange(2), euclidean(5), budget)[0]
    assert bool(found.z.isfinite().all()) and bool((found.z >= 0).all())
    assert torch.allclose(found.z.sum((2, 3)), x.sum((2, 3)), rtol=1e-12, atol=0)
    assert bool((found.plan_cost <= budget).all())
    assert cheapest(x[0], found.z[0], euclidean(5)) <= float(budget[0]) * (1 + 1e-7)
    assert bool((found.value <= exact + 1e-9 * exact.abs()).all())
    assert not bool((found.upper < exact - 1e-9 * exact.abs()).any())  # a bound that overflows is none, and not finite


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.just(1), st.integers(1, 2), st.integers(1, 4), st.integers(1, 5)),
    regularisation=st.sampled_from([0.1, 10.0, 1e6]),
    eps=st.sampled_from([0.0, 1e-3, 0.3]),
    max_sweeps=st.sampled_from([0, 2, 100]),
)
def test_the_bound_is_above_the_dual_in_exact_arithmetic(
    seed: int, shape: tuple[int, ...], regularisation: float, eps: float, max_sweeps: int
) -> None:
    """At the price that was found, in fractions: no rounding makes the bound too small."""
    x, g = forms(shape, seed)
    cost, budget = uneven(3, seed), eps * masses(x)
    found = conjugate_sinkhorn(x, g, cost, budget, regularisation=regularisation, max_sweeps=max_sweeps)
    price = Fraction(float(found.multiplier) / regularisation)
    beside, inside = around(g[0], 1), around(torch.ones_like(g[0]), 1) > 0
    value = price * Fraction(float(budget))
    for at in (x[0] > 0).nonzero().tolist():
        nets = [
            Fraction(float(beside[(d, *at)])) - (price * Fraction(float(cost[d])) if eps > 0 else 0)
            for d in (range(9) if eps > 0 else [4])
            if inside[(d, *at)]
        ]
        value += Fraction(float(x[(0, *at)])) * max(nets)
    assert Fraction(float(found.upper)) >= value


def test_bounds_of_products_that_underflow() -> None:
    """1e-320 cannot be had from 1e-170 times 1e-150 with what flushes it to zero; the bound is above it still."""
    x = torch.full((1, 1, 1, 2), 1e-170, dtype=torch.float64)
    g = torch.tensor([[[[0.0, 1e-160]]]], dtype=torch.float64)
    for eps in (0.0, 1e-171):
        budget = torch.tensor([eps], dtype=torch.float64)
        assert float(conjugate_sinkhorn(x, g, euclidean(3), budget).upper) > 0


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 0, 4, 4), (2, 1, 0, 4), (2, 1, 4, 0)])
def test_empty_batches_and_images(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    found = conjugate_sinkhorn(x, x, euclidean(5), torch.ones(shape[0], dtype=torch.float64))
    assert found.z.shape == shape and bool(found.converged.all()) and bool((found.upper == 0).all())


@pytest.mark.parametrize("cost", [euclidean(5), uneven(3)], ids=["euclidean", "uneven"])
def test_operator(cost: Tensor) -> None:
    x, g = forms((2, 1, 3, 4))
    budget = 0.1 * masses(x)
    torch.library.opcheck(torch.ops.verifix.conjugate_sinkhorn.default, (x, g, cost, budget, 10.0, 1e-6, 50))
    transposed = conjugate_sinkhorn(x.mT.contiguous().mT, g, cost, budget)
    assert equal(transposed, conjugate_sinkhorn(x, g, cost, budget))


def test_bad_arguments() -> None:
    x, g = forms((2, 1, 3, 4))
    with pytest.raises(InvalidValue, match="g = "):
        conjugate_sinkhorn(x, g.float(), euclidean(3), 0.1 * masses(x))
    with pytest.raises(InvalidValue, match="max_sweeps = -1"):
        conjugate_sinkhorn(x, g, euclidean(3), 0.1 * masses(x), max_sweeps=-1)
