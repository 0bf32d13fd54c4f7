"""Keep-or-replace noise: exact tables, and every classifier on small spaces."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.smooth.noise.bounds import leader, outward, probabilities
from verifix.kernels.noise import keep_probability
from verifix.smooth.noise import KeepOrReplace, Purpose, Samples

PUBLISHED = [
    (0.8, 1, 1, 0.875),
    (0.8, 1, 2, 0.96875),
    (0.8, 1, 3, 0.9921875),
    (0.8, 1, 4, 0.99275),
    (0.2, 255, 1, 0.696862745),
    (0.2, 255, 2, 0.853735333),
]
"""keep, levels, radius, and the probability from which Lee et al. certify it: their tables for MNIST and ImageNet."""

KEEPS = [0.8, 0.5, 0.3, 0.25, 0.1]


@pytest.mark.parametrize(("keep", "levels", "radius", "least"), PUBLISHED)
def test_published_tables(keep: float, levels: int, radius: int, least: float) -> None:
    noise, margin = KeepOrReplace(keep, levels), Fraction(1, 10**8)
    assert (
        noise.changed(Fraction(least) - margin, radius)
        < Fraction(1, 2)
        < noise.changed(Fraction(least) + margin, radius)
    )
    bounds = probabilities((least + 1e-8, 1 - least - 1e-8), (least - 1e-8, 1 - least + 1e-8))
    np.testing.assert_array_equal(noise.radius(bounds), [radius, radius - 1])


def outcome(noise: KeepOrReplace, x: tuple[int, ...], z: tuple[int, ...]) -> Fraction:
    """The probability that x becomes z, straight from the definition."""
    keep = Fraction(keep_probability(noise.keep))
    chance = Fraction(1)
    for before, after in zip(x, z, strict=True):
        chance *= keep if before == after else (1 - keep) / noise.levels
    return chance


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize(
    ("levels", "changed", "same"), [(1, 1, 0), (1, 3, 1), (2, 2, 1), (3, 2, 0), (3, 1, 1), (4, 2, 0)]
)
def test_regions_are_those_of_neyman_and_pearson(keep: float, levels: int, changed: int, same: int) -> None:
    """Against all outcomes, sorted by likelihood ratio: unchanged coordinates play no part."""
    noise, size = KeepOrReplace(keep, levels), changed + same
    x, moved = (0,) * size, (1,) * changed + (0,) * same
    outcomes = list(itertools.product(range(levels + 1), repeat=size))
    pairs = sorted(
        ((outcome(noise, x, z), outcome(noise, moved, z)) for z in outcomes), key=lambda pair: pair[1] / pair[0]
    )
    assert sum(p for p, _ in pairs) == sum(q for _, q in pairs) == 1
    for top in (Fraction(k, 13) for k in range(14)):
        left, least = top, Fraction(0)
        for p, q in pairs:
            least += q * min(1, left / p)
            left = max(left - p, Fraction(0))
        assert noise.changed(top, changed) == least


@st.composite
def classifiers(draw: st.DrawFn) -> tuple[KeepOrReplace, int, list[int]]:
    """Noise, the number of coordinates, and a class for every outcome."""
    levels, coordinates = draw(st.sampled_from([(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (3, 2)]))
    size = (levels + 1) ** coordinates
    common = draw(st.sampled_from([2, 5, 20]))  # how often the first class is: else there is nothing to certify
    labels = draw(st.lists(st.integers(0, common).map(lambda c: c if c < 3 else 0), min_size=size, max_size=size))
    return KeepOrReplace(draw(st.sampled_from(KEEPS)), levels), coordinates, labels


@functools.cache
def outcomes(noise: KeepOrReplace, coordinates: int) -> tuple[NDArray[np.object_], Fraction]:
    """The probabilities of all outcomes (rows) at all inputs (columns), in whole numbers of a unit."""
    unit = Fraction(1, (noise.levels * 2**32) ** coordinates)
    space = list(itertools.product(range(noise.levels + 1), repeat=coordinates))
    return np.array([[int(outcome(noise, x, z) / unit) for x in space] for z in space], dtype=object), unit


def check_all_inputs(noise: KeepOrReplace, coordinates: int, labels: list[int]) -> float:
    """No two inputs within a radius have different winners; the largest radius."""
    chances, unit = outcomes(noise, coordinates)
    space = np.array(list(itertools.product(range(noise.levels + 1), repeat=coordinates)))
    votes = (chances[:, :, None] * np.eye(3, dtype=int).astype(object)[labels][:, None]).sum(axis=0)
    assert (votes.sum(axis=1) * unit == 1).all()
    largest = -1.0
    for x, here in zip(space, votes, strict=True):
        top, best, second = leader(here)
        radius = noise.radius(outward(best * unit, second * unit))[0]
        assert np.isnan(radius) or radius >= 0
        if radius >= 0:
            near = votes[(space != x).sum(axis=1) <= radius]
            assert (near[:, [top]] > np.delete(near, top, axis=1)).all()
            largest = max(largest, float(radius))
    return largest


@given(case=classifiers())
@settings(max_examples=40)
def test_no_perturbation_within_the_radius_changes_any_classifier(case: tuple[KeepOrReplace, int, list[int]]) -> None:
    check_all_inputs(*case)


def test_the_radius_is_attained() -> None:
    """The worst classifier of one changed coordinate: just past the table's probability, and two changes break it."""
    noise = KeepOrReplace(0.8, 1)
    agree = [0 if sum(z) <= 1 else 1 for z in itertools.product((0, 1), repeat=3)]
    assert check_all_inputs(noise, 3, agree) == 1


