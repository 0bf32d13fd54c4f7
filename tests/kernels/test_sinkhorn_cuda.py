"""The CUDA code of both Sinkhorn iterations against the reference: compiled for the host, and on a GPU if any."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.cuda_on_host import build
from tests.kernels.test_conjugate_sinkhorn import check_conjugate, edges, forms
from tests.kernels.test_sinkhorn import euclidean, images, masses, uneven
from verifix.kernels import native, sinkhorn_reference
from verifix.kernels.sinkhorn import ConjugateResult, SinkhornResult, conjugate_sinkhorn, projected_sinkhorn
from verifix.kernels.sinkhorn_native import outputs
from verifix.kernels.sinkhorn_reference import Rule

RULE = Rule(1000.0, 1e-4, 300, 1.9, 0.35)
on_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built"),
]


@functools.cache
def module() -> Any:
    return build([Path(__file__).with_name("sinkhorn_on_host.cpp")])


def run(name: str, facts: int, rule: list[float], max_sweeps: int, order: int, **tensors: Tensor) -> list[Any]:
    z, *numbers = outputs(tensors["x"], facts)
    shape = [*z.shape, round(len(tensors["cost"]) ** 0.5)]
    workspace = np.full(module().sinkhorn_workspace(shape) + 64, 0xFF, np.uint8)  # full of NaN
    getattr(module(), name)(
        **{key: tensor.data_ptr() for key, tensor in tensors.items()}, shape=shape, rule=rule, max_sweeps=max_sweeps,
        z=z.data_ptr(), numbers=[number.data_ptr() for number in numbers], dtype=str(z.dtype).removeprefix("torch."),
        workspace=workspace.ctypes.data, stream=order,
    )  # fmt: skip
    assert (workspace[-64:] == 0xFF).all()
    return [z, *numbers]


def on_host(x: Tensor, w: Tensor, cost: Tensor, budget: Tensor, rule: Rule, order: int) -> SinkhornResult:
    numbers = [rule.regularisation, rule.tolerance, rule.relaxation, rule.momentum]
    return SinkhornResult(
        *run("projected_sinkhorn", 3, numbers, rule.max_sweeps, order, x=x, w=w, cost=cost, budget=budget)
    )


def conjugate_on_host(
    x: Tensor, g: Tensor, cost: Tensor, budget: Tensor, regularisation: float, order: int = 0
) -> ConjugateResult:
    numbers = [regularisation, 1e-6]
    return ConjugateResult(*run("conjugate_sinkhorn", 4, numbers, 100, order, x=x, g=g, cost=cost, budget=budget))


def check(found: SinkhornResult, x: Tensor, w: Tensor, cost: Tensor, budget: Tensor, rule: Rule) -> None:
    wanted = SinkhornResult(*sinkhorn_reference.projected_sinkhorn(x, w, cost, budget, rule))
    double = x.dtype == torch.float64
    assert torch.equal(found.converged, wanted.converged)
    assert torch.allclose(found.z, wanted.z, rtol=0, atol=1e-12 if double else 2e-6, equal_nan=True)
    assert int((found.sweeps - wanted.sweeps).abs().max()) <= (0 if double else 2)
    assert bool((found.plan_cost <= budget).logical_or(found.plan_cost.isnan()).all())


@pytest.mark.parametrize("cost", [euclidean(3), euclidean(5), uneven(7)], ids=["3", "5", "uneven 7"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_code_of_the_device_on_the_host(cost: Tensor, dtype: torch.dtype) -> None:
    x, w = images((3, 2, 5, 9), dtype=dtype)
    budget = 0.1 * masses(x)
    found = [on_host(x, w, cost, budget, RULE, order) for order in (0, 1)]
    check(found[0], x, w, cost, budget, RULE)
    assert torch.equal(found[0].z, found[1].z) and torch.equal(found[0].column_residual, found[1].column_residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_on_the_host(dtype: torch.dtype) -> None:
    x, w = images((6, 1, 4, 5), dtype=dtype)
    x[0], x[4, 0, 0, 0] = 0, -1
    budget = 0.1 * masses(x)
    budget[1], budget[2] = 0, torch.nan
    w[3, 0, 0, 0] = torch.inf
    check(on_host(x, w, euclidean(3), budget, RULE, 0), x, w, euclidean(3), budget, RULE)
    steep = Rule(1e5, 1e-3, 40, 1.9, 0.35)  # beyond the range of float32
    check(on_host(x, w, euclidean(3), budget, steep, 0), x, w, euclidean(3), budget, steep)
    bad = on_host(x, w, torch.ones(9, dtype=torch.float64), budget, RULE, 0)
    assert bool(bad.z.isnan().all()) and not bool(bad.converged.any())


@pytest.mark.parametrize("cost", [euclidean(3), euclidean(5), uneven(7)], ids=["3", "5", "uneven 7"])
@pytest.mark.parametrize("regularisation", [1.0, 1000.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_on_the_host(cost: Tensor, regularisation: float, dtype: torch.dtype) -> None:
    x, g = forms((3, 2, 5, 18), dtype=dtype)
    budget = 0.1 * masses(x)
    found, backwards = (conjugate_on_host(x, g, cost, budget, regularisation, order) for order in (0, 1))
    check_conjugate(found, x, g, cost, budget, regularisation)
    assert all(torch.equal(a, b) for a, b in zip(vars(found).values(), vars(backwards).values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_edges_on_the_host(dtype: torch.dtype) -> None:
    x, g = forms((6, 1, 4, 5), dtype=dtype)
    budget = edges(x, g)
    check_conjugate(conjugate_on_host(x, g, euclidean(3), budget, 1000.0), x, g, euclidean(3), budget, 1000.0)
    bad = conjugate_on_host(x, g, torch.ones(9, dtype=torch.float64), budget, 1000.0)
    assert bool(bad.z.isnan().all()) and bool(bad.upper.isnan().all()) and not bool(bad.converged.any())


@pytest.mark.parametrize("cost", [euclidean(3), euclidean(5), euclidean(7), uneven(3)], ids=["3", "5", "7", "uneven"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 9), (2, 1, 28, 28), (2, 3, 32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
def test_conjugate_on_a_gpu(shape: tuple[int, ...], cost: Tensor, dtype: torch.dtype, device: str) -> None:
    x, g = forms(shape, dtype=dtype)
    budget = 0.1 * masses(x)
    x, g, cost, budget = (tensor.to(device) for tensor in (x, g, cost, budget))
    found = conjugate_sinkhorn(x, g, cost, budget)
    check_conjugate(found, x, g, cost, budget, 1000.0)
    assert torch.equal(conjugate_sinkhorn(x[:1], g[:1], cost, budget[:1]).z, found.z[:1])


@pytest.mark.parametrize("cost", [euclidean(3), euclidean(5), euclidean(7), uneven(3)], ids=["3", "5", "7", "uneven"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 9), (2, 1, 28, 28), (2, 3, 32, 32), (1, 3, 120, 130)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
def test_on_a_gpu(shape: tuple[int, ...], cost: Tensor, dtype: torch.dtype, device: str) -> None:
    """In shared memory, and beyond it; what a block gives does not depend on the others."""
    x, w = images(shape, dtype=dtype)
    budget = 0.1 * masses(x)
    x, w, cost, budget = (tensor.to(device) for tensor in (x, w, cost, budget))
    found = projected_sinkhorn(x, w, cost, budget, tolerance=1e-4, max_sweeps=300)
    check(found, x, w, cost, budget, RULE)
    one = projected_sinkhorn(x[:1], w[:1], cost, budget[:1], tolerance=1e-4, max_sweeps=300)
    assert torch.equal(one.z, found.z[:1])
