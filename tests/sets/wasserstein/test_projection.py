"""Exact projections onto Wasserstein balls, against a quadratic program, and the proof that comes with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.sets.wasserstein.programs import nearest_image
from verifix.errors import InvalidValue
from verifix.sets import Wasserstein
from verifix.sets.wasserstein.distance import contains, distance
from verifix.sets.wasserstein.ground import GROUNDS
from verifix.sets.wasserstein.projection import nearest, project_exact

FLOW: dict[str, Any] = {"ground": "l1", "window": None, "transport": "flow"}


def images(seed: int, n: int = 2, shape: tuple[int, int, int] = (1, 3, 4)) -> tuple[Tensor, Tensor]:
    """Images with black and saturated pixels, and what to project: of another mass, in part negative."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(n, *shape, generator=generator) < 0.6, x, 0.0)
    x = x.round() if seed % 3 == 0 else x
    x[:, 0, 0, 0] = 1.0
    return x, x + 0.3 * torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def size(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def against_the_program(threat: Wasserstein, seed: int) -> None:
    x, v = images(seed)
    ball = threat.around(x)
    found = nearest(ball, v, 1e-7)
    assert (found.error <= 1e-6 * size(found.z)).all()
    for i in range(len(x)):
        wanted = torch.from_numpy(nearest_image(ball, i, v[i].numpy()))
        apart = float((found.z[i] - wanted).norm())
        assert apart <= float(found.error[i]) + 2e-6
    assert (found.z >= -1e-15).all()
    assert (distance(ball, found.z) <= ball.eps * (1 + 1e-8) + 1e-9).all()
    assert contains(ball, found.z, 1e-8).all()
    again = nearest(ball, found.z, 1e-7)
    assert (size(again.z - found.z) <= again.error + 1e-7).all()


@given(
    eps=st.sampled_from([0.0, 0.02, 0.1, 0.5, 3.0]), ground=st.sampled_from(GROUNDS),
    window=st.sampled_from([1, 3, 5]), mass=st.sampled_from(["normalised", "raw"]),
    variant=st.sampled_from(["balanced", "balanced-box"]), seed=st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=10)
def test_plans_of_a_window(eps: float, ground: Any, window: int, mass: Any, variant: Any, seed: int) -> None:
    against_the_program(Wasserstein(eps, ground, window, mass, variant), seed)


@given(
    eps=st.sampled_from([0.0, 0.1, 0.5]), variant=st.sampled_from(["balanced", "balanced-box"]),
    seed=st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=5)
def test_flows(eps: float, variant: Any, seed: int) -> None:
    against_the_program(Wasserstein(eps, variant=variant, **FLOW), seed)


def test_clamping_afterwards_clamps_the_balanced_projection() -> None:
    x, v = images(4)
    v = v + 0.5
    balanced = nearest(Wasserstein(0.3, window=3).around(x), v)
    threat = Wasserstein(0.3, window=3, variant="clamp-after")
    clamped = nearest(threat.around(x), v)
    assert bool((balanced.z > 1).any())
    assert torch.equal(clamped.z, balanced.z.clamp(max=1))
    assert threat.contains(x, clamped.z, 1e-8).all()


def test_inside_nothing_changes() -> None:
    x, _ = images(5)
    for threat in (
        Wasserstein(0.2),
        Wasserstein(0.2, **FLOW),
        Wasserstein(0.0),
        Wasserstein(0.2, variant="clamp-after"),
    ):
        assert (size(threat.project(x, x) - x) <= 1e-7 * size(x)).all()
    near = x.clone()
    near[:, :, 1, 1] += 0.01 * x[:, :, 0, 0]
    near[:, :, 0, 0] *= 0.99
    assert (size(Wasserstein(0.5).project(x, near) - near) <= 1e-6).all()


def test_single_and_black_pixels() -> None:
    """All the mass in one corner: it spreads to where v is, as far as the budget allows."""
    x, v = torch.zeros(2, 1, 3, 3, dtype=torch.float64), torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    x[0, 0, 0, 0], v[:, 0, 0, 1] = 1.0, 1.0
    z = Wasserstein(0.25, mass="raw", window=3).project(x, v)
    assert torch.allclose(z[0, 0, 0], torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64), atol=1e-7)
    assert not z[1].any()


def test_an_image_does_not_depend_on_the_others() -> None:
    x, v = images(6, n=3)
    ball = Wasserstein(0.1, window=3).around(x)
    together = nearest(ball, v, 1e-6)
    for i in range(3):
        alone = nearest(ball.select(slice(i, i + 1)), v[i : i + 1], 1e-6)
        assert torch.equal(alone.z[0], together.z[i])
        assert alone.iterations[0] == together.iterations[i]


@pytest.mark.parametrize("variant", ["balanced", "balanced-box", "clamp-after"])
def test_in_float32_the_answer_is_in_the_ball(variant: Any) -> None:
    x, v = (part.float() for part in images(7, n=4, shape=(2, 4, 5)))
    ball = Wasserstein(0.1, variant=variant).around(x)
    z = project_exact(ball, v, tolerance=1e-5)
    assert z.dtype == torch.float32
    assert contains(ball, z).all()


def test_wrong_arguments() -> None:
    x, v = images(8)
    v[0, 0, 0, 0] = torch.nan
    with pytest.raises(InvalidValue, match=r"v = a tensor with NaN or infinity"):
        Wasserstein(0.1).project(x, v)
    with pytest.raises(InvalidValue, match=r"tolerance = 0.0: must be a number > 0"):
        Wasserstein(0.1).project(x, x, tolerance=0.0)
