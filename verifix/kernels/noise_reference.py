"""Random numbers by their names, in plain torch: Philox words, and the laws of noise that are made of them.

Only integer operations, ``+``, ``-``, ``*``, ``/``, square roots and rounding conversions are used, each of which has
one right result: the C++ and CUDA code (``csrc/include/verifix/philox.h`` and ``normal.h``) does the same in the same
order, and gives the same bits. What the numbers mean is in docs/smoothing-noise.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# The words of a name come in three streams, numbered by the two high bits of the counter's word for the purpose.
STREAM_BITS = 30

LN2 = float.fromhex("0x1.62e430p-1")
# -log(1 - t) = t + t^2 (1/2 + t P(t)) for 0 <= t <= 1/2, and sin and cos of a pi/4 as a S(a^2) and C(a^2) for |a| <= 1:
# minimax in the relative error, which is below 2^-27, 2^-28 and 2^-34 before rounding.
LOG = tuple(
    map(
        float.fromhex,
        (
            "0x1.554f30p-2",
            "0x1.010058p-2",
            "0x1.79b624p-3",
            "0x1.2c8428p-2",
            "-0x1.c4760ap-2",
            "0x1.af93c0p+0",
            "-0x1.1776b8p+1",
            "0x1.9e02e6p+0",
        ),
    )
)
SINE = tuple(map(float.fromhex, ("0x1.921fb6p-1", "-0x1.4abbbap-4", "0x1.465e92p-9", "-0x1.2d9302p-15")))
COSINE = tuple(map(float.fromhex, ("0x1p+0", "-0x1.3bd3ccp-2", "0x1.03c1dap-6", "-0x1.55c4eap-12", "0x1.d99f54p-19")))


def words(inputs: Tensor, coordinates: int, seed: int, purpose: int, start: int, count: int, stream: int) -> Tensor:
    """A word for each input, sample and coordinate c, (n, count, coordinates) int64: word ``c % 4`` of Philox at
    counter (``c // 4``, sample, input, purpose and stream), keyed by the seed."""
    blocks = -(-coordinates // 4)
    device = inputs.device
    counter = (
        torch.arange(blocks, device=device),
        torch.arange(start, start + count, device=device)[:, None],
        inputs[:, None, None],
        torch.full((1, 1, 1), purpose | stream << STREAM_BITS, device=device),
    )
    drawn = philox([part.expand(len(inputs), count, blocks) for part in counter], (seed & WORD, seed >> 32))
    return torch.stack(drawn, dim=-1).reshape(len(inputs), count, 4 * blocks)[..., :coordinates]


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox-4x32-10 (Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011): four words of a
    counter of four words and a key of two, all int64 in [0, 2**32)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return [c0, c1, c2, c3]


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two words, without leaving the range of int64."""
    upper, lower = factor * (word >> 16), factor * (word & 0xFFFF)
    return (upper + (lower >> 16)) >> 16, (((upper & 0xFFFF) << 16) + lower) & WORD


def normal(word: Tensor) -> Tensor:
    """Standard normal numbers by the method of Box and Muller, float32, of pairs of words along the last axis."""
    if word.shape[-1] % 2:
        raise RuntimeError("normal numbers are made of pairs of words")
    first, second = word.unflatten(-1, (-1, 2)).unbind(-1)
    exponential = minus_log(first, 32)
    # torch's float32 root may be one ulp off. The exact root of a float32 is at least 2**-51 of itself away from where
    # rounding to float32 changes, and a float64 root is closer than that.
    radius = torch.sqrt((exponential + exponential).to(torch.float64)).to(torch.float32)
    cosine, sine = turn(second)
    return torch.stack((radius * cosine, radius * sine), dim=-1).flatten(-2)


def laplace(word: Tensor) -> Tensor:
    """Numbers of density ``exp(-|t|) / 2``, float32: the top bit is the sign, the others make an exponential."""
    size = minus_log(word & 0x7FFFFFFF, 31)
    return torch.where(word >> 31 == 1, -size, size)


def uniform(word: Tensor) -> Tensor:
    """Uniform on [-1, 1], float32: the top bit is the sign, the others k make the size ``(k + 1/2) / 2**31``."""
    size = ((word & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-31
    return torch.where(word >> 31 == 1, -size, size)


def minus_log(word: Tensor, bits: int) -> Tensor:
    """``-log((word + 1/2) / 2**bits)`` in float32, to a relative error below 2e-7 wherever it is.

    Above one half ``1 - u`` is taken from the complement of the word, which has all of its bits; below, ``u = m 2**e``
    with m in [1/2, 1). Both leave -log(1 - t) for t in [0, 1/2] and a multiple of log 2, and only add positive terms.
    """
    top = word >> (bits - 1) == 1
    k = torch.where(top, word ^ ((1 << bits) - 1), word)
    v = k.to(torch.float32) + 0.5
    pattern = v.view(torch.int32)
    mantissa = ((pattern & 0x7FFFFF) | 0x3F000000).view(torch.float32)
    halvings = torch.where(top, 0, bits + 126 - (pattern >> 23)).to(torch.float32)
    t = torch.where(top, v * 2.0**-bits, 1.0 - mantissa)
    p = horner(LOG, t)
    return halvings * LN2 + (t + (t * t) * (0.5 + t * p))


def turn(word: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of ``(word + 1/2) / 2**32`` of a full turn, float32; the range is reduced in integers."""
    quadrant = ((word + 0x20000000) & WORD) >> 30
    rest = (word - (quadrant << 30)) << 2  # mod 2**32, as a signed word
    rest = ((rest + 0x80000000) & WORD) - 0x80000000
    a = (rest + 2).to(torch.float32) * 2.0**-31
    square = a * a
    c, s = horner(COSINE, square), a * horner(SINE, square)
    odd = quadrant & 1 == 1
    cosine, sine = torch.where(odd, s, c), torch.where(odd, c, s)
    cosine = torch.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
    return cosine, torch.where(quadrant >= 2, -sine, sine)


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """A polynomial, in float32 step by step."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def random_words(inputs: Tensor, count_of_words: int, seed: int, purpose: int, start: int, count: int) -> Tensor:
    return words(inputs, count_of_words, seed, purpose, start, count, stream=0)


STANDARD = {"gaussian": normal, "laplace": laplace, "uniform": uniform}


def add_noise(
    x: Tensor,  # (n, d)
    inputs: Tensor,  # (n,)
    scales: Tensor | None,  # (d,) float32
    scale: float,
    law: str,
    seed: int,
    purpose: int,
    start: int,
    count: int,
) -> Tensor:  # (n, count, d)
    d = x.shape[1]
    word = words(inputs, d + d % 2, seed, purpose, start, count, stream=0)
    noise = STANDARD[law](word)[..., :d] * (scale if scales is None else scales)
    return x[:, None] + noise.to(x.dtype)


def quotient(positions: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """``positions / levels``, rounded once; with a plain number torch multiplies by its inverse on CUDA."""
    return positions.to(dtype) / torch.full((), levels, dtype=dtype, device=positions.device)


def lattice_steps(word: Tensor, low_word: Tensor, thresholds: Tensor) -> Tensor:
    """How many lattice steps to go: inversion of the 64-bit uniforms ``word * 2**32 + low_word``.

    ``thresholds`` holds ``2**64 P(K <= k)`` for k = -m to -1, rounded; the law is symmetric, so above one half the
    complement of both words goes as many steps the other way.
    """
    upper = word >> 31 == 1
    flip = torch.where(upper, WORD, 0)
    draw = ((word ^ flip) << 32) | (low_word ^ flip)  # below 2**63
    steps = torch.searchsorted(thresholds, draw, right=True) - len(thresholds)
    return torch.where(upper, -steps, steps)


def add_lattice_noise(
    positions: Tensor,  # (n, d) int32
    dtype: torch.dtype,
    inputs: Tensor,
    thresholds: Tensor,
    guide: Tensor,  # it and the shift save time, and are not needed here
    shift: int,
    levels: int,
    seed: int,
    purpose: int,
    start: int,
    count: int,
) -> Tensor:
    first, second = (words(inputs, positions.shape[1], seed, purpose, start, count, stream) for stream in (0, 1))
    return quotient(positions[:, None] + lattice_steps(first, second, thresholds), levels, dtype)


def keep_or_replace(
    positions: Tensor,  # (n, d) int32
    dtype: torch.dtype,
    inputs: Tensor,
    threshold: int,
    levels: int,
    seed: int,
    purpose: int,
    start: int,
    count: int,
) -> Tensor:
    position = positions[:, None].to(torch.int64)
    d = positions.shape[1]
    keep, high, low = (words(inputs, d, seed, purpose, start, count, stream) for stream in range(3))
    other = (high * levels + (low * levels >> 32)) >> 32  # the high word of a 96-bit product; levels < 2**16
    other = other + (other >= position)
    return quotient(torch.where(keep < threshold, position, other), levels, dtype)
