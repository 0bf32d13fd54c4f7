"""Max pooling: its windows, and the planes that enclose it."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from tests.operations.table import WINDOWS, Row, names
from verifix.operations import Levels, MaxPool, Slopes
from verifix.operations.maxpool import Selection

RULES: tuple[Slopes, ...] = get_args(Slopes)


@pytest.fixture(params=WINDOWS, ids=names(WINDOWS))
def pool(request: pytest.FixtureRequest) -> MaxPool:
    row: Row = request.param
    return row.make()[0]


def drawn(pool: MaxPool, n: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Intervals of every width, on a lattice every other time, so that bounds tie."""
    center = torch.randn(n, *pool.inputs[0], dtype=dtype)
    center[::2] = torch.round(2 * center[::2]) / 2
    radius = torch.rand_like(center) * torch.tensor([0.0, 0.1, 1.0, 5.0], dtype=dtype).repeat(n)[:n].reshape(
        -1, 1, 1, 1
    )
    radius[::2] = torch.round(2 * radius[::2]) / 2
    return center - radius, center + radius


def corners(lower: Tensor, upper: Tensor, count: int) -> list[Tensor]:
    """Corners and other points of the intervals."""
    ends = [torch.where(torch.rand_like(lower) < 0.5, lower, upper) for _ in range(count)]
    return [lower, upper, *ends, *(lower + (upper - lower) * torch.rand_like(lower) for _ in range(count))]


@pytest.mark.parametrize("rule", RULES)
def test_planes_enclose_the_maximum(pool: MaxPool, rule: Slopes) -> None:
    lower, upper = drawn(pool)
    relaxation = pool.lines(lower, upper, rule)
    size = math.prod(pool.shape)
    units = torch.eye(size, dtype=torch.float64).reshape(1, size, *pool.shape)
    for rows in (units, -units, torch.randn(12, 5, *pool.shape, dtype=torch.float64)):
        (low_rows, low_offset), (high_rows, high_offset) = relaxation.below(rows), relaxation.above(rows)
        for z in corners(lower, upper, 20):
            value = (rows * pool.forward(z)[:, None]).flatten(2).sum(2)
            below = low_offset + (0.0 if low_rows is None else (low_rows * z[:, None]).flatten(2).sum(2))
            above = high_offset + (0.0 if high_rows is None else (high_rows * z[:, None]).flatten(2).sum(2))
            assert (below <= value + 1e-12).all()
            assert (above >= value - 1e-12).all()


def test_planes_of_a_point_pass_through_it(pool: MaxPool) -> None:
    z = torch.randn(3, *pool.inputs[0], dtype=torch.float64)
    rows = torch.randn(3, 4, *pool.shape, dtype=torch.float64)
    value = (rows * pool.forward(z)[:, None]).flatten(2).sum(2)
    relaxation = pool.lines(z, z, "adaptive")
    for pulled, offset in (relaxation.below(rows), relaxation.above(rows)):
        assert pulled is not None
        torch.testing.assert_close((pulled * z[:, None]).flatten(2).sum(2) + offset, value, rtol=0, atol=1e-12)


