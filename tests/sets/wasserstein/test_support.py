"""Support functions, maximisers and hulls of Wasserstein balls, against linear programs."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.sets.wasserstein.programs import maximum
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Wasserstein
from verifix.sets.wasserstein.ground import GROUNDS

FLOW = {"ground": "l1", "window": None, "transport": "flow"}
LOCAL = {"ground": "euclidean", "window": 3, "transport": "local"}


def images(seed: int, n: int = 2, shape: tuple[int, int, int] = (2, 3, 4)) -> tuple[Tensor, Tensor]:
    """Images with black parts and with pixels at the side of the box, all with mass; and rows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(n, *shape, generator=generator) < 0.6, x, 0.0)
    x = x.round() if seed % 3 == 0 else x
    x[:, 0, 0, 0] = 1.0
    g = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, g.round() if seed % 4 == 0 else g


@st.composite
def threats(draw: st.DrawFn, variant: str) -> Wasserstein:
    eps = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 3.0]))
    if draw(st.booleans()):
        return Wasserstein(eps, variant=variant, **FLOW)  # type: ignore[arg-type]
    ground, window = draw(st.sampled_from(GROUNDS)), draw(st.sampled_from([1, 3, 5]))
    mass = draw(st.sampled_from(["normalised", "raw"]))
    return Wasserstein(eps, ground, window, mass, variant)  # type: ignore[arg-type]


@given(st.integers(0, 2**32), threats("balanced"))
@settings(max_examples=15)
def test_balanced(seed: int, threat: Wasserstein) -> None:
    x, g = images(seed)
    ball = threat.around(x)
    upper, z = threat.support(x, g), threat.maximiser(x, g)
    value = (g * z).sum((1, 2, 3))
    assert (value <= upper).all()
    for i in range(len(x)):
        wanted, _ = maximum(ball, i, g[i].numpy())
        assert float(upper[i]) == pytest.approx(wanted, abs=1e-8)
        assert float(value[i]) == pytest.approx(wanted, abs=1e-8)
    torch.testing.assert_close(z.sum((2, 3)), x.sum((2, 3)))


