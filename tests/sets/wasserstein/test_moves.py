"""Moves of mass that are taken back until no pixel is beyond its bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from verifix.sets.wasserstein.ground import window_cost
from verifix.sets.wasserstein.moves import Flows, Plans

N = 6
ROUNDING = 2.0**-46


def bounds(low: float) -> tuple[Tensor, Tensor]:
    return torch.full((N, 1, 1, 1), low).double(), torch.ones(N, 1, 1, 1).double()


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_flows(seed: int) -> None:
    """Strong flows over many black pixels: each gives way to the next, and yet not all is taken back."""
    generator = torch.Generator().manual_seed(seed)
    x = (0.3 * draw(generator, 1, 10, 10)).clamp(0, 1)
    m = draw(generator, 2, 1, 10, 10)
    m[:, 0, ..., -1], m[:, 1, ..., -1, :] = 0, 0
    flows, (low, high) = Flows(x, torch.full((N,), 50.0).double()), bounds(0.0)
    kept = flows.take_back(m, low, high)
    z = flows.image(kept)
    assert ((z >= low - ROUNDING) & (z <= high + ROUNDING)).all()
    assert ((kept * m >= 0) & (kept.abs() <= m.abs())).all()
    assert (kept.abs().flatten(1).sum(1) > 0.02 * m.abs().flatten(1).sum(1)).all()
    torch.testing.assert_close(z.sum((1, 2, 3)), x.sum((1, 2, 3)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_plans(seed: int) -> None:
    """The same of plans, between white and grey pixels."""
    generator = torch.Generator().manual_seed(seed)
    x = (1 + draw(generator, 1, 10, 10)).clamp(0, 1)
    plans, (low, high) = Plans(x, window_cost("euclidean", 3), torch.full((N,), 500.0).double()), bounds(0.0)
    m, _ = plans.project(5 * draw(generator, 1, 9, 10, 10), None)
    assert (plans.image(m) > 1.5).any()
    kept = plans.take_back(m, low, high)
    assert (plans.image(kept) <= high + ROUNDING).all()
    assert (kept >= 0).all()
    torch.testing.assert_close(kept.sum(2), x, rtol=1e-13, atol=0)
    moved, before = (plan.sum(2) - plan[:, :, 4] for plan in (kept, m))
    assert (moved.sum((1, 2, 3)) > 0.2 * before.sum((1, 2, 3))).all()
