"""That the numbers have their laws and depend on nothing: statistics of fixed seeds.

Every test states how often it would fail by chance for another seed; for these seeds it does not.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.kernels.plans import Array
from verifix.kernels.noise import add_noise, keep_or_replace, random_words

MILLION = 1_000_000
LAWS = {"gaussian": stats.norm, "laplace": stats.laplace, "uniform": stats.uniform(-1, 2)}
CHANCE = 1e-6  # of each test
Z = float(stats.norm.isf(CHANCE / 2))


def drawn(law: str, inputs: int = 1, samples: int = 1000, d: int = 1000, seed: int = 2, purpose: int = 1) -> Array:
    """Standard numbers, (inputs, samples, d)."""
    x = torch.zeros(inputs, d)
    names = {"seed": seed, "purpose": purpose, "start": 0, "count": samples}
    return add_noise(x, torch.arange(inputs), law=law, scale=1.0, **names).numpy().astype(np.float64)


@pytest.mark.parametrize("law", LAWS)
def test_distribution_functions_agree(law: str) -> None:
    """Kolmogorov and Smirnov, a million numbers."""
    assert stats.kstest(drawn(law).ravel(), LAWS[law].cdf).pvalue > CHANCE


@pytest.mark.parametrize("law", LAWS)
def test_tails_agree(law: str) -> None:
    """How many of a million go beyond the quantiles of a probability of 1/2 down to 1e-5, on each side and in the
    middle; each of the 24 is within what has a chance of 1e-6."""
    numbers = drawn(law, seed=3).ravel()
    for probability in (0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5):
        edge, half = LAWS[law].isf(probability), LAWS[law].ppf(0.5 + probability / 2)
        for count in ((numbers > edge).sum(), (numbers < -edge).sum()):
            assert stats.binomtest(int(count), MILLION, probability).pvalue > CHANCE
        assert stats.binomtest(int((np.abs(numbers) < half).sum()), MILLION, probability).pvalue > CHANCE


def moment(law: str, power: int) -> float:
    if power % 2:
        return 0.0
    even = {"gaussian": math.prod(range(1, power, 2)), "laplace": math.factorial(power), "uniform": 1 / (power + 1)}
    return float(even[law])


@pytest.mark.parametrize("law", LAWS)
def test_moments(law: str) -> None:
    """The first eight, each within the normal quantile of its own standard error."""
    numbers = drawn(law, seed=4).ravel()
    for power in range(1, 9):
        mean, square = moment(law, power), moment(law, 2 * power)
        assert abs((numbers**power).mean() - mean) <= Z * math.sqrt((square - mean**2) / MILLION)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("powers", [(1, 1), (2, 2), (1, 2), (3, 1)])
def test_neighbours_do_not_depend_on_each_other(law: str, powers: tuple[int, int]) -> None:
    """Mixed moments of coordinates 1 to 5 apart (two of a pair, two pairs of a block, two blocks), of samples and of
    inputs next to each other: within their standard errors, seven tests of 1e-6 each."""
    numbers = drawn(law, inputs=2, samples=200, seed=5)
    pairs = [(numbers[..., :-shift], numbers[..., shift:]) for shift in range(1, 6)]
    pairs += [(numbers[:, :-1], numbers[:, 1:]), (numbers[0], numbers[1])]
    for first, second in pairs:
        first, second = (
            first ** powers[0] - (first ** powers[0]).mean(),
            second ** powers[1] - (second ** powers[1]).mean(),
        )
        product = first * second
        assert abs(product.mean()) <= Z * product.std() / math.sqrt(product.size)


def test_pairs_of_normal_numbers_are_normal_in_every_direction() -> None:
    """Projections on eight directions, and the angle and the length of pairs: ten Kolmogorov-Smirnov tests."""
    pairs = drawn("gaussian", seed=6).reshape(-1, 2)
    for turn in range(8):
        direction = np.array([math.cos(0.1 + turn), math.sin(0.1 + turn)])
        assert stats.kstest(pairs @ direction, stats.norm.cdf).pvalue > CHANCE
    assert stats.kstest(np.arctan2(pairs[:, 1], pairs[:, 0]), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > CHANCE
    assert stats.kstest((pairs**2).sum(1), stats.chi2(2).cdf).pvalue > CHANCE


def test_every_part_of_a_name_gives_other_numbers() -> None:
    """Another seed (either of its words), purpose, input or sample: uncorrelated, as of 1e-6 each, and no number equal
    but by chance: two uniform numbers are, with probability below 1e-6 each."""
    names = [(1, 1, 0, 0), (2, 1, 0, 0), (1 + 2**32, 1, 0, 0), (1, 2, 0, 0), (1, 1, 1, 0), (1, 1, 0, 100)]
    draws = []
    for seed, purpose, number, start in names:
        inputs, samples = torch.tensor([number]), {"seed": seed, "purpose": purpose, "start": start, "count": 100}
        draws.append(add_noise(torch.zeros(1, 1000), inputs, law="uniform", scale=1.0, **samples).numpy().ravel())
    for first, second in itertools.combinations(draws, 2):
        assert abs((first.astype(np.float64) * second).mean()) <= Z / 3 / math.sqrt(len(first))
        assert (first == second).sum() <= stats.poisson.isf(CHANCE, len(first) * 1e-6)


def test_every_bit_of_words_is_fair() -> None:
    words = random_words(torch.tensor([0]), words=1000, seed=7, purpose=1, start=0, count=1000).numpy().ravel()
    for bit in range(32):
        assert stats.binomtest(int((words >> bit & 1).sum()), MILLION, 0.5).pvalue > CHANCE


@pytest.mark.parametrize(("keep", "levels"), [(0.8, 1), (0.2, 3), (0.5, 255)])
def test_kept_and_replaced_as_often_as_said(keep: float, levels: int) -> None:
    """Chi-square over all values of a coordinate, for the two ends and the middle."""
    for value in {0, levels // 2, levels}:
        x = torch.full((1, 500), value / levels)
        y = keep_or_replace(x, torch.tensor([value]), keep=keep, levels=levels, seed=8, purpose=1, start=0, count=1000)
        counts = np.bincount((y * levels).round().to(torch.int64).numpy().ravel(), minlength=levels + 1)
        expected = np.full(levels + 1, (1 - keep) / levels)
        expected[value] = keep
        assert stats.chisquare(counts, expected * counts.sum()).pvalue > CHANCE


def test_supports() -> None:
    """The largest numbers that words can give, by the words that give them (docs/smoothing-noise.md)."""
    from verifix.kernels.noise_reference import laplace, normal, uniform

    first = torch.tensor([0, 2**32 - 1, 2**31, 2**31 - 1])
    largest = torch.stack([normal(torch.stack([first, torch.full_like(first, turn)], -1)) for turn in (0, 2**30)])
    assert 6.763 < largest.abs().max() < 6.764
    assert 0 < largest[:, 1].norm(dim=-1).max() < 2.0**-15.9
    ends = torch.tensor([0, 2**31 - 1, 2**31, 2**32 - 1])
    sizes = laplace(ends).abs()
    assert torch.equal(sizes[:2], sizes[2:]) and 22.18 < sizes.max() < 22.181 and 2.0**-32.1 < sizes.min() < 2.0**-31.9
    assert uniform(ends).tolist() == [2.0**-32, 1.0, -(2.0**-32), -1.0]
