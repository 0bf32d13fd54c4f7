"""The compiled abs_median, called directly with numpy arrays: on the CPU, and the CUDA code on the host.

torch takes no part, so sanitizers can watch.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.cuda_on_host import build
from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address

DTYPES = (np.float32, np.float64)


@functools.cache
def host_module() -> Any:
    return build([Path(__file__).with_name("abs_median_on_host.cpp")])


def awkward(shape: tuple[int, int, int], dtype: Any, seed: int) -> Array:
    """Wide-spread numbers among ties, zeros of both signs, subnormals, infinities and a few NaN."""
    numbers = np.random.default_rng(seed)
    x = numbers.standard_cauchy(shape).astype(dtype)
    special = np.array([0.0, -0.0, 1.0, -1.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max, np.inf, -np.inf])
    mixed = np.where(numbers.random(shape) < 0.3, numbers.choice(special.astype(dtype), shape), x)
    mixed[numbers.random(shape) < 0.1 / shape[1]] = np.nan
    return mixed


def by_definition(x: Array) -> tuple[Array, Array]:
    """The lower median of the absolute values, NaN where there is one; and the first row that attains it."""
    size = np.abs(x)
    values = np.sort(size, axis=1)[:, (x.shape[1] - 1) // 2]
    values[np.isnan(size).any(axis=1)] = np.nan
    attained = (size == values[:, None]) | (np.isnan(size) & np.isnan(values)[:, None])
    return values, attained.argmax(axis=1)


def check(shape: tuple[int, int, int], dtype: Any, seed: int, threads: int) -> None:
    x = awkward(shape, dtype, seed)
    wanted = by_definition(x)
    batch, k, n = shape
    places: list[tuple[Any, dict[str, Any]]] = [(_C, {"threads": threads, "isa": isa}) for isa in ISAS]
    places += [(host_module(), {"stream": order}) for order in (0, 1)]
    for module, place in places:
        values, index = np.full((batch, n), 7, dtype), np.full((batch, n), -7)
        module.abs_median(
            x=address(x), values=address(values), index=address(index), batch=batch, k=k, n=n,
            dtype=np.dtype(dtype).name, **place,
        )  # fmt: skip
        assert np.array_equal(values, wanted[0], equal_nan=True)
        assert np.array_equal(index, wanted[1])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.integers(1, 70), st.integers(0, 100)),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
    st.sampled_from((1, 2, 3)),
)
def test_any_shape(shape: tuple[int, int, int], dtype: Any, seed: int, threads: int) -> None:
    check(shape, dtype, seed, threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", (1, 2, 50, 64, 65, 96, 97, 192, 193, 255, 256, 257, 384, 385, 1023, 1024, 1025))
def test_any_length(k: int, dtype: Any) -> None:
    """Around the sizes where the CPU takes other steps, and where shared memory holds fewer columns, and then none."""
    check((2, k, 47), dtype, k, threads=2)
