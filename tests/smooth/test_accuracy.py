"""Certified accuracy: what is counted, and the correction for certificates that may be wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from verifix.errors import InvalidValue
from verifix.smooth.accuracy import certified_accuracy, wrong_at_most


def test_abstention_error_and_certification_are_counted_apart() -> None:
    radius = [0.5, math.nan, 0.25, 1.0, math.nan, 0.0]
    found = certified_accuracy(radius, [1, 1, 2, 0, -1, 4], [1, 1, 2, 3, 0, 4], [0, 0.25, 0.5, 0.75], alpha=0.001)
    assert (found.inputs, found.abstained, found.wrong, found.correct) == (6, 2, 1, 3)
    assert found.certified.tolist() == [3, 2, 1, 0]
    assert found.accuracy.tolist() == [3 / 6, 2 / 6, 1 / 6, 0]
    assert found.doubtful == 1
    assert found.proven.tolist() == [2 / 6, 1 / 6, 0, 0]


@pytest.mark.parametrize("gamma", [0.05, 0.001, 1e-9])
@pytest.mark.parametrize("alpha", [0.3, 0.001, 1e-6])
@pytest.mark.parametrize("n", [1, 2, 10, 500, 10_000])
def test_the_quantile_is_the_least_number_that_is_safe(n: int, alpha: float, gamma: float) -> None:
    number = wrong_at_most(n, alpha, gamma)
    tail = binom.pmf(np.arange(n + 1), n, alpha)[::-1].cumsum()[::-1]  # P(>= k)
    assert (tail[number + 1] if number < n else 0) <= gamma
    assert tail[number] > gamma * (1 - 1e-8)


def test_the_correction_holds_over_repeated_data_sets() -> None:
    """Certificates wrong with probability alpha each: the proven share exceeds the true one hardly ever."""
    numbers, n, alpha, gamma = np.random.default_rng(0), 200, 0.05, 0.1
    too_high = 0
    for _ in range(2000):
        wrong = numbers.random(n) < alpha  # of these, the input is not robust at the radius that is certified
        found = certified_accuracy(np.full(n, 0.5), np.zeros(n, int), np.zeros(n, int), [0.5], alpha, gamma)
        too_high += bool(found.proven[0] > (~wrong).mean())
    assert 0.02 < too_high / 2000 <= gamma + 4 * (gamma * (1 - gamma) / 2000) ** 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": []}, r"radius\.shape = \(0,\): must be \(inputs,\)"),
        ({"radius": [-0.1, 1]}, r"radius = -0\.1: must be >= 0, or nan"),
        ({"predicted": [1]}, r"predicted\.shape = \(1,\): must be \(2,\)"),
        ({"labels": [1, 2, 3]}, r"labels\.shape = \(3,\): must be \(2,\)"),
        ({"radii": [math.nan]}, r"radii = \[nan\]: must be a list of numbers >= 0"),
        ({"radii": [-1.0]}, r"radii = \[-1\.0\]: must be"),
        ({"alpha": 0.0}, r"alpha = 0\.0: must be a number in \(0, 1\)"),
        ({"gamma": 1.0}, r"gamma = 1\.0: must be a number in \(0, 1\)"),
    ],
)
def test_wrong_arguments(change: dict[str, object], message: str) -> None:
    arguments = {"radius": [0.5, 1], "predicted": [1, 2], "labels": [1, 2], "radii": [0.1], "alpha": 0.001}
    with pytest.raises(InvalidValue, match=message):
        certified_accuracy(**(arguments | change))  # type: ignore[arg-type]
