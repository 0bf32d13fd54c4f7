"""Transport plans on a GPU: the same bits as on the CPU, on any stream, and nothing waits."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.test_transport_project import problem
from verifix.kernels import native
from verifix.kernels.transport_project import plan_gradient, plan_image, project_plan

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built"),
]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (5, 1, 28, 28), (3, 3, 32, 32), (2, 2, 3, 40)])
def test_same_bits_as_on_the_cpu(shape: tuple[int, ...], window: int, dtype: torch.dtype) -> None:
    plan, x, cost = problem(shape, window, dtype, seed=window)
    for eps in (0.0, 1e-6, 0.3, torch.inf):
        budget = torch.full((shape[0],), eps, dtype=torch.float64)
        wanted = project_plan(plan, x, cost, budget)
        got = project_plan(plan.cuda(), x.cuda(), cost.cuda(), budget.cuda())
        assert torch.equal(got[0].cpu(), wanted[0])
        assert torch.equal(got[1].cpu(), wanted[1])
    assert torch.equal(plan_image(plan.cuda()).cpu(), plan_image(plan))
    assert torch.equal(plan_gradient(x.cuda(), window).cpu(), plan_gradient(x, window))


def test_wrong_numbers_give_nan() -> None:
    plan, x, cost = (part.cuda() for part in problem((3, 1, 5, 5), 3, torch.float64, seed=1))
    x[:, :, 2, 2] = 0.5
    plan[0, 0, 2, 2, 2], x[1, 0, 0, 0] = torch.nan, -1.0
    out, multiplier = project_plan(plan, x, cost, torch.ones(3, dtype=torch.float64).cuda())
    assert out.flatten(1).isnan().all(1).tolist() == [True, True, False]
    assert multiplier.isnan().tolist() == [True, True, False]
    out, _ = project_plan(plan, x, cost - 1, torch.ones(3, dtype=torch.float64).cuda())
    assert bool(out.isnan().all())


def test_nothing_waits_and_the_current_stream_is_used() -> None:
    """The plan is made on a side stream behind slow work; a host synchronisation is an error of torch's."""
    plan, x, cost = problem((4, 1, 28, 28), 5, torch.float32, seed=2)
    budget = torch.ones(4, dtype=torch.float64)
    later, on_gpu = torch.zeros_like(plan).cuda(), (plan.cuda(), x.cuda(), cost.cuda(), budget.cuda())
    stream, slow = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                slow = slow @ slow / 4096
            later.copy_(on_gpu[0])
            out, _ = project_plan(later, *on_gpu[1:])
            image = plan_image(out)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    wanted, _ = project_plan(plan, x, cost, budget)
    assert torch.equal(image.cpu(), plan_image(wanted))
