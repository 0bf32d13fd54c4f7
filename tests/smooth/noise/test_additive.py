"""Gaussian, Laplace and uniform noise: radii against the worst classifiers, and against attacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import ndtr

from tests.smooth.noise.bounds import complements, probabilities
from verifix.smooth.noise import Gaussian, Laplace, Noise, Uniform
from verifix.smooth.probabilities import Probabilities

Array = NDArray[np.float64]

FAMILIES = {"gaussian": Gaussian, "laplace": Laplace, "uniform": Uniform}
DENSITIES: dict[str, Callable[[float], float]] = {
    "gaussian": lambda t: float(np.exp(-t * t / 2) / np.sqrt(2 * np.pi)),
    "laplace": lambda t: float(np.exp(-abs(t)) / 2),
    "uniform": lambda t: 0.5 if abs(t) <= 1 else 0.0,
}
"""Of the laws of scale 1."""

CDFS: dict[str, Callable[[Array], Array]] = {
    "gaussian": ndtr,
    "laplace": lambda t: np.where(t < 0, np.exp(np.minimum(t, 0)) / 2, 1 - np.exp(-np.maximum(t, 0)) / 2),
    "uniform": lambda t: np.clip((t + 1) / 2, 0, 1),
}
PAIRS = [(0.99, 0.01), (0.99, 0.003), (0.7, 0.3), (0.7, 0.05), (0.45, 0.2), (0.3, 0.29), (0.55, 0.44), (0.5, 0.25)]


def below(law: str, t: float) -> float:
    """The probability of noise up to t, by quadrature."""
    total = 0.0
    for start, stop in itertools.pairwise([-40.0, -1.0, 0.0, 1.0, 40.0]):
        if t > start:
            total += quad(DENSITIES[law], start, min(t, stop), epsabs=1e-13, epsrel=1e-13, limit=200)[0]
    return total


def quantile(law: str, p: float) -> float:
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(law, middle) < p else (low, middle)
    return (low + high) / 2


@pytest.mark.parametrize("law", FAMILIES)
@pytest.mark.parametrize(("top", "other"), PAIRS)
def test_half_lines_hold_up_to_the_radius_and_no_further(law: str, top: float, other: float) -> None:
    """The likelihood-ratio sets on a line: class A up to one point, B from another, the rest to a third class."""
    radius = FAMILIES[law](1.0).radius(probabilities((top, other)))[0]
    ends = quantile(law, top), quantile(law, 1 - other)

    def lead(moved: float) -> float:
        return below(law, ends[0] - moved) - (1 - below(law, ends[1] - moved))

    assert lead(radius * (1 - 1e-8) - 1e-10) > 0
    assert lead(radius * (1 + 1e-8) + 1e-10) < 0


def worst_lead(law: str, scale: float, moved: tuple[int, ...], top: float, other: float, reach: int = 12) -> float:
    """The least p_A - p_B, over all classifiers of rounded noise with these probabilities at 0, when x moves.

    Noise is rounded to whole numbers, and all beyond ``reach`` put together: a function of the noise, so that the
    theorem must hold for it, and few enough outcomes to sort them by their likelihood ratios.
    """
    edges = np.arange(-reach, reach) + 0.5
    before, after = np.ones(1), np.ones(1)
    for step in moved:
        here, there = (
            np.diff(CDFS[law]((np.concatenate([[-np.inf], edges, [np.inf]]) - s) / scale)) for s in (0, step)
        )
        before, after = (np.multiply.outer(b, p).reshape(-1) for b, p in ((before, here), (after, there)))
    possible = before + after > 0
    before, after = before[possible], after[possible]
    order = np.argsort(after / (before + after), kind="stable")

    def least(p: float) -> float:
        until = np.concatenate([[0], np.cumsum(before[order])])
        return float(np.interp(p, until, np.concatenate([[0], np.cumsum(after[order])])))

    return least(top) - (1 - least(1 - other))


@pytest.mark.parametrize("law", FAMILIES)
@pytest.mark.parametrize(("top", "other"), [(0.98, 0.02), (0.9, 0.03), (0.48, 0.1), (0.6, 0.39)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_no_classifier_of_any_dimension_breaks_the_radius(law: str, top: float, other: float, dimensions: int) -> None:
    scale, reach = (3.0, 6) if dimensions == 3 else (6.0, 18)
    noise = FAMILIES[law](scale)
    radius = noise.radius(probabilities((top, other)))[0]
    order = 2 if noise.norm == "l2" else 1
    steps = range(int(radius) + 1)
    moves = [m for m in itertools.combinations_with_replacement(steps, dimensions) if np.linalg.norm(m, order) < radius]
    assert moves
    for moved in moves:
        assert worst_lead(law, scale, moved, top, other, reach) > -1e-13


@pytest.mark.parametrize("family", [Gaussian, Uniform])
@pytest.mark.parametrize(("top", "other"), [(0.98, 0.02), (0.9, 0.03), (0.48, 0.1)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_no_classifier_breaks_the_linf_radius(family: Any, top: float, other: float, dimensions: int) -> None:
    scale, reach = (3.0, 6) if dimensions == 3 else (6.0, 18)
    noise = family(scale)
    radius = noise.linf_radius(probabilities((top, other)), dimensions)[0]
    moves = itertools.combinations_with_replacement(range(int(np.ceil(radius))), dimensions)
    for moved in moves:
        assert worst_lead(noise.name, scale, moved, top, other, reach) > -1e-13


def test_linf_radii_are_attained_by_uniform_noise_on_a_line() -> None:
    noise, bounds = Uniform(0.5), probabilities((0.8, 0.1))
    np.testing.assert_allclose(noise.linf_radius(bounds, 1), noise.radius(bounds), rtol=1e-14)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[str, Array, Array]:
    """A law, and corners of two boxes, (2, d) each, that only touch: classes 0 and 1, all else class 2."""
    law = draw(st.sampled_from(sorted(FAMILIES)))
    dimensions = draw(st.integers(1, 3))
    number = st.floats(-2, 2).map(lambda v: round(v, 3))
    lower = np.array(draw(st.lists(st.tuples(*[number] * dimensions), min_size=2, max_size=2)))
    sides = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, np.inf])
    upper = lower + np.array(draw(st.lists(st.tuples(*[sides] * dimensions), min_size=2, max_size=2)))
    lower = np.where(np.isinf(upper) & draw(st.booleans()), -np.inf, lower)
    axis, cut = draw(st.integers(0, dimensions - 1)), draw(number)
    upper[0, axis], lower[1, axis] = cut, cut
    lower[0, axis], upper[1, axis] = min(lower[0, axis], cut - 0.25), max(upper[1, axis], cut + 0.25)
    return law, lower, upper


def smoothed(law: str, scale: float, lower: Array, upper: Array, x: Array) -> Array:
    """Probabilities of the three classes at points (m, d), in closed form."""
    cdf = CDFS[law]
    inside = cdf((upper - x[:, None]) / scale) - cdf((lower - x[:, None]) / scale)
    two = inside.prod(axis=2)
    return np.concatenate([two, 1 - two.sum(axis=1, keepdims=True)], axis=1)


@given(case=boxes(), scale=st.sampled_from([0.3, 1.0, 3.0]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300)
def test_no_attack_on_boxes_succeeds_within_the_radius(case: tuple[str, Array, Array], scale: float, seed: int) -> None:
    law, lower, upper = case
    rng, dimensions = np.random.default_rng(seed), lower.shape[1]
    noise: Noise = FAMILIES[law](scale)
    x = np.zeros((1, dimensions))
    p = smoothed(law, scale, lower, upper, x)[0]
    top = int(p.argmax())
    rounding = 1e-13
    bounds = (
        np.array([p[top] - rounding]),
        np.array([1 - p[top] + rounding]),
        np.array([np.delete(p, top).max() + rounding]),
    )
    radius = noise.radius(Probabilities(*bounds))[0]
    if np.isnan(radius):
        return
    order = 2 if noise.norm == "l2" else 1
    moves = rng.normal(size=(2000, dimensions)) * (rng.random((2000, dimensions)) < 0.7)
    moves = np.concatenate([moves, np.eye(dimensions), -np.eye(dimensions)])
    moves = moves[np.abs(moves).sum(axis=1) > 0]
    moves *= radius * (1 - 1e-9) / np.linalg.norm(moves, order, axis=1, keepdims=True)
    moves = np.concatenate([moves, moves * rng.random((len(moves), 1))])
    for _ in range(3):  # the best moves so far, and their neighbours at the same distance
        q = smoothed(law, scale, lower, upper, x + moves)
        lead = q[:, top] - np.delete(q, top, axis=1).max(axis=1)
        assert lead.min() > 0
        best = moves[np.argsort(lead)[:20]]
        near = (best[:, None] + rng.normal(size=(20, 50, dimensions)) * radius * 0.1).reshape(-1, dimensions)
        moves = near * radius * (1 - 1e-9) / np.linalg.norm(near, order, axis=1, keepdims=True)


tails = st.one_of(st.floats(1e-300, 0.5), st.floats(-300, -0.31).map(lambda e: 10**e), st.floats(0.49, 0.5))


@given(failure=tails, share=st.floats(1e-3, 1))
@settings(max_examples=300)
def test_radii_of_small_failures_are_rounded_down(failure: float, share: float) -> None:
    bounds = complements((failure, failure * share))
    with mpmath.workdps(50):
        top, other, scale = (mpmath.mpf(float(v)) for v in (bounds.top[0], bounds.other[0], 0.3))
        laplace = -(mpmath.log(2 * mpmath.mpf(failure)) + mpmath.log(2 * other)) / 2 * scale
        uniform = (top - other) * scale
    check_rounding(Laplace(0.3).radius(bounds)[0], laplace)
    check_rounding(Uniform(0.3).radius(bounds)[0], uniform)


@given(top=st.floats(1e-9, 0.5), share=st.floats(0, 1))
@settings(max_examples=300)
def test_radii_of_a_mere_plurality_are_rounded_down(top: float, share: float) -> None:
    bounds = probabilities((top, top * share))
    with mpmath.workdps(50):
        exact, other, scale = (mpmath.mpf(float(v)) for v in (top, bounds.other[0], 0.3))
        laplace = mpmath.log(exact / other) / 2 * scale if other else mpmath.inf
        uniform = (exact - other) * scale
        linf = 2 * scale * (1 - (1 - (exact - other) / 2) ** (mpmath.mpf(1) / 7))
    check_rounding(Laplace(0.3).radius(bounds)[0], laplace)
    check_rounding(Uniform(0.3).radius(bounds)[0], uniform)
    check_rounding(Uniform(0.3).linf_radius(bounds, 7)[0], linf)


def check_rounding(radius: float, exact: mpmath.mpf) -> None:
    """At most the exact value, near to it, and nan only where it is next to zero."""
    if np.isnan(radius):
        assert exact < 1e-13
    else:
        assert radius <= exact
        assert radius == exact or radius >= exact * (1 - mpmath.mpf(2) ** -46) - 1e-13


@given(failure=tails)
@settings(max_examples=300)
def test_gaussian_radii_are_rounded_down(failure: float) -> None:
    """For two classes: the normal tail beyond the radius is at least the failure, and not by much."""
    radius = float(Gaussian(1.0).radius(complements((failure, failure)))[0])
    if np.isnan(radius):
        assert failure > 0.5 - 1e-13
        return
    with mpmath.workdps(50):
        assert mpmath.erfc(mpmath.mpf(radius) / mpmath.sqrt(2)) / 2 >= failure
        larger = mpmath.mpf(radius) * (1 + mpmath.mpf(2) ** -46) + mpmath.mpf(10) ** -300
        assert mpmath.erfc(larger / mpmath.sqrt(2)) / 2 < failure


def test_gaussian_linf_is_rounded_down() -> None:
    bounds = probabilities((0.99, 0.004), (0.6, 0.2), (0.3, 0.1))
    l2 = Gaussian(0.5).radius(bounds)
    for d in (1, 2, 3, 784, 3072):
        for radius, linf in zip(l2, Gaussian(0.5).linf_radius(bounds, d), strict=True):
            with mpmath.workdps(50):
                exact = mpmath.mpf(float(radius)) / mpmath.sqrt(d)
            check_rounding(linf, exact)


def test_laplace_radii_that_the_literature_compares() -> None:
    noise, bounds = Laplace(1.0), probabilities((0.99, 0.01))
    assert np.log(0.99 / 0.01) / 2 == pytest.approx(2.30, abs=0.005)
    assert noise.radius(bounds)[0] == pytest.approx(3.91, abs=0.005)


@given(top=st.floats(0.01, 0.999), share=st.floats(0.001, 1))
def test_the_laplace_radius_is_at_least_both_forms_of_the_literature(top: float, share: float) -> None:
    other = min(1 - top, top * 0.999) * share
    radius = Laplace(1.0).radius(probabilities((top, other)))[0]
    assert radius >= np.log(top / other) / 2 - 1e-13
    assert radius >= -np.log(1 - top + other) - 1e-13


@pytest.mark.parametrize("family", FAMILIES.values())
def test_without_a_lead_nothing_is_certified(family: Any) -> None:
    bounds = probabilities((0.3, 0.3), (0.2, 0.4), (0.0, 0.0), (0.5, 0.5), (0.4, 0.6))
    assert np.isnan(family(0.5).radius(bounds)).all()


@pytest.mark.parametrize("family", FAMILIES.values())
def test_certainty_is_the_largest_radius(family: Any) -> None:
    radius = family(0.5).radius(probabilities((1.0, 0.0)))[0]
    assert radius == (pytest.approx(0.5) if family is Uniform else np.inf)
