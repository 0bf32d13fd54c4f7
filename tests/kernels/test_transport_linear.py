"""Linear forms over balls of transport plans: the contract, the reference, and soundness in exact arithmetic."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import native, transport_linear_reference
from verifix.kernels.transport_linear import linear_maximiser, linear_support
from verifix.sets.wasserstein.ground import GROUNDS, window_cost, window_offsets

DTYPES = (torch.float32, torch.float64)


def drawn(
    seed: int, dtype: torch.dtype, n: int = 2, m: int = 3, shape: tuple[int, int, int] = (2, 4, 5), window: int = 5
) -> dict[str, Tensor]:
    """Arguments of both operators."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(n, *shape, generator=generator) < 0.5, x, 0.0)
    g = torch.randn(m, *shape, generator=generator, dtype=torch.float64)
    if seed % 3 == 0:
        x, g = (2 * x).round() / 2, g.round()
    if seed % 5 == 0:
        g[:, 0], g[:, :, :2] = 0, 0
    return {
        "x": x.to(dtype),
        "g": g.to(dtype),
        "which": torch.randint(n, (m,), generator=generator),
        "cost": window_cost(GROUNDS[seed % 3], window),
        "budget": torch.rand(n, generator=generator, dtype=torch.float64) * (0.0, 0.3, 3.0, 1000.0)[seed % 4],
    }


@given(
    st.integers(0, 2**32),
    st.sampled_from(DTYPES),
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from((1, 3, 5, 7)),
)
@settings(max_examples=50)
def test_reference_gives_the_same_bits(seed: int, dtype: torch.dtype, shape: tuple[int, int, int], window: int) -> None:
    arguments = drawn(seed, dtype, shape=shape, window=window)
    x, g, which, cost, budget = arguments.values()
    row = torch.arange(len(g))
    wanted = [*linear_support(**arguments), *linear_maximiser(**arguments)]
    got = [
        *transport_linear_reference.linear_support(x, g, which, row, cost, budget),
        *transport_linear_reference.linear_maximiser(x, g, which, row, cost, budget),
    ]
    for native_result, reference_result in zip(wanted, got, strict=True):
        assert torch.equal(native_result, reference_result)


def exact_maximum(x: Tensor, g: Tensor, cost: Tensor, budget: float) -> Fraction:
    """The maximum in rational arithmetic: the smallest dual value over all multipliers where a pixel changes."""
    k = math.isqrt(len(cost))
    pixels: list[tuple[Fraction, list[tuple[Fraction, Fraction]]]] = []
    for c, i, j in itertools.product(*map(range, x.shape)):
        if x[c, i, j] == 0:
            continue
        places = []
        for (di, dj), price in zip(window_offsets(k).tolist(), cost.tolist(), strict=True):
            if 0 <= i + di < x.shape[1] and 0 <= j + dj < x.shape[2]:
                places.append((Fraction(float(g[c, i + di, j + dj])), Fraction(price)))
        pixels.append((Fraction(float(x[c, i, j])), places))
    lams = {Fraction(0)}
    for _, places in pixels:
        for (a, ca), (b, cb) in itertools.combinations(places, 2):
            if ca != cb and (a - b) / (ca - cb) > 0:
                lams.add((a - b) / (ca - cb))
    if budget == 0:
        lams = {max(lams)}

    def dual(lam: Fraction) -> Fraction:
        gains = sum((mass * max(a - lam * c for a, c in places) for mass, places in pixels), Fraction(0))
        return lam * Fraction(budget) + gains

    return min(dual(lam) for lam in lams)


