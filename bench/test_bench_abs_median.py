"""abs_median against torch.median of the absolute values, values and index, at the same number of threads."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import QUICK, compare, rounds, threads
from verifix.kernels import abs_median

SHAPES = [(8, 10, 2000), (8, 50, 2000), (2000, 50, 10), (8, 200, 2000), (4, 1000, 1000)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_abs_median(benchmark: BenchmarkFixture, shape: tuple[int, int, int], dtype: torch.dtype, count: int) -> None:
    if QUICK and (shape[1] != 50 or dtype != torch.float32):
        pytest.skip("a full run measures this")
    x = torch.empty(shape, dtype=dtype).cauchy_(generator=torch.Generator().manual_seed(0))
    with threads(count):
        values, index = abs_median(x)
        oracle = torch.median(x.double().abs(), dim=1).values
        assert torch.equal(values.double(), oracle)
        assert torch.equal(values, x.abs().gather(1, index.unsqueeze(1)).squeeze(1))
        case = {
            "table": "abs_median",
            "name": "x".join(map(str, shape)),
            "method": f"{dtype}, k = {shape[1]}".replace("torch.", ""),
            "errors": {"verifix": {"error": float((values.double() - oracle).abs().max())}},
        }
        sides = {"verifix": lambda _: abs_median(x), "torch.median": lambda _: torch.median(x.abs(), dim=1)}
        compare(benchmark, sides, case=case, count=rounds(15, 9))
