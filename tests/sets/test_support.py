"""Support functions: what the bounds are made of."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

from tests.sets.oracles import Case, cases, maxima
from verifix.sets import Ball, Box
from verifix.sets.ball import NORMS, Norm
from verifix.sets.support import l1_box_support, l2_box_support

ROUNDING = 1e-13
"""In float64, for sums of a few numbers of size about one."""


@given(case=cases())
@settings(max_examples=300)
def test_support_is_the_maximum_over_ball_and_box(case: Case) -> None:
    sets = case.sets
    support, wanted = sets.support(case.rows), maxima(sets, case.rows)
    assert (support >= wanted - 1e-9).all()
    torch.testing.assert_close(support, wanted, rtol=1e-9, atol=1e-9)
    low, high = sets.extrema(case.rows)
    torch.testing.assert_close(high, support, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(low, -sets.support(-case.rows), rtol=0, atol=ROUNDING)


@given(case=cases())
@settings(max_examples=200)
def test_no_point_of_the_set_exceeds_the_support(case: Case) -> None:
    sets = case.sets
    support = sets.support(case.rows)
    generator = torch.Generator().manual_seed(len(case.rows))
    for scale in (0.1, 1.0, 10.0):
        rows = case.rows.expand(len(case.x), -1, -1)
        # far along each row the projection is where the row is largest
        for far in (torch.randn(case.x.shape, generator=generator).double(), 1e3 * rows[:, 0], -1e3 * rows[:, -1]):
            point = sets.project(case.x + scale * far)
            assert sets.contains(point).all()
            assert ((rows * point[:, None]).sum(2) <= support + 10 * ROUNDING).all()


@given(case=cases())
@settings(max_examples=100)
def test_float32_is_as_near_as_float32_can_be(case: Case) -> None:
    short = Case(case.x.float(), case.rows.float(), case.norm, case.eps, None if case.box is None else (0.0, 1.0))
    exact = short.sets.to(torch.float64).support(short.rows.double())
    got = short.sets.support(short.rows)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0), (-3.0, 3.0)])
@pytest.mark.parametrize("per_coordinate", [False, True])
def test_gradient_with_respect_to_rows(norm: Norm, box: tuple[float, float] | None, per_coordinate: bool) -> None:
    x = torch.rand(2, 3, 2, dtype=torch.float64)
    eps = torch.rand(2, 3, 2) + 0.1 if per_coordinate else torch.tensor(0.6)
    sets = Ball(norm, eps, box).around(x)
    for count in (1, 2):
        rows = torch.randn(count, 4, 3, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(sets.support, rows)
        assert torch.autograd.gradcheck(sets.extrema, rows)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_gradient_with_respect_to_the_input(norm: Norm, box: tuple[float, float] | None) -> None:
    x = (0.8 * torch.rand(2, 5, dtype=torch.float64) + 0.1).requires_grad_()
    rows = torch.randn(2, 3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: Ball(norm, 0.4, box).around(x).support(rows), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0), (0.0, torch.inf)])
def test_gradient_is_finite_for_zero_rows_zero_radii_and_points_on_the_boundary(
    norm: Norm, box: tuple[float, float] | None
) -> None:
    x = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    eps = torch.tensor([[0.3, 0.3, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    rows = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-1.0, 0.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    value = Ball(norm, eps, box).around(x).support(rows)
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()


def test_shared_rows_give_what_copied_rows_give() -> None:
    x = torch.rand(3, 2, 4, dtype=torch.float64)
    rows = torch.randn(1, 5, 2, 4, dtype=torch.float64)
    sets = [Ball(norm, 0.3, box).around(x) for norm in NORMS for box in (None, (0, 1))] + [Box(x - 0.1, x + 0.3)]
    for inputs in sets:
        shared, copied = inputs.support(rows), inputs.support(rows.expand(3, -1, -1, -1))
        assert shared.shape == (3, 5)
        torch.testing.assert_close(shared, copied, rtol=0, atol=ROUNDING)


def test_box_support_is_the_best_corner() -> None:
    lower = torch.tensor([[-1.0, 0.25, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 0.25, 5.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    rows = torch.randn(2, 6, 3, dtype=torch.float64)
    box = Box(lower, upper)
    sides = [torch.tensor(side) for side in itertools.product([True, False], repeat=3)]
    corners = torch.stack([torch.where(side, lower, upper) for side in sides])
    values = torch.einsum("nrd,cnd->cnr", rows, corners)
    low, high = box.extrema(rows)
    torch.testing.assert_close(high, values.amax(0), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(low, values.amin(0), rtol=0, atol=ROUNDING)
    assert torch.equal(box.support(rows), high)


def test_the_box_is_never_dropped() -> None:
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    outward = torch.tensor([[[-1.0, 1.0]]], dtype=torch.float64)
    for norm in NORMS:
        assert Ball(norm, 0.5, (0, 1)).around(x).support(outward).item() == pytest.approx(1.0, abs=ROUNDING)
        assert Ball(norm, 0.5).around(x).support(outward).item() > 1.4


def problem(h: list[float], c: list[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(h, dtype=torch.float64), torch.tensor(c, dtype=torch.float64)


@pytest.mark.parametrize(
    ("h", "c", "wanted"),
    [
        ([1.0, 1.0, 1.0], [0.25, 0.25, 0.25], 0.75),  # the box is inside the ball
        ([2.0, 1.0], [1.0, 1.0], 2.0),  # the budget runs out exactly at a coordinate
        ([2.0, 2.0, 2.0], [0.5, 0.5, 0.5], 2.0),  # ties
        ([0.0, 0.0], [1.0, torch.inf], 0.0),
        ([5.0, 3.0], [0.0, 0.5], 1.5),
        ([5.0, 3.0], [torch.inf, torch.inf], 5.0),
        ([], [], 0.0),
    ],
)
def test_l1_knapsack(h: list[float], c: list[float], wanted: float) -> None:
    assert l1_box_support(*problem(h, c)).item() == pytest.approx(wanted, abs=ROUNDING)


@pytest.mark.parametrize(
    ("h", "c", "wanted"),
    [
        ([3.0, 4.0], [0.25, 0.25], 1.75),  # the box is inside the ball
        ([3.0, 4.0], [0.6, 0.8], 5.0),  # its corner is on the sphere
        ([3.0, 1e-9], [1.0, 1e9], 3.0),  # nothing is left for the second
        ([100.0, 100.0, 1e-12], [0.6, 0.8, torch.inf], 140.0),
        ([100.0, 100.0, 1e-12], [0.6, 0.8, 1e20], 140.0),
        ([1.0, 1.0], [0.6, torch.inf], 1.4),
        ([0.0, 0.0], [1.0, torch.inf], 0.0),
        ([0.0, 2.0], [torch.inf, torch.inf], 2.0),
        ([2.0, 0.0], [0.0, 1.0], 0.0),
        ([1e-310, 1e-310], [torch.inf, torch.inf], 0.0),
        ([3e-200, 4e-200], [9.0, torch.inf], 5e-200),
        ([3e200, 4e200, 1.0], [9.0, torch.inf, torch.inf], 5e200),
        # the corner is on the sphere up to rounding: the third coordinate has no budget, and a long way to go
        (
            [33.57332367846163, 3.2493722223660093, 7.283691365393748e-11],
            [0.7810926722822393, 0.6244151161743206, 1e6],
            28.252834243128458,
        ),
        ([], [], 0.0),
    ],
)
def test_l2_with_a_box(h: list[float], c: list[float], wanted: float) -> None:
    assert l2_box_support(*problem(h, c)).item() == pytest.approx(wanted, rel=1e-12, abs=1e-300)


@given(case=cases(norms=("l2",), boxes=("half", "unit", "tensors"), most=4))
@example(
    case=Case(
        torch.zeros(1, 3, dtype=torch.float64),
        torch.tensor([[[3.0, 3.0, 1e-9]]], dtype=torch.float64),
        "l2",
        torch.tensor([[1.0, 1.0, 1e-6]], dtype=torch.float64),
        (torch.tensor([[-0.6, -0.6, -9.0]]), torch.tensor([[0.6, 0.8, 9.0]])),
    )
)
@settings(max_examples=200)
def test_l2_multiplier_is_optimal_where_one_side_is_only_just_saturated(case: Case) -> None:
    sets = case.sets
    for shrink in (1.0, 1 - 1e-15, 1 + 1e-15, 1 - 1e-8, 1 + 1e-8):
        rows = case.rows * torch.linspace(1.0, shrink, case.rows.shape[2], dtype=torch.float64)
        torch.testing.assert_close(sets.support(rows), maxima(sets, rows), rtol=1e-9, atol=1e-9)
