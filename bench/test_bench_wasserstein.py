"""Steps on a Wasserstein ball: projected Sinkhorn against the authors' package, the support function and plans."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench import cases
from bench.measure import QUICK, compare, rounds, threads
from bench.operations import (
    conjugate_operations,
    plan_projection_operations,
    sinkhorn_operations,
    support_operations,
)
from bench.peers import authors_sinkhorn
from verifix.kernels import sinkhorn_reference, transport_linear_reference, transport_project_reference
from verifix.kernels.sinkhorn import conjugate_sinkhorn, projected_sinkhorn
from verifix.kernels.sinkhorn_reference import around, gathered
from verifix.kernels.transport_linear import linear_support
from verifix.kernels.transport_project import plan_gradient, project_plan
from verifix.sets.wasserstein.ground import window_cost

WINDOW, EPS, CLASSES = 5, 0.1, 6
COST = window_cost("euclidean", WINDOW)
_PEER = "projected_sinkhorn 0.2"
_CASES = {"mnist": cases.published_mnist, "cifar": cases.published_cifar}


@functools.cache
def stepped(name: str, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, the gradients of a published network's loss, the images after a sign step of 0.1, and their budgets."""
    case = _CASES[name]()
    x, y = case.batch(0, count)
    x = x.float().requires_grad_()
    (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(case.model(x), y), x)
    x = x.detach()
    if name == "cifar":  # back to pixel values, of which its inputs are a function
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (cases.CIFAR_MEAN, cases.CIFAR_STD))
        x, g = (x * std + mean).clamp(0, 1), g / std
    return x, g, x + 0.1 * g.sign(), EPS * x.double().sum((1, 2, 3))