def test_the_runner_up_helps() -> None:
    noise = KeepOrReplace(0.8, 1)
    np.testing.assert_array_equal(noise.radius(probabilities((0.86, 0.14), (0.86, 0.05), (0.45, 0.2))), [0, 1, 0])


def region_lead(noise: KeepOrReplace, changed: int, top: Fraction, other: Fraction) -> Fraction:
    """The least p_A - p_B after so many changes, by the regions of Lee et al.: how many coordinates agree with x and
    how many with the changed input, counted by multinomial coefficients."""
    keep = Fraction(keep_probability(noise.keep))
    each = (1 - keep) / noise.levels
    regions = []
    for with_x in range(changed + 1):
        for with_moved in range(changed + 1 - with_x):
            neither = changed - with_x - with_moved
            ways = math.comb(changed, with_x) * math.comb(changed - with_x, with_moved) * (noise.levels - 1) ** neither
            p, q = (ways * keep**k * each ** (changed - k) for k in (with_x, with_moved))
            if ways:
                regions.append((p, q))
    regions.sort(key=lambda pair: pair[1] / pair[0])

    def least(left: Fraction) -> Fraction:
        total = Fraction(0)
        for p, q in regions:
            total += q * min(1, left / p)
            left = max(left - p, Fraction(0))
        return total

    return least(top) - (1 - least(1 - other))


@pytest.mark.parametrize("levels", [1, 2, 255])
@pytest.mark.parametrize(("top", "other"), [(1 - 1e-5, 1e-6), (0.999, 2e-4), (0.6, 0.1), (0.3, 0.2)])
@pytest.mark.parametrize("keep", [0.2, 0.6])
def test_radii_are_the_largest_that_the_regions_of_the_paper_allow(
    keep: float, levels: int, top: float, other: float
) -> None:
    noise = KeepOrReplace(keep, levels)
    radius = int(noise.radius(probabilities((top, other)))[0])
    exact = Fraction(top), Fraction(other)
    assert region_lead(noise, radius, *exact) > 0 >= region_lead(noise, radius + 1, *exact)


def test_a_tie_is_not_certified() -> None:
    """One change takes 3/4 to exactly 1/2 here."""
    noise = KeepOrReplace(0.5, 2)
    assert noise.changed(Fraction(3, 4), 1) == Fraction(1, 2)
    above = float(np.nextafter(0.75, 1))
    np.testing.assert_array_equal(noise.radius(probabilities((0.75, 0.25), (above, 1 - above))), [0, 1])


def test_certainty_is_reported_up_to_a_limit() -> None:
    assert KeepOrReplace(0.5, 255).radius(probabilities((1.0, 0.0)))[0] == 256


def test_draws_are_on_the_lattice_and_kept_as_often_as_said() -> None:
    x = (torch.arange(4000.0) % 8 / 7).reshape(1, 4000)
    noisy = KeepOrReplace(0.7, 7).draw(x, Samples(1, Purpose.ESTIMATION, torch.tensor([0]), 0, 50))
    assert torch.equal((noisy * 7).round() / 7, noisy)
    kept = (noisy == x).double().mean().item()
    assert abs(kept - 0.7) < 6.2 * (0.7 * 0.3 / 200_000) ** 0.5  # fails once in 10^9 draws
