"""Stopping early: how often bounds are wrong at any checkpoint, exactly; and how early decisions are made."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, norm

from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.gaussian_radius import gaussian_radius
from verifix.smooth.probabilities import Probabilities
from verifix.smooth.sequential import Answer, Enclosure, SequentialRule

Array = NDArray[np.float64]


def radius(bounds: Probabilities) -> Array:
    return gaussian_radius(bounds, 0.5)


def binary(n: int) -> NDArray[np.int64]:
    return np.stack([np.arange(n + 1), n - np.arange(n + 1)], axis=1)


def ever(rule: SequentialRule, p: float, event: dict[int, NDArray[np.bool_]]) -> float:
    """The probability that an event, told from the count at each checkpoint, comes true at one: by dynamic programming
    over (count, samples)."""
    alive, drawn, total = np.ones(1), 0, 0.0
    for n in rule.checkpoints:
        alive = np.convolve(alive, binom.pmf(np.arange(n - drawn + 1), n - drawn, p))
        total += alive[event[n]].sum()
        alive[event[n]] = 0
        drawn = n
    return total


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001])
@pytest.mark.parametrize(("first", "growth", "limit"), [(1, 1.0001, 60), (8, 1.3, 400), (32, 1.5, 700)])
def test_bounds_hold_at_all_checkpoints_at_once(first: int, growth: float, limit: int, alpha: float) -> None:
    rule = SequentialRule(alpha=alpha, rule="certify", limit=limit, first=first, growth=growth)
    found = {n: rule.enclose(binary(n), np.zeros(n + 1, int)) for n in rule.checkpoints}
    worst = [0.0, 0.0]
    for p in np.concatenate([np.linspace(0.02, 0.98, 49), [0.001, 0.999, 0.9999]]):
        over = {n: (x.guaranteed.top > p) | (x.guaranteed.failure < 1 - p) for n, x in found.items()}
        under = {n: (x.possible.top < p) | (x.possible.failure > 1 - p) for n, x in found.items()}
        worst = [max(worst[0], ever(rule, p, over)), max(worst[1], ever(rule, p, under))]
    assert max(worst) <= alpha * (1 + 1e-9)
    if alpha > 0.001:
        assert min(worst) > alpha / 10  # the sum does see failures


@pytest.mark.parametrize("split", [None, 0.02, 0.1])
def test_three_classes_at_all_checkpoints_at_once(split: float | None) -> None:
    """Sample by sample over all counts of three classes: all bounds of an input, both its sides."""
    alpha = 0.1
    rule = SequentialRule(alpha=alpha, limit=36, first=5, growth=1.4)
    worst = np.zeros(2)
    for p in itertools.chain(([0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.3, 0.6, 0.1], [0.9, 0.1, 0], [0.8, 0.1, 0.1])):
        others = max(p[1:])
        for side in (0, 1):
            alive, total = np.zeros((37, 37)), 0.0  # by the counts of the first two
            alive[0, 0] = 1
            for n in range(1, 37):
                before = alive
                alive = p[2] * before
                alive[1:] += p[0] * before[:-1]
                alive[:, 1:] += p[1] * before[:, :-1]
                if n not in rule.checkpoints:
                    continue
                i, j = np.nonzero(np.add.outer(np.arange(37), np.arange(37)) <= n)
                found = rule.enclose(np.stack([i, j, n - i - j], 1), np.zeros(len(i), int), split)
                low, high = found.guaranteed, found.possible
                if side == 0:
                    bad = (low.top > p[0]) | (low.failure < 1 - p[0]) | (low.other < others)
                else:
                    bad = (high.top < p[0]) | (high.failure > 1 - p[0] + 1e-15)
                    bad |= high.other > (1 - p[0] + 1e-15 if split == alpha else others)
                total += alive[i[bad], j[bad]].sum()
                alive[i[bad], j[bad]] = 0
            worst[side] = max(worst[side], total)
    assert worst.max() <= alpha * (1 + 1e-9)
    assert worst.min() > alpha / 50


def test_the_largest_of_many_equal_counts_is_no_evidence_of_a_probable_class() -> None:
    rule, draws, p = SequentialRule(alpha=0.1, limit=2000, first=2000), 4000, np.array([0.4, *[0.06] * 10])
    counts = np.random.default_rng(6).multinomial(2000, p, size=draws)
    found = rule.enclose(counts, np.zeros(draws, int)).possible
    wrong = (found.top < 0.4) | (found.failure > 0.6) | (found.other > 0.06)
    assert 0.01 < wrong.mean() <= 0.1
    found = rule.enclose(counts, np.zeros(draws, int)).guaranteed
    wrong = (found.top > 0.4) | (found.failure < 0.6) | (found.other < 0.06)
    assert 0.01 < wrong.mean() <= 0.1


def paths(rule: SequentialRule, p: float, draws: int, seed: int) -> list[NDArray[np.int64]]:
    numbers = np.random.default_rng(seed)
    steps = np.diff([0, *rule.checkpoints])
    hits = np.cumsum(numbers.binomial(steps, p, size=(draws, len(steps))), axis=1)
    return [np.stack([hits[:, t], n - hits[:, t]], axis=1) for t, n in enumerate(rule.checkpoints)]


def test_level_up_to_100000_samples_by_simulation() -> None:
    alpha, draws = 0.05, 20_000
    rule = SequentialRule(alpha=alpha, rule="certify")
    for p in (0.6, 0.99):
        wrong = np.zeros(draws, bool)
        for counts in paths(rule, p, draws, seed=1):
            found = rule.enclose(counts, np.zeros(draws, int))
            wrong |= (found.guaranteed.top > p) | (found.guaranteed.failure < 1 - p)
        assert wrong.mean() <= alpha + 4 * (alpha * (1 - alpha) / draws) ** 0.5
        assert wrong.mean() > alpha / 10


@pytest.mark.parametrize(
    ("p", "target", "most", "answer"),
    [
        (0.999, 0.25, 40, Answer.YES),
        (0.99, 0.25, 45, Answer.YES),
        (0.9, 0.25, 110, Answer.YES),
        (0.6, 0.25, 800, Answer.NO),
        (0.999, 0.5, 90, Answer.YES),
        (0.99, 0.5, 110, Answer.YES),
        (0.9, 0.5, 1000, Answer.YES),
        (0.7, 0.5, 220, Answer.NO),
        (0.6, 0.5, 80, Answer.NO),
    ],
)
def test_a_radius_is_decided_with_few_samples(p: float, target: float, most: int, answer: Answer) -> None:
    """At alpha = .001 and sigma = .5, where a fixed number would be 100,000."""
    rule, draws = SequentialRule(alpha=0.001, rule="certify"), 500
    used, answers = np.full(draws, rule.limit), np.zeros(draws, np.int8)
    before = None
    for counts in paths(rule, p, draws, seed=2):
        before = rule.enclose(counts, np.zeros(draws, int), before=before)
        now = before.reaches(radius, target)
        first = (answers == Answer.OPEN) & (now != Answer.OPEN)
        used[first], answers[first] = counts[0].sum(), now[first]
        if (answers != Answer.OPEN).all():
            break
    assert used.mean() < most
    assert (answers == answer).mean() > 0.995
    true = 0.5 * norm.ppf(p)
    assert (true >= target) == (answer == Answer.YES)


def test_relative_width() -> None:
    rule, draws = SequentialRule(alpha=0.001, rule="certify"), 200
    before, used = None, np.full(draws, rule.limit)
    for counts in paths(rule, 0.95, draws, seed=3):
        before = rule.enclose(counts, np.zeros(draws, int), before=before)
        done = before.within(radius, 0.2) == Answer.YES
        used[done] = np.minimum(used[done], counts[0].sum())
    low, high = radius(before.guaranteed), radius(before.possible)  # type: ignore[union-attr]
    true = 0.5 * norm.ppf(0.95)
    assert (low <= true).all()
    assert (high >= true).all()
    assert used.mean() < 3000
    hopeless = rule.enclose([[40, 122]], [0]).within(radius, 0.2)
    assert hopeless.tolist() == [Answer.NO]


def test_the_runner_up_makes_radii_reachable_that_one_class_does_not() -> None:
    rule = SequentialRule(alpha=0.001)
    n = rule.checkpoints[12]
    counts = [[round(0.6 * n), *[round(0.1 * n)] * 3, n - round(0.6 * n) - 3 * round(0.1 * n)]]
    found = rule.enclose(counts, [0])
    assert radius(found.guaranteed)[0] > 0.25 > 0.5 * norm.ppf(0.6)
    assert found.reaches(radius, 0.25).tolist() == [Answer.YES]
    assert rule.enclose(counts, [0], split=0.001).reaches(radius, 0.25).tolist() == [Answer.NO]


def test_meeting_earlier_bounds_never_loses() -> None:
    rule = SequentialRule(alpha=0.01, limit=5000)
    before: Enclosure | None = None
    for counts in paths(rule, 0.8, 50, seed=4):
        alone = rule.enclose(counts, np.zeros(50, int))
        before = rule.enclose(counts, np.zeros(50, int), before=before)
        assert (before.guaranteed.top >= alone.guaranteed.top).all()
        assert (before.guaranteed.failure <= alone.guaranteed.failure).all()
        assert (before.guaranteed.other <= alone.guaranteed.other).all()
        assert (before.possible.top <= alone.possible.top).all()
        assert (before.possible.other >= alone.possible.other).all()
    assert before is not None
    some = before.select(np.arange(50) < 3)
    assert np.array_equal(some.guaranteed.top, before.guaranteed.top[:3])
    nothing = before.select(np.zeros(50, bool))
    assert rule.enclose(np.zeros((0, 2), int), np.zeros(0, int), before=nothing).guaranteed.top.shape == (0,)


def test_levels_add_up_to_alpha_and_blocks_end_at_the_limit() -> None:
    for limit in (1, 20, 32, 33, 1000, 100_000, 10**9):
        rule = SequentialRule(alpha=0.01, limit=limit)
        levels = [rule.level(n) for n in rule.checkpoints]
        assert math.fsum(levels) <= 0.01
        assert math.fsum(levels) == pytest.approx(0.01, rel=1e-11)
        drawn = 0
        while block := rule.next_block(drawn):
            drawn += block
            assert drawn in rule.checkpoints
        assert drawn == limit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, r"alpha = 1\.0: must be"),
        ({"rule": "t-certify-paper"}, "rule = t-certify-paper: has no proven level to share out"),
        ({"rule": "other"}, "rule = other: must be one of"),
        ({"limit": 0}, "limit = 0: must be at least 1"),
        ({"limit": 1e5}, "limit is a float: pass a whole number"),
        ({"first": True}, "first is a bool: pass a whole number"),
        ({"growth": 1.0}, r"growth = 1\.0: must be a number > 1"),
        ({"growth": math.nan}, "growth = nan: must be a number > 1"),
    ],
)
def test_wrong_settings(change: dict[str, object], message: str) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=message):
        SequentialRule(**({"alpha": 0.001} | change))  # type: ignore[arg-type]


def test_counts_between_checkpoints_are_refused() -> None:
    rule = SequentialRule(alpha=0.001, limit=100)
    with pytest.raises(InvalidValue, match="samples = 33: bounds hold at the checkpoints 32, 48, 72, 100 only"):
        rule.enclose([[30, 3]], [0])
    with pytest.raises(InvalidValue, match="rows that add up to 32 and to 48: must be of one checkpoint"):
        rule.enclose([[30, 2], [40, 8]], [0, 0])
