"""Rules of certification: their numbers, and what they refuse."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from verifix.errors import InvalidType, InvalidValue
from verifix.smooth import certify_counts
from verifix.smooth.gaussian_radius import gaussian_radius
from verifix.smooth.paper_rule import sum_rule
from verifix.smooth.probabilities import Probabilities
from verifix.smooth.rules import (
    RULES,
    bound_counts,
    predict_counts,
    proven_level,
    require_samples,
    smallest_n,
    split_from_selection,
)

N, ALPHA = 100_000, 0.001


def expected_counts(first: float, second: float) -> list[list[int]]:
    """What a sample of N is expected to show, the rest in three classes."""
    rest = N - round(N * first) - round(N * second)
    return [[round(N * first), round(N * second), rest // 3, rest // 3, rest - 2 * (rest // 3)]]


@pytest.mark.parametrize(
    ("first", "second", "certify", "fixed", "exact"),
    [
        (0.35, 0.20, math.nan, 0.2140, 0.2282),
        (0.60, 0.20, 0.2409, 0.5334, 0.5475),
        (0.60, 0.39, 0.2409, 0.2531, 0.2663),
        (0.80, 0.15, 0.8277, 0.9236, 0.9390),
        (0.90, 0.03, 1.2648, 1.5593, 1.5812),
        (0.99, 0.005, 2.2900, 2.4066, 2.4511),
        (1.00, 0.00, 3.8115, 3.7878, math.inf),
    ],
)
def test_radii_on_expected_counts(first: float, second: float, certify: float, fixed: float, exact: float) -> None:
    counts = expected_counts(first, second)
    radius = {rule: certify_counts(counts, [0], 1.0, ALPHA, rule)[0] for rule in RULES}
    assert radius["certify"] == pytest.approx(certify, abs=5.1e-5, nan_ok=True)
    assert radius["t-certify"] == pytest.approx(fixed, abs=5.1e-5)
    assert radius["t-certify"] < exact
    whole = certify_counts(counts, [0], 1.0, ALPHA, "t-certify", split=ALPHA)[0]
    assert np.array_equal(whole, radius["certify"], equal_nan=True)
    if first <= 0.5:
        assert math.isnan(radius["t-certify-paper"])
    else:  # the grid holds both splits, but adds tails up over classes
        assert radius["t-certify-paper"] >= radius["certify"]
        assert radius["t-certify-paper"] <= max(radius["t-certify"] * 1.001, radius["certify"])
        assert radius["t-certify-paper"] < exact


def test_the_published_rule_wants_more_than_half() -> None:
    counts = [[49_000, 20_000, 20_000, 11_000]]
    assert bound_counts(counts, [0], ALPHA, "t-certify-paper").top[0] > 0.48
    assert math.isnan(certify_counts(counts, [0], 1.0, ALPHA, "t-certify-paper")[0])
    assert certify_counts(counts, [0], 1.0, ALPHA, "t-certify")[0] > 0.37


def test_saturation() -> None:
    for n, alpha, wanted in ((N, 0.001, 3.8115), (N, 0.01, 3.9105)):
        radius = certify_counts([[n, 0]], [0], 1.0, alpha, "certify")[0]
        with mpmath.workdps(40):
            tail = -mpmath.expm1(mpmath.log(alpha) / n)
            z = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * tail)
            assert z * (1 - mpmath.mpf(10) ** -12) <= radius <= z
        assert radius == pytest.approx(wanted, abs=5.1e-5)


@settings(max_examples=100)
@given(st.floats(1e-12, 0.999), st.floats(0.0, 1.0), st.floats(1e-3, 1e3))
def test_gaussian_radius_is_rounded_down(failure: float, share: float, sigma: float) -> None:
    other = max(failure * share, 1e-300)
    bounds = Probabilities(np.array([1 - failure]), np.array([failure]), np.array([other]))
    radius = gaussian_radius(bounds, sigma)[0]
    with mpmath.workdps(50):
        z = [_quantile(x) for x in (failure, other)]
        exact = mpmath.mpf(sigma) / 2 * sum(z)
        slack = mpmath.mpf(sigma) / 2 * sum(map(abs, z)) * mpmath.mpf(3e-14)
        if math.isnan(radius):
            assert exact <= slack
        else:
            assert exact - slack <= radius <= exact
            assert radius > 0


def _quantile(tail: float) -> mpmath.mpf:
    """z with P(Z > z) = tail: scipy's, with three steps of Newton in many digits."""
    from scipy.special import ndtri

    z = mpmath.mpf(-float(ndtri(tail)))
    for _ in range(3):
        z += (
            (mpmath.erfc(z / mpmath.sqrt(2)) / 2 - mpmath.mpf(tail))
            * mpmath.sqrt(2 * mpmath.pi)
            * mpmath.exp(z * z / 2)
        )
    return z


