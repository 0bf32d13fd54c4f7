"""Pulling coefficient rows through lines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from verifix.operations import Levels, Lines, TwoPiece


def band(parallel: bool, offsets: tuple[bool, bool] = (True, True)) -> tuple[Lines, Tensor, Tensor]:
    """Lines about an unknown function that lies anywhere between them, and the lines at some points ``z``."""
    slope = torch.randn(3, 2, 4, dtype=torch.float64)
    other = slope if parallel else slope + 0.1
    low = -torch.rand(3, 2, 4, dtype=torch.float64) if offsets[0] else None
    high = 1 + torch.rand(3, 2, 4, dtype=torch.float64) if offsets[1] else None
    return Lines(slope, low, other, high), slope, other


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("offsets", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_take_the_lower_line_where_positive_and_the_upper_where_negative(
    parallel: bool, offsets: tuple[bool, bool], batch: int
) -> None:
    lines, slope, other = band(parallel, offsets)
    assert lines.parallel == parallel
    rows = torch.randn(batch, 5, 2, 4, dtype=torch.float64)
    z = torch.randn(3, 1, 2, 4, dtype=torch.float64)
    lower = slope[:, None] * z + (0.0 if lines.lower_offset is None else lines.lower_offset[:, None])
    upper = other[:, None] * z + (0.0 if lines.upper_offset is None else lines.upper_offset[:, None])
    wanted = torch.where(rows > 0, rows * lower, rows * upper).flatten(2).sum(2)
    pulled, offset = lines.below(rows)
    assert pulled is not None
    assert pulled.shape == (3, 5, 2, 4)
    assert offset.shape == (3, 5)
    torch.testing.assert_close((pulled * z).flatten(2).sum(2) + offset, wanted)
    wanted = torch.where(rows > 0, rows * upper, rows * lower).flatten(2).sum(2)
    pulled, offset = lines.above(rows)
    assert pulled is not None
    torch.testing.assert_close((pulled * z).flatten(2).sum(2) + offset, wanted)


@pytest.mark.parametrize("offsets", [(True, True), (True, False), (False, True), (False, False)])
def test_parallel_lines_give_both_directions_at_once(offsets: tuple[bool, bool]) -> None:
    lines, _, _ = band(True, offsets)
    rows = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    shared, below, above = lines.shared(rows)
    for pulled, offset, got in ((*lines.below(rows), below), (*lines.above(rows), above)):
        assert pulled is not None
        torch.testing.assert_close(shared, pulled)
        torch.testing.assert_close(got, offset)


def test_levels_drop_the_rows() -> None:
    lower = torch.randn(3, 2, 4, dtype=torch.float64)
    upper = lower + 1.0
    levels = Levels(lower, upper)
    rows = torch.randn(1, 5, 2, 4, dtype=torch.float64)
    pulled, offset = levels.below(rows)
    assert pulled is None
    torch.testing.assert_close(
        offset, torch.where(rows > 0, rows * lower[:, None], rows * upper[:, None]).flatten(2).sum(2)
    )
    pulled, offset = levels.above(rows)
    assert pulled is None
    torch.testing.assert_close(
        offset, torch.where(rows > 0, rows * upper[:, None], rows * lower[:, None]).flatten(2).sum(2)
    )
    assert torch.equal(levels.magnitude(lower, lower, upper), torch.maximum(lower.abs(), upper.abs()))


@pytest.mark.parametrize("unknown", [torch.nan, torch.inf])
def test_an_unknown_offset_makes_the_bound_unknown_even_for_rows_of_zero_sign(unknown: float) -> None:
    lines = Lines(torch.ones(1, 2), torch.tensor([[0.0, unknown]]), torch.ones(1, 2), torch.tensor([[1.0, unknown]]))
    _, offset = lines.below(torch.tensor([[[1.0, -1.0]]]))
    assert not torch.isfinite(offset).any()


def test_magnitude_bounds_every_term() -> None:
    relu = TwoPiece((4,))
    lower, upper = -torch.rand(50, 4).double(), torch.rand(50, 4).double()
    for lines in (relu.lines(lower, upper, "same"), relu.lines(lower, upper, "adaptive")):
        assert isinstance(lines, Lines)
        z = torch.maximum(lower.abs(), upper.abs())
        assert (lines.magnitude(z, lower, upper) >= (lines.upper_slope * z).abs()).all()
        assert lines.upper_offset is not None
        assert (lines.magnitude(z, lower, upper) >= lines.upper_offset.abs()).all()
        assert (lines.magnitude(z, lower, upper) >= (1 - 1e-12) * upper).all()