def test_no_plane_is_looser_than_the_interval(pool: MaxPool) -> None:
    lower, upper = drawn(pool)
    relaxation = pool.lines(lower, upper, "adaptive")
    low, high = pool.interval([lower], [upper])
    size = math.prod(pool.shape)
    units = torch.eye(size, dtype=torch.float64).reshape(1, size, *pool.shape)
    below, below_offset = relaxation.below(units)
    above, above_offset = relaxation.above(units)
    assert below is not None
    assert above is not None
    lowest = (below.clamp(min=0) * lower[:, None] + below.clamp(max=0) * upper[:, None]).flatten(2).sum(
        2
    ) + below_offset
    highest = (above.clamp(min=0) * upper[:, None] + above.clamp(max=0) * lower[:, None]).flatten(2).sum(
        2
    ) + above_offset
    torch.testing.assert_close(lowest, low.flatten(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(highest, high.flatten(1), rtol=0, atol=1e-12)


def test_where_one_entry_always_wins_the_maximum_is_that_entry() -> None:
    pool = MaxPool((1, 1, 3), (1, 3), (1, 3), (0, 0), (1, 1), False)
    lower, upper = torch.tensor([[[[0.0, 2.0, -1.0]]]]), torch.tensor([[[[1.0, 3.0, 2.0]]]])
    relaxation = pool.lines(lower, upper, "same")
    for pulled, offset in (relaxation.below(torch.ones(1, 1, 1, 1, 1)), relaxation.above(torch.ones(1, 1, 1, 1, 1))):
        assert pulled is not None
        assert pulled.flatten().tolist() == [0.0, 1.0, 0.0]
        assert offset.item() == 0.0


@pytest.mark.parametrize("rule", ["zero", "constant"])
def test_flat_rules_keep_only_the_interval(pool: MaxPool, rule: Slopes) -> None:
    lower, upper = drawn(pool)
    relaxation = pool.lines(lower, upper, rule)
    assert isinstance(relaxation, Levels)
    assert torch.equal(relaxation.lower, pool.forward(lower))
    assert torch.equal(relaxation.upper, pool.forward(upper))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unknown", [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 1.0), (0.0, math.inf)])
def test_a_window_with_an_unknown_bound_gives_nothing_false(rule: Slopes, unknown: tuple[float, float]) -> None:
    pool = MaxPool((1, 1, 4), (1, 2), (1, 2), (0, 0), (1, 1), False)
    for place in (0, 1):
        lower, upper = torch.tensor([[[[0.25, 0.25, 5.0, 6.0]]]]), torch.tensor([[[[0.5, 0.5, 6.0, 7.0]]]])
        lower[..., place], upper[..., place] = unknown
        relaxation = pool.lines(lower, upper, rule)
        for sign in (1.0, -1.0):
            row = sign * torch.tensor([[[[[1.0, 0.0]]]]])
            pulled, offset = relaxation.below(row)
            for far in (-1e6, 0.3, 1e6):
                z = torch.full((1, 1, 1, 4), 0.3)
                z[..., place] = far
                if (unknown[0] == 0.0 and far < 0) or (unknown[1] == 1.0 and far > 1):
                    continue
                value = (row * pool.forward(z)[:, None]).sum()
                bound = offset + (0.0 if pulled is None else (pulled * z[:, None]).nan_to_num().sum())
                assert (bound <= value).all() or bound.isnan().all()


def test_an_interval_wider_than_the_largest_number_is_not_known() -> None:
    largest = torch.finfo(torch.float32).max
    pool = MaxPool((1, 1, 2), (1, 2), (1, 2), (0, 0), (1, 1), False)
    lower, upper = torch.tensor([[[[-largest, 0.0]]]]), torch.tensor([[[[largest, 1.0]]]])
    _, offset = pool.lines(lower, upper, "adaptive").above(torch.ones(1, 1, 1, 1, 1))
    assert offset.isnan().all()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("zero", "constant")])
def test_gradients(pool: MaxPool, rule: Slopes) -> None:
    lower = torch.randn(2, *pool.inputs[0], dtype=torch.float64)
    upper = (lower + torch.rand_like(lower)).requires_grad_()
    lower.requires_grad_()
    rows = torch.randn(1, 2, *pool.shape, dtype=torch.float64)

    def pulled(lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        relaxation = pool.lines(lower, upper, rule)
        parts = (*relaxation.below(rows), *relaxation.above(rows))
        return tuple(0.0 * (lower.sum() + upper.sum()) + part for part in parts if part is not None)

    assert torch.autograd.gradcheck(pulled, (lower, upper), eps=1e-7, atol=1e-5)


def test_gradients_are_finite_where_bounds_tie_or_meet(pool: MaxPool) -> None:
    lower, upper = drawn(pool)
    lower.requires_grad_()
    upper.requires_grad_()
    relaxation = pool.lines(lower, upper, "adaptive")
    assert isinstance(relaxation, Selection)
    for gradient in torch.autograd.grad((relaxation.slope + relaxation.offset).sum(), [lower, upper]):
        assert torch.isfinite(gradient).all()


def test_windows_list_the_entries_of_each_output(pool: MaxPool) -> None:
    size = math.prod(pool.inputs[0])
    for position in range(size):
        one = torch.zeros(1, size)
        one[0, position] = 1.0
        seen = pool.forward(one.reshape(1, *pool.inputs[0])).flatten() == 1
        assert torch.equal((pool.windows == position).any(1), seen)


def test_roundings_count_the_windows_that_share_an_entry() -> None:
    wide = MaxPool((1, 9, 9), (5, 5), (1, 1), (0, 0), (1, 1), False)
    assert wide.roundings >= 2 * 25
