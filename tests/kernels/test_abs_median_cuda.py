"""The CUDA code of abs_median: the same bits as on the CPU, on any stream."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.awkward import awkward_values, bits
from verifix.kernels import abs_median, native

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built"),
]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 50, 51, 96, 97, 200, 384, 385, 1000])
@pytest.mark.parametrize(("batch", "n"), [(3, 1000), (1000, 1), (2, 127), (0, 5), (5, 0)])
def test_same_bits_as_on_the_cpu(batch: int, k: int, n: int, dtype: torch.dtype) -> None:
    """Around the sizes where shared memory holds fewer columns, and then none."""
    x = awkward_values((batch, k, n), dtype, seed=k)
    values, index = abs_median(x.cuda())
    wanted_values, wanted_index = abs_median(x)
    assert torch.equal(bits(values.cpu()), bits(wanted_values))
    assert torch.equal(index.cpu(), wanted_index)


def test_gradients_and_opcheck() -> None:
    x = awkward_values((2, 6, 3), torch.float64, seed=1, nan=False).clamp(-9, 9).cuda().requires_grad_()
    torch.library.opcheck(torch.ops.verifix.abs_median.default, (x,))
    smooth = torch.randn(2, 6, 3, dtype=torch.float64, device="cuda", requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: abs_median(x)[0], smooth)
    assert torch.autograd.gradgradcheck(lambda x: abs_median(x)[0].square(), smooth)


def test_waits_for_work_on_its_own_stream() -> None:
    """The input is made on a side stream behind slow work: a launch on another stream would read it too early."""
    stream = torch.cuda.Stream()
    slow = torch.randn(4096, 4096, device="cuda")
    x = torch.zeros(4, 50, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            slow = slow @ slow / 4096
        x.fill_(3.0)
        values, _ = abs_median(x)
    stream.synchronize()
    assert torch.equal(values, torch.full((4, 4096), 3.0, device="cuda"))


def test_compiles_with_cuda_graphs() -> None:
    compiled = torch.compile(lambda x: abs_median(x + 1)[0] * 2, fullgraph=True, mode="reduce-overhead")
    for seed in range(4):
        x = awkward_values((2, 50, 300), torch.float32, seed, nan=False).cuda()
        assert torch.equal(compiled(x).clone(), abs_median(x + 1)[0] * 2)