def column_residuals(x: Tensor, w: Tensor, z: Tensor, regularisation: float) -> Tensor:
    """``||columns - z||_1`` of the dual point that belongs to z, for images of mass 1, in float64; see README.md."""
    found = []
    for source, target, point in zip(x.double(), w.double(), z.double(), strict=True):
        mass = source.sum()
        reached = around(source, WINDOW // 2).sum(0) > 0
        beta = torch.where(reached, regularisation * (target - point) / mass, 0.0)
        around_v, cost = around(beta.exp(), WINDOW // 2), COST.reshape(-1, 1, 1, 1)

        def plan(multiplier: float, v: Tensor = around_v, rows: Tensor = source / mass) -> Tensor:
            weighted = torch.exp(-multiplier * COST.reshape(-1, 1, 1, 1)) * v
            return weighted * (rows / weighted.sum(0).clamp(min=1e-300))

        low, high = 0.0, 64.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if float((cost * plan(middle)).sum()) > EPS else (low, middle)
        found.append((gathered(plan(high), WINDOW // 2) - point / mass).abs().sum())
    return torch.stack(found)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["mnist", "cifar"])
def test_projected_sinkhorn(benchmark: BenchmarkFixture, name: str, count: int) -> None:
    """100 images at lambda 1000. The package gets the number of iterations that its authors' attack gives it."""
    if QUICK and count == 1:
        pytest.skip("a full run measures this")
    peer, regularisation, images = authors_sinkhorn(), 1000.0, 100
    tolerance = {"mnist": 1e-4, "cifar": 1e-6}[name]  # the package stops by the batch, and late on these images
    x, _, w, budget = stepped(name, images)
    mass = x.sum((1, 2, 3), keepdim=True)
    cost, eps = peer.wasserstein_cost(x, p=1, kernel_size=WINDOW), x.new_full((images,), EPS)
    sides = {
        "verifix": lambda _: projected_sinkhorn(x, w, COST, budget, regularisation=regularisation, tolerance=tolerance),
        _PEER: lambda _: peer.projected_sinkhorn(x / mass, w / mass, cost, eps, regularisation, maxiters=400) * mass,
    }
    with threads(count):
        found = sides["verifix"](0)
        residuals = {
            side: column_residuals(x, w, z, regularisation)
            for side, z in (("verifix", found.z), (_PEER, sides[_PEER](0)))
        }
        assert bool(found.converged.all()) and bool((found.plan_cost <= budget).all())
        rounding = 4 * torch.finfo(torch.float32).eps  # of z itself, on either side
        assert residuals["verifix"].max() <= residuals[_PEER].max().clamp(min=rounding)
        assert residuals["verifix"].mean() <= residuals[_PEER].mean().clamp(min=rounding)
        sweeps, pixels = float(found.sweeps.double().mean()), x[0].numel()
        case = {
            "table": "projected Sinkhorn",
            "name": f"{name}, {images} images, lambda {regularisation:g}, eps {EPS}",
            "method": f"{WINDOW} x {WINDOW} euclidean, float32",
            "errors": {side: {"error": float(residual.max())} for side, residual in residuals.items()},
            "residuals": {side: (float(r.mean()), float(r.max())) for side, r in residuals.items()},
            "sweeps": sweeps,
        }
        flops = {"verifix": sinkhorn_operations(WINDOW) * pixels * sweeps}
        traffic = {"verifix": 3.0 * x.element_size() * pixels}
        compare(benchmark, sides, case=case, per=images, count=rounds(7, 3), flops=flops, traffic=traffic)


def _worst(found: Tensor, wanted: Tensor) -> float:
    """The largest relative difference."""
    return float(((found - wanted).abs() / wanted.abs().clamp(min=1e-300)).max())


def _compare(
    benchmark: BenchmarkFixture, sides: Mapping[str, object], table: str, name: str, error: float, images: int,
    flops: float, traffic: float,
) -> None:  # fmt: skip
    case = {
        "table": table,
        "name": f"{name}, {images} images, eps {EPS}",
        "method": f"{WINDOW} x {WINDOW} euclidean, float32",
        "errors": {"verifix": {"error": error}},
    }
    counts = {"flops": {"verifix": flops}, "traffic": {"verifix": traffic}}
    compare(benchmark, sides, case=case, per=images, count=rounds(9, 5), **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["mnist", "cifar"])
def test_support_function(benchmark: BenchmarkFixture, name: str, count: int) -> None:
    """One form for each image: the gradient there."""
    if QUICK and count == 1:
        pytest.skip("a full run measures this")
    images = 100
    x, g, _, budget = stepped(name, images)
    which = torch.arange(images)
    few = slice(0, 10)
    with threads(count):
        wanted = transport_linear_reference.linear_support(
            x[few].double(), g[few].double(), which[few], which[few], COST, budget[few]
        )[0]
        error = _worst(linear_support(x, g, which, COST, budget)[0][few], wanted)
        assert error < 1e-9
        sides = {
            "verifix": lambda _: linear_support(x, g, which, COST, budget),
            "plain torch": lambda _: transport_linear_reference.linear_support(x, g, which, which, COST, budget),
        }
        pixels = x[0].numel()
        flops, traffic = support_operations(WINDOW, CLASSES) * pixels, 2 * x.element_size() * pixels
        _compare(benchmark, sides, "support function", name, error, images, flops, traffic)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["mnist", "cifar"])
def test_conjugate_sinkhorn(benchmark: BenchmarkFixture, name: str, count: int) -> None:
    """The same forms, scaled to 1 so that lambda 1000 means the same for all; the exact support function beside it."""
    if QUICK and count == 1:
        pytest.skip("a full run measures this")
    images, rule = 100, (1000.0, 1e-6, 100)
    x, g, _, budget = stepped(name, images)
    g = g / g.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    which, few = torch.arange(images), slice(0, 10)
    with threads(count):
        wanted = sinkhorn_reference.conjugate_sinkhorn(x[few], g[few], COST, budget[few], *rule)[2]
        found = conjugate_sinkhorn(x, g, COST, budget)
        error = _worst(found.upper[few], wanted)
        exact = linear_support(x, g, which, COST, budget)[0]
        assert error < 1e-6
        assert bool((found.plan_cost <= budget).all())
        assert bool((found.upper >= exact - 1e-9 * exact.abs()).all())
        sides = {
            "verifix": lambda _: conjugate_sinkhorn(x, g, COST, budget),
            "plain torch": lambda _: sinkhorn_reference.conjugate_sinkhorn(x, g, COST, budget, *rule),
            "exact support function": lambda _: linear_support(x, g, which, COST, budget),
        }
        sweeps, mass = float(found.sweeps.double().mean()), float((x > 0).sum()) / images
        flops, traffic = conjugate_operations(WINDOW, CLASSES, sweeps) * mass, 3 * x.element_size() * x[0].numel()
        _compare(benchmark, sides, "conjugate Sinkhorn", name, error, images, flops, traffic)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["mnist", "cifar"])
def test_plan_projection(benchmark: BenchmarkFixture, name: str, count: int) -> None:
    """After a step along the gradient, scaled to 0.1, from the plan that moves nothing."""
    if QUICK and count == 1:
        pytest.skip("a full run measures this")
    images = 100
    x, g, _, budget = stepped(name, images)
    plan = 0.1 * plan_gradient(g / g.abs().amax((1, 2, 3), keepdim=True), WINDOW)
    plan[:, :, WINDOW * WINDOW // 2] += x
    few = slice(0, 10)
    with threads(count):
        wanted = transport_project_reference.project_plan(plan[few].double(), x[few].double(), COST, budget[few], None)[
            1
        ]
        error = _worst(project_plan(plan, x, COST, budget)[1][few], wanted)
        assert error < 1e-5
        sides = {
            "verifix": lambda _: project_plan(plan, x, COST, budget),
            "plain torch": lambda _: transport_project_reference.project_plan(plan, x, COST, budget, None),
        }
        flops, traffic = plan_projection_operations(WINDOW) * x[0].numel(), 2 * plan.element_size() * plan[0].numel()
        _compare(benchmark, sides, "plan projection", name, error, images, flops, traffic)
