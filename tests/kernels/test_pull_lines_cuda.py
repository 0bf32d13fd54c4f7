"""The operators pull_lines on a GPU: as on the CPU, the same each time, on the current stream, and nothing waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.test_pull_lines import DTYPES, MASKS, drawn
from verifix.kernels import native
from verifix.kernels.pull_lines import pull_lines

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built"),
]
EVERYTHING = (True,) * 5


def on_gpu(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().cuda()


def plain(
    shape: tuple[int, int, int], dtype: torch.dtype, mask: tuple[bool, ...]
) -> tuple[list[Any], Tensor | None, Tensor]:
    """Rows and lines, and gradients of what is made of them, on the CPU."""
    rows, lines = drawn(shape, dtype, mask, 0)
    generator = torch.Generator().manual_seed(1)
    of_pulled, of_offset = (torch.randn(x, dtype=dtype, generator=generator) for x in (shape, shape[:2]))
    arguments = [rows.detach(), *(None if line is None else line.detach() for line in lines)]
    return arguments, of_pulled if mask[0] or mask[2] else None, of_offset


def check_same_as_on_the_cpu(shape: tuple[int, int, int], dtype: torch.dtype, mask: tuple[bool, ...]) -> None:
    arguments, of_pulled, of_offset = plain(shape, dtype, mask)
    there, wants_rows, m = [on_gpu(x) for x in arguments], of_pulled is not None, max(shape[2], 1)
    close = {"rtol": 1e-4, "atol": 1e-5 * m**0.5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12 * m}
    pulled, offset = torch.ops.verifix.pull_lines(*there, wants_rows)
    for again in torch.ops.verifix.pull_lines(*there, wants_rows)[1], pull_lines(*there)[1]:
        assert torch.equal(again, offset)
    wanted = torch.ops.verifix.pull_lines(*arguments, wants_rows)
    assert torch.equal(pulled.cpu(), wanted[0])
    torch.testing.assert_close(offset.cpu(), wanted[1], **close)
    for some in ([True, *mask], [True] + [False] * 5, [False, *mask]):
        found = torch.ops.verifix.pull_lines_gradient(*there, on_gpu(of_pulled), on_gpu(of_offset), some)
        gradients = torch.ops.verifix.pull_lines_gradient(*arguments, of_pulled, of_offset, some)
        for ours, theirs in zip(found[:5], gradients[:5], strict=True):
            assert torch.equal(ours.cpu(), theirs)
        torch.testing.assert_close(found[5].cpu(), gradients[5], **close)  # the sum over images is torch's


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_on_the_cpu(dtype: torch.dtype, mask: tuple[bool, ...]) -> None:
    check_same_as_on_the_cpu((5, 11, 301), dtype, mask)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1), (3, 9, 1024), (3, 9, 1025), (2, 3, 70_001), (900, 90, 40)]
)
def test_any_shape(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    check_same_as_on_the_cpu(shape, dtype, EVERYTHING)


def test_more_work_than_a_grid_has_threads() -> None:
    check_same_as_on_the_cpu((600_000, 1, 32), torch.float32, EVERYTHING)
    check_same_as_on_the_cpu((70_000, 1, 1030), torch.float32, (True, False, True, True, False))


def test_more_than_32_bits_of_elements() -> None:
    """The last rows of so many are those that stand alone."""
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("the GPU has less than 30 GiB free")
    n, r, m = 3, 1100, 700_001
    line = torch.randn(n, m, device="cuda")
    rows = torch.randn(1, r, m, device="cuda").expand(n, -1, -1).contiguous()
    assert rows.numel() > 2**31
    pulled, offset = pull_lines(rows, line, line, None, line)
    alone = pull_lines(rows[-1:, -5:], line[-1:], line[-1:], None, line[-1:])
    assert pulled is not None
    assert alone[0] is not None
    assert torch.equal(pulled[-1:, -5:], alone[0])
    assert torch.equal(offset[-1:, -5:], alone[1])


@pytest.mark.parametrize("mask", [EVERYTHING, (True, False, True, True, False), (False, True, False, True, False)])
def test_gradients_and_opcheck(mask: tuple[bool, ...]) -> None:
    arguments, of_pulled, of_offset = plain((2, 3, 20), torch.float64, mask)
    arguments[0][arguments[0] == 0] = 0.5  # away from the kink
    leaves = [None if x is None else x.cuda().requires_grad_() for x in arguments]
    torch.library.opcheck(torch.ops.verifix.pull_lines.default, (*leaves, mask[0]))
    rest = (*map(on_gpu, arguments), on_gpu(of_pulled), on_gpu(of_offset), [True, *mask])
    torch.library.opcheck(torch.ops.verifix.pull_lines_gradient.default, rest)

    def of(*given: Tensor) -> tuple[Tensor, ...]:
        left = list(given)
        full = [left.pop(0) if there else None for there in (True, *mask)]
        return tuple(x for x in pull_lines(*full) if x is not None)  # type: ignore[arg-type]

    given = tuple(x for x in leaves if x is not None)
    assert torch.autograd.gradcheck(of, given)
    assert torch.autograd.gradgradcheck(of, given)


def test_what_is_not_contiguous() -> None:
    arguments, _, _ = plain((4, 6, 50), torch.float64, EVERYTHING)
    there = [x.cuda().requires_grad_() for x in arguments]
    strided = [x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for x in there]
    assert not strided[0].is_contiguous()
    assert not strided[1].is_contiguous()
    strided[5] = torch.stack((there[5].detach(),) * 2, 1)[:, 0].requires_grad_()
    for found, wanted in zip(pull_lines(*strided), pull_lines(*there), strict=True):
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)
        gradients = [  # of the sum: an expanded one arrives
            torch.autograd.grad(x.sum(), y, materialize_grads=True, retain_graph=True, allow_unused=True)
            for x, y in ((found, strided), (wanted, there))
        ]
        assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


def test_what_is_not_finite_is_never_lost() -> None:
    rows, line = torch.zeros(1, 2, 40, device="cuda"), torch.ones(1, 40, device="cuda")
    bad = line.clone()
    bad[0, 33] = torch.inf  # of rows that are zero there
    pulled, offset = pull_lines(rows, bad, None, line, bad)
    assert pulled is not None
    assert pulled[:, :, 33].isnan().all()
    assert offset.isnan().all()
    rows[0, 0, 7] = torch.nan
    pulled, offset = pull_lines(rows, line, line, line, line)
    assert pulled is not None
    assert pulled[0, 0, 7].isnan()
    assert offset.isnan().tolist() == [[True, False]]


def test_nothing_waits_and_the_current_stream_is_used() -> None:
    """The rows are made on a side stream behind slow work; a host synchronisation is an error of torch's."""
    arguments, _, _ = plain((8, 10, 2000), torch.float32, EVERYTHING)
    rows, *lines = (x.cuda() for x in arguments)
    rows.requires_grad_()
    later, stream = torch.zeros_like(rows, requires_grad=True), torch.cuda.Stream()
    slow = torch.randn(4096, 4096, device="cuda")

    def everything(rows: Tensor) -> list[Tensor]:
        pulled, offset = pull_lines(rows, *lines)
        assert pulled is not None
        return [pulled, offset, *torch.autograd.grad(pulled.sum() + offset.sum(), rows)]

    wanted = everything(rows)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                slow = slow @ slow / 4096
            later.data.copy_(rows.data)
            found = everything(later)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))
