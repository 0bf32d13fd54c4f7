"""Clopper-Pearson bounds against scipy where it is right, and against mpmath where the two differ."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv
from scipy.stats import beta, binomtest

from verifix.errors import InvalidValue
from verifix.smooth import clopper_pearson_lower, clopper_pearson_upper
from verifix.smooth.clopper_pearson import lower_and_failure

WIDTH = 1e-12


def log_tail_and_slope(k: int, n: int, x: mpmath.mpf, y: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf]:
    """``log P(Bin(n, x) >= k)``, 1 <= k <= n, y = 1 - x, and its derivative by the logit of x: by numerical integration
    over the logit, with no continued fraction and no Stirling series as in the kernel."""

    def integrand(u: mpmath.mpf) -> mpmath.mpf:
        return mpmath.exp(-k * u - (n + 1) * mpmath.log1p(x * mpmath.expm1(-u)))

    end = 1 / mpmath.sqrt((n + 1) * x * y + 1)
    while integrand(end) > mpmath.mpf(10) ** -26:
        end *= 1.5
    value = mpmath.quad(integrand, mpmath.linspace(0, end, 9), maxdegree=4)
    chosen = mpmath.loggamma(n + 1) - mpmath.loggamma(k) - mpmath.loggamma(n - k + 1)
    return chosen + k * mpmath.log(x) + (n - k + 1) * mpmath.log(y) + mpmath.log(value), 1 / value


def exact_bounds(k: int, n: int, level: float, x: mpmath.mpf, y: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The p with ``P(Bin(n, p) >= k) = level``, and 1 - p: a step of Newton from x and y = 1 - x, next to it."""
    if level <= 0.5:
        log_tail, slope = log_tail_and_slope(k, n, x, y)
        factor = mpmath.exp((mpmath.log(level) - log_tail) / slope)
    else:
        log_tail, slope = log_tail_and_slope(n - k + 1, n, y, x)
        factor = mpmath.exp(-(mpmath.log(1 - mpmath.mpf(level)) - log_tail) / slope)
    total = x * factor + y
    return x * factor / total, y / total


def check_with_mpmath(k: int, n: int, level: float) -> None:
    lower, failure = lower_and_failure(k, n, level)
    if k == 1 and level / n < 1e-307:  # next to numbers with fewer digits: no claim, but sound
        assert (lower, failure) == (0, 1)
        return
    with mpmath.workdps(40):
        low, fail, width = mpmath.mpf(float(lower)), mpmath.mpf(float(failure)), mpmath.mpf(WIDTH)
        x, y = (low, 1 - low) if low < fail else (1 - fail, fail)
        p, q = exact_bounds(k, n, level, x, y)
        assert p * (1 - width) <= low <= p
        assert q <= fail <= q * (1 + width)


