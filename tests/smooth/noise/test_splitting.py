"""Splitting noise: every outcome, every lattice input, random classifiers; and cuts in floating point."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chi2
from torch import Tensor

from tests.smooth.noise.bounds import probabilities
from verifix.errors import InvalidValue
from verifix.smooth.noise import Purpose, Samples, Splitting


def lattice_inputs(levels: int, coordinates: int) -> tuple[Tensor, NDArray[np.int64]]:
    """All of them, in float32 and in whole levels."""
    whole = np.array(list(itertools.product(range(levels + 1), repeat=coordinates)))
    return torch.from_numpy(whole).float() / levels, whole


def all_votes(noise: Splitting, x: Tensor, seed: int, rare: int) -> NDArray[np.int64]:
    """Votes of a random classifier over all outcomes: (inputs, 3)."""
    rng, classes = np.random.default_rng(seed), dict[tuple[float, ...], int]()
    votes = np.zeros((len(x), 3), dtype=np.int64)
    for row, outcomes in zip(votes, noise.draw_all(x).tolist(), strict=True):
        for z in outcomes:
            row[classes.setdefault(tuple(z), int(rng.integers(3) if rng.integers(rare) == 0 else 0))] += 1
    return votes


@given(
    space=st.sampled_from([(1, 3), (2, 2), (3, 1), (3, 2), (4, 2), (2, 3), (7, 1)]),
    cuts=st.integers(1, 20),
    offsets=st.integers(0, 5),
    rare=st.sampled_from([1, 2, 4, 20]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_no_lattice_perturbation_within_the_exact_radius_changes_the_winner(
    space: tuple[int, int], cuts: int, offsets: int, rare: int, seed: int
) -> None:
    levels, coordinates = space
    noise = Splitting(cuts / (2 * levels), lattice=levels, offsets=offsets)
    assert noise.evaluations == cuts
    x, whole = lattice_inputs(levels, coordinates)
    votes = all_votes(noise, x, seed, rare)
    top = votes.argmax(axis=1)  # ties to the smaller class
    radius = noise.exact_radius(votes, top)
    assert (radius >= 0).all()
    distance = np.abs(whole[:, None] - whole).sum(axis=2)
    assert (np.abs(votes[:, None] - votes).max(axis=2) <= distance).all()
    within = distance <= np.round(radius * levels)[:, None]
    assert (top[:, None] == top)[within].all()


@pytest.mark.parametrize("levels", [1, 2, 5, 8])
def test_the_exact_radius_is_attained(levels: int) -> None:
    """Whether a cut lies below x: as many cuts do as x has levels, and the winner changes one level past the radius."""
    noise = Splitting(0.5, lattice=levels)
    x, whole = lattice_inputs(levels, 1)
    below = (noise.draw_all(x)[..., 0] >= 0.5).sum(dim=1).numpy()
    np.testing.assert_array_equal(below, whole[:, 0])
    votes = np.stack([levels - below, below], axis=1)
    top = votes.argmax(axis=1)
    radius = np.round(noise.exact_radius(votes, top) * levels).astype(int)
    to_other = [
        min((abs(a - b) for b in range(levels + 1) if top[b] != top[a]), default=None) for a in range(levels + 1)
    ]
    assert [r + 1 for r in radius] == to_other


@pytest.mark.parametrize(("scale", "levels"), [(0.5, 4), (0.25, 4), (1.5, 3), (0.125, 4), (1.0, 255)])
def test_outcomes_are_those_of_the_definition(scale: float, levels: int) -> None:
    noise = Splitting(scale, lattice=levels, offsets=3)
    x, whole = lattice_inputs(levels, 1)
    offset = None
    for k, outcomes in zip(whole[:, 0].tolist(), noise.draw_all(x)[..., 0].tolist(), strict=True):
        wanted = []
        for cut in range(noise.evaluations or 0):
            s, period = Fraction(2 * cut + 1, 2 * levels), 2 * Fraction(scale)
            above = math.ceil((Fraction(k, levels) - s) / period)
            middle = Fraction(min(period * above + s, 1) + max(period * (above - 1) + s, 0)) / 2
            wanted.append(float(np.float32(middle.numerator) / np.float32(middle.denominator)))
        turns = [i for i in range(len(wanted)) if wanted[i:] + wanted[:i] == outcomes]
        offset = turns if offset is None else [i for i in turns if i in offset]
        assert offset  # the same offset of the coordinate at every input


def test_samples_are_outcomes_and_each_as_likely() -> None:
    noise, count = Splitting(0.5, lattice=7), 7000
    x = torch.tensor([[0.0, 3 / 7, 1.0]])
    drawn = noise.draw(x, Samples(5, Purpose.ESTIMATION, torch.tensor([0]), 0, count))[0]
    numbers = (drawn[:, None] == noise.draw_all(x)[0]).all(dim=2).sum(dim=0)
    assert numbers.sum() == count
    assert float(((numbers - 1000.0) ** 2 / 1000).sum()) < chi2.isf(1e-9, 6)


@pytest.mark.parametrize("scale", [0.3, 0.5, 2.0])
def test_cuts_fall_between_two_points_as_often_as_their_distance_says(scale: float) -> None:
    """Without a lattice, on shared cuts: each test fails once in 10^9 draws."""
    count, points = 20_000, torch.tensor([[0.0], [0.2], [0.9], [1.0]])
    samples = Samples(5, Purpose.ESTIMATION, torch.zeros(1, dtype=torch.int64), 0, count)
    pieces = [Splitting(scale).draw(x[None], samples)[0, :, 0] for x in points]
    for i, j in itertools.combinations(range(4), 2):
        differ = int((pieces[i] != pieces[j]).sum())
        chance = min(float(points[j] - points[i]) / (2 * scale), 1.0)
        assert binom.ppf(5e-10, count, chance) <= differ <= binom.isf(5e-10, count, chance)
    assert all(((piece >= 0) & (piece <= 1)).all() for piece in pieces)


def test_cuts_of_coordinates_are_independent_without_a_lattice() -> None:
    x = torch.tensor([[0.5, 0.5]])
    drawn = Splitting(0.5).draw(x, Samples(5, Purpose.ESTIMATION, torch.tensor([0]), 0, 10_000))[0] > 0.5
    both = int((drawn[:, 0] & drawn[:, 1]).sum())
    assert binom.ppf(5e-10, 10_000, 0.25) <= both <= binom.isf(5e-10, 10_000, 0.25)


def test_parts_of_all_outcomes() -> None:
    noise, x = Splitting(1.0, lattice=3), torch.tensor([[0.0, 1 / 3], [1.0, 1.0]])
    whole = noise.draw_all(x)
    assert whole.shape == (2, 6, 2)
    assert torch.equal(torch.cat([noise.draw_all(x, 0, 4), noise.draw_all(x, 4, 2)], dim=1), whole)


def test_ties_and_answers_that_are_invalid() -> None:
    noise = Splitting(1.0, lattice=2)
    votes = [[2, 2, 0, 0], [0, 2, 2, 0], [1, 3, 0, 0], [3, 0, 0, 1], [1, 2, 0, 1], [2, 2, 0, 0]]
    radius = noise.exact_radius(votes, [0, 2, 1, 0, 1, 1])
    np.testing.assert_array_equal(radius, [0, np.nan, 0, 0.5, 0, np.nan])


def test_errors() -> None:
    with pytest.raises(InvalidValue, match="2 scale lattice must be a whole number"):
        Splitting(0.3, lattice=4)
    with pytest.raises(InvalidValue, match="lattice = None"):
        Splitting(0.3).draw_all(torch.zeros(1, 1))
    with pytest.raises(InvalidValue, match="all 2 outcomes"):
        Splitting(0.5, lattice=2).exact_radius([[3, 0]], [0])
    with pytest.raises(InvalidValue, match="top = 2"):
        Splitting(0.5, lattice=2).exact_radius([[2, 0]], [2])
    with pytest.raises(InvalidValue, match="one per row"):
        Splitting(0.5, lattice=2).exact_radius([[2, 0]], [0, 1])
    with pytest.raises(InvalidValue, match="there are 2 outcomes"):
        Splitting(0.5, lattice=2).draw_all(torch.zeros(1, 1), 1, 2)
    with pytest.raises(InvalidValue, match="not a multiple"):
        Splitting(0.5, lattice=2).draw_all(torch.tensor([[0.3]]))


def test_radii_are_those_of_the_cuts_on_the_lattice() -> None:
    """A scale that is a little more than whole levels is drawn as these levels, and certifies no more than they do."""
    exact, above = Splitting(0.5, lattice=255), Splitting(0.5 * (1 + 5e-10), lattice=255)
    assert exact.evaluations == above.evaluations
    assert above.radius(probabilities((0.9, 0.1)))[0] <= exact.radius(probabilities((0.9, 0.1)))[0]


def test_cuts_are_as_far_apart_as_the_noise_is_wide() -> None:
    """Noise of scale 0.1 is that of the next float32 above; so are the cuts, or some places were cut twice as often."""
    x = torch.tensor([[0.3], [0.7]], dtype=torch.float64)
    one, other = Splitting(0.1).draw(x, Samples(5, Purpose.ESTIMATION, torch.tensor([0, 0]), 0, 50))[..., 0]
    steps = (other - one) / 0.2
    assert ((steps - steps.round()) > 1e-8).all()
