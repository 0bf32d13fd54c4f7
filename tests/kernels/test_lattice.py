"""Noise on a lattice: tables against exact probabilities, what they cost in total variation, draws, and checks."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from tests.kernels.plans import Array
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.lattice import LatticeTable, buckets, check_lattice, lattice_table
from verifix.kernels.noise import add_lattice_noise

CASES = [
    ("gaussian", 0.25, 255),
    ("gaussian", 1.0, 255),
    ("gaussian", 0.12, 1),
    ("gaussian", 1e-4, 255),
    ("laplace", 0.25, 255),
    ("laplace", 0.7, 16),
    ("uniform", 0.5, 255),
    ("uniform", 1.0, 3),
    ("uniform", 0.1, 3),
]


def below(law: str, scale: float, levels: int, k: int) -> mpmath.mpf:
    """P(rint(levels * scale * Z) <= k) to the digits of the context."""
    z, spread = mpmath.mpf(2 * k + 1) / 2, levels * mpmath.mpf(scale)
    if law == "gaussian":
        return mpmath.ncdf(z / spread)
    if law == "laplace":
        return mpmath.exp(z / spread) / 2 if z < 0 else 1 - mpmath.exp(-z / spread) / 2
    return min(max((z + spread) / (2 * spread), mpmath.mpf(0)), mpmath.mpf(1))


def masses(table: LatticeTable) -> dict[int, Fraction]:
    """The probability of every number of steps as it is drawn, from the thresholds."""
    lower = [int(threshold) for threshold in table.thresholds]
    edges = [0, *lower, *(2**64 - threshold for threshold in reversed(lower)), 2**64]
    steps = range(-table.steps, table.steps + 1)
    return {k: Fraction(high - low, 2**64) for k, low, high in zip(steps, edges[:-1], edges[1:], strict=True)}


@pytest.mark.parametrize(("law", "scale", "levels"), CASES)
def test_tables_are_the_law_up_to_their_total_variation(law: str, scale: float, levels: int) -> None:
    """Every mass is within one unit of 2**-64; half the sum of the differences, tails included, is what is stated."""
    table = lattice_table(law, scale, levels)
    drawn = masses(table)
    assert sum(drawn.values()) == 1
    assert all(drawn[k] == drawn[-k] for k in drawn)
    assert list(table.thresholds) == sorted(table.thresholds)
    with mpmath.workdps(60):
        total, unit, last = mpmath.mpf(0), mpmath.mpf(2) ** -64, below(law, scale, levels, -table.steps - 1)
        for k, mass in drawn.items():
            here = below(law, scale, levels, k)
            difference = abs(mpmath.mpf(mass.numerator) / mass.denominator - (here - last))
            assert difference <= unit * (1 + mpmath.mpf(10) ** -20)
            total, last = total + difference, here
        tails = 2 * below(law, scale, levels, -table.steps - 1)
        assert tails <= unit
        exact = (total + tails) / 2
        assert exact <= table.total_variation <= exact * (1 + mpmath.mpf(10) ** -9) + mpmath.mpf(2) ** -80
    assert table.total_variation < 1e-15


@pytest.mark.parametrize(("law", "scale", "levels"), CASES)
def test_guides_decide_by_the_upper_bits_only_where_those_decide(law: str, scale: float, levels: int) -> None:
    table = lattice_table(law, scale, levels)
    upper = [int(threshold) >> 32 for threshold in table.thresholds]
    near = np.array([value + offset for value in upper for offset in (-1, 0, 1)], np.int64)
    draws = np.concatenate(
        [near, np.arange(300), 2**31 - 1 - np.arange(300), np.random.default_rng(0).integers(0, 2**31, 3000)]
    )
    draws = draws[(draws >= 0) & (draws < 2**31)]
    rows = table.guide.numpy()[buckets(draws, table.guide_shift)]
    for draw, (count, inside) in zip(draws.tolist(), rows.tolist(), strict=True):
        if count >= 0 and draw != inside:
            fewest, most = (bisect.bisect_right(table.thresholds.tolist(), draw << 32 | low) for low in (0, 2**32 - 1))
            assert fewest == most == count + (draw > inside)


def test_hardly_any_draw_needs_a_search() -> None:
    """At the scales that are used; where it does not matter that a table is wide, its tails may."""
    for law, scale in (("gaussian", 0.25), ("gaussian", 1.0), ("laplace", 0.5), ("uniform", 1.0)):
        table = lattice_table(law, scale, 255)
        uppers = np.random.default_rng(1).integers(0, 2**31, 200_000)
        searched = (table.guide.numpy()[buckets(uppers, table.guide_shift), 0] < 0).mean()
        assert searched < 2 * 2.0**-12


def draws(table: LatticeTable, samples: int, seed: int) -> Array:
    """Steps of so many samples of 500 coordinates."""
    x, inputs = torch.zeros(1, 500, dtype=torch.float64), torch.tensor([3])
    names: dict[str, Any] = {"seed": seed, "purpose": 1, "start": 0, "count": samples}
    noisy = add_lattice_noise(x, inputs, levels=table.levels, table=table, **names)
    return np.rint(noisy.numpy() * table.levels).astype(np.int64).ravel()


@pytest.mark.parametrize(("law", "scale", "levels"), CASES)
def test_draws_have_the_law(law: str, scale: float, levels: int) -> None:
    """Chi-square against the exact masses, cells of fewer than 20 expected draws merged; fails by chance with
    probability 1e-6, once for the fixed seed."""
    table = lattice_table(law, scale, levels)
    steps = draws(table, samples=2000, seed=12)
    exact = np.array([float(mass) for mass in masses(table).values()])
    counts = np.bincount(steps + table.steps, minlength=len(exact))
    expected = exact * len(steps)
    rare = expected < 20
    if rare.all() or len(exact) == 1:
        assert (steps == 0).all()
        return
    cells = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    used = cells[1] > 0
    statistic = ((cells[0] - cells[1]) ** 2 / np.where(used, cells[1], 1))[used].sum()
    assert cells[0][~used].sum() == 0
    assert statistic <= chi2.isf(1e-6, max(used.sum() - 1, 1))


def test_noisy_inputs_are_rounded_once_and_not_clipped() -> None:
    table = lattice_table("gaussian", 1.0, 255)
    positions = torch.randint(0, 256, (2, 40))
    for dtype in (torch.float32, torch.float64):
        x = positions.to(dtype) / 255
        names: dict[str, Any] = {"levels": 255, "table": table, "seed": 1, "purpose": 0, "start": 0, "count": 50}
        noisy = add_lattice_noise(x, torch.arange(2), **names)
        moved = (noisy.double() * 255).round().to(torch.int64)
        assert torch.equal(noisy, (moved.to(dtype) / 255))
        assert moved.min() < 0 and moved.max() > 255
        again = add_lattice_noise(torch.zeros_like(x), torch.arange(2), **names)
        assert torch.equal(moved - positions[:, None], (again.double() * 255).round().to(torch.int64))


@given(levels=st.integers(1, 65535), seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_points_of_a_lattice_are_found(levels: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    k = torch.randint(-(2**22), 2**22 + 1, (3, 50), generator=generator).to(torch.int32)
    k[0] = torch.randint(0, levels + 1, (50,), generator=generator).to(torch.int32)
    x = k.to(dtype) / torch.tensor(levels, dtype=dtype)
    assert torch.equal(check_lattice(x, levels), k)
    off = x.clone()
    off[1, 7] = torch.nextafter(off[1, 7], torch.tensor(math.inf, dtype=dtype))
    with pytest.raises(InvalidValue, match=r"x\[1\] = "):
        check_lattice(off, levels)


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (torch.tensor([[0.0, 1.0], [0.5, 0.1]]), 255, r"x\[1\] = 0.5: an entry is not a multiple of 1/255"),
        (torch.tensor([[0.0], [math.nan]]), 255, r"x\[1\] = nan"),
        (torch.tensor([math.inf, 0.0]), 255, r"x\[0\] = inf"),
        (torch.tensor([2.0**23]), 1, r"x\[0\] = 8388608.0"),
        (torch.zeros(1), 0, "levels = 0: must be from 1 to 65535"),
        (torch.zeros(1), 65536, "levels = 65536: must be from 1 to 65535"),
    ],
)
def test_what_is_not_on_a_lattice(x: torch.Tensor, levels: int, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        check_lattice(x, levels)


def test_no_inputs_are_on_every_lattice() -> None:
    assert check_lattice(torch.zeros(0, 5), 255).shape == (0, 5)
    assert check_lattice(torch.zeros(2, 0), 255).shape == (2, 0)


@pytest.mark.parametrize(
    ("law", "scale", "levels", "error", "message"),
    [
        ("cauchy", 1.0, 255, InvalidValue, "law = cauchy: must be one of gaussian, laplace, uniform"),
        ("gaussian", 0.0, 255, InvalidValue, "scale = 0.0: must be a positive number"),
        ("gaussian", -1.0, 255, InvalidValue, "scale = -1.0: must be a positive number"),
        ("gaussian", math.nan, 255, InvalidValue, "scale = nan"),
        ("gaussian", math.inf, 255, InvalidValue, "scale = inf"),
        ("gaussian", 1000.0, 255, InvalidValue, "scale = 1000.0: noise goes too far on 255 levels; use at most 110"),
        ("gaussian", abs, 255, InvalidType, "scale is a builtin_function_or_method: pass a number"),
        ("gaussian", 1.0, 0, InvalidValue, "levels = 0"),
        ("gaussian", 1.0, 2.0, InvalidType, "levels is a float"),
    ],
)
def test_tables_that_are_not_made(law: str, scale: Any, levels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lattice_table(law, scale, levels)


def test_tables_are_made_once() -> None:
    assert lattice_table("gaussian", 0.25, 255) is lattice_table("gaussian", 0.25, 255)
