"""The native CPU code of abs_median: the same bits as the reference for every instruction set and number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.awkward import awkward_values, bits, native_abs_median
from verifix import _C
from verifix.kernels import reference

DTYPES = [torch.float32, torch.float64]


def assert_equals_reference(x: torch.Tensor, isa: str, threads: int) -> None:
    values, index = native_abs_median(x, isa, threads)
    wanted_values, wanted_index = reference.abs_median(x)
    assert torch.equal(bits(values), bits(wanted_values))
    assert torch.equal(index, wanted_index)


@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 80), st.integers(0, 200)),
    dtype=st.sampled_from(DTYPES),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape(isa: str, shape: tuple[int, int, int], dtype: torch.dtype, threads: int, seed: int) -> None:
    assert_equals_reference(awkward_values(shape, dtype, seed), isa, threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 50, 51, 64, 65, 255, 256, 257, 500, 1023, 1024, 1025, 2100])
def test_any_length(isa: str, k: int, dtype: torch.dtype) -> None:
    """Around the limits of the selection network (256 rows) and of one block (1024), and more columns than one tile."""
    for threads in (1, 2):
        assert_equals_reference(awkward_values((3, k, 47), dtype, seed=k), isa, threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [7, 300, 1100])
def test_sorted_equal_and_extreme_columns(isa: str, k: int, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    ramp = torch.linspace(0, 1, k, dtype=dtype)
    columns = [
        ramp,
        ramp.flip(0),
        torch.full((k,), -2.5, dtype=dtype),
        torch.zeros(k, dtype=dtype),
        torch.full((k,), torch.inf, dtype=dtype),
        torch.full((k,), torch.nan, dtype=dtype),
        ramp * limits.smallest_normal,
        torch.full_like(ramp, limits.max).masked_fill(ramp > 0.5, -limits.smallest_normal),
    ]
    assert_equals_reference(torch.stack(columns, dim=1).unsqueeze(0), isa, threads=1)


@pytest.mark.parametrize("k", [50, 300])
def test_every_nan_gives_the_canonical_nan(isa: str, k: int) -> None:
    """Signalling ones, negative ones, ones with a payload: the first of them is found, whatever its bits."""
    x = torch.ones(1, k, 40)
    payloads = torch.tensor([0x7F800001, 0x7FC00000, -0x00400000, -1, 0x7FFFFFFF], dtype=torch.int32)
    x.view(torch.int32)[0, k - 5 :, :30] = payloads.unsqueeze(1)
    values, index = native_abs_median(x, isa, threads=1)
    assert torch.equal(bits(values)[0, :30], torch.full((30,), 0x7FC00000, dtype=torch.int32))
    assert torch.equal(index[0, :30], torch.full((30,), k - 5))
    assert torch.equal(values[0, 30:], torch.ones(10))


def test_one_column_per_batch_and_many_threads(isa: str) -> None:
    assert_equals_reference(awkward_values((700, 33, 1), torch.float64, seed=5), isa, threads=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, r"shape \(2, 0, 4\)"),
        ({"batch": -1}, r"shape \(-1, 3, 4\)"),
        ({"k": 2**31}, r"k from 1 to 2\^31 - 1"),
        ({"batch": 2**40, "n": 2**40}, r"more than 2\^63 - 1 elements"),
        ({"batch": 2**61, "k": 3}, r"more than 2\^63 - 1 elements"),
        ({"x": 0}, "null pointer"),
        ({"values": 0}, "null pointer"),
        ({"index": 0}, "null pointer"),
        ({"threads": 0}, "threads = 0: must be >= 1"),
        ({"isa": "sse"}, "isa = sse: must be base, avx2 or avx512"),
        ({"dtype": "float16"}, "dtype = float16: must be float32 or float64"),
    ],
)
def test_second_line_of_defence(change: dict[str, object], message: str) -> None:
    x, values, index = torch.ones(2, 3, 4), torch.empty(2, 4), torch.empty(2, 4, dtype=torch.int64)
    arguments = {"x": x.data_ptr(), "values": values.data_ptr(), "index": index.data_ptr(), "batch": 2, "k": 3, "n": 4}
    arguments |= {"dtype": "float32", "threads": 1, "isa": "base"}
    _C.abs_median(**arguments)
    assert torch.equal(values, torch.ones(2, 4))
    with pytest.raises(ValueError, match=message):
        _C.abs_median(**(arguments | change))


def test_more_elements_than_32_bits_count() -> None:
    """13 GB of zeros that need no memory but where written: the last columns lie beyond 2^31 elements."""
    k, n = 50, 2**26
    try:
        x = torch.from_numpy(np.zeros((1, k, n), dtype=np.float32))
    except MemoryError:
        pytest.skip("the system does not promise 13 GB")
    x[0, :, -3:] = torch.arange(1.0, k + 1).unsqueeze(1)
    values, index = native_abs_median(x, _C.config()["isas"][-1], threads=2)
    assert values[0, -4:].tolist() == [0, 25, 25, 25]
    assert index[0, -4:].tolist() == [0, 24, 24, 24]
    assert not values[0, :-3].any() and not index[0, :-3].any()
