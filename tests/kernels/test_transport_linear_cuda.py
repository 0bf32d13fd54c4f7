"""The CUDA code of transport_linear: on the host with the lanes of a warp in turn, and on a GPU where there is one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.cuda_on_host import build, on_gpu
from tests.kernels.extension import ISAS
from tests.kernels.plans import Array, address
from tests.kernels.test_transport_linear import drawn
from tests.kernels.test_transport_linear_numpy import DTYPES, Problem, problem
from verifix.kernels import native
from verifix.kernels.transport_linear import linear_maximiser, linear_support

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("upper", "multiplier", "z", "value", "plan_cost")


@functools.cache
def host() -> Any:
    return build([Path(__file__).with_name("transport_linear_on_host.cpp")])


def run_on_host(case: Problem, warps: int, stream: int, primal: bool = True) -> dict[str, Array]:
    """The results by name, with memory for so many warps, full of ones; what follows it must stay untouched."""
    pairs, size = len(case.image), case.x[0].size
    found: dict[str, Array] = {name: np.full(pairs, 7.0) for name in ("upper", "multiplier", "value", "plan_cost")}
    found["z"] = np.full((pairs, *case.x.shape[1:]), 7, case.x.dtype)
    wanted = NAMES if primal else NAMES[:2]
    classes = len(np.unique(case.cost))
    bytes_ = warps * -(-size * (classes * case.x.itemsize + 12) // 16) * 16
    workspace = np.full(bytes_ + 64, 0xFF, np.uint8)
    host().transport_linear(
        x=address(case.x), g=address(case.g), image=address(case.image), row=address(case.row),
        cost=address(case.cost), budget=address(case.budget),
        **{name: address(found[name]) if name in wanted else 0 for name in NAMES},
        images=len(case.x), rows=len(case.g), pairs=pairs, channels=case.x.shape[1], height=case.x.shape[2],
        width=case.x.shape[3], window=case.window, dtype=case.x.dtype.name, workspace=address(workspace), bytes=bytes_,
        stream=stream,
    )  # fmt: skip
    assert (workspace[bytes_:] == 0xFF).all()
    return {name: found[name] for name in wanted}


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9)),
    st.sampled_from((1, 3, 5, 7)),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
    st.integers(0, 5),
    st.sampled_from(("any", "ties", "sparse")),
    st.sampled_from((1, 2, 7)),
    st.sampled_from((0, 1)),
)
def test_same_bits_as_on_the_cpu(
    shape: tuple[int, int, int], window: int, dtype: Any, seed: int, pairs: int, kind: str, warps: int, stream: int
) -> None:
    case = problem(shape, window, dtype, seed, pairs, kind)
    wanted = case.run(ISAS[0], 1, primal=True)
    for name, values in run_on_host(case, warps, stream).items():
        assert np.array_equal(values, wanted[name]), name
    for name, values in run_on_host(case, warps, stream, primal=False).items():
        assert np.array_equal(values, wanted[name]), name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 41])
def test_what_is_not_finite(value: float, place: int) -> None:
    case = problem((1, 6, 7), 3, np.float64, 3, 4)
    case.g.reshape(3, -1)[2, place] = value
    wanted, got = case.run(ISAS[0], 1, primal=True), run_on_host(case, 2, 0)
    assert np.isin(2, case.row)
    for name in NAMES:
        assert np.array_equal(got[name], wanted[name], equal_nan=True), name


def test_indices_that_are_not_there_are_nan() -> None:
    """A kernel cannot say so, and must not read there."""
    case = problem((1, 4, 4), 3, np.float64, 0, 3)
    case.image, case.row = np.array([0, 2, -1]), np.array([3, 0, 0])
    got = run_on_host(case, 1, 0)
    assert all(np.isnan(got[name]).all() for name in ("upper", "multiplier", "z", "value"))


def test_what_is_refused() -> None:
    case = problem((1, 4, 4), 3, np.float64, 0, 3)
    with pytest.raises(ValueError, match="too small"):
        run_on_host(case, 0, 0)
    wide = Problem(case.x, case.g, case.image, case.row, np.zeros(17 * 17), case.budget)
    with pytest.raises(ValueError, match="at most 15"):
        run_on_host(wide, 1, 0)


GPU = pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built")


@on_gpu[0]
@on_gpu[1]
@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [1, 5, 7, 17])
def test_same_bits_on_a_gpu(dtype: torch.dtype, window: int) -> None:
    for seed in range(8):
        arguments = drawn(seed, dtype, n=3, m=70, shape=(3, 9, 33), window=window)
        wanted = [*linear_support(**arguments), *linear_maximiser(**arguments)]
        there = {name: value.cuda() for name, value in arguments.items()}
        got = [*linear_support(**there), *linear_maximiser(**there)]
        for on_gpu_, on_cpu in zip(got, wanted, strict=True):
            assert torch.equal(on_gpu_.cpu(), on_cpu)
