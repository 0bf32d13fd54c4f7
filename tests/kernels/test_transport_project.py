"""The operators of transport plans: their contract, gradients and errors, and the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import transport_project_reference as reference
from verifix.kernels.transport_project import plan_gradient, plan_image, project_plan

DTYPES = [torch.float32, torch.float64]


def euclidean(window: int) -> Tensor:
    step = torch.arange(window, dtype=torch.float64) - window // 2
    return (step[:, None] ** 2 + step**2).sqrt().flatten()


def problem(shape: tuple[int, ...], window: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    x = x * (torch.rand(shape, generator=generator) < 0.6)
    plan = torch.randn(*shape[:2], window**2, *shape[2:], generator=generator, dtype=dtype)
    plan[:, :, window**2 // 2] += x
    return plan, x, euclidean(window)


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(0, 7), st.integers(1, 20)),
    window=st.sampled_from([1, 3, 5, 9]),
    dtype=st.sampled_from(DTYPES),
    eps=st.sampled_from([0.0, 1e-6, 0.3, torch.inf]),
    warm=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_reference_gives_the_same_bits(
    shape: tuple[int, ...], window: int, dtype: torch.dtype, eps: float, warm: bool, seed: int
) -> None:
    plan, x, cost = problem(shape, window, dtype, seed)
    budget = torch.full((shape[0],), eps, dtype=torch.float64)
    start = torch.rand(shape[0], dtype=torch.float64) if warm else None
    got, wanted = project_plan(plan, x, cost, budget, start), reference.project_plan(plan, x, cost, budget, start)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])
    assert torch.equal(plan_image(plan), reference.plan_image(plan))
    assert torch.equal(plan_gradient(x, window), reference.plan_gradient(x, window))


def test_reference_refuses_the_same_images() -> None:
    plan, x, cost = problem((6, 1, 4, 4), 3, torch.float64, 1)
    x[:, :, 1, 1] = 0.5
    plan[0, 0, 2, 1, 1], plan[1, 0, 2, 1, 1], x[2, 0, 0, 0], x[3, 0, 0, 0] = torch.nan, torch.inf, torch.nan, -1.0
    budget = torch.tensor([1, 1, 1, 1, torch.nan, -1], dtype=torch.float64)
    for run in (project_plan, reference.project_plan):
        out, multiplier = run(plan, x, cost, budget, None)
        assert bool(out.isnan().all())
        assert bool(multiplier.isnan().all())


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4, 3.0])
def test_is_the_minimum_that_a_quadratic_program_finds(eps: float) -> None:
    """Nonnegative least squares with a slack of the budget; constraints weigh 1e4, and so are off by about 1e-8."""
    plan, x, cost = problem((1, 1, 3, 2), 3, torch.float64, 2)
    x = x + 0.1
    budget = eps * x.flatten(1).sum(1)
    out, _ = project_plan(plan, x, cost, budget)
    kept = reference.inside_image(3, 3, 2, x.device).flatten()
    count = int(kept.sum())
    weight = 1e4
    rows = torch.eye(6, dtype=torch.float64).repeat(1, 9)[:, kept]
    price = cost.repeat_interleave(6)[kept][None]
    nothing = torch.zeros(count + 6, 1, dtype=torch.float64)
    left = torch.cat([torch.eye(count, dtype=torch.float64), weight * rows, weight * price])
    slack = torch.cat([nothing, torch.full((1, 1), weight, dtype=torch.float64)])
    right = torch.cat([plan.flatten()[kept], weight * x.flatten(), weight * budget])
    solved, _ = nnls(torch.cat([left, slack], 1).numpy(), right.numpy())
    assert torch.allclose(out.flatten()[kept], torch.from_numpy(solved[:-1]), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_does_not_depend_on_the_others_nor_on_threads(dtype: torch.dtype) -> None:
    plan, x, cost = problem((5, 3, 16, 16), 5, dtype, 3)
    budget = 0.2 * x.double().flatten(1).sum(1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = project_plan(plan, x, cost, budget)
    finally:
        torch.set_num_threads(threads)
    for i in range(5):
        alone = project_plan(plan[i : i + 1], x[i : i + 1], cost, budget[i : i + 1])
        assert torch.equal(alone[0][0], together[0][i])
        assert torch.equal(alone[1][0], together[1][i])


def test_symmetries() -> None:
    """Flipping an image and its offsets flips the projection; channels may be exchanged."""
    plan, x, cost = problem((2, 2, 6, 5), 3, torch.float64, 4)
    budget = 0.2 * x.flatten(1).sum(1)
    out, multiplier = project_plan(plan, x, cost, budget)
    flipped, same = project_plan(plan.flip(2, 3, 4), x.flip(2, 3), cost, budget)
    assert torch.allclose(flipped.flip(2, 3, 4), out, atol=1e-12)
    assert torch.allclose(same, multiplier, rtol=1e-10)
    exchanged, same = project_plan(plan.flip(1), x.flip(1), cost, budget)
    assert torch.allclose(exchanged.flip(1), out, atol=1e-12)
    assert torch.allclose(same, multiplier, rtol=1e-10)


def test_strides_do_not_matter() -> None:
    plan, x, cost = problem((3, 2, 5, 6), 3, torch.float32, 5)
    budget = torch.ones(1, dtype=torch.float64).expand(3)
    wanted = project_plan(plan, x, cost, budget.contiguous())
    got = project_plan(plan.transpose(3, 4).contiguous().transpose(3, 4), x.flip(3).flip(3), cost, budget)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(plan_image(plan.transpose(3, 4)), plan_image(plan.transpose(3, 4).contiguous()))
    assert torch.equal(plan_gradient(x.transpose(2, 3), 3), plan_gradient(x.transpose(2, 3).contiguous(), 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves_and_their_image_are_adjoint(dtype: torch.dtype) -> None:
    plan, x, _ = problem((2, 2, 4, 5), 5, dtype, 6)
    left, right = (plan_image(plan) * x).sum(), (plan * plan_gradient(x, 5)).sum()
    assert torch.allclose(left, right, rtol=1e-5)
    assert plan_image(plan).dtype == plan_gradient(x, 5).dtype == dtype


def test_gradients() -> None:
    plan, x, _ = problem((1, 2, 3, 3), 3, torch.float64, 7)
    plan, x = plan.requires_grad_(), x.requires_grad_()
    assert torch.autograd.gradcheck(plan_image, plan)
    assert torch.autograd.gradgradcheck(lambda p: plan_image(p).square(), plan)
    assert torch.autograd.gradcheck(lambda g: plan_gradient(g, 3), x)
    (gradient,) = torch.autograd.grad((plan_image(plan) * x).sum(), plan)
    assert torch.equal(gradient, plan_gradient(x.detach(), 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    plan, x, cost = problem((2, 1, 4, 3), 3, dtype, 8)
    budget = torch.ones(2, dtype=torch.float64)
    for start in (None, budget):
        torch.library.opcheck(torch.ops.verifix.project_plan.default, (plan, x, cost, budget, start))
    for p in (plan, plan.clone().requires_grad_(), plan[:0]):
        torch.library.opcheck(torch.ops.verifix.plan_image.default, (p,))
    for g in (x, x.clone().requires_grad_(), x[:0]):
        torch.library.opcheck(torch.ops.verifix.plan_gradient.default, (g, 3))


PLAN, X = torch.zeros(2, 1, 9, 3, 4), torch.zeros(2, 1, 3, 4)
COST, BUDGET = euclidean(3), torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], X, COST, BUDGET), InvalidType, "plan is a list: pass a torch.Tensor"),
        ((PLAN, X, COST, BUDGET, 1.0), InvalidType, "start is a float: pass a torch.Tensor"),
        ((PLAN[:, :, :8], X, COST, BUDGET), InvalidValue, r"plan.shape = \(2, 1, 8, 3, 4\): must be"),
        ((PLAN[:, :, :4], X, COST, BUDGET), InvalidValue, r"plan.shape = \(2, 1, 4, 3, 4\): must be"),
        ((PLAN.half(), X.half(), COST, BUDGET), InvalidValue, "plan.dtype = torch.float16"),
        ((PLAN, X.double(), COST, BUDGET), InvalidValue, "x.dtype = torch.float64: must be that of the plan"),
        ((PLAN, X[:, :, :2], COST, BUDGET), InvalidValue, r"x.shape = \(2, 1, 2, 4\): must be \(2, 1, 3, 4\)"),
        ((PLAN, X, COST[:8], BUDGET), InvalidValue, r"cost = \(8,\) torch.float64: must be \(9,\) torch.float64"),
        ((PLAN, X, COST.float(), BUDGET), InvalidValue, r"cost = \(9,\) torch.float32"),
        ((PLAN, X, COST - 1, BUDGET), InvalidValue, "cost = .*: must be 0, or positive"),
        ((PLAN, X, COST + 1, BUDGET), InvalidValue, "cost = 1.0: must be 0 for the center"),
        ((PLAN, X, COST, BUDGET[:1]), InvalidValue, r"budget = \(1,\) torch.float64: must be \(2,\)"),
        ((PLAN, X, COST, BUDGET, BUDGET.float()), InvalidValue, r"start = \(2,\) torch.float32"),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        project_plan(*arguments)


def test_wrong_images() -> None:
    with pytest.raises(InvalidValue, match=r"plan.shape = \(2, 1, 3, 4\)"):
        plan_image(X)
    with pytest.raises(InvalidValue, match=r"g.shape"):
        plan_gradient(PLAN, 3)
    with pytest.raises(InvalidValue, match=r"window = 2: must be odd"):
        plan_gradient(X, 2)