def random_cases(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    numbers = np.random.default_rng(seed)
    n = np.floor(10 ** numbers.uniform(0, 9, count)).astype(np.int64)
    near = np.minimum(n - 1, np.floor(10 ** numbers.uniform(0, 3, count)).astype(np.int64))
    kind = numbers.integers(0, 3, count)
    k = np.choose(kind, [np.floor(numbers.random(count) * n).astype(np.int64), near, n - near])
    u = numbers.random(count)
    return np.maximum(k, 1), n, np.choose(numbers.integers(0, 3, count), [10 ** (-300 * u), 10 ** (-6 * u), 1 - u**3])


def compare_with_scipy(count: int, seed: int) -> float:
    """Where scipy is within the claim, it agrees. Where it is not, mpmath says that scipy is wrong: some of those are
    looked at. Returns how many there are, as a share."""
    k, n, level = random_cases(count, seed)
    level = np.clip(level, 1e-300, 1 - 1e-9)
    lower, failure = lower_and_failure(k, n, level)
    with np.errstate(all="ignore"):
        wanted, complement = betaincinv(k, n - k + 1.0, level), betainccinv(n - k + 1.0, k, level)
        agree = (lower <= wanted) & (wanted * (1 - WIDTH) <= lower)
        agree &= (failure >= complement) & (complement * (1 + WIDTH) >= failure)
    for i in np.flatnonzero(~agree)[:10]:
        check_with_mpmath(int(k[i]), int(n[i]), float(level[i]))
    return float((~agree).mean())


def test_scipy_is_never_on_the_unsound_side_unless_it_is_wrong() -> None:
    """Its errors are at levels below 1e-100 (some of 14%, some nan), and at counts within 1e-6 of n, or of 0, for n
    above 1e7 (1e-9)."""
    assert compare_with_scipy(20_000, seed=0) < 0.1


@pytest.mark.slow
def test_a_million_points_against_scipy() -> None:
    assert max(compare_with_scipy(100_000, seed=seed) for seed in range(1, 11)) < 0.1


def test_levels_that_certificates_use_agree_with_beta_ppf_at_every_point() -> None:
    numbers = np.random.default_rng(3)
    n = np.floor(10 ** numbers.uniform(0, 6, 20_000)).astype(np.int64)
    k = np.ceil(n * numbers.random(len(n)) ** 0.2).astype(np.int64)
    alpha = 10 ** numbers.uniform(-8, -0.5, len(n))
    wanted = beta.ppf(alpha, k, n - k + 1.0)
    lower = clopper_pearson_lower(k, n, alpha)
    assert (lower <= wanted).all()
    assert (lower >= wanted * (1 - WIDTH)).all()
    upper = clopper_pearson_upper(n - k, n, alpha)
    wanted = np.where(k == n, -np.expm1(np.log(alpha) / n), betaincinv(n - k + 1.0, k, 1 - alpha))
    exact_complement = betainccinv(n - k + 1.0, k, alpha)
    assert (upper >= exact_complement).all()
    assert (upper <= exact_complement * (1 + WIDTH)).all()
    assert np.allclose(upper, wanted, rtol=1e-8, atol=0)  # 1 - alpha was rounded


@pytest.mark.parametrize("level", [1e-300, 1e-9, 0.001, 0.5, 0.501, 1 - 1e-12])
def test_extremes_against_mpmath(level: float) -> None:
    for n in (2, 1000, 10**9):
        for k in sorted({1, 2, n // 2 + 1, n - 1}):
            check_with_mpmath(k, n, level)


def test_ends() -> None:
    n, alpha = np.array([1, 10, 100_000, 10**9]), np.array([[0.001], [0.9], [1e-200]])
    assert (clopper_pearson_lower(0, n, alpha) == 0).all()
    assert (clopper_pearson_upper(n, n, alpha) == 1).all()
    root, complement = alpha ** (1 / n), -np.expm1(np.log(alpha) / n)
    lower, upper = clopper_pearson_lower(n, n, alpha), clopper_pearson_upper(0, n, alpha)
    assert (lower <= root).all()
    assert (lower >= root * (1 - WIDTH)).all()
    assert (upper >= complement).all()
    assert (upper <= complement * (1 + WIDTH)).all()


def test_the_two_sided_interval_of_scipy() -> None:
    for k, n in ((3, 10), (990, 1000), (99_000, 100_000)):
        interval = binomtest(k, n).proportion_ci(0.98, method="exact")
        assert clopper_pearson_lower(k, n, 0.01) == pytest.approx(interval.low, rel=1e-11)
        assert clopper_pearson_upper(k, n, 0.01) == pytest.approx(interval.high, rel=1e-11)


def test_shapes_and_scalars() -> None:
    assert clopper_pearson_lower([[1], [2]], [3, 4, 5], 0.1).shape == (2, 3)
    assert clopper_pearson_lower([], 5, 0.1).shape == (0,)
    assert isinstance(clopper_pearson_upper(np.int32(1), 3.0, 0.1), float)
    lower, failure = lower_and_failure(7, 9, 0.05)
    assert failure == clopper_pearson_upper(2, 9, 0.05)
    assert lower == clopper_pearson_lower(7, 9, 0.05)


@pytest.mark.parametrize(
    ("k", "n", "alpha", "message"),
    [
        (1, 2, 0.0, r"alpha = 0\.0: must be in \(0, 1\)"),
        (1, 2, [0.1, 1.0], r"alpha\[1\] = 1\.0: must be in"),
        (1, 2, math.nan, r"alpha = nan: must be in"),
        (1, 2, "0.1", r"alpha = 0\.1: must be a number in \(0, 1\)"),
        (-1, 2, 0.1, "k = -1: must be from 0 to n"),
        ([1, 3], 2, 0.1, r"k\[1\] = 3: must be from 0 to n"),
        (1.5, 2, 0.1, r"k = 1\.5: must be whole numbers"),
        (math.nan, 2, 0.1, "k = nan: must be whole numbers"),
        (True, 2, 0.1, "k = True: must be whole numbers"),
        (0, 0, 0.1, r"n = 0: must be from 1 to 2\^40"),
        (0, 2**41, 0.1, "n = 2199023255552: must be from 1"),
        (0, 2.5, 0.1, r"n = 2\.5: must be whole"),
        ([1, 2], [3, 4, 5], 0.1, r"shapes \(2,\), \(3,\) and \(\): must be broadcastable"),
    ],
)
def test_wrong_arguments(k: object, n: object, alpha: object, message: str) -> None:
    for function in (clopper_pearson_lower, clopper_pearson_upper):
        with pytest.raises(InvalidValue, match=message):
            function(k, n, alpha)  # type: ignore[arg-type]
