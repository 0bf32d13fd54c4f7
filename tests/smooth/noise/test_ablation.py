"""Ablation: every subset, every perturbation, random classifiers on small spaces."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from tests.smooth.noise.bounds import leader, outward, probabilities
from verifix.errors import InvalidValue
from verifix.smooth.noise import Ablation, Purpose, Samples


def subsets(noise: Ablation) -> Tensor:
    """All that can be kept: (subsets, coordinates)."""
    rows = list(itertools.combinations(range(noise.coordinates), noise.keep))
    kept = torch.zeros(len(rows), noise.coordinates, dtype=torch.bool)
    kept[torch.arange(len(rows))[:, None], torch.tensor(rows)] = True
    return kept


@given(
    sizes=st.sampled_from([(2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (5, 1), (5, 2)]),
    null=st.sampled_from([0.0, -1.0, 0.5, "channel"]),
    rare=st.sampled_from([2, 4, 10]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_no_perturbation_within_the_radius_changes_any_classifier(
    sizes: tuple[int, int], null: Any, rare: int, seed: int
) -> None:
    """Also where the null value is one that a coordinate may have."""
    coordinates, keep = sizes
    noise = Ablation(keep, coordinates, null)
    space = torch.tensor(list(itertools.product((0.0, 0.5), repeat=coordinates))).reshape(-1, 1, 1, coordinates)
    seen = noise.ablated(space, subsets(noise).expand(len(space), -1, -1)).flatten(2)
    rng, classes = np.random.default_rng(seed), dict[tuple[float, ...], int]()
    outcomes = seen.shape[1]
    votes = []
    for row in seen.tolist():
        labels = [classes.setdefault(tuple(z), int(rng.integers(3) if rng.integers(rare) == 0 else 0)) for z in row]
        votes.append(np.array([Fraction(labels.count(c), outcomes) for c in range(3)]))
    for i in range(len(space)):
        top, best, second = leader(votes[i])
        radius = noise.radius(outward(best, second))[0]
        for j in range(len(space)) if radius >= 0 else []:
            if (space[i] != space[j]).sum() <= radius:
                assert all(votes[j][top] > votes[j][c] for c in range(3) if c != top)


def test_the_radius_is_attained() -> None:
    """A classifier that answers 0 on what it saw at x and 1 on all else: one more changed coordinate breaks it."""
    noise = Ablation(2, 8)
    outcomes = math.comb(8, 2)
    x, kept = torch.ones(1, 8), subsets(noise)[None]
    at_x = noise.ablated(x, kept)[0]
    radius = int(noise.radius(outward(Fraction(1), Fraction(0)))[0])

    def agreeing(changed: int) -> Fraction:
        moved = x.clone()
        moved[0, :changed] = 2.0
        seen = noise.ablated(moved, kept)[0]
        same = [(z == at_x).all(dim=1).any().item() for z in seen]
        return Fraction(sum(same), outcomes)

    assert agreeing(radius) > Fraction(1, 2) >= agreeing(radius + 1)


@pytest.mark.parametrize(("keep", "coordinates"), [(1, 1), (1, 10), (3, 7), (7, 7), (45, 784), (75, 1024)])
def test_radii_are_the_largest_with_a_lead_in_whole_numbers(keep: int, coordinates: int) -> None:
    noise, outcomes = Ablation(keep, coordinates), math.comb(coordinates, keep)
    for top, other in [(1.0, 0.0), (0.999, 0.001), (0.9, 0.05), (0.75, 0.25), (0.51, 0.49), (0.4, 0.3)]:
        a, b = math.ceil(Fraction(top) * outcomes), math.floor(Fraction(other) * outcomes)
        hit = [outcomes - math.comb(coordinates - r, keep) for r in range(coordinates + 1)]
        wanted = max(r for r in range(coordinates + 1) if a - hit[r] > b + hit[r])
        assert noise.radius(probabilities((top, other)))[0] == wanted


@pytest.mark.parametrize(("keep", "coordinates"), [(5, 1200), (6, 784), (5, 784), (2, 9)])
@pytest.mark.parametrize("r", [0, 1, 2])
def test_the_law_that_is_drawn_keeps_the_lead_where_the_ideal_one_does(keep: int, coordinates: int, r: int) -> None:
    """Bounds that were moved by twice the total variation: once for the samples, once for the classifier elsewhere."""
    noise, outcomes = Ablation(keep=keep, coordinates=coordinates), math.comb(coordinates, keep)
    away = Fraction(noise.total_variation(coordinates))
    hit = 1 - Fraction(math.comb(coordinates - r, keep), outcomes)
    some = np.random.default_rng(0)
    tops = some.uniform(0.45, 0.5, 200)  # the lead goes through what r coordinates can take away
    others = tops - float(2 * hit) + some.uniform(-2, 2, 200) / outcomes
    held = noise.radius(probabilities(*zip(tops, others, strict=True))) >= r
    assert 10 < held.sum() < 200
    for top, other in zip(tops[held].tolist(), others[held].tolist(), strict=True):
        best = Fraction(math.ceil((Fraction(top) + away) * outcomes), outcomes)
        second = Fraction(math.floor((Fraction(other) - away) * outcomes), outcomes)
        assert best - second - 2 * hit - 2 * away > 0


def test_without_a_lead_nothing_is_certified() -> None:
    assert np.isnan(Ablation(1, 4).radius(probabilities((0.3, 0.3), (0.2, 0.4), (0.5, 0.5)))).all()


def test_a_radius_of_zero_is_a_certificate_of_the_clean_answer() -> None:
    assert Ablation(4, 4).radius(probabilities((0.6, 0.4)))[0] == 0


def test_pixels_are_ablated_with_all_their_channels() -> None:
    samples = Samples(3, Purpose.SELECTION, torch.arange(2), 0, 20)
    x = torch.rand(2, 3, 4, 5) + 0.1
    pixels = Ablation(6, 20).draw(x, samples)
    kept = pixels != 0
    assert torch.equal(kept, kept[:, :, :1].expand_as(kept)) and (kept[:, :, 0].flatten(2).sum(2) == 6).all()
    assert torch.equal(pixels, torch.where(kept, x[:, None], 0.0))
    values = Ablation(6, 60).draw(x, samples) != 0
    assert (values.flatten(2).sum(2) == 6).all() and not torch.equal(values, values[:, :, :1].expand_as(values))


def test_the_null_of_two_channels_is_told_from_black() -> None:
    x = torch.tensor([[[[0.0, 1.0, 0.25]]]])
    both = Ablation(2, 3, null="channel").draw(x, Samples(3, Purpose.SELECTION, torch.tensor([0]), 0, 8))
    assert both.shape == (1, 8, 2, 1, 3)
    kept = both.sum(dim=2)[0, :, 0] == 1
    assert (kept.sum(dim=1) == 2).all()
    assert torch.equal(both[0, :, 0, 0], torch.where(kept, x[0, 0], 0.0))


def test_subsets_are_drawn_evenly() -> None:
    noise, count = Ablation(2, 5, null=-1.0), 20_000
    seen = noise.draw(torch.zeros(1, 5), Samples(7, Purpose.ESTIMATION, torch.tensor([0]), 0, count))[0] == 0
    numbers = (seen[:, None] == subsets(noise)).all(dim=2).sum(dim=0)
    assert numbers.sum() == count
    expected = count / len(numbers)
    assert float(((numbers - expected) ** 2 / expected).sum()) < chi2.isf(1e-9, len(numbers) - 1)


def test_inputs_must_have_the_coordinates() -> None:
    samples = Samples(0, Purpose.SELECTION, torch.tensor([0]), 0, 1)
    with pytest.raises(InvalidValue, match="coordinates = 5"):
        Ablation(2, 5).draw(torch.zeros(1, 4), samples)
    with pytest.raises(InvalidValue, match="no channels"):
        Ablation(2, 4, null="channel").draw(torch.zeros(1, 4), samples)
