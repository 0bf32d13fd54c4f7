"""Lines of elementwise operations: they enclose the function, on every kind of interval."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.operations.table import ELEMENTWISE, Row, names
from verifix.operations import Levels, Lines, Nonlinear, Slopes, TwoPiece

RULES: tuple[Slopes, ...] = get_args(Slopes)
SLOPED: tuple[Slopes, ...] = tuple(rule for rule in RULES if rule != "constant")
PIECEWISE = [row for row in ELEMENTWISE if row.name not in ("sigmoid", "tanh")]
KINKS = (0.0, -1.0, 1.0, 6.0, 0.25, 0.5, -0.5)


@pytest.fixture(params=ELEMENTWISE, ids=names(ELEMENTWISE))
def operation(request: pytest.FixtureRequest) -> Nonlinear:
    return request.param.make()[0]


def intervals(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random, across and beside every kink, of one point, tiny, huge, and of very different sides: ``(n, 1)`` each."""
    generator = torch.Generator().manual_seed(1)
    pairs: list[tuple[float, float]] = []
    for scale in (1e-3, 0.1, 1.0, 10.0, 100.0):
        ends = scale * torch.randn(40, 2, generator=generator, dtype=torch.float64)
        pairs += [(min(a, b), max(a, b)) for a, b in ends.tolist()]
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for kink in KINKS:
        for width in (eps, 1e-6, 1e-3, 0.4, 1.0, 30.0):
            pairs += [(kink - width, kink), (kink, kink + width), (kink - width, kink + width)]
            pairs += [(kink - width, kink + 1e-4 * width), (kink - 1e-4 * width, kink + width)]
        pairs += [(kink, kink), (kink, math.nextafter(kink, 9)), (math.nextafter(kink, -9), kink)]
    pairs += [(-tiny, tiny), (-tiny / 8, tiny / 8), (0.0, tiny / 8), (-tiny / 8, 0.0), (-0.0, 0.0), (0.0, -0.0)]
    pairs += [(3.7, 3.7), (-3.7, -3.7), (0.3, 0.3), (100.0, 100.0), (-1e3, 2e3), (-1e-3, 1e5), (-1e5, 1e-3)]
    for huge in (1e10, 1e20, torch.finfo(dtype).max / 4):
        pairs += [
            (-huge, huge),
            (-huge, -huge / 2),
            (huge / 2, huge),
            (-huge, 1.0),
            (-1.0, huge),
            (-huge, 0.0),
            (0.0, huge),
        ]
        pairs += [(huge, huge), (-huge, -huge)]
    ends = torch.tensor(pairs, dtype=torch.float64).to(dtype)
    return ends[:, :1], ends[:, 1:]


def grid(lower: Tensor, upper: Tensor) -> Tensor:
    """Points of each interval, in float64: its ends, a dense grid, kinks, and more and more near the ends."""
    low, high = lower.double(), upper.double()
    steps = torch.cat([torch.linspace(0, 1, 201, dtype=torch.float64), *(10.0 ** -torch.arange(3, 17)[None]).double()])
    points = torch.cat([low + (high - low) * steps, high - (high - low) * steps, low, high], 1)
    inside = torch.tensor(KINKS, dtype=torch.float64).expand(len(low), -1)
    near = torch.tensor([s * 10.0**e for s in (-1, 1) for e in range(-8, 3)], dtype=torch.float64).expand(len(low), -1)
    points = torch.cat([points, inside, near], 1)
    return torch.minimum(torch.maximum(points, low), high)


def slack(operation: Nonlinear, lines: Lines | Levels, lower: Tensor, upper: Tensor) -> Tensor:
    """The rounding error that bounds account for lines on these intervals."""
    dtype = lower.dtype
    magnitude = lines.magnitude(torch.zeros_like(lower), lower, upper).double()
    roundings = operation.roundings + 4
    return roundings * torch.finfo(dtype).eps / 2 * magnitude + roundings * torch.finfo(dtype).tiny


