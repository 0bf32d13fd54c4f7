"""Noise and counting on a GPU: the same bits as on the CPU, on any stream, and nothing waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.awkward import awkward_values
from tests.kernels.test_noise import LAWS, TABLE, assert_equal, every_draw, images
from verifix.kernels import native
from verifix.kernels.lattice import check_lattice
from verifix.kernels.noise import add_lattice_noise, add_noise, keep_or_replace
from verifix.kernels.votes import add_votes

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built"),
]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [0, 1, 3, 4, 127, 128, 785, 3072])
@pytest.mark.parametrize(("n", "count"), [(0, 3), (3, 0), (1, 1000), (5, 7)])
def test_same_bits_as_on_the_cpu(n: int, count: int, d: int, dtype: torch.dtype) -> None:
    x, inputs = images(n, (d,), dtype), torch.arange(n) * 1000
    got = every_draw(x.cuda(), inputs.cuda(), start=5, count=count)
    assert_equal({name: drawn.cpu() for name, drawn in got.items()}, every_draw(x, inputs, start=5, count=count))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_gives_the_same_bits_there(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, inputs = images(2, (785,), dtype), torch.tensor([1, 2**32 - 1])
    wanted = every_draw(x, inputs, start=2**32 - 30, count=30)
    monkeypatch.setattr(native, "module_or_none", lambda name: None)
    got = every_draw(x.cuda(), inputs.cuda(), start=2**32 - 30, count=30)
    assert_equal({name: drawn.cpu() for name, drawn in got.items()}, wanted)
    assert torch.equal(check_lattice(x.cuda(), 255).cpu(), check_lattice(x, 255))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 100_003, 10), (5, 4096, 1), (3, 4097, 1000), (2, 300, 5000), (0, 3, 4), (4, 0, 3)]
)
def test_votes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Several pieces for an input, and too many classes for shared memory."""
    logits = awkward_values(shape, dtype, seed=1)
    counts = torch.randint(0, 9, (shape[0], shape[2] + 1))
    on_gpu = counts.cuda()
    add_votes(logits.cuda(), on_gpu)
    add_votes(logits, counts)
    assert torch.equal(on_gpu.cpu(), counts)


def test_gradients_and_opcheck() -> None:
    x, inputs = torch.rand(2, 6, dtype=torch.float64, device="cuda", requires_grad=True), torch.arange(2).cuda()
    torch.library.opcheck(torch.ops.verifix.add_noise.default, (x, inputs, None, 0.5, "gaussian", 7, 1, 2, 3))
    counts = torch.zeros(2, 4, dtype=torch.int64, device="cuda")
    torch.library.opcheck(torch.ops.verifix.add_votes.default, (torch.rand(2, 5, 3, device="cuda"), counts))


def test_nothing_waits_and_the_current_stream_is_used() -> None:
    """The input is made on a side stream behind slow work; a host synchronisation is an error of torch's."""
    stream, slow = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda")
    x, inputs = torch.zeros(4, 784, device="cuda"), torch.arange(4).cuda()
    counts = torch.zeros(4, 785, dtype=torch.int64, device="cuda")
    names: dict[str, Any] = {"seed": 1, "purpose": 1, "start": 0, "count": 64}
    TABLE.on(x.device)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                slow = slow @ slow / 4096
            x.fill_(1.0)
            drawn = [add_noise(x, inputs, law=law, scale=0.5, **names) for law in LAWS]
            drawn.append(add_lattice_noise(x, inputs, levels=255, table=TABLE, **names))
            drawn.append(keep_or_replace(x, inputs, keep=0.5, levels=255, **names))
            add_votes(drawn[0], counts)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    wanted = every_draw(torch.ones(4, 784), torch.arange(4), start=0, count=64, seed=1)
    assert torch.equal(drawn[3].cpu(), wanted["lattice"])
    assert counts.sum() == 4 * 64
