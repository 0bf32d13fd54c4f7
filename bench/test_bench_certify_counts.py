"""T-CERTIFY of 10,000 inputs with 10 classes, against bounds of scipy input by input, as published code has them."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import beta, norm

from bench.measure import compare, rounds, threads
from verifix.smooth import certify_counts

INPUTS, SAMPLES, ALPHA, SIGMA = 10_000, 100_000, 0.001, 0.5


def one_by_one(counts: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The same bounds from the quantiles of the beta distribution, one input after the other."""
    radius = np.full(len(counts), np.nan)
    for i, (row, first) in enumerate(zip(counts, top, strict=True)):
        hits, most = row[first], np.delete(row, first).max()
        lower = beta.ppf(ALPHA / 2, hits, SAMPLES - hits + 1) if hits else 0.0
        failure = beta.isf(ALPHA / 2, SAMPLES - hits + 1, hits) if hits else 1.0
        other = min(beta.isf(ALPHA / 2, most + 1, SAMPLES - most) if most < SAMPLES else 1.0, failure)
        if lower > other:
            radius[i] = SIGMA / 2 * (norm.isf(failure) + norm.isf(other))
    return radius


@pytest.mark.parametrize("count", [1, 2])
def test_certify_counts(benchmark: BenchmarkFixture, count: int) -> None:
    numbers = np.random.default_rng(0)
    p = numbers.dirichlet(np.array([8.0, *np.ones(9)]), INPUTS)
    counts = np.stack([numbers.multinomial(SAMPLES, row) for row in p])
    top = p.argmax(1)
    with threads(count):
        found, wanted = certify_counts(counts, top, SIGMA, ALPHA), one_by_one(counts, top)
        both = ~np.isnan(found) & ~np.isnan(wanted)
        assert (np.isnan(found) == np.isnan(wanted)).mean() > 0.9999
        assert (found[both] <= wanted[both]).all()
        error = float(np.max(np.abs(found[both] - wanted[both])))
        assert error < 1e-10
        case = {
            "table": "certify_counts",
            "name": f"{INPUTS} inputs, 10 classes, n = {SAMPLES}",
            "method": "t-certify",
            "errors": {"verifix": {"error": error}},
        }
        sides = {
            "verifix": lambda _: certify_counts(counts, top, SIGMA, ALPHA),
            "scipy, one by one": lambda _: one_by_one(counts, top),
        }
        compare(benchmark, sides, case=case, per=INPUTS, count=rounds(9, 3))
