"""Noise that is uniform on a ball."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import betainc
from scipy.stats import binom

from tests.smooth.noise.bounds import probabilities
from verifix.errors import InvalidValue
from verifix.smooth.noise import Purpose, Samples, Uniform, UniformBall

PAIRS = [(0.99, 0.01), (0.9, 0.05), (0.6, 0.4), (0.45, 0.2), (1.0, 0.0), (0.5, 0.4999)]


def lost(distance: float, coordinates: int) -> float:
    """The part of a unit ball that is not in the one at this distance: slices on both sides of the middle."""

    def slices(u: float) -> float:
        return (1 - u * u) ** ((coordinates - 1) / 2)

    common = quad(slices, min(distance / 2, 1), 1, epsabs=1e-14, epsrel=1e-12)[0]
    return float(1 - common / quad(slices, 0, 1, epsabs=1e-14, epsrel=1e-12)[0])


@pytest.mark.parametrize("coordinates", [1, 2, 3, 20, 784])
@pytest.mark.parametrize(("top", "other"), PAIRS)
def test_what_two_balls_share_holds_up_to_the_radius_and_no_further(coordinates: int, top: float, other: float) -> None:
    """The worst classifiers answer A on all that is lost, B on all that is new."""
    radius = UniformBall(1.0, coordinates).radius(probabilities((top, other)))[0]
    before, after = (lost(radius * (1 + sign * 1e-6), coordinates) for sign in (-1, 1))
    assert top - before > other + before
    assert top - after < other + after


def test_half_spaces_hold_within_the_radius() -> None:
    for coordinates in (1, 2, 5, 100):
        half = (coordinates + 1) / 2
        for cut in np.linspace(0.01, 0.9, 10) / np.sqrt(coordinates):
            p = betainc(half, half, (1 + cut) / 2)
            radius = UniformBall(1.0, coordinates).radius(probabilities((p - 1e-13, 1 - p + 1e-13)))[0]
            assert 0 < radius < cut


def test_a_ball_on_a_line_is_an_interval() -> None:
    bounds = probabilities(*PAIRS)
    np.testing.assert_allclose(UniformBall(0.7, 1).radius(bounds), Uniform(0.7).radius(bounds), rtol=2e-9)


@pytest.mark.parametrize("coordinates", [1, 2, 7, 784, 3072, 100_000])
@pytest.mark.parametrize(("top", "other"), [*PAIRS, (0.5, 0.5 - 1e-9), (0.7, 0.7 - 1e-13)])
def test_radii_are_rounded_down(coordinates: int, top: float, other: float) -> None:
    bounds = probabilities((top, other))
    radius = UniformBall(1.0, coordinates).radius(bounds)[0]
    with mpmath.workdps(40):
        gap = mpmath.mpf(float(bounds.top[0])) - mpmath.mpf(float(bounds.other[0]))
        half, distance = mpmath.mpf(coordinates + 1) / 2, mpmath.mpf(0 if np.isnan(radius) else float(radius))
        # P(|u| <= r / 2) by the incomplete Beta function of u^2, which has no cancellation
        share = mpmath.betainc(mpmath.mpf("0.5"), half, 0, (distance / 2) ** 2, regularized=True)
        assert share <= gap / 2
        larger = (distance * (1 + mpmath.mpf(1e-8)) + mpmath.mpf(2) ** -43) / 2
        assert mpmath.betainc(mpmath.mpf("0.5"), half, 0, larger**2, regularized=True) > gap / 2


@pytest.mark.parametrize("coordinates", [1, 2, 6])
def test_draws_fill_the_ball_evenly(coordinates: int) -> None:
    noise, count = UniformBall(2.0, coordinates), 20_000
    samples = Samples(3, Purpose.ESTIMATION, torch.tensor([0]), 0, count)
    drawn = noise.draw(torch.zeros(1, coordinates, dtype=torch.float64), samples)[0]
    lengths = drawn.norm(dim=1)
    assert lengths.max() <= 2 * (1 + 1e-15)
    half = (coordinates + 1) / 2
    for part in (0.3, 0.6, 0.9):
        for seen, chance in (
            (lengths <= 2 * part, part**coordinates),
            (drawn[:, -1] <= 2 * part, betainc(half, half, (1 + part) / 2)),
            (drawn[:, 0] <= -2 * part, betainc(half, half, (1 - part) / 2)),
        ):
            assert binom.ppf(5e-10, count, chance) <= int(seen.sum()) <= binom.isf(5e-10, count, chance)


def test_errors() -> None:
    with pytest.raises(InvalidValue, match="inputs have 3"):
        UniformBall(1.0, 2).draw(torch.zeros(1, 3), Samples(0, Purpose.SELECTION, torch.tensor([0]), 0, 1))
    with pytest.raises(InvalidValue, match="coordinates = 131071"):
        UniformBall(1.0, 2**17 - 1)
    assert np.isnan(UniformBall(1.0, 3).radius(probabilities((0.3, 0.3), (0.2, 0.4)))).all()
