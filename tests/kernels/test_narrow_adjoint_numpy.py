"""The compiled adjoint of convolutions of few input channels, called with numpy arrays: sanitizers can watch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import address

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 2)),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)), pairs, pairs,
    st.tuples(st.integers(0, 5), st.integers(0, 5)), st.sampled_from((np.float32, np.float64)), st.integers(0, 2**32),
    st.sampled_from((1, 2, 3)),
)  # fmt: skip
def test_any_shape(
    rows_of: tuple[int, ...], out: tuple[int, ...], taps: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], dtype: Any, seed: int, threads: int,
) -> None:  # fmt: skip
    """Every tap that meets a pixel adds to it, also where rows reach far beyond the result, or not to its end."""
    numbers, (n, h, w, blocks), inputs = np.random.default_rng(seed), rows_of, out[2]
    assume(taps[0] * taps[1] * inputs <= 64)
    channels, count = blocks * 64 // np.dtype(dtype).itemsize, taps[0] * taps[1] * inputs
    rows = numbers.standard_normal((n, h, w, channels)).astype(dtype)
    weight = numbers.standard_normal((*taps, inputs, channels)).astype(dtype)
    of_result = numbers.standard_normal((n, *out)).astype(dtype)
    wanted, of_rows, of_weight = np.zeros((n, *out)), np.zeros(rows.shape), np.zeros((n, *weight.shape))
    for y, x, a, b in np.ndindex(h, w, *taps):
        i, j = y * stride[0] + a - padding[0], x * stride[1] + b - padding[1]
        if 0 <= i < out[0] and 0 <= j < out[1]:
            wanted[:, i, j] += rows[:, y, x].astype(np.float64) @ weight[a, b].T
            of_rows[:, y, x] += of_result[:, i, j].astype(np.float64) @ weight[a, b]
            of_weight[:, a, b] += of_result[:, i, j, :, None].astype(np.float64) * rows[:, y, x, None]
    padded = np.zeros((channels, -(-count * np.dtype(dtype).itemsize // 64) * 64 // np.dtype(dtype).itemsize), dtype)
    padded[:, :count] = weight.reshape(count, channels).T
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
    for isa in ISAS:
        common = {"shape": (n, h, w, channels, *out, *taps, *stride, *padding), "rows": address(rows),
                  "dtype": np.dtype(dtype).name, "threads": threads, "isa": isa}  # fmt: skip
        found = [np.empty(x.shape, dtype) for x in (wanted, of_rows, of_weight)]
        _C.narrow_adjoint(weight=address(padded), result=address(found[0]), **common)
        _C.narrow_adjoint_gradient(
            weight=address(weight), of_result=address(of_result), of_rows=address(found[1]),
            of_weight=address(found[2]), **common,
        )  # fmt: skip
        for ours, theirs in zip(found, (wanted, of_rows, of_weight), strict=True):
            np.testing.assert_allclose(ours, theirs, **close)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (-1, 1, 1, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0)}, "sizes must be"),
        ({"shape": (2**40, 2**40, 1, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0)}, "below 2\\^63"),
        ({"shape": (1, 1, 1, 16, 1, 1, 1, 1, 1, 1, 1, -1, 0)}, "padding"),
        ({"shape": (1, 1, 1, 16, 1, 1, 1, 65, 1, 1, 1, 0, 0)}, "64 taps"),
        ({"shape": (1, 1, 1, 16, 1, 1, 1, 2**27, 2**27, 1, 1, 0, 0)}, "64 taps"),
        ({"shape": (1, 1, 1, 8, 1, 1, 1, 1, 1, 1, 1, 0, 0)}, "8 channels"),
        ({"rows": 0}, "null pointer"), ({"result": 0}, "null pointer"), ({"weight": 0}, "null pointer"),
        ({"threads": 0}, "threads"), ({"isa": "none"}, "none"), ({"dtype": "int8"}, "int8"),
    ],
)  # fmt: skip
def test_bad_arguments(changed: dict[str, Any], message: str) -> None:
    x = np.ones(256, np.float32)
    good = {"shape": (1, 1, 1, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0), "rows": address(x), "weight": address(x),
            "result": address(x), "dtype": "float32", "threads": 1, "isa": "base"}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        _C.narrow_adjoint(**(good | changed))
