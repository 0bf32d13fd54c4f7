"""Clopper-Pearson bounds in numpy: operation by operation what ``csrc/include/verifix/binomial.h`` does, so that the
bits are the same. Method and error bounds: docs/smoothing.md, "Computing the bounds"."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

UNIT = 2.0**-53
TINY = 1e-307
FLOOR_OF_ERROR = 1e-13
MOST_TRIALS = 1 << 40
LOG_2_HIGH, LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
STIRLING = (
    0.0, 0.08106146679532725822, 0.041340695955409294094, 0.027677925684998339149, 0.020790672103765093112,
    0.016644691189821192163, 0.013876128823070747999, 0.011896709945891770095, 0.010411265261972096497,
    0.0092554621827127329177, 0.0083305634333628712565, 0.007573675487951840795, 0.0069428401072095298657,
    0.0064089941880042070684, 0.0059513701127588477356, 0.005554733551962801371,
)  # fmt: skip


def clopper_pearson(
    successes: Tensor,  # (...)
    trials: Tensor,  # (...)
    level: Tensor,  # (...)
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.clopper_pearson`, on the CPU; results on the device of the arguments."""
    k, n, a = (x.detach().cpu().numpy().reshape(-1) for x in (successes, trials, level))
    lower, failure = np.zeros(a.shape), np.ones(a.shape)
    with np.errstate(all="ignore"):
        sensible = (k > 0) & (k <= n) & (n <= MOST_TRIALS) & (a > 0) & (a < 1)
        for direct in (True, False):
            chosen = np.flatnonzero(sensible & ((a <= 0.5) == direct))
            front, rest = k[chosen].astype(np.float64), (n[chosen] - k[chosen] + 1).astype(np.float64)
            if direct:
                x, y, x_error, y_error = _root(front, rest, a[chosen])
            else:
                y, x, y_error, x_error = _root(rest, front, 1 - a[chosen])
            lower[chosen], failure[chosen] = _down(x, x_error), _up(y, y_error)
    return tuple(torch.from_numpy(x).reshape(level.shape).to(level.device) for x in (lower, failure))  # type: ignore[return-value]


def _down(value: Array, error: Array) -> Array:
    return np.where(value > TINY, value * (1 - (error + FLOOR_OF_ERROR)), 0.0)


def _up(value: Array, error: Array) -> Array:
    return np.minimum(np.maximum(value, TINY) * (1 + (error + FLOOR_OF_ERROR)), 1.0)


def _log(x: Array) -> Array:
    mantissa, exponent = np.frexp(x)
    below = mantissa < 0.70710678118654752440
    mantissa, exponent = np.where(below, 2 * mantissa, mantissa), np.where(below, exponent - 1, exponent)
    f = mantissa - 1
    s = f / (2 + f)
    w = s * s
    series = np.full_like(w, 2.0 / 21)
    for k in range(19, 2, -2):
        series = 2.0 / k + w * series
    return exponent * LOG_2_HIGH + ((f - s * (f - w * series)) + exponent * LOG_2_LOW)


def _log1p(x: Array) -> Array:
    total = 1 + x
    return np.where(total == 1, x, _log(total) * (x / (total - 1)))


def _expm1_small(x: Array) -> Array:
    series = np.ones_like(x)
    for k in range(16, 1, -1):
        series = 1 + x / k * series
    return x * series


def _reduce(x: Array) -> tuple[Array, NDArray[np.int32]]:
    exponent = np.floor(x / 0.69314718055994530942 + 0.5).astype(np.int32)
    return (x - exponent * LOG_2_HIGH) - exponent * LOG_2_LOW, exponent


def _exp(x: Array) -> Array:
    rest, exponent = _reduce(x)
    return np.ldexp(1 + _expm1_small(rest), exponent)


def _expm1(x: Array) -> Array:
    rest, exponent = _reduce(x)
    return np.ldexp(_expm1_small(rest), exponent) + (np.ldexp(1.0, exponent) - 1)


def _stirling_error(n: Array) -> Array:
    w = 1 / (n * n)
    series = (1.0 / 12 - w * (1.0 / 360 - w * (1.0 / 1260 - w * (1.0 / 1680 - w * (1.0 / 1188))))) / n
    return np.where(n < 16, np.array(STIRLING)[np.minimum(n, 15).astype(np.int64)], series)