@given(st.integers(0, 2**32), st.sampled_from(DTYPES), st.sampled_from((1.0, 1e-30, 1e30, 1e-300)))
@settings(max_examples=40)
def test_never_below_the_maximum_in_exact_arithmetic(seed: int, dtype: torch.dtype, scale: float) -> None:
    arguments = drawn(seed, dtype, shape=(1, 3, 3), window=3)
    arguments["g"] = arguments["g"] * scale
    upper, _ = linear_support(**arguments)
    for pair, image in enumerate(arguments["which"].tolist()):
        x, g = arguments["x"][image], arguments["g"][pair]
        maximum = exact_maximum(x, g, arguments["cost"], float(arguments["budget"][image]))
        size = float(g.double().abs().max()) * float(x.double().sum())
        assert Fraction(float(upper[pair])) >= maximum
        assert Fraction(float(upper[pair])) - maximum <= Fraction(1e-12 * size + 1e-290)


def test_maximiser_is_a_point_of_the_ball_in_float64() -> None:
    """Its plan is at most two places for each pixel; the value is what the upper bound says."""
    for seed in range(30):
        arguments = drawn(seed, torch.float64, m=5)
        z, value, plan_cost = linear_maximiser(**arguments)
        upper, _ = linear_support(**arguments)
        x, budget = arguments["x"][arguments["which"]], arguments["budget"][arguments["which"]]
        assert (plan_cost <= budget).all()
        assert (z >= 0).all()
        torch.testing.assert_close(z.sum((2, 3)), x.sum((2, 3)), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close((z * arguments["g"]).sum((1, 2, 3)), value, rtol=1e-12, atol=1e-12)
        assert (upper >= value).all()
        torch.testing.assert_close(upper, value, rtol=1e-11, atol=1e-11)


def test_rows_in_pairs() -> None:
    """A row that several images share is the same as a row for each."""
    arguments = drawn(7, torch.float32, n=4, m=3)
    row, which = torch.tensor([2, 2, 0, 1, 2]), torch.tensor([3, 0, 1, 1, 2])
    shared = linear_support(**{**arguments, "which": which}, row=row)
    apart = linear_support(**{**arguments, "g": arguments["g"][row], "which": which})
    assert torch.equal(shared[0], apart[0])
    assert torch.equal(shared[1], apart[1])


@pytest.mark.parametrize("budget", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_constant_rows(value: float, budget: float) -> None:
    """Whatever is moved, the form is its value times the mass."""
    arguments = drawn(1, torch.float64)
    arguments["g"] = torch.full_like(arguments["g"], value)
    arguments["budget"] = torch.full_like(arguments["budget"], budget)
    upper, _ = linear_support(**arguments)
    wanted = value * arguments["x"].sum((1, 2, 3))[arguments["which"]]
    torch.testing.assert_close(upper, wanted, rtol=1e-12, atol=1e-290)
    assert (upper >= wanted - 1e-13).all()


def test_budget_of_zero_and_without_limit() -> None:
    arguments = drawn(1, torch.float64)
    zero, _ = linear_support(**{**arguments, "budget": torch.zeros(2, dtype=torch.float64)})
    x = arguments["x"][arguments["which"]]
    torch.testing.assert_close(zero, (x * arguments["g"]).sum((1, 2, 3)), rtol=1e-12, atol=1e-12)
    free = torch.full((2,), torch.inf, dtype=torch.float64)
    upper, multiplier = linear_support(**{**arguments, "budget": free})
    largest = torch.nn.functional.max_pool2d(arguments["g"], 5, 1, 2)
    torch.testing.assert_close(upper, (x * largest).sum((1, 2, 3)), rtol=1e-12, atol=1e-12)
    assert (multiplier == 0).all()


def test_costs_that_are_all_equal() -> None:
    arguments = drawn(2, torch.float64, shape=(1, 3, 3), window=3)
    cost = torch.ones(9, dtype=torch.float64)
    cost[4] = 0
    upper, _ = linear_support(**{**arguments, "cost": cost})
    for pair, image in enumerate(arguments["which"].tolist()):
        maximum = exact_maximum(arguments["x"][image], arguments["g"][pair], cost, float(arguments["budget"][image]))
        assert float(upper[pair]) == pytest.approx(float(maximum), rel=1e-12)


def test_black_image() -> None:
    arguments = drawn(1, torch.float64)
    upper, multiplier = linear_support(**{**arguments, "x": torch.zeros(2, 2, 4, 5, dtype=torch.float64)})
    z, value, plan_cost = linear_maximiser(**{**arguments, "x": torch.zeros(2, 2, 4, 5, dtype=torch.float64)})
    for zeros in (upper, multiplier, z, value, plan_cost):
        assert (zeros == 0).all()


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("place", [0, 17, 39])
def test_what_is_not_finite_is_never_a_finite_bound(
    place: int, reference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reference:
        monkeypatch.setattr(native, "module_or_none", lambda name: None)
    for name, value in (("g", math.nan), ("g", math.inf), ("g", -math.inf), ("x", math.nan), ("x", -1.0)):
        arguments = drawn(1, torch.float32, n=1, m=1)
        arguments["x"][:] = 0.5
        arguments["which"][:] = 0
        arguments["budget"][:] = 0.5
        arguments[name].flatten()[place] = value
        upper, _ = linear_support(**arguments)
        assert not (upper < math.inf).any(), (name, value)
        if name == "g":
            assert math.isnan(float(upper)) == math.isnan(value)
    for budget in (math.nan, -1.0):
        arguments = drawn(1, torch.float32, n=1, m=1)
        arguments["budget"][:] = budget
        arguments["which"][:] = 0
        assert linear_support(**arguments)[0].isnan().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 3}, InvalidType, "x is a int"),
        ({"x": torch.zeros(2, 4, 5)}, InvalidValue, "x.shape"),
        ({"x": torch.zeros(2, 2, 4, 5, dtype=torch.float16)}, InvalidValue, "x.dtype"),
        ({"g": torch.zeros(3, 2, 4, 4)}, InvalidValue, "g = "),
        ({"g": torch.zeros(3, 2, 4, 5, dtype=torch.float64)}, InvalidValue, "must be torch.float32"),
        ({"which": torch.tensor([0, 1])}, InvalidValue, "which.shape"),
        ({"which": torch.tensor([0, 1, 2])}, InvalidValue, r"which\[2\] = 2: must be from 0 to 1"),
        ({"which": torch.tensor([0, 1, 1], dtype=torch.int32)}, InvalidValue, "torch.int64"),
        ({"row": torch.tensor([0, 3, 1])}, InvalidValue, r"row\[1\] = 3"),
        ({"row": [0, 1, 2]}, InvalidType, "row is a list"),
        ({"cost": torch.zeros(16, dtype=torch.float64)}, InvalidValue, "k odd"),
        ({"cost": torch.zeros(9)}, InvalidValue, "torch.float64"),
        ({"cost": torch.ones(9, dtype=torch.float64)}, InvalidValue, r"cost\[4\] = 1.0"),
        ({"cost": torch.full((9,), torch.nan, dtype=torch.float64)}, InvalidValue, r"cost\[0\] = nan"),
        ({"budget": torch.zeros(3, dtype=torch.float64)}, InvalidValue, "budget"),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        linear_support(**{**drawn(1, torch.float32), **change})
    with pytest.raises(error, match=message):
        linear_maximiser(**{**drawn(1, torch.float32), **change})


@pytest.mark.parametrize("name", ["linear_support", "linear_maximiser"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_operator(name: str, dtype: torch.dtype) -> None:
    x, g, which, cost, budget = drawn(1, dtype).values()
    operator = getattr(torch.ops.verifix, name).default
    torch.library.opcheck(operator, (x, g, which, torch.arange(len(g)), cost, budget))
    empty = torch.zeros(0, dtype=torch.int64)
    torch.library.opcheck(operator, (x, g, empty, empty, cost, budget))


def test_layout_does_not_matter() -> None:
    arguments = drawn(4, torch.float32)
    wanted = linear_maximiser(**arguments)
    strided = {name: torch.stack([value, value], -1)[..., 0] for name, value in arguments.items()}
    for got, value in zip(linear_maximiser(**strided), wanted, strict=True):
        assert torch.equal(got, value)