@settings(max_examples=100)
@given(st.lists(st.integers(0, 300), min_size=2, max_size=6), st.floats(1e-9, 0.4), st.floats(0.01, 1.0))
def test_bounds_relate_as_they_must(row: list[int], alpha: float, part: float) -> None:
    row[0] += 1
    counts, n = np.array([row]), sum(row)
    certify = bound_counts(counts, [0], alpha, "certify")
    assert certify.other == certify.failure
    split = alpha * part
    found = bound_counts(counts, [0], alpha, "t-certify", split=split)
    assert 0 <= found.top <= row[0] / n
    assert found.other <= found.failure <= 1
    assert found.top <= certify.top
    assert found.failure >= certify.failure
    assert found.other >= min(max(row[1:]) / n, found.failure)
    assert found.top + found.failure <= 1 + 1e-11
    # Moving votes between the others matters through the largest of them only; the order of classes not at all.
    merged = bound_counts([[row[0], max(row[1:]), n - row[0] - max(row[1:])]], [0], alpha, "t-certify", split=split)
    if 2 * max(row[1:]) >= n - row[0]:
        assert merged == found or np.array_equal(merged.other, found.other)
    turned = bound_counts(counts[:, ::-1], [len(row) - 1], alpha, "t-certify", split=split)
    assert all(np.array_equal(getattr(turned, name), getattr(found, name)) for name in ("top", "failure", "other"))


def test_the_sum_rule_bounds_the_sum_of_tails_and_lies_between_its_neighbours() -> None:
    """In rational numbers."""
    from verifix.smooth import clopper_pearson_upper

    def tail(n: int, k: int, p: Fraction) -> Fraction:
        return sum((math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1)), Fraction(0))

    for others in ([0, 0], [3, 3, 3], [5, 0, 1], [7, 6, 2, 2]):
        for level in (0.05, 1e-4):
            n = 20
            p = sum_rule(np.array([others]), np.array([n]), level)[0]
            assert sum(tail(n, k, Fraction(p)) for k in others) <= Fraction(level)
            assert sum(tail(n, k, Fraction(p) * (1 - Fraction(1, 10**6))) for k in others) > Fraction(level)
            assert clopper_pearson_upper(max(others), n, level) * (1 - 1e-9) <= p
            assert p <= clopper_pearson_upper(max(others), n, level / len(others))


def test_levels_and_least_numbers_of_samples() -> None:
    assert [proven_level(rule, 0.01) for rule in RULES] == [0.99, 0.99, pytest.approx(0.981)]
    assert max(proven_level(rule, 1e-18) for rule in RULES) < 1  # a level of 1 is for what is certain
    with pytest.raises(InvalidValue, match=r"alpha = 0\.6: t-certify-paper proves only .*, which is nothing"):
        proven_level("t-certify-paper", 0.6)
    assert smallest_n(0.001) == 10
    assert smallest_n(0.25) == 3  # with 2, the bound is 1/2
    assert smallest_n(0.001, "t-certify") == 11
    assert smallest_n(0.001, "t-certify-paper") == 10
    assert smallest_n(1e-300) == 997
    assert split_from_selection([[0, 9], [1, 8], [9, 0]], [1, 1, 0], 0.01).tolist() == [0.01, 0.005, 0.01]
    for rule, least in (("certify", 10), ("t-certify", 11), ("t-certify-paper", 10)):
        radius = certify_counts([[least, 0]], [0], 1.0, 0.001, rule)
        assert radius > 0
        message = rf"n = {least - 1}: is too small .* {rule} at alpha = 0\.001: take at least {least} samples"
        with pytest.raises(InvalidValue, match=message):
            certify_counts([[least - 1, 0]], [0], 1.0, 0.001, rule)
    require_samples(10, 0.001, "t-certify", split=[0.0005, 0.001])