def _deviance(a: Array, m: Array) -> Array:
    difference = a - m
    v = difference / (a + m)
    w = v * v
    series = np.full_like(w, 1.0 / 21)
    for k in range(19, 2, -2):
        series = 1.0 / k + w * series
    near = difference * v + 2 * a * v * (w * series)
    return np.where(np.abs(difference) >= 0.1 * (a + m), a * _log(a / m) - difference, near)


def _mean_excess(a: Array, b: Array, x: Array, y: Array) -> tuple[Array, Array]:
    c = (a * y - b * x) + 1
    value = c * (a / (a + 1))
    ratio, inverse, steps = value.copy(), np.zeros_like(a), np.zeros_like(a)
    left, j = np.arange(len(a)), 1
    while len(left):
        p, q, z = a[left], b[left], x[left]
        s, w = p + 2 * j - 1, j * (q - j) * z
        alpha = w * z * ((p + j - 1) / s) * ((p + q + j - 1) / s)
        beta = j + w / s + (p + j) / (s + 2) * (c[left] + j * (1 + y[left]))
        inverse[left] = 1 / (beta + alpha * inverse[left])
        ratio[left] = beta + alpha / ratio[left]
        factor = ratio[left] * inverse[left]
        value[left] *= factor
        steps[left] += 1
        done = (np.abs(factor - 1) <= 2 * UNIT * np.maximum(value[left], 1)) | (j + 1 > q)
        left, j = left[~done], j + 1
    return value, steps


def _solve(a: Array, b: Array, level: Array) -> tuple[Array, Array, Array, Array]:
    n = a + b - 1
    rest, log_level = n - a, _log(level)
    t = np.sqrt(-2 * log_level)
    z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    z = np.where(z > 0, z, 0.0)
    p, q, r = (a - 0.5) / n, (b - 0.5) / n, z * z / n
    half = z * np.sqrt(p * q / n + r / (4 * n))
    x, y = _complement(p * p / (p + r / 2 + half), (q + r / 2 + half) / (1 + r))
    constant = _stirling_error(n) - _stirling_error(a) - _stirling_error(rest)
    scale = np.sqrt(n / rest * (a / 6.2831853071795864769))
    roots = np.full((4, len(a)), 0.5)
    roots[2:] = 1
    left = np.arange(len(a))
    for _ in range(200):
        if not len(left):
            break
        excess, steps = _mean_excess(a, b, x, y)
        first, second = _deviance(a, n * x), _deviance(rest, n * y)
        log_ratio = _log(y * scale / excess)
        step = -((((constant - first) - second) + log_ratio) - log_level) / excess
        capped = np.clip(step, -700, 600)
        total = 1 + x * _expm1(capped)
        error = 16 - 8 * log_level + 10 * (first + second) + 34 * np.abs(a - n * x)
        error = error + 8 * np.abs(log_ratio) + 16 * steps + 4 * (a * y + b * x) / excess + 2 * excess
        done = n * x * y * step * step <= 4 * UNIT * excess
        x, y = _complement(x * _exp(capped) / total, y / total)
        logit = UNIT * (error / excess + 8)
        roots[:, left[done]] = np.stack([x, y, y * logit + 8 * UNIT, x * logit + 8 * UNIT])[:, done]
        kept = ~done
        left, a, b, n, rest, log_level = left[kept], a[kept], b[kept], n[kept], rest[kept], log_level[kept]
        x, y, constant, scale = x[kept], y[kept], constant[kept], scale[kept]
    return roots[0], roots[1], roots[2], roots[3]


def _complement(x: Array, y: Array) -> tuple[Array, Array]:
    """Of two numbers that add up to 1, up to rounding: the smaller, and one minus it."""
    return np.where(x < y, x, 1 - y), np.where(x < y, 1 - x, y)


def _root(a: Array, b: Array, level: Array) -> tuple[Array, Array, Array, Array]:
    last, first = b == 1, (a == 1) & (b != 1)
    log_x, log_y = _log(level) / a, _log1p(-level) / b
    closed_x = np.where(last, _exp(log_x), -_expm1(log_y))
    closed_y = np.where(last, -_expm1(log_x), _exp(log_y))
    x_error = np.where(last, (8 - 8 * log_x) * UNIT, 16 * UNIT)
    y_error = np.where(last, 16 * UNIT, (8 - 8 * log_y) * UNIT)
    other = ~(last | first)
    closed_x[other], closed_y[other], x_error[other], y_error[other] = _solve(a[other], b[other], level[other])
    return closed_x, closed_y, x_error, y_error
