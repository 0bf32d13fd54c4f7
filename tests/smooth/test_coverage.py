"""How often each rule is wrong, exactly: every outcome of small samples is enumerated, over a grid of probabilities."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from verifix.smooth.gaussian_radius import gaussian_radius
from verifix.smooth.probabilities import Probabilities
from verifix.smooth.rules import bound_counts, predict_counts, split_from_selection

Array = NDArray[np.float64]


def outcomes(n: int, classes: int = 3) -> NDArray[np.int64]:
    rows = itertools.product(range(n + 1), repeat=classes - 1)
    return np.array([[*row, n - sum(row)] for row in rows if sum(row) <= n])


def chances(counts: NDArray[np.int64], p: Array) -> Array:
    """The multinomial probability of each outcome (columns) under each law (rows)."""
    n = counts[0].sum()
    log = gammaln(n + 1) - gammaln(counts + 1).sum(1) + xlogy(counts[None], p[:, None]).sum(2)
    return np.exp(log)


def laws(steps: int) -> Array:
    """Probabilities of three classes: a grid with its edges, and laws next to the corners."""
    grid = [[i, j, steps - i - j] for i in range(steps + 1) for j in range(steps + 1 - i)]
    near = [[1 - 2 * e, e, e] for e in (1e-4, 1e-3, 0.01)] + [[1 - e, e, 0] for e in (1e-4, 1e-3, 0.01)]
    return np.concatenate([np.array(grid) / steps, np.array(near)])


def wrong(bounds: Probabilities, p: Array, top: int) -> NDArray[np.bool_]:
    """For each law and outcome whether a bound does not hold. If they all do, so does the radius of any noise."""
    others = np.delete(p, top, axis=1).max(axis=1)[:, None]
    first = p[:, top][:, None]
    return (bounds.top > first) | (bounds.failure < 1 - first) | (bounds.other < others)


LEVELS = [0.3, 0.05, 0.001]


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [8, 20, 45])
def test_sound_rules_are_wrong_with_probability_alpha_at_most(n: int, alpha: float) -> None:
    counts, p = outcomes(n), laws(24)
    probability = chances(counts, p)
    assert np.allclose(probability.sum(1), 1)
    top = np.zeros(len(counts), int)
    splits: list[Any] = [None, *(alpha * part for part in (0.01, 0.3, 0.5, 0.9, 1.0))]
    worst = {}
    for rule, split in [("certify", None), *(("t-certify", split) for split in splits)]:
        bounds = bound_counts(counts, top, alpha, rule, split)
        worst[rule, split] = ((probability * wrong(bounds, p, 0)).sum(1)).max()
    assert max(worst.values()) <= alpha * (1 + 1e-9)
    if n == 45 and alpha > 0.01:  # the enumeration does see failures
        assert worst["certify", None] > alpha / 2


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [8, 30])
def test_the_published_rule_is_wrong_with_probability_1_9_alpha_at_most(n: int, alpha: float) -> None:
    counts, p = outcomes(n), laws(24)
    bounds = bound_counts(counts, np.zeros(len(counts), int), alpha, "t-certify-paper")
    failing = wrong(bounds, p, 0) & ~np.isnan(gaussian_radius(bounds, 1.0))  # it says nothing where it abstains
    assert (chances(counts, p) * failing).sum(1).max() <= 1.9 * alpha * (1 + 1e-9)


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("selecting", ["majority", "predict"])
def test_class_and_split_from_another_sample_keep_the_level(alpha: float, selecting: str) -> None:
    """The whole procedure: select class and split on n0 samples, bound on n others; every pair of outcomes."""
    n0, n, p = 12, 20, laws(16)
    selection, counts = outcomes(n0), outcomes(n)
    top = selection.argmax(1) if selecting == "majority" else predict_counts(selection, max(alpha, 0.01))
    chosen = np.maximum(top, 0)
    split = split_from_selection(selection, chosen, alpha)
    selected, estimated = chances(selection, p), chances(counts, p)
    failure = np.zeros(len(p))
    for candidate in range(3):
        for part in (alpha, alpha / 2):
            rows = (top == candidate) & (split == part)
            bounds = bound_counts(counts, np.full(len(counts), candidate), alpha, "t-certify", split=part)
            given = (estimated * wrong(bounds, p, candidate)).sum(1)
            assert given.max() <= alpha * (1 + 1e-9), "for every outcome of the selection by itself"
            failure += selected[:, rows].sum(1) * given
    assert failure.max() <= alpha * (1 + 1e-9)


def test_estimating_from_the_sample_that_chose_the_class_doubles_the_failures() -> None:
    """Why the class must come from other samples: .0468 becomes .0937 at level .05."""
    n, alpha = 1000, 0.05
    counts = np.stack([np.arange(n + 1), n - np.arange(n + 1)], axis=1)
    probability = chances(counts, np.array([[0.5, 0.5]]))[0]
    fixed = bound_counts(counts, np.zeros(n + 1, int), alpha, "certify")
    reused = bound_counts(counts, counts.argmax(1), alpha, "certify")
    assert probability[fixed.top > 0.5].sum() == pytest.approx(0.0468, abs=5e-5)
    assert probability[reused.top > 0.5].sum() == pytest.approx(0.0937, abs=5e-5)


@pytest.mark.parametrize("rule", ["certify", "t-certify"])
def test_level_at_n_100000_by_simulation(rule: str) -> None:
    numbers, alpha, draws = np.random.default_rng(5), 0.05, 20_000
    for p in ([0.6, 0.2, 0.2], [0.99, 0.004, 0.006], [0.45, 0.3, 0.25]):
        counts = numbers.multinomial(100_000, p, size=draws)
        bounds = bound_counts(counts, np.zeros(draws, int), alpha, rule)
        share = wrong(bounds, np.array([p]), 0).mean()
        assert share <= alpha + 4 * (alpha * (1 - alpha) / draws) ** 0.5
        assert share > alpha / 10