def test_predict_is_the_two_sided_binomial_test() -> None:
    for first in (11, 12, 20, 33, 47, 60):
        for second in range(0, first + 1):
            sure = binomtest(first, first + second, 0.5).pvalue <= 0.001
            assert predict_counts([[second, second // 2, first]], 0.001)[0] == (2 if sure else -1)
    assert predict_counts([[10, 80]], 0.001, classes=1)[0] == -1, "most of the answers are no class"
    assert predict_counts(torch.tensor([[80, 10]]), 0.001, classes=1)[0] == 0
    with pytest.raises(InvalidValue, match=r"n = 10: is too small to predict anything .* take at least 11 samples"):
        predict_counts([[99, 0], [10, 0]], 0.001)


def test_tensors_many_inputs_and_none() -> None:
    counts = torch.tensor([[9_000, 600, 400], [100, 9_800, 100]])
    both = certify_counts(counts, torch.tensor([0, 1]), 0.5, 0.001, samples=10_000)
    each = [certify_counts(counts[i : i + 1], [i], 0.5, 0.001)[0] for i in (0, 1)]
    assert both.tolist() == each
    assert both.dtype == np.float64
    for rule in RULES:
        assert certify_counts(np.zeros((0, 3), int), np.zeros(0, int), 0.5, 0.001, rule).shape == (0,)


WRONG = [
    ({"counts": [[5, 5]], "top": [2]}, r"top\[0\] = 2: must be a class from 0 to 1"),
    ({"top": [-1]}, r"top\[0\] = -1: must be a class"),
    ({"top": [0, 1]}, r"top\.shape = \(2,\): must be \(1,\)"),
    ({"counts": [[500]]}, r"counts\.shape = \(1, 1\): must have two classes at least"),
    ({"counts": [5, 6]}, r"counts\.shape = \(2,\): must be \(inputs, classes\)"),
    ({"counts": [[5, -1]]}, r"counts\[0, 1\] = -1: must be >= 0"),
    ({"counts": [[0, 0]]}, r"counts\[0\] = \[0, 0\]: must count at least one sample"),
    ({"counts": [[5.5, 6]]}, r"counts\[0, 0\] = 5\.5: must be whole numbers"),
    ({"samples": 99}, r"counts\[0\] = \[90, 10\]: must add up to 99, not to 100"),
    ({"alpha": 0.0}, r"alpha = 0\.0: must be a number in \(0, 1\)"),
    ({"alpha": math.nan}, r"alpha = nan: must be a number"),
    ({"alpha": "0.1"}, r"alpha = 0\.1: must be a number"),
    ({"rule": "best"}, r"rule = best: must be one of certify, t-certify, t-certify-paper"),
    ({"split": 0.1, "rule": "certify"}, r"split = 0\.1: certify has no split"),
    ({"split": 0.2}, r"split = 0\.2: must be in \(0, alpha\]"),
    ({"split": [0.1, 0.1]}, r"split\.shape = \(2,\): must be \(\) or \(1,\)"),
    ({"sigma": 0.0}, r"sigma = 0\.0: must be a number > 0"),
    ({"sigma": math.nan}, r"sigma = nan: must be a number > 0"),
    ({"sigma": -1}, r"sigma = -1: must be a number > 0"),
    (
        {"sigma": lambda x: x},
        r"sigma is a function: pass one number: noise that depends on the input voids the theorem",
    ),
    ({"sigma": "1"}, r"sigma is a str: pass one number > 0"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_arguments(change: dict[str, object], message: str) -> None:
    arguments = {"counts": [[90, 10]], "top": [0], "sigma": 1.0, "alpha": 0.1, "rule": "t-certify"} | change
    with pytest.raises((InvalidValue, InvalidType), match=message):
        certify_counts(**arguments)  # type: ignore[arg-type]
