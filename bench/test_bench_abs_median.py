"""abs_median against torch.median of the absolute values, values and index, at the same number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from verifix.kernels import abs_median, native

SHAPES = [(8, 10, 2000), (8, 50, 2000), (2000, 50, 10), (8, 200, 2000), (4, 1000, 1000)]
FUNCTIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "verifix": abs_median,
    "torch.median": lambda x: tuple(torch.median(x.abs(), dim=1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_abs_median(
    benchmark: BenchmarkFixture, shape: tuple[int, int, int], dtype: torch.dtype, threads: int, name: str
) -> None:
    x = torch.empty(shape, dtype=dtype).cauchy_(generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values, index = abs_median(x)
        assert torch.equal(values, torch.median(x.abs(), dim=1).values)
        assert torch.equal(values, x.abs().gather(1, index.unsqueeze(1)).squeeze(1))
        benchmark.group = f"{'x'.join(map(str, shape))} {dtype} threads={threads}".replace("torch.", "")
        benchmark.extra_info |= {"torch": torch.__version__, "isa": native.isa(), "threads": threads}
        benchmark.pedantic(FUNCTIONS[name], (x,), rounds=15, warmup_rounds=3)
    finally:
        torch.set_num_threads(before)
