"""Certificates from samples, for models whose smoothed answers are known, family by family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from verifix.smooth.certify import SmoothedClassifier
from verifix.smooth.noise import (
    Ablation,
    AnisotropicGaussian,
    Flow,
    Gaussian,
    KeepOrReplace,
    Laplace,
    Noise,
    Splitting,
    Uniform,
    UniformBall,
)


class HalfSpace(nn.Module):
    """Class 1 where <w, x> > cut."""

    def __init__(self, w: list[float], cut: float) -> None:
        super().__init__()
        self.w, self.cut = torch.tensor(w), cut

    def forward(self, x: Tensor) -> Tensor:
        side = x.flatten(1).double() @ self.w.double() - self.cut
        return torch.stack([-side, side], dim=1)


@dataclass
class Case:
    """A smoothed half-space, an input of class 1, and the distance of the nearest input of class 0.

    The noise is symmetric, and so the smoothed classifier answers on each side of the boundary as the model does.
    """

    noise: Noise
    w: list[float]
    cut: float
    x: Tensor
    distance: float
    share: float
    """The part of the distance that is certified at least."""


FACTOR = torch.tensor([[0.5, 0.0], [0.4, 0.3]])
MASS = torch.tensor([[[[3.0, 1.0]]]]) / 4

CASES = [
    Case(Gaussian(0.5), [0.6, 0.8], 0.0, torch.tensor([[0.3, 0.4]]), 0.5, 0.9),
    Case(Gaussian(0.5, 20), [0.0, 1.0], 0.475, torch.tensor([[0.0, 0.95]]), 0.5, 0.85),
    Case(AnisotropicGaussian(scales=torch.tensor([0.5, 2.0])), [0.0, 1.0], 0.0, torch.tensor([[0.0, 2.0]]), 1.0, 0.9),
    Case(
        AnisotropicGaussian(factor=FACTOR),
        [1.0, -1.0],
        0.0,
        torch.tensor([[0.5, 0.0]]),
        0.5 / float((FACTOR.T @ torch.tensor([1.0, -1.0])).norm()),
        0.9,
    ),
    Case(UniformBall(1.0, 2), [0.6, 0.8], 0.0, torch.tensor([[0.3, 0.4]]), 0.5, 0.75),
    Case(Laplace(0.3), [0.0, 1.0], 0.0, torch.tensor([[0.0, 0.5]]), 0.5, 0.9),
    Case(Laplace(0.3, 20), [0.0, 1.0], 0.475, torch.tensor([[0.0, 0.95]]), 0.5, 0.85),
    Case(Uniform(1.0), [0.0, 1.0], 0.0, torch.tensor([[0.0, 0.5]]), 0.5, 0.9),
    Case(Uniform(1.0, 20), [0.0, 1.0], 0.475, torch.tensor([[0.0, 0.95]]), 0.5, 0.85),
    Case(Splitting(0.5), [0.0, 1.0], 0.5, torch.tensor([[0.2, 0.9]]), 0.4, 0.9),
    Case(Splitting(0.5, 20), [0.0, 1.0], 0.5, torch.tensor([[0.2, 0.9]]), 0.4, 0.9),
    Case(KeepOrReplace(0.8, 1), [1.0] * 5, 2.5, torch.ones(1, 5), 3, 1 / 3),
    Case(Ablation(3, 9, null=0.5), [1.0] * 9, 4.5, torch.ones(1, 9), 5, 0.2),
    Case(Flow(0.2), [1.0, 0.0], 0.3, MASS, 0.45, 0.9),
    Case(Flow(0.2, ground="l2"), [1.0, 0.0], 0.3, MASS, 0.45, 0.6),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.noise.to_json())[9:50])
@pytest.mark.parametrize("seed", [0, 1])
def test_certificates_end_before_the_boundary_and_near_it(case: Case, seed: int) -> None:
    """With alpha 1e-9 none of these fails but by a fault."""
    smoothed = SmoothedClassifier(HalfSpace(case.w, case.cut), case.noise, classes=2, seed=seed)
    found = smoothed.certify(case.x, n0=100, n=20_000, alpha=1e-9)
    radius = float(found.radius[0])
    assert found.predictions[0] == 1
    assert radius < case.distance
    assert radius >= case.share * case.distance


@pytest.mark.parametrize("levels", [10, 20])
def test_a_certificate_of_all_outcomes_ends_right_before_the_boundary(levels: int) -> None:
    smoothed = SmoothedClassifier(HalfSpace([0.0, 1.0], 0.5), Splitting(0.5, levels), classes=2)
    x = torch.arange(levels + 1).float()[:, None].expand(-1, 2) / levels
    found = smoothed.certify_exactly(x)
    np.testing.assert_array_equal(found.predictions, (x[:, 1] > 0.5).long())
    steps = [levels // 2 - k if k <= levels // 2 else k - levels // 2 - 1 for k in range(levels + 1)]
    np.testing.assert_allclose(found.radius, np.array(steps) / levels)