@pytest.mark.parametrize("rule", SLOPED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lines_enclose_the_function(operation: Nonlinear, rule: Slopes, dtype: torch.dtype) -> None:
    lower, upper = intervals(dtype)
    lines = operation.lines(lower, upper, rule)
    assert isinstance(lines, Lines)
    z = grid(lower, upper)
    value = operation.forward(z)
    below = lines.lower_slope.double() * z + (0.0 if lines.lower_offset is None else lines.lower_offset.double())
    above = lines.upper_slope.double() * z + (0.0 if lines.upper_offset is None else lines.upper_offset.double())
    for side in (below, above):
        assert side.dtype == torch.float64
        assert torch.isfinite(side).all()
    room = slack(operation, lines, lower, upper)
    assert (below <= value + room).all(), worst(below - value - room, lower, upper)
    assert (above >= value - room).all(), worst(value - above - room, lower, upper)


def worst(excess: Tensor, lower: Tensor, upper: Tensor) -> str:
    first = int(excess.amax(1).argmax())
    return f"[{lower[first].item()!r}, {upper[first].item()!r}] by {excess.max().item()}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_and_intervals_are_the_extremes(operation: Nonlinear, dtype: torch.dtype) -> None:
    lower, upper = intervals(dtype)
    low, high = operation.interval([lower], [upper])
    levels = operation.lines(lower, upper, "constant")
    assert isinstance(levels, Levels)
    assert torch.equal(levels.lower, low)
    assert torch.equal(levels.upper, high)
    value = operation.forward(grid(lower, upper))
    rounding = slack(operation, levels, lower, upper)[:, 0]
    assert ((value.amin(1) - low[:, 0].double()).abs() <= rounding).all()
    assert ((value.amax(1) - high[:, 0].double()).abs() <= rounding).all()


@pytest.mark.parametrize("rule", SLOPED)
def test_lines_of_a_point_pass_through_it(operation: Nonlinear, rule: Slopes) -> None:
    z = torch.tensor([[-7.0, -1.0, -0.3, 0.0, 0.25, 0.3, 0.5, 1.0, 5.0, 6.0, 9.0]], dtype=torch.float64)
    lines = operation.lines(z, z, rule)
    assert isinstance(lines, Lines)
    for slope, offset in ((lines.lower_slope, lines.lower_offset), (lines.upper_slope, lines.upper_offset)):
        torch.testing.assert_close(
            slope * z + (0.0 if offset is None else offset), operation.forward(z), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("rule", SLOPED)
@pytest.mark.parametrize("case", PIECEWISE, ids=names(PIECEWISE))
def test_where_the_function_is_one_line_the_lines_are_that_line(case: Row, rule: Slopes) -> None:
    operation = case.make()[0]
    lower = torch.tensor([[-9.0, 0.26, 6.5, 0.0]], dtype=torch.float64)
    upper = torch.tensor([[-2.0, 0.49, 9.0, 0.2]], dtype=torch.float64)
    lines = operation.lines(lower, upper, rule)
    assert isinstance(lines, Lines)
    linear = (
        operation.forward((lower + upper) / 2) - (operation.forward(lower) + operation.forward(upper)) / 2
    ).abs() < 1e-12
    assert linear.sum() >= 3
    for z in (lower, upper):
        for slope, offset in ((lines.lower_slope, lines.lower_offset), (lines.upper_slope, lines.upper_offset)):
            at = slope * z + (0.0 if offset is None else offset)
            torch.testing.assert_close(at[linear], operation.forward(z)[linear], rtol=0, atol=1e-12)


def test_same_gives_parallel_lines(operation: Nonlinear) -> None:
    lower, upper = intervals(torch.float64)
    lines = operation.lines(lower, upper, "same")
    assert lines.parallel
    assert isinstance(lines, Lines)
    assert torch.equal(lines.lower_slope, lines.upper_slope)


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["lower", "upper", "both"])
@pytest.mark.parametrize("rule", RULES)
def test_an_unknown_bound_never_gives_a_line_that_some_point_breaks(
    operation: Nonlinear, rule: Slopes, side: str, unknown: float
) -> None:
    known = torch.tensor([-7.0, -1.0, -0.4, 0.0, 0.3, 0.5, 1.0, 6.0, 8.0], dtype=torch.float64)[:, None]
    lower = known if side == "upper" else torch.full_like(known, -unknown)
    upper = known if side == "lower" else torch.full_like(known, unknown)
    lines = operation.lines(lower, upper, rule)
    far = torch.tensor([10.0**e for e in range(-3, 20)], dtype=torch.float64)
    z = torch.cat([known + far, known - far, known], 1)
    possible = torch.ones_like(z, dtype=torch.bool)
    if side != "both":
        possible = z >= lower if side == "upper" else z <= upper
    value = operation.forward(z)
    if isinstance(lines, Levels):
        below, above = lines.lower.expand_as(z), lines.upper.expand_as(z)
    else:
        assert isinstance(lines, Lines)
        below = lines.lower_slope * z + (0.0 if lines.lower_offset is None else lines.lower_offset)
        above = lines.upper_slope * z + (0.0 if lines.upper_offset is None else lines.upper_offset)
    room = 1e-14 * z.abs()
    assert ((below <= value + room) | below.isnan() | ~possible).all()
    assert ((above >= value - room) | above.isnan() | ~possible).all()


@pytest.mark.parametrize("rule", RULES)
def test_an_interval_wider_than_the_largest_number_is_not_known(operation: Nonlinear, rule: Slopes) -> None:
    largest = torch.finfo(torch.float32).max
    lower, upper = torch.tensor([[-largest]]), torch.tensor([[largest]])
    lines = operation.lines(lower, upper, rule)
    z = torch.tensor([[-1e38, -10.0, 0.0, 10.0, 1e38]], dtype=torch.float64)
    value = operation.forward(z)
    if isinstance(lines, Levels):
        below, above = lines.lower.double(), lines.upper.double()
    else:
        assert isinstance(lines, Lines)
        below = lines.lower_slope.double() * z + (0.0 if lines.lower_offset is None else lines.lower_offset.double())
        above = lines.upper_slope.double() * z + (0.0 if lines.upper_offset is None else lines.upper_offset.double())
    assert ((below <= value) | below.isnan()).all()
    assert ((above >= value) | above.isnan()).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite(operation: Nonlinear, rule: Slopes, dtype: torch.dtype) -> None:
    lower, upper = intervals(dtype)
    width = (upper - lower)[:, 0]
    usual = ((width == 0) | (width >= 1e-7)) & (torch.maximum(lower.abs(), upper.abs()) <= 1e6)[:, 0]
    lower, upper = lower[usual].requires_grad_(), upper[usual].requires_grad_()
    lines = operation.lines(lower, upper, rule)
    if isinstance(lines, Levels):
        parts = [lines.lower, lines.upper]
    else:
        assert isinstance(lines, Lines)
        parts = [lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset]
    middle = ((lower + upper) / 2).detach()
    total = sum((part * (1.0 + middle)).sum() for part in parts if part is not None)
    assert isinstance(total, Tensor)
    if not total.requires_grad:
        return  # constant lines
    for gradient in torch.autograd.grad(total, [lower, upper], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("rule", SLOPED)
def test_gradients_of_lines(operation: Nonlinear, rule: Slopes) -> None:
    # away from kinks of the function and of the choice between lines
    lower = torch.tensor([[-3.3, -1.7, -0.9, 0.11, -0.7, -8.3, -2.2, -0.21]], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([[-2.1, 0.35, 3.1, 0.23, 7.7, 9.1, 0.13, 4.4]], dtype=torch.float64, requires_grad=True)

    def parts(lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        lines = operation.lines(lower, upper, rule)
        assert isinstance(lines, Lines)
        found = (lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
        # an addend that depends on both, for lines that do not
        return tuple(0.0 * (lower + upper) + part for part in found if part is not None)

    assert torch.autograd.gradcheck(parts, (lower, upper), eps=1e-7, atol=1e-5, rtol=1e-4)


@settings(max_examples=200)
@given(
    st.sampled_from([(0.0, 1.0), (0.01, 1.0), (-1.0, 1.0), (100.0, 1.0), (0.5, -3.0)]),
    st.floats(2**-20, 2**20, width=32), st.floats(2**-20, 2**20, width=32),
)  # fmt: skip
def test_the_chord_rounds_as_accounted(pieces: tuple[float, float], below: float, above: float) -> None:
    """Eight roundings of its own terms, for pieces of any steepness: compared at both ends as fractions."""
    left, right = pieces
    low, high = torch.tensor([-below], dtype=torch.float32), torch.tensor([above], dtype=torch.float32)
    lines = TwoPiece((1,), left, right).lines(low, high, "same")
    assert isinstance(lines, Lines)
    chord = Fraction(lines.upper_slope.item())
    offset = lines.upper_offset if lines.upper_offset is not None else lines.lower_offset
    assert offset is not None
    constant, unit = Fraction(offset.item()), Fraction(1, 2**24)
    size = max(abs(Fraction(low.item())), abs(Fraction(high.item())))
    for end, piece in ((low, left), (high, right)):
        z = Fraction(end.item())
        error = abs(chord * z + constant - Fraction(piece) * z)
        # the line itself moves by gamma_8, and the pieces are read in the dtype of the bounds
        assert error <= (8 * unit / (1 - 8 * unit) + 2 * unit) * (abs(chord) * size + abs(constant))
