"""Entropic projections through the set: units, variants, and what is refused."""

from __future__ import annotations

import pytest
import torch

from verifix.errors import InvalidValue
from verifix.sets.wasserstein import Wasserstein
from verifix.sets.wasserstein.sinkhorn import sinkhorn_result


def images(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 6, 7, generator=generator, dtype=torch.float64)
    return x.to(dtype), (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64).sign()).to(dtype)


@pytest.mark.parametrize("ground", ["euclidean", "squared-euclidean", "l1"])
def test_does_not_depend_on_how_bright_images_are(ground: str) -> None:
    """Lambda is for images of mass 1: twice the image gives twice the result."""
    x, w = images()
    threat = Wasserstein(0.1, ground=ground)  # type: ignore[arg-type]
    z = threat.around(x).project(w, "sinkhorn")
    assert torch.equal(threat.around(2 * x).project(2 * w, "sinkhorn"), 2 * z)
    assert torch.allclose(z.sum((2, 3)), x.sum((2, 3)), rtol=1e-13, atol=0)


def test_budgets_in_pixel_values() -> None:
    x, w = images()
    eps = 0.1 * x.sum((1, 2, 3))
    raw = Wasserstein(eps, mass="raw").around(x).project(w, "sinkhorn")
    assert torch.allclose(raw, Wasserstein(0.1).around(x).project(w, "sinkhorn"), rtol=0, atol=1e-12)


def test_eps_of_each_image() -> None:
    x, w = images()
    eps = torch.tensor([0.0, 0.05, 0.2], dtype=torch.float64)
    ball = Wasserstein(eps).around(x)
    found = sinkhorn_result(ball, w, tolerance=1e-6)
    assert torch.equal(found.z[0], x[0])
    assert torch.allclose(found.plan_cost[1:], ball.budget[1:], rtol=1e-5, atol=0)
    one = Wasserstein(0.05).around(x[1:2]).project(w[1:2], "sinkhorn", tolerance=1e-6)
    assert torch.equal(one[0], found.z[1])


def test_regularisation_trades_entropy_for_distance() -> None:
    x, w = images()
    ball = Wasserstein(0.1).around(x)
    far, near = (ball.project(w, "sinkhorn", regularisation=weight) for weight in (100.0, 3000.0))
    assert bool(((w - near).square().sum((1, 2, 3)) < (w - far).square().sum((1, 2, 3))).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variants(dtype: torch.dtype) -> None:
    x, w = images(dtype)
    balanced = Wasserstein(0.5).around(x).project(w, "sinkhorn")
    clamped = Wasserstein(0.5, variant="clamp-after").around(x).project(w, "sinkhorn")
    assert balanced.dtype == dtype
    assert torch.equal(clamped, balanced.clamp(0, 1))
    with pytest.raises(InvalidValue, match="has no box"):
        Wasserstein(0.5, variant="balanced-box").around(x).project(w, "sinkhorn")
    flow = Wasserstein(0.5, ground="l1", window=None, transport="flow").around(x)
    with pytest.raises(InvalidValue, match="needs plans of a window"):
        flow.project(w, "sinkhorn")
    with pytest.raises(InvalidValue, match="regularisation = -1"):
        Wasserstein(0.5).around(x).project(w, "sinkhorn", regularisation=-1.0)
