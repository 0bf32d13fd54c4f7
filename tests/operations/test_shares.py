"""Free slopes given as shares: every share gives lines that enclose the function, and named rules are shares too."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.operations.table import ELEMENTWISE, Row, names
from tests.operations.test_nonlinear import grid, intervals, slack, worst
from verifix.operations import Lines, Nonlinear, Sigmoid, Slopes

FREE = [row for row in ELEMENTWISE if row.make()[0].free]
NAMED: tuple[Slopes, ...] = ("same", "adaptive", "zero", "one")
SHARES = (0.0, 0.3, 1.0, "drawn")


@pytest.fixture(params=FREE, ids=names(FREE))
def operation(request: pytest.FixtureRequest) -> Nonlinear:
    row: Row = request.param
    return row.make()[0]


def shares_of(operation: Nonlinear, like: Tensor, share: float | str) -> Tensor:
    shape = (len(like), operation.free, *like.shape[1:])
    return torch.rand(shape, dtype=like.dtype) if isinstance(share, str) else torch.full(shape, share, dtype=like.dtype)


def parts(lines: object) -> list[Tensor]:
    """Slopes and offsets below and above."""
    assert isinstance(lines, Lines)
    offsets = [
        torch.zeros_like(lines.lower_slope) if x is None else x for x in (lines.lower_offset, lines.upper_offset)
    ]
    return [lines.lower_slope, offsets[0], lines.upper_slope, offsets[1]]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lines_enclose_the_function(operation: Nonlinear, share: float | str, dtype: torch.dtype) -> None:
    lower, upper = intervals(dtype)
    lines = operation.lines(lower, upper, shares_of(operation, lower, share))
    slope_below, below, slope_above, above = (part.double() for part in parts(lines))
    z = grid(lower, upper)
    value, room = operation.forward(z), slack(operation, lines, lower, upper)  # type: ignore[arg-type]
    below, above = slope_below * z + below, slope_above * z + above
    assert torch.isfinite(below).all()
    assert torch.isfinite(above).all()
    assert (below <= value + room).all(), worst(below - value - room, lower, upper)
    assert (above >= value - room).all(), worst(value - above - room, lower, upper)


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["lower", "upper", "both"])
@pytest.mark.parametrize("share", SHARES)
def test_an_unknown_bound_never_gives_a_line_that_some_point_breaks(
    operation: Nonlinear, share: float | str, side: str, unknown: float
) -> None:
    known = torch.tensor([-7.0, -1.0, -0.4, 0.0, 0.3, 0.5, 1.0, 6.0, 8.0], dtype=torch.float64)[:, None]
    lower = known if side == "upper" else torch.full_like(known, -unknown)
    upper = known if side == "lower" else torch.full_like(known, unknown)
    slope_below, below, slope_above, above = parts(operation.lines(lower, upper, shares_of(operation, lower, share)))
    far = torch.tensor([10.0**e for e in range(-3, 20)], dtype=torch.float64)
    z = torch.cat([known + far, known - far, known], 1)
    possible = (z >= lower) if side == "upper" else (z <= upper) if side == "lower" else torch.ones_like(z).bool()
    value, room = operation.forward(z), 1e-14 * z.abs()
    below, above = slope_below * z + below, slope_above * z + above
    assert ((below <= value + room) | below.isnan() | ~possible).all()
    assert ((above >= value - room) | above.isnan() | ~possible).all()


@pytest.mark.parametrize("rule", NAMED)
def test_named_rules_are_shares(operation: Nonlinear, rule: Slopes) -> None:
    lower, upper = intervals(torch.float64)
    usual = ((upper - lower >= 1e-7) & (torch.maximum(lower.abs(), upper.abs()) <= 1e6))[:, 0]
    lower, upper = lower[usual], upper[usual]
    named = parts(operation.lines(lower, upper, rule))
    shared = parts(operation.lines(lower, upper, operation.shares(lower, upper, rule)))
    for a, b in zip(named, shared, strict=True):
        torch.testing.assert_close(a.expand_as(lower), b.expand_as(lower), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", NAMED)
def test_shares_of_rules_lie_between_zero_and_one(operation: Nonlinear, rule: Slopes) -> None:
    """Whatever is known of the interval."""
    lower, upper = intervals(torch.float32)
    ends = torch.tensor([[-math.inf, 1.0], [-1.0, math.inf], [-math.inf, math.inf], [math.nan, 1.0], [2.0, math.nan]])
    shares = operation.shares(torch.cat([lower, ends[:, :1]]), torch.cat([upper, ends[:, 1:]]), rule)
    assert shares.shape == (len(lower) + len(ends), operation.free, 1)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_gradients_in_shares(operation: Nonlinear) -> None:
    lower = torch.tensor([[-3.3, -1.7, -0.9, 0.11, -0.7, -8.3, -2.2, -0.21]], dtype=torch.float64)
    upper = torch.tensor([[-2.1, 0.35, 3.1, 0.23, 7.7, 9.1, 0.13, 4.4]], dtype=torch.float64)
    shares = (0.1 + 0.8 * torch.rand(1, operation.free, 8, dtype=torch.float64)).requires_grad_()
    # an addend that depends on them, for lines that do not
    assert gradcheck(lambda s: tuple(p + 0.0 * s[:, 0] for p in parts(operation.lines(lower, upper, s))), shares)


def test_operations_without_free_slopes_have_no_shares() -> None:
    z = torch.zeros(2, 3)
    assert Sigmoid((3,)).shares(z, z, "adaptive").shape == (2, 0, 3)
