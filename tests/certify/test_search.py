"""The search for the largest radius with a positive margin, on functions of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verifix.certify.search import LEAST, Bracket, largest_radius

Curve = Callable[[float], float]


class Asked:
    """Some functions as one, which notes what it was asked."""

    def __init__(self, curves: list[Curve]) -> None:
        self.curves = curves
        self.answers: list[dict[float, float]] = [{} for _ in curves]
        self.count = [0] * len(curves)

    def __call__(self, index: Tensor, eps: Tensor) -> Tensor:
        values = []
        for i, radius in zip(index.tolist(), eps.tolist(), strict=True):
            self.count[i] += 1
            self.answers[i][radius] = self.curves[i](radius)
            values.append(self.answers[i][radius])
        return torch.tensor(values, dtype=torch.float64)


def search(curves: list[Curve], most: float = 2.0**20, tolerance: float = 1e-5) -> tuple[Bracket, Asked]:
    asked = Asked(curves)
    clean = torch.tensor([curve(0.0) for curve in curves], dtype=torch.float64)
    bracket = largest_radius(asked, clean, torch.full_like(clean, most), tolerance)
    check(bracket, asked, most, tolerance)
    return bracket, asked


def check(bracket: Bracket, asked: Asked, most: float, tolerance: float) -> None:
    """What holds whatever the functions are: both ends were evaluated, and they are as near as was asked."""
    assert bracket.evaluations.tolist() == asked.count
    for i, (low, high) in enumerate(zip(bracket.certified.tolist(), bracket.uncertified.tolist(), strict=True)):
        answers = asked.answers[i]
        assert all(0 < eps <= most for eps in answers)
        assert low == 0 or answers[low] > 0
        assert low == most if math.isinf(high) else not answers[high] > 0
        assert not any(low < eps < high for eps in answers)
        assert math.isinf(high) or (high <= low * (1 + tolerance) if low else high <= 2 * min(most, 1.0) * LEAST)
        assert asked.count[i] <= 6 * (1 + math.log2(64 / tolerance))  # every other three steps halve the bracket


def power(root: float, exponent: float, clean: float) -> Curve:
    def curve(eps: float) -> float:
        try:
            return clean * (1 - (eps / root) ** exponent)
        except OverflowError:
            return -math.inf

    return curve


roots = st.floats(1e-6, 1e4) | st.floats(1e-18, 1e-6)
powers = st.builds(power, roots, st.floats(0.5, 30), st.floats(1e-6, 1e6))


@st.composite
def kinked(draw: st.DrawFn) -> Curve:
    """Piecewise linear and falling, from a gentle slope to steep ones, as margins are."""
    clean, slope = draw(st.floats(1e-3, 1e3)), draw(st.floats(0.01, 10))
    points, eps, value = [(0.0, clean)], 0.0, clean
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.floats(1e-4, 1))
        eps, value = eps + step, value - slope * step
        points.append((eps, value))
        slope *= draw(st.floats(0.5, 50))

    def curve(at: float) -> float:
        for (x0, y0), (x1, y1) in pairwise(points):
            if at <= x1:
                return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
        return value - slope * (at - eps)

    return curve


@st.composite
def anything(draw: st.DrawFn) -> Curve:
    """A margin of any shape: jumps up and down, NaN, infinities, constant or zero from some radius on."""
    breaks = sorted(draw(st.lists(st.floats(1e-9, 1e6), max_size=6)))
    special = st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
    levels = draw(st.lists(st.floats(-1e3, 1e3) | special, min_size=len(breaks) + 1, max_size=len(breaks) + 1))
    levels[0] = draw(st.floats(1e-6, 1e3))
    return lambda eps: levels[sum(eps > point for point in breaks)]


@settings(max_examples=50)
@given(st.lists(powers | kinked() | anything(), min_size=1, max_size=14), st.sampled_from([1e-9, 1e-5, 1e-2, 1.0]))
def test_both_ends_were_evaluated(curves: list[Curve], tolerance: float) -> None:
    search(curves, tolerance=tolerance)


near_the_least = st.builds(power, st.floats(1e-24, 1e-17), st.floats(0.5, 30), st.floats(1e-6, 1e30))


@given(st.lists(near_the_least, min_size=1, max_size=5))
def test_radii_too_small_to_be_tried(curves: list[Curve]) -> None:
    search(curves)


@given(st.lists(powers | kinked() | anything(), min_size=1, max_size=5), st.floats(1e-3, 10))
def test_no_radius_beyond_the_largest(curves: list[Curve], most: float) -> None:
    search(curves, most=most)


@settings(max_examples=50)
@given(st.lists(st.tuples(roots, st.floats(0.5, 30), st.floats(1e-6, 1e6)), min_size=1, max_size=14))
def test_roots_of_powers(parameters: list[tuple[float, float, float]]) -> None:
    bracket, _ = search([power(*each) for each in parameters])
    for (root, exponent, _), low, high in zip(
        parameters, bracket.certified.tolist(), bracket.uncertified.tolist(), strict=True
    ):
        slack = 1 + 1e-14 / exponent + 1e-15  # of the power itself
        assert root / slack / (1 + 1e-5) <= low <= root * slack
        assert root / slack <= high


@settings(max_examples=50)
@given(st.lists(kinked(), min_size=1, max_size=9))
def test_equal_to_a_bisection(curves: list[Curve]) -> None:
    bracket, _ = search(curves)
    for curve, found in zip(curves, bracket.certified.tolist(), strict=True):
        low, high = 0.0, 2.0**20
        while high > low * (1 + 1e-9):
            middle = (low + high) / 2
            low, high = (middle, high) if curve(middle) > 0 else (low, middle)
        assert low / (1 + 1.01e-5) <= found <= low * (1 + 1e-9)


def test_few_evaluations() -> None:
    torch.manual_seed(3)
    exponents, scale = 1 + 6 * torch.rand(50).double(), 0.1 + 0.02 * torch.randn(50).double()
    curves = [power(r, p, 10 * r) for r, p in zip(scale.tolist(), exponents.tolist(), strict=True)]
    bracket, _ = search(curves)
    assert bracket.evaluations.double().mean() <= 6


def test_one_step_where_neighbours_are_alike() -> None:
    bracket, _ = search([power(0.1, 5.0, 3.0)] * 40)
    assert (bracket.evaluations[9:] <= 3).all()


def test_constant_margins_reach_the_largest_radius() -> None:
    bracket, _ = search([lambda eps: 2.5] * 3, most=0.75)
    assert bracket.certified.tolist() == [0.75] * 3
    assert bracket.uncertified.tolist() == [math.inf] * 3


def test_no_positive_margin() -> None:
    bracket, _ = search([lambda eps: 1.0 if eps == 0 else -1.0, power(0.5, 2.0, 1.0)], most=4.0)
    assert bracket.certified[0] == 0
    assert bracket.uncertified[0] <= 2 * LEAST
    assert bracket.certified[1] == pytest.approx(0.5, rel=1e-5)


def test_no_inputs() -> None:
    bracket, _ = search([])
    assert bracket.certified.shape == bracket.uncertified.shape == bracket.evaluations.shape == (0,)
