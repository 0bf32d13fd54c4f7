"""The operator interval_image on a GPU: the same bits as on the CPU, on the current stream, and nothing waits."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.test_interval_image import DTYPES, SLOPES, boxes
from verifix.kernels import native
from verifix.kernels.interval_image import interval_image

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 257, 20_000_000])
def test_same_bits_as_on_the_cpu(count: int, dtype: torch.dtype) -> None:
    """Up to more entries than a grid has threads."""
    sides = boxes(count, dtype)
    on_gpu = [side.cuda() for side in sides]
    for left, right in SLOPES if count < 1000 else SLOPES[:1]:
        for bounds in (False, True):
            wanted = torch.ops.verifix.interval_image(*sides, left, right, bounds)
            found = torch.ops.verifix.interval_image(*on_gpu, left, right, bounds)
            assert all(torch.equal(x.cpu(), y) for x, y in zip(found, wanted, strict=True))
        for images, ends in ((2, 0), (0, 2), (2, 2)):
            gradients = [
                torch.ops.verifix.interval_image_gradient(pieces, pair[:images], pair[:ends], left, right)
                for pieces, pair in ((found[2], on_gpu), (wanted[2], [*sides]))
            ]
            assert all(torch.equal(x.cpu(), y) for x, y in zip(*gradients, strict=True))


def test_gradients_and_opcheck() -> None:
    pair = [side.cuda().requires_grad_() for side in boxes(20, torch.float64)]
    torch.library.opcheck(torch.ops.verifix.interval_image.default, (*pair, 0.0, 1.0, True))
    smooth = [torch.rand(20, dtype=torch.float64, device="cuda", requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda m, r: interval_image(m, r, 0.1)[:2], smooth)


def test_nothing_waits_and_the_current_stream_is_used() -> None:
    """The boxes are made on a side stream behind slow work; a host synchronisation is an error of torch's."""
    midpoint, radius = (side.cuda() for side in boxes(4096, torch.float32))
    later, stream = torch.zeros_like(midpoint), torch.cuda.Stream()
    slow = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                slow = slow @ slow / 4096
            later.copy_(midpoint)
            image = interval_image(later, radius, bounds=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    for side, wanted in zip(image, interval_image(midpoint, radius, bounds=True), strict=True):
        assert side is not None
        assert wanted is not None
        assert torch.equal(side, wanted)
