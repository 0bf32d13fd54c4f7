"""The tail of geometric means of Cauchy variables, against its exact distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from verifix.bounds.tail import LARGEST_INFLATION, inflation, log_tail, rows_for


def exact_tail(s: float, k: int) -> float:
    """``P(sum of k log|C| <= -k s)``: every term has characteristic function ``1 / cosh(pi w / 2)``."""

    def integrand(w: float) -> float:
        return math.sin(w * k * s) / w * math.exp(-k * math.log(math.cosh(math.pi * w / 2))) if w else k * s

    value, _ = quad(integrand, 0, 40 / math.sqrt(k), limit=2000, epsabs=1e-13)
    return 0.5 - value / math.pi


@pytest.mark.parametrize("k", [2, 3, 5, 10, 50, 200, 2000])
@pytest.mark.parametrize("z", [0.1, 0.5, 1.0, 2.0, 3.0, 4.5])
def test_the_bound_holds_and_is_near(k: int, z: float) -> None:
    s = z * math.pi / 2 / math.sqrt(k)  # so many standard deviations
    exact, bound = exact_tail(s, k), math.exp(log_tail(s, k))
    assert exact <= bound + 1e-12
    if z >= 2 and k >= 3:
        assert bound <= 2 * exact + 1e-12


@given(st.floats(1e-3, 20), st.integers(2, 5000))
def test_it_never_exceeds_the_bound_of_the_thesis(s: float, k: int) -> None:
    eps = -math.expm1(-s)
    a = 2 / math.pi * math.log1p(-eps)
    thesis = -k * (-0.5 * math.log1p(a * a) + a * math.atan(a))
    assert log_tail(s, k) <= thesis + 1e-9 * abs(thesis)


def test_single_draws_fail_no_more_often_than_the_level() -> None:
    generator = torch.Generator().manual_seed(0)
    logs = torch.empty(200_000, 20, dtype=torch.float64).cauchy_(generator=generator).abs().log().mean(1)
    for level in (0.2, 0.05, 0.01, 1e-3):
        failed = int((logs + math.log(inflation(math.log(level), 20)) < 0).sum())
        assert 0.4 * level < failed / len(logs) < level


def test_the_largest_of_groups_fails_as_often_and_is_larger() -> None:
    generator = torch.Generator().manual_seed(1)
    logs = torch.empty(40_000, 100, dtype=torch.float64).cauchy_(generator=generator).abs().log()
    level = 0.01
    one = logs.mean(1).exp() * inflation(math.log(level), 100)
    largest = logs.reshape(-1, 5, 20).mean(2).amax(1).exp() * inflation(math.log(level), 20, 5)
    assert int((largest < 1).sum()) <= level * len(logs)
    assert one.mean() < largest.mean()


@given(st.floats(-40, -0.1), st.integers(2, 3000))
def test_inflation_inverts_the_tail_from_the_sound_side(log_level: float, k: int) -> None:
    factor = inflation(log_level, k)
    if factor > 1 and factor < 1e200:
        s = math.log(factor)
        assert log_tail(s, k) <= log_level
        assert log_tail(s * (1 - 1e-6), k) > log_level


@pytest.mark.parametrize("log_level", [-2.0, -14.0, -30.0])
@pytest.mark.parametrize("factor", [1.05, 1.25, LARGEST_INFLATION])
def test_rows_for_is_the_least(log_level: float, factor: float) -> None:
    k = rows_for(log_level, factor)
    assert inflation(log_level, k) <= factor < inflation(log_level, k - 1)


def test_the_example_of_the_thesis() -> None:
    """Section 3.4.6: delta = 0.01, m = 10, N = 6572 asks for 0.26 of each group; k = 200 with eps = 0.22 do."""
    wanted = (0.01 / 6572) ** (1 / 10)
    assert wanted == pytest.approx(0.26, abs=0.005)
    assert math.exp(log_tail(-math.log1p(-0.22), 200)) < wanted
    # of the same 2,000 rows, one group needs no larger factor than ten groups of the thesis had, and no maximum
    assert inflation(math.log(0.01 / 6572), 2000) < 1 / (1 - 0.22)


def test_vectors_of_levels_are_monotone() -> None:
    factors = [inflation(level, 50) for level in np.linspace(-30, -0.01, 50)]
    assert factors == sorted(factors, reverse=True)
