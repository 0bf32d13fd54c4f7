"""The compiled noise against its definition in whole numbers, and in float64 with a bound: torch takes no part."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels import noise_calls as calls
from tests.kernels.extension import _C
from tests.kernels.noise_calls import Names, Table, implementations
from tests.kernels.plans import Array

WORD = 0xFFFFFFFF
LAWS = ("gaussian", "laplace", "uniform")
RELATIVE = 6.5 * 2.0**-24  # bound on the relative error of a standard number (docs/smoothing-noise.md)

names_of_samples = st.builds(
    lambda inputs, seed, purpose, start, count: Names(np.array(inputs, np.int64), seed, purpose, start, count),
    inputs=st.lists(st.integers(0, WORD), min_size=0, max_size=3),
    seed=st.integers(0, 2**63 - 1),
    purpose=st.integers(0, 2**30 - 1),
    start=st.one_of(st.integers(0, 5), st.just(2**32 - 9)),
    count=st.integers(0, 9),
)
coordinates = st.one_of(st.integers(0, 12), st.sampled_from([63, 127, 128, 129, 260, 785]))
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def philox(counter: tuple[Any, ...], key: tuple[int, int]) -> tuple[Any, ...]:
    """Philox-4x32-10 in whole numbers: those of Python, or arrays of uint64."""
    for _ in range(10):
        product0, product1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = (
            (product1 >> 32) ^ counter[1] ^ key[0], product1 & WORD,
            (product0 >> 32) ^ counter[3] ^ key[1], product0 & WORD,
        )  # fmt: skip
        key = ((key[0] + 0x9E3779B9) & WORD, (key[1] + 0xBB67AE85) & WORD)
    return counter


def words_by_definition(names: Names, d: int, stream: int = 0) -> Array:
    """Word c % 4 of block c // 4."""
    shape = (len(names.inputs), names.count, -(-d // 4))
    samples = np.arange(names.start, names.start + names.count, dtype=np.uint64)
    counter = (
        np.arange(shape[2], dtype=np.uint64), samples[:, None], names.inputs.astype(np.uint64)[:, None, None],
        np.uint64(names.purpose | stream << 30),
    )  # fmt: skip
    drawn = philox(np.broadcast_arrays(*counter, np.empty(shape))[:4], (names.seed & WORD, names.seed >> 32))
    return np.stack(drawn, -1).reshape(*shape[:2], 4 * shape[2])[..., :d].astype(np.int64)


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)  # fmt: skip
def test_published_vectors_of_philox(counter: tuple[int, ...], key: tuple[int, int], wanted: tuple[int, ...]) -> None:
    """Those of Random123; the compiled code is compared with the same function below."""
    assert philox(counter, key) == wanted


def test_compiled_words_on_published_vectors() -> None:
    """The first vector, and the digits of pi as far as names reach: block 0, a purpose below 2**30."""
    zero = Names(np.zeros(1, np.int64), 0, 0, 0, 1)
    pi = Names(np.array([0x13198A2E]), 0x299F31D0A4093822, 0x03707344, 0x85A308D3, 1)
    for with_ in implementations():
        assert calls.random_words(zero, 4, with_).ravel().tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
        assert (calls.random_words(pi, 9, with_) == words_by_definition(pi, 9)).all()


@quick
@given(names_of_samples, coordinates)
def test_words(names: Names, d: int) -> None:
    wanted = words_by_definition(names, d)
    for with_ in implementations():
        assert (calls.random_words(names, d, with_) == wanted).all()


def standard(law: str, word: Array) -> Array:
    """The numbers of words in float64; within 1e-13 of what the definition says."""
    if law == "gaussian":
        first, second = word[..., 0::2], word[..., 1::2]
        top = first >> 31 == 1
        t = (np.where(top, WORD - first, first) + 0.5) / 2**32
        radius = np.sqrt(-2 * np.where(top, np.log1p(-t), np.log(t)))
        quarter = np.round((second + 0.5) / 2**30).astype(int)  # the nearest axis; from it angles are exact
        angle = (second + 0.5 - quarter * 2**30) * (2 * np.pi / 2**32)
        east, north = np.array([1.0, 0, -1, 0])[quarter % 4], np.array([0, 1.0, 0, -1])[quarter % 4]
        cosine = east * np.cos(angle) - north * np.sin(angle)
        sine = north * np.cos(angle) + east * np.sin(angle)
        return np.stack((radius * cosine, radius * sine), -1).reshape(word.shape)
    sign, k = np.where(word >> 31 == 1, -1.0, 1.0), word & 0x7FFFFFFF
    if law == "uniform":
        return sign * (k + 0.5) / 2**31
    top = k >> 30 == 1
    t = (np.where(top, 2**31 - 1 - k, k) + 0.5) / 2**31
    return -sign * np.where(top, np.log1p(-t), np.log(t))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@quick
@given(names=names_of_samples, d=coordinates)
def test_numbers_are_those_of_their_words_to_a_few_ulp(law: str, dtype: Any, names: Names, d: int) -> None:
    """With x = 0 and scale 1; the same bits everywhere. float64 adds nothing to the float32 noise."""
    x = np.zeros((len(names.inputs), d), dtype)
    wanted = standard(law, words_by_definition(names, d + d % 2))[..., :d]
    first = None
    for with_ in implementations():
        got = calls.add_noise(names, x, law, 1.0, with_)
        assert (np.abs(got - wanted) <= RELATIVE * np.abs(wanted)).all()
        assert (got == got.astype(np.float32)).all()
        first = got if first is None else first
        assert (got == first).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@quick
@given(names=names_of_samples, d=coordinates, seed=st.integers(0, 99))
def test_scaled_and_added_in_the_type_of_x(law: str, dtype: Any, names: Names, d: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    x = numbers.normal(size=(len(names.inputs), d)).astype(dtype)
    scales = numbers.uniform(0.1, 9, d).astype(np.float32)
    for with_ in implementations():
        plain = calls.add_noise(names, np.zeros_like(x), law, 1.0, with_).astype(np.float32)
        for scale, each in ((0.37, None), (1.0, scales)):
            noise = plain * (np.float32(scale) if each is None else each)
            wanted = x[:, None] + noise.astype(dtype)
            assert (calls.add_noise(names, x, law, scale, with_, each) == wanted).all()


def guide_of(thresholds: list[int], bits: int) -> Array:
    """The guide by its definition, threshold by threshold."""

    def bucket(upper: int) -> int:
        pattern = int(np.float32(upper).view(np.int32))
        return max((pattern >> (23 - bits)) - ((127 << 23) >> (23 - bits)) + 1, 0)

    at = [bucket(threshold >> 32) for threshold in thresholds]
    rows = (31 << bits) + 2
    guide = np.tile(np.array([0, 2**31 - 1], np.int32), (rows, 1))
    guide[:, 0] = np.searchsorted(at, np.arange(rows))
    for number, (threshold, position) in enumerate(zip(thresholds, at, strict=True)):
        guide[position] = (-1, 0) if at.count(position) > 1 else (number, threshold >> 32)
    return guide


@quick
@given(
    names=names_of_samples,
    d=coordinates,
    seed=st.integers(0, 99),
    bits=st.sampled_from([4, 7]),
    ties=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_lattice_steps_invert_64_bits(names: Names, d: int, seed: int, bits: int, ties: bool, dtype: Any) -> None:
    """Also where only the second word decides: thresholds are put on draws that come."""
    numbers = np.random.default_rng(seed)
    first, second = (words_by_definition(names, d, stream) for stream in (0, 1))
    draws = [int(a) << 32 | int(b) for a, b in zip(first.ravel(), second.ravel(), strict=True)]
    lower = [min(draw, 2**64 - 1 - draw) for draw in draws]
    thresholds = [int(number) for number in numbers.integers(1, 2**63, size=numbers.integers(0, 40))]
    if ties:
        thresholds += [
            draw + int(offset) for draw, offset in zip(lower[:40], numbers.integers(-1, 2, 40), strict=False)
        ]
    thresholds = sorted(threshold for threshold in thresholds if 0 < threshold < 2**63)
    table = Table(np.array(thresholds, np.int64), guide_of(thresholds, bits), 23 - bits)

    def steps(draw: int) -> int:
        if draw < 2**63:
            return bisect.bisect_right(thresholds, draw) - len(thresholds)
        return len(thresholds) - bisect.bisect_right(thresholds, 2**64 - 1 - draw)

    positions = numbers.integers(0, 256, (len(names.inputs), d)).astype(np.int32)
    moved = positions[:, None] + np.array([steps(draw) for draw in draws], np.int32).reshape(first.shape)
    for with_ in implementations():
        got = calls.add_lattice_noise(names, positions, 255, table, dtype, with_)
        assert (got == moved.astype(dtype) / dtype(255)).all()


@quick
@given(
    names=names_of_samples,
    d=coordinates,
    keep=st.floats(0, 1),
    levels=st.sampled_from([1, 2, 3, 255, 65535]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_kept_or_replaced(names: Names, d: int, keep: float, levels: int, dtype: Any, seed: int) -> None:
    positions = np.random.default_rng(seed).integers(0, levels + 1, (len(names.inputs), d)).astype(np.int32)
    threshold = round(keep * 2**32)
    word, high, low = (words_by_definition(names, d, stream) for stream in range(3))
    product = [(int(a) << 32 | int(b)) * levels >> 64 for a, b in zip(high.ravel(), low.ravel(), strict=True)]
    other = np.array(product, np.int64).reshape(high.shape)
    here = positions[:, None].astype(np.int64)
    wanted = np.where(word < threshold, here, other + (other >= here)).astype(dtype) / dtype(levels)
    for with_ in implementations():
        assert (calls.keep_or_replace(names, positions, threshold, levels, dtype, with_) == wanted).all()


def test_replacements_that_only_the_lower_word_decides() -> None:
    """With 65535 others, about one draw in 2**17 carries from the lower word."""
    names, d, levels = Names(np.arange(3), 5, 1, 0, 200), 785, 65535
    positions = np.full((3, d), levels, np.int32)  # every replacement is below it
    high, low = (words_by_definition(names, d, stream) for stream in (1, 2))
    exact = (high * levels + (low * levels >> 32)) >> 32
    assert (exact != high * levels >> 32).sum() > 0
    for with_ in implementations():
        got = calls.keep_or_replace(names, positions, 0, levels, np.float64, with_)
        assert (got == exact / levels).all()


ARGUMENTS: dict[str, Any] = {"law": "gaussian", "scale": 1.0, "scales": 0, "dtype": "float32", "threads": 1}


@pytest.mark.parametrize(
    ("of_names", "change", "message"),
    [
        ({"n": -1}, {}, r"shape \(-1, 2, 3\): sizes must be >= 0"),
        ({"count": -1}, {}, "sizes must be >= 0"),
        ({"d": -1}, {}, "sizes must be >= 0"),
        ({"start": -1}, {}, "from sample -1"),
        ({"start": 2**32 - 1}, {}, r"numbered below 2\^32"),
        ({"count": 2**32 + 1}, {}, r"numbered below 2\^32"),
        ({"d": 2**34 + 1}, {}, r"numbered below 2\^32"),
        ({"n": 2**40, "d": 2**30}, {}, r"more than 2\^63 - 1 elements"),
        ({"inputs": 0}, {}, "a null pointer"),
        ({"purpose": 2**30}, {}, "purpose = 1073741824"),
        ({}, {"x": 0}, "a null pointer"),
        ({}, {"out": 0}, "a null pointer"),
        ({}, {"law": "cauchy"}, "law = cauchy: must be gaussian, laplace or uniform"),
        ({}, {"dtype": "float16"}, "dtype = float16"),
        ({}, {"threads": 0}, "threads = 0: must be >= 1"),
        ({}, {"isa": "sse"}, "isa = sse"),
    ],
)
def test_second_line_of_defence(of_names: dict[str, int], change: dict[str, Any], message: str) -> None:
    inputs, x, out = np.zeros(1, np.int64), np.zeros(3, np.float32), np.zeros(6, np.float32)
    shape = {"inputs": inputs.ctypes.data, "n": 1, "start": 0, "count": 2, "d": 3, "seed": 0, "purpose": 0}
    arguments = ARGUMENTS | {"x": x.ctypes.data, "out": out.ctypes.data, "isa": "base"}
    _C.add_noise(names=_C.NoiseNames(**shape), **arguments)
    assert out.all()
    with pytest.raises(ValueError, match=message):
        _C.add_noise(names=_C.NoiseNames(**(shape | of_names)), **(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guide_rows": 497}, "a guide of 497 rows with shift 19"),
        ({"shift": 18}, "a guide of 498 rows with shift 18"),
        ({"shift": 23}, "with shift 23"),
        ({"steps": -1}, "a table of -1 steps"),
        ({"steps": 2**18 + 1}, "a table of 262145 steps"),
        ({"thresholds": 0}, "a table of 1 steps"),
        ({"guide": 0}, "a table of 1 steps"),
        ({"positions": 0}, "a null pointer"),
    ],
)
def test_tables_that_cannot_be(change: dict[str, Any], message: str) -> None:
    thresholds, out = np.array([2**62]), np.zeros(2, np.float32)
    guide, positions, inputs = guide_of([2**62], 4), np.zeros(1, np.int32), np.zeros(1, np.int64)
    names = _C.NoiseNames(inputs=inputs.ctypes.data, n=1, start=0, count=2, d=1, seed=0, purpose=0)
    arguments = {
        "names": names, "thresholds": thresholds.ctypes.data, "steps": 1, "guide": guide.ctypes.data,
        "guide_rows": 498, "shift": 19, "positions": positions.ctypes.data, "levels": 1, "out": out.ctypes.data,
        "dtype": "float32", "threads": 1, "isa": "base",
    }  # fmt: skip
    _C.add_lattice_noise(**arguments)
    with pytest.raises(ValueError, match=message):
        _C.add_lattice_noise(**(arguments | change))


@pytest.mark.parametrize("change", [{"threshold": 2**32 + 1}, {"levels": 0}, {"levels": 65536}])
def test_replacements_that_cannot_be(change: dict[str, int]) -> None:
    inputs, positions, out = np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.float32)
    names = _C.NoiseNames(inputs=inputs.ctypes.data, n=1, start=0, count=1, d=1, seed=0, purpose=0)
    arguments = {
        "names": names, "threshold": 0, "levels": 1, "positions": positions.ctypes.data, "out": out.ctypes.data,
        "dtype": "float32", "threads": 1, "isa": "base",
    }  # fmt: skip
    _C.keep_or_replace(**arguments)
    assert out.tolist() == [1]
    with pytest.raises(ValueError, match="must be at most"):
        _C.keep_or_replace(**(arguments | change))