@pytest.mark.parametrize("kind", [LOCAL, FLOW])
@pytest.mark.parametrize("variant", ["balanced", "balanced-box", "clamp-after"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_have_no_finite_bound(kind: dict[str, object], variant: str, value: float) -> None:
    x, g = images(1)
    rows = torch.where(torch.eye(24, dtype=torch.bool).reshape(24, 2, 3, 4), value, g[:1])[None]
    ball = Wasserstein(0.3, variant=variant, **kind).around(x)  # type: ignore[arg-type]
    assert not (ball.support(rows) < math.inf).any()
    assert not (ball.to(torch.float32).support(rows.float()) < math.inf).any()


@pytest.mark.parametrize("kind", [LOCAL, FLOW])
@pytest.mark.parametrize("quanta", [0.36, 1.4, 1e3 + 0.4])
def test_budgets_below_the_normal_range_are_not_rounded_down(kind: dict[str, object], quanta: float) -> None:
    """All that may move is ``eps`` times a mass of subnormal size, a product that rounds by up to half of itself."""
    x = torch.tensor([[[[2.0**-1060, 0.0]]]], dtype=torch.float64)
    g = torch.tensor([[[[0.0, 2.0**800]]]], dtype=torch.float64)
    upper = Wasserstein(quanta * 2.0**-14, **kind).support(x, g)  # type: ignore[arg-type]
    assert Fraction(float(upper)) >= Fraction(quanta) * Fraction(2) ** -1074 * 2**800


@given(st.integers(0, 2**32), threats("balanced-box"))
@settings(max_examples=12)
def test_balanced_box(seed: int, threat: Wasserstein) -> None:
    """Never below the program with the box, never above what the balanced ball allows."""
    x, g = images(seed)
    ball = threat.around(x)
    upper, z = threat.support(x, g), threat.maximiser(x, g)
    free = dataclasses.replace(threat, variant="balanced").around(x)
    assert (upper <= free.upper(g[:, None])[:, 0] + 1e-11).all()
    assert (z <= 1).all()
    for i in range(len(x)):
        wanted, _ = maximum(ball, i, g[i].numpy(), box=True)
        assert float(upper[i]) >= wanted - 1e-8
        assert float((g[i] * z[i]).sum()) <= wanted + 1e-8


def test_gap_of_the_box() -> None:
    """Prices close most of the gap between the box and no box; how much, is measured here."""
    closed = []
    for seed in range(1, 30):
        x, g = images(seed)
        x = (1.5 * x).clamp(max=1.0)
        threat = Wasserstein(0.2, variant="balanced-box", **LOCAL)  # type: ignore[arg-type]
        free = Wasserstein(0.2, **LOCAL).support(x, g)  # type: ignore[arg-type]
        upper, ball = threat.support(x, g), threat.around(x)
        for i in range(len(x)):
            best, _ = maximum(ball, i, g[i].numpy(), box=True)
            if float(free[i]) - best > 1e-3:
                closed.append((float(free[i]) - float(upper[i])) / (float(free[i]) - best))
    assert len(closed) > 20
    assert np.mean(closed) > 0.88
    assert min(closed) >= 0


@given(st.integers(0, 2**32), threats("clamp-after"))
@settings(max_examples=8)
def test_clamp_after(seed: int, threat: Wasserstein) -> None:
    """Points of the balanced ball, clamped: maximisers of other forms, and what lies between them and the center."""
    x, g = images(seed)
    upper = threat.support(x, g)
    lower = -threat.support(x, -g)
    balanced = dataclasses.replace(threat, variant="balanced")
    generator = torch.Generator().manual_seed(seed)
    for step in range(12):
        form = (g if step < 4 else 0.0) + step * torch.randn(g.shape, generator=generator, dtype=torch.float64)
        z = balanced.maximiser(x, form if step % 2 else -form)
        share = torch.rand(len(x), 1, 1, 1, generator=generator) if step % 3 == 0 else 1.0
        value = (g * (x + share * (z - x)).clamp(max=1.0)).sum((1, 2, 3))
        assert (value <= upper + 1e-13).all()
        assert (value >= lower - 1e-13).all()


@given(st.integers(0, 2**32), st.sampled_from(["balanced", "balanced-box", "clamp-after"]), st.booleans())
@settings(max_examples=8)
def test_hull(seed: int, variant: str, flow: bool) -> None:
    """The smallest box where plans are local and no other box is in the way; and always one that holds the ball."""
    x, _ = images(seed, n=1, shape=(1, 3, 4))
    threat = Wasserstein(0.2, variant=variant, **(FLOW if flow else LOCAL))  # type: ignore[arg-type]
    ball = threat.around(x)
    lower, upper = ball.hull()
    for place in range(12):
        unit = np.zeros(12)
        unit[place] = 1
        unit = unit.reshape(1, 3, 4)
        high, _ = maximum(ball, 0, unit, box=variant == "balanced-box")
        low = -maximum(ball, 0, -unit, box=variant == "balanced-box")[0]
        if variant == "clamp-after":
            high = min(high, 1.0)
        assert float(lower.flatten()[place]) <= low + 1e-9
        assert float(upper.flatten()[place]) >= high - 1e-9
        if variant == "balanced" and not flow:
            assert float(lower.flatten()[place]) == pytest.approx(low, abs=1e-9)
            assert float(upper.flatten()[place]) == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize("kind", [LOCAL, FLOW])
@pytest.mark.parametrize("variant", ["balanced", "balanced-box", "clamp-after"])
def test_rows(kind: dict[str, object], variant: str) -> None:
    """Shared rows and rows for each image are the same question; extrema are the two sides."""
    x, _ = images(5, n=3)
    ball = Wasserstein(torch.tensor([0.1, 0.0, 0.7]), variant=variant, **kind).around(x)  # type: ignore[arg-type]
    rows = torch.randn(1, 4, *x.shape[1:], dtype=torch.float64)
    shared = ball.support(rows)
    assert shared.shape == (3, 4)
    torch.testing.assert_close(ball.support(rows.expand(3, -1, -1, -1, -1)), shared, rtol=1e-12, atol=1e-12)
    one = ball.select(torch.tensor([2])).support(rows)
    torch.testing.assert_close(one, shared[2:], rtol=1e-12, atol=1e-12)
    lower, upper = ball.extrema(rows)
    assert torch.equal(upper, shared)
    assert torch.equal(lower, -ball.support(-rows))
    assert (lower <= upper).all()
    assert ball.support(rows[:, :0]).shape == (3, 0)
    assert ball.select(slice(0, 0)).support(rows).shape == (0, 4)


@pytest.mark.parametrize("kind", [LOCAL, FLOW])
def test_float32_bounds_hold_in_float64(kind: dict[str, object]) -> None:
    x, g = images(8)
    single = Wasserstein(0.3, **kind).around(x.float())  # type: ignore[arg-type]
    exact = single.to(torch.float64)
    rows = g.float()[:, None]
    assert single.support(rows).dtype == torch.float32
    z = exact.maximiser(g.float().double())
    assert (single.support(rows)[:, 0].double() >= (g.float().double() * z).sum((1, 2, 3))).all()
    assert (single.support(rows).double() >= exact.upper(rows.double())).all()


@pytest.mark.parametrize("kind", [LOCAL, FLOW])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients(kind: dict[str, object], shared: bool) -> None:
    x, _ = images(7, shape=(1, 3, 3))
    ball = Wasserstein(0.3, **kind).around(x)  # type: ignore[arg-type]
    rows = torch.randn(1 if shared else 2, 2, *x.shape[1:], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ball.support, rows)
    (gradient,) = torch.autograd.grad(ball.to(torch.float32).support(rows.float()).sum(), rows)
    (wanted,) = torch.autograd.grad(ball.support(rows).sum(), rows)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [LOCAL, FLOW])
@pytest.mark.parametrize("variant", ["balanced-box", "clamp-after"])
def test_gradients_in_a_box(kind: dict[str, object], variant: str) -> None:
    """At fixed prices the derivative of the bound is a balanced maximiser, of the chords in clamp-after."""
    x, g = images(7)
    ball = Wasserstein(0.3, variant=variant, **kind).around(x)  # type: ignore[arg-type]
    rows = g[:, None].clone().requires_grad_()
    bound = ball.support(rows)
    assert torch.equal(bound.detach(), ball.support(g[:, None]))
    (z,) = torch.autograd.grad(bound.sum(), rows)
    if variant == "balanced-box":
        torch.testing.assert_close(z.sum((1, 3, 4)), x.sum((2, 3)))
        lower, upper = ball.balanced_hull()
        assert ((z[:, 0] >= lower - 1e-12) & (z[:, 0] <= upper + 1e-12)).all()
    assert (z >= 0).all()


def test_what_is_refused() -> None:
    x, g = images(1)
    threat = Wasserstein(0.1)
    with pytest.raises(InvalidValue, match=r"g = tensor of shape \(1, 2, 3, 4\): must be \(2, 2, 3, 4\)"):
        threat.support(x, g[:1])
    with pytest.raises(InvalidType, match="g is a list"):
        threat.maximiser(x, [1.0])  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="method = 'fast': choose one of exact, sinkhorn"):
        threat.project(x, g, "fast")
    with pytest.raises(InvalidValue, match="has no plans of a window"):
        _ = Wasserstein(0.1, **FLOW).around(x).cost  # type: ignore[arg-type]
