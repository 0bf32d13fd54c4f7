"""What the tests of the kernels share: awkward inputs, the contract in plain Python, native code called directly."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix import _C


def awkward_values(shape: tuple[int, ...], dtype: torch.dtype, seed: int, nan: bool = True) -> Tensor:
    """Cauchy numbers mixed with ties, zeros of both signs, subnormals, infinities and, in few columns, NaN."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(shape, dtype=dtype).cauchy_(generator=generator)
    largest, tiny = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 4
    special = [0.0, -0.0, 1.0, -1.0, tiny, -tiny, largest, torch.inf, -torch.inf]
    choice = torch.randint(0, 3 * len(special), shape, generator=generator)
    for number, value in enumerate(special):
        x[choice == number] = value
    if nan:
        rare = torch.rand(shape, generator=generator) < 0.1 / max(shape[1], 1)
        x[rare] = torch.nan
        x[rare & (choice % 2 == 0)] = -torch.tensor(torch.nan, dtype=dtype)
    return x


def bits(x: Tensor) -> Tensor:
    """The bits of floating-point numbers, so that NaN and zeros compare exactly."""
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int64)


def first_attaining(x: Tensor) -> tuple[Tensor, Tensor]:
    """The contract of abs_median, column by column in Python, with torch.median as the definition of the median."""
    values = torch.median(x.abs(), dim=1).values
    index = torch.empty(values.shape, dtype=torch.int64)
    for b in range(x.shape[0]):
        for j in range(x.shape[2]):
            column, median = x[b, :, j].abs().tolist(), values[b, j].item()
            index[b, j] = next(i for i, v in enumerate(column) if v == median or (v != v and median != median))
    return values.masked_fill(values.isnan(), torch.nan), index


def native_abs_median(x: Tensor, isa: str, threads: int) -> tuple[Tensor, Tensor]:
    """``verifix._C.abs_median`` on a contiguous tensor, with no dispatcher between."""
    batch, k, n = x.shape
    values, index = x.new_full((batch, n), 7.0), torch.full((batch, n), -7)
    _C.abs_median(
        x=x.data_ptr(),
        values=values.data_ptr(),
        index=index.data_ptr(),
        batch=batch,
        k=k,
        n=n,
        dtype=str(x.dtype).removeprefix("torch."),
        threads=threads,
        isa=isa,
    )
    return values, index
