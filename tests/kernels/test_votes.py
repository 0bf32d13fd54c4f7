"""Counting votes: ties, NaN, types, strides, and that native code counts as the reference does, that for GPUs too."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.awkward import awkward_values
from tests.kernels.cuda_on_host import build
from verifix import _C
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import reference
from verifix.kernels.votes import add_votes


def by_definition(logits: Tensor) -> Tensor:
    """Row by row, in Python."""
    n, _, classes = logits.shape
    counts = torch.zeros(n, classes + 1, dtype=torch.int64)
    for i, rows in enumerate(logits.tolist()):
        for row in rows:
            invalid = any(math.isnan(value) for value in row)
            counts[i, classes if invalid else row.index(max(row))] += 1
    return counts


@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(1, 12)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**32),
)
def test_votes(shape: tuple[int, int, int], dtype: torch.dtype, seed: int) -> None:
    """With many ties, infinities, zeros of both signs and NaN; added to what is there."""
    logits = awkward_values(shape, dtype, seed)
    before = torch.randint(0, 1000, (shape[0], shape[2] + 1), generator=torch.Generator().manual_seed(seed))
    wanted = before + by_definition(logits)
    for function in (add_votes, reference.add_votes):
        counts = before.clone()
        function(logits, counts)
        assert torch.equal(counts, wanted)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads(threads: int) -> None:
    logits = awkward_values((7, 1100, 10), torch.float32, seed=threads)
    counts = torch.zeros(7, 11, dtype=torch.int64)
    _C.add_votes(
        logits=logits.data_ptr(), counts=counts.data_ptr(), n=7, count=1100, classes=10, dtype="float32",
        threads=threads,
    )  # fmt: skip
    assert torch.equal(counts, by_definition(logits))


@functools.cache
def host_module() -> Any:
    """The CUDA code of counting, compiled for the host."""
    return build([Path(__file__).with_name("votes_on_host.cpp")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    "shape", [(2, 4096, 3), (2, 4097, 1), (1, 9000, 5), (3, 7, 4095), (3, 7, 4096), (0, 3, 4), (4, 0, 3)]
)
def test_cuda_code_on_the_host(shape: tuple[int, int, int], order: int, dtype: torch.dtype) -> None:
    """Several pieces for an input, and too many classes for shared memory."""
    n, count, classes = shape
    logits = awkward_values(shape, dtype, seed=1)
    counts = torch.randint(0, 9, (n, classes + 1))
    wanted = counts + by_definition(logits)
    host_module().add_votes(
        logits=logits.data_ptr(), counts=counts.data_ptr(), n=n, count=count, classes=classes,
        dtype=str(dtype).removeprefix("torch."), stream=order,
    )  # fmt: skip
    assert torch.equal(counts, wanted)


def test_rows_by_hand() -> None:
    nan, inf = math.nan, math.inf
    rows = [[1.0, 2.0, 2.0], [-inf, -inf, -inf], [nan, 9.0, 0.0], [9.0, 0.0, nan], [0.0, -0.0, 0.0], [0.0, inf, inf]]
    counts = torch.zeros(1, 4, dtype=torch.int64)
    add_votes(torch.tensor([rows]), counts)
    assert counts.tolist() == [[2, 2, 0, 2]]


def test_strides_do_not_matter() -> None:
    logits = awkward_values((4, 6, 10), torch.float64, seed=1)
    strided = logits.permute(2, 1, 0)[::3]
    counts = torch.zeros(4, 5, dtype=torch.int64)
    add_votes(strided, counts)
    assert torch.equal(counts, by_definition(strided))


def test_one_class_and_invalid_answers() -> None:
    counts = torch.zeros(2, 2, dtype=torch.int64)
    add_votes(torch.tensor([[[1.0], [math.nan]], [[-math.inf], [2.0]]]), counts)
    assert counts.tolist() == [[1, 1], [2, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    logits, counts = torch.rand(2, 5, 3, dtype=dtype), torch.zeros(2, 4, dtype=torch.int64)
    torch.library.opcheck(torch.ops.verifix.add_votes.default, (logits, counts))
    torch.library.opcheck(torch.ops.verifix.add_votes.default, (logits.transpose(0, 1), counts[:1].repeat(5, 1)))


def test_compiles_into_one_graph() -> None:
    def count(logits: Tensor) -> Tensor:
        counts = torch.zeros(len(logits), logits.shape[2] + 1, dtype=torch.int64)
        add_votes(2 * logits, counts)
        return counts + 1

    logits = torch.rand(3, 8, 4)
    assert torch.equal(torch.compile(count, fullgraph=True, backend="aot_eager")(logits), count(logits))


GOOD_LOGITS, GOOD_COUNTS = torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "counts", "error", "message"),
    [
        ([1.0], GOOD_COUNTS, InvalidType, "logits is a list"),
        (GOOD_LOGITS, None, InvalidType, "counts is a NoneType"),
        (torch.zeros(2, 4), GOOD_COUNTS, InvalidValue, r"logits.shape = \(2, 4\): must be \(n, count, classes\)"),
        (torch.zeros(2, 3, 0), GOOD_COUNTS, InvalidValue, r"logits.shape = \(2, 3, 0\)"),
        (GOOD_LOGITS.half(), GOOD_COUNTS, InvalidValue, "logits.dtype = torch.float16"),
        (GOOD_LOGITS, GOOD_COUNTS[:, :4], InvalidValue, r"counts.shape = \(2, 4\): must be .* = \(2, 5\)"),
        (GOOD_LOGITS, GOOD_COUNTS.int(), InvalidValue, "counts = torch.int32"),
        (GOOD_LOGITS, torch.zeros(5, 2, dtype=torch.int64).T, InvalidValue, r"strides \(1, 2\): must be contiguous"),
    ],
)
def test_wrong_arguments(logits: Any, counts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        add_votes(logits, counts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": -1}, r"shape \(-1, 3, 4\)"),
        ({"count": -1}, r"shape \(2, -1, 4\)"),
        ({"classes": 0}, r"shape \(2, 3, 0\)"),
        ({"n": 2**40, "count": 2**30}, r"more than 2\^63 - 1 elements"),
        ({"classes": 2**63 - 1}, r"more than 2\^63 - 1 elements"),
        ({"logits": 0}, "null pointer"),
        ({"counts": 0}, "null pointer"),
        ({"threads": 0}, "threads = 0"),
        ({"dtype": "int64"}, "dtype = int64"),
    ],
)
def test_second_line_of_defence(change: dict[str, Any], message: str) -> None:
    logits, counts = torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.int64)
    arguments = {"logits": logits.data_ptr(), "counts": counts.data_ptr(), "n": 2, "count": 3, "classes": 4}
    arguments |= {"dtype": "float32", "threads": 1}
    _C.add_votes(**arguments)
    assert counts.tolist() == [[3, 0, 0, 0, 0]] * 2
    with pytest.raises(ValueError, match=message):
        _C.add_votes(**(arguments | change))
