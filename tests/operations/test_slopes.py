"""Slope rules of elementwise operations, as documented."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from tests.operations.table import ELEMENTWISE, Row
from verifix.errors import InvalidValue
from verifix.operations import Clip, Lines, Nonlinear, Sigmoid, Slopes, Tanh, TwoPiece

SLOPED: tuple[Slopes, ...] = tuple(rule for rule in get_args(Slopes) if rule != "constant")


def row(name: str) -> Row:
    return next(row for row in ELEMENTWISE if row.name == name)


def lines_of(operation: Nonlinear, lower: float, upper: float, rule: Slopes) -> tuple[float, float, float, float]:
    lines = operation.lines(torch.tensor([[lower]]).double(), torch.tensor([[upper]]).double(), rule)
    assert isinstance(lines, Lines)
    offsets = [0.0 if o is None else o.item() for o in (lines.lower_offset, lines.upper_offset)]
    return lines.lower_slope.item(), offsets[0], lines.upper_slope.item(), offsets[1]


@pytest.mark.parametrize(
    ("rule", "narrow", "wide"),
    [("same", 0.25, 0.75), ("adaptive", 0.0, 1.0), ("zero", 0.0, 0.0), ("one", 1.0, 1.0)],
)
def test_relu(rule: Slopes, narrow: float, wide: float) -> None:
    relu = TwoPiece((1,))
    assert lines_of(relu, -3.0, 1.0, rule) == (narrow, 0.0, 0.25, 0.75)
    assert lines_of(relu, -1.0, 3.0, rule) == (wide, 0.0, 0.75, 0.75)
    assert lines_of(relu, -3.0, 0.0, rule) == (0.0, 0.0, 0.0, 0.0)
    assert lines_of(relu, 0.0, 3.0, rule) == (1.0, 0.0, 1.0, 0.0)


def test_adaptive_lower_line_has_the_smaller_area() -> None:
    lower, upper = -torch.rand(200, 1).double() - 0.01, torch.rand(200, 1).double() + 0.01
    for operation in (TwoPiece((1,)), TwoPiece((1,), 0.1, 1.0), TwoPiece((1,), -1.0, 1.0), TwoPiece((1,), 2.5, 1.0)):
        convex = operation.left <= operation.right
        lines = {rule: operation.lines(lower, upper, rule) for rule in ("adaptive", "zero", "one")}
        z = lower + (upper - lower) * torch.linspace(0, 1, 101).double()

        def gap(rule: str, lines: dict[str, Lines], convex: bool, z: Tensor, value: Tensor) -> Tensor:
            slope = lines[rule].lower_slope if convex else lines[rule].upper_slope
            return (slope * z - value).abs().mean(1)

        value = operation.forward(z)
        adaptive = gap("adaptive", lines, convex, z, value)  # type: ignore[arg-type]
        for rule in ("zero", "one"):
            assert (adaptive <= gap(rule, lines, convex, z, value) + 1e-12).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["adaptive", "zero", "one"])
def test_free_slopes_stay_between_the_pieces(rule: Slopes) -> None:
    assert lines_of(TwoPiece((1,), 0.1, 1.0), -1.0, 1.0, "zero")[0] == 0.1
    assert lines_of(TwoPiece((1,), -1.0, 1.0), -1.0, 1.0, "zero")[0] == 0.0
    assert lines_of(TwoPiece((1,), 2.0, 3.0), -1.0, 1.0, "one")[0] == 2.0
    for left, right in ((0.1, 1.0), (-1.0, 1.0), (2.0, 3.0), (-0.5, -0.25)):
        assert left <= lines_of(TwoPiece((1,), left, right), -1.0, 2.0, rule)[0] <= right


@pytest.mark.parametrize("name", ["relu", "absolute", "leaky-relu"])
def test_the_chord_touches_at_both_ends(name: str) -> None:
    operation = row(name).make()[0]
    for rule in SLOPED:
        _, _, slope, offset = lines_of(operation, -2.0, 0.75, rule)
        for z in (-2.0, 0.75):
            wanted = operation.forward(torch.tensor([z], dtype=torch.float64)).item()
            assert slope * z + offset == pytest.approx(wanted, abs=1e-15)


def test_clip_with_both_kinks_inside() -> None:
    clip = Clip((1,), 0.0, 1.0)
    above, below = 1 / 3, 1 / 2  # the steepest lines through (1, 1) and (0, 0) on [-2, 2]
    assert lines_of(clip, -2.0, 2.0, "one") == pytest.approx((below, 0.0, above, 1 - above))
    assert lines_of(clip, -2.0, 2.0, "zero") == pytest.approx((0.0, 0.0, 0.0, 1.0))
    assert lines_of(clip, -2.0, 2.0, "same") == pytest.approx((above, 0.0, above, 1 - above))
    assert lines_of(clip, -2.0, 1.5, "adaptive") == pytest.approx((0.0, 0.0, 1 / 3, 2 / 3))
    assert lines_of(clip, -0.5, 3.0, "adaptive") == pytest.approx((1 / 3, 0.0, 0.0, 1.0))


def test_clip_upside_down_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^clamp = \(1.0, 0.0\): needs min <= max$"):
        Clip((1,), 1.0, 0.0)
    with pytest.raises(InvalidValue, match=r"^clamp = \(nan, 0.0\)"):
        Clip((1,), math.nan, 0.0)


@pytest.mark.parametrize("operation", [Sigmoid((1,)), Tanh((1,))], ids=["sigmoid", "tanh"])
def test_s_shaped_lines_touch_the_function(operation: Nonlinear) -> None:
    for lower, upper in ((-1.0, 2.0), (-2.0, 1.0), (-0.5, 0.5), (0.5, 2.0), (-2.0, -0.5), (-0.1, 4.0), (-6.0, 6.0)):
        z = torch.linspace(lower, upper, 20001, dtype=torch.float64)
        value = operation.forward(z)
        low_slope, low_offset, high_slope, high_offset = lines_of(operation, lower, upper, "adaptive")
        assert (value - low_slope * z - low_offset).min().item() == pytest.approx(0.0, abs=1e-7)
        assert (high_slope * z + high_offset - value).min().item() == pytest.approx(0.0, abs=1e-7)
        if lower < 0 < upper:  # through the far end, or the chord
            ends = torch.tensor([lower, upper], dtype=torch.float64)
            exact = operation.forward(ends)
            assert high_slope * lower + high_offset == pytest.approx(exact[0].item(), abs=1e-9)
            assert low_slope * upper + low_offset == pytest.approx(exact[1].item(), abs=1e-9)


@pytest.mark.parametrize("operation", [Sigmoid((1,)), Tanh((1,))], ids=["sigmoid", "tanh"])
def test_derivatives_of_s_shaped_functions(operation: Sigmoid | Tanh) -> None:
    z = torch.linspace(-9, 9, 41, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(operation.forward(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    ours = operation.derivatives(z.detach())
    torch.testing.assert_close(ours[0], first.detach(), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(ours[1], second, rtol=1e-7, atol=1e-12)
    assert (operation.derivatives(torch.tensor([-50.0, 40.0], dtype=torch.float64))[0] > 0).all()
