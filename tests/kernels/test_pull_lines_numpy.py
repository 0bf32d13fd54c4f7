"""The compiled pull_lines, called directly with numpy arrays: torch takes no part, so sanitizers can watch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address


def _address(x: Array | None) -> int:
    return 0 if x is None else address(x)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 600)),
    st.sampled_from((np.float32, np.float64)),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(0, 2**32),
    st.sampled_from((1, 2, 3)),
)
def test_any_shape(shape: tuple[int, int, int], dtype: Any, there: list[bool], seed: int, threads: int) -> None:
    numbers = np.random.default_rng(seed)
    n, r, m = shape
    rows = numbers.standard_normal(shape).astype(dtype)
    shapes = [(n, m)] * 4 + [(1, m)]
    lines = [numbers.standard_normal(x).astype(dtype) if has else None for x, has in zip(shapes, there, strict=True)]
    slope_p, offset_p, slope_n, offset_n, shift = (
        np.zeros((n, 1, m)) if line is None else line[:, None].astype(np.float64) for line in lines
    )
    up, down = np.maximum(rows, 0).astype(np.float64), np.minimum(rows, 0).astype(np.float64)
    of_pulled, of_offset = numbers.standard_normal(shape).astype(dtype), numbers.standard_normal((n, r)).astype(dtype)
    toward = of_offset[:, :, None].astype(np.float64)
    through = slope_p * up + slope_n * down
    wanted = (through, (offset_p * up + offset_n * down + shift * through).sum(2))
    of_both = of_pulled + shift * toward
    gradients = (
        np.where(rows >= 0, slope_p * of_both + offset_p * toward, slope_n * of_both + offset_n * toward),
        (up * of_both).sum(1), (up * toward).sum(1), (down * of_both).sum(1), (down * toward).sum(1),
        (through * toward).sum(1),
    )  # fmt: skip
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
    for isa in ISAS:
        common = {"n": n, "r": r, "m": m, "rows": address(rows), "lines": [_address(line) for line in lines],
                  "dtype": np.dtype(dtype).name, "threads": threads, "isa": isa}  # fmt: skip
        pulled, offset = np.empty(shape, dtype), np.empty((n, r), dtype)
        _C.pull_lines(pulled=address(pulled), offset=address(offset), **common)
        found = [np.empty(shape, dtype), *(np.empty((n, m), dtype) for _ in range(5))]
        _C.pull_lines_gradient(
            of_pulled=address(of_pulled), of_offset=address(of_offset), of_rows=address(found[0]),
            of_lines=[address(x) for x in found[1:]], **common,
        )  # fmt: skip
        for ours, theirs in zip((pulled, offset, *found), (*wanted, *gradients), strict=True):
            np.testing.assert_allclose(ours, theirs, **close)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": -1}, "sizes must be"), ({"n": 2**40, "r": 2**40}, "below 2\\^63"),
        ({"n": 2**40, "m": 2**40, "r": 0}, "below 2\\^63"), ({"rows": 0}, "null pointer"),
        ({"offset": 0}, "null pointer"), ({"threads": 0}, "threads"), ({"isa": "none"}, "none"),
        ({"dtype": "int8"}, "int8"),
    ],
)  # fmt: skip
def test_bad_arguments(changed: dict[str, Any], message: str) -> None:
    x = np.ones(8, np.float32)
    good = {"n": 1, "r": 1, "m": 8, "rows": address(x), "lines": [0, 0, 0, 0, 0], "pulled": 0, "offset": address(x),
            "dtype": "float32", "threads": 1, "isa": "base"}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        _C.pull_lines(**(good | changed))
