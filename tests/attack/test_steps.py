from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from verifix.attack.steps import radius, random_start, steepest
from verifix.draws import Draws
from verifix.sets import Ball, Box
from verifix.sets.base import Norm

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestSteepest:
    """Of all steps of length 1 times eps, the one along which a linear form grows most."""

    @pytest.mark.parametrize("norm", NORMS)
    def test_without_a_box_it_is_the_maximiser(self, norm: Norm) -> None:
        x, gradient = images(5, 2, 3), torch.randn(5, 2, 3, dtype=torch.float64)
        sets = Ball(norm, 0.3).around(x)
        step = 0.3 * steepest(sets, x, gradient)
        reached = ((x + step) * gradient).flatten(1).sum(1)
        torch.testing.assert_close(reached, sets.support(gradient[:, None])[:, 0])
        assert sets.contains(x + step, tolerance=1e-12).all()

    @pytest.mark.parametrize("norm", NORMS)
    def test_weighted(self, norm: Norm) -> None:
        x, gradient = images(5, 2, 3), torch.randn(5, 2, 3, dtype=torch.float64)
        eps = images(1, 2, 3, seed=1)
        eps[0, 0, 0] = 0
        sets = Ball(norm, eps).around(x)
        step = float(eps.max()) * steepest(sets, x, gradient)
        reached = ((x + step) * gradient).flatten(1).sum(1)
        torch.testing.assert_close(reached, sets.support(gradient[:, None])[:, 0])

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
    def test_only_the_direction_counts(self, norm: Norm, scale: float) -> None:
        x, gradient = images(5, 2, 3), torch.randn(5, 2, 3, dtype=torch.float64)
        sets = Ball(norm, 0.3).around(x)
        torch.testing.assert_close(steepest(sets, x, scale * gradient), steepest(sets, x, gradient))

    @pytest.mark.parametrize("norm", NORMS)
    def test_no_gradient_no_step(self, norm: Norm) -> None:
        x = images(2, 4)
        assert torch.equal(steepest(Ball(norm, 0.3).around(x), x, torch.zeros_like(x)), torch.zeros_like(x))

    def test_l1_shares_the_step_among_the_largest(self) -> None:
        x = torch.full((2, 5), 0.5)
        gradient = torch.tensor([[5.0, -4.0, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, -2.0, 0.0]])
        step = steepest(Ball("l1", 1.0).around(x), x, gradient, torch.tensor([2, 3]))
        assert step.tolist() == [[0.5, -0.5, 0, 0, 0], [0, 0, 0, -1.0, 0]]

    def test_l1_leaves_out_what_cannot_move_by_sign(self) -> None:
        """Black pixels can be brightened and white ones darkened, but not the other way."""
        x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
        gradient = torch.tensor([[5.0, -9.0, 8.0, -4.0, 1.0]])
        sets = Ball("l1", 1.0, box=(0, 1)).around(x)
        for kept, expected in ((1, [1, 0, 0, 0, 0]), (2, [0.5, 0, 0, -0.5, 0]), (4, [1 / 3, 0, 0, -1 / 3, 1 / 3])):
            step = steepest(sets, x, gradient, torch.tensor([kept]))
            torch.testing.assert_close(step, torch.tensor([expected], dtype=torch.float32))

    def test_a_box_of_any_shape(self) -> None:
        x = images(2, 3)
        sets = Box(x - torch.tensor([0.2, 0.1, 0.0]), x + torch.tensor([0.2, 0.1, 0.0]))
        step = steepest(sets, x, torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64).expand(2, 3))
        torch.testing.assert_close(step * 0.2, torch.tensor([[0.2, -0.1, 0.0]], dtype=torch.float64).expand(2, 3))


def test_radius() -> None:
    x = images(3, 2)
    assert radius(Ball("l2", torch.tensor([0.1, 0.2, 0.0])).around(x)).tolist() == pytest.approx([0.1, 0.2, 0.0])
    assert radius(Ball("l2", torch.tensor([[0.1, 0.5]])).around(x)).tolist() == [0.5] * 3
    assert radius(Box(x - 1, x + torch.tensor([0.0, 2.0]))).tolist() == pytest.approx([1.5] * 3)


class TestRandomStart:
    def starts(self, norm: Norm, n: int, size: int, box: tuple[float, float] | None = None) -> tuple[Tensor, Tensor]:
        x = images(n, size)
        sets = Ball(norm, 0.4, box).around(x)
        points = random_start(sets, Draws(3, x), torch.arange(n), sample=0)
        assert sets.contains(points).all()
        return x, points

    @pytest.mark.parametrize("norm", NORMS)
    def test_uniform_in_the_ball(self, norm: Norm) -> None:
        """The share of the radius, to the power of the dimension, is uniform; so is, by symmetry, each sign."""
        x, points = self.starts(norm, 3000, 3)
        order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
        step = points - x
        share = (torch.linalg.vector_norm(step, ord=order, dim=1) / 0.4) ** 3
        assert stats.kstest(share.numpy(), stats.uniform().cdf).pvalue > 0.01
        corners = (step > 0).long() @ torch.tensor([1, 2, 4])
        assert stats.chisquare(corners.bincount(minlength=8).numpy()).pvalue > 0.01

    @pytest.mark.parametrize("norm", NORMS)
    def test_each_coordinate_has_the_law_of_a_uniform_point(self, norm: Norm) -> None:
        """Against points of the cube that happen to lie in the ball."""
        x, points = self.starts(norm, 3000, 3)
        cube = 2 * torch.rand(60000, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1
        order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
        inside = 0.4 * cube[torch.linalg.vector_norm(cube, ord=order, dim=1) <= 1]
        for place in range(3):
            assert stats.ks_2samp((points - x)[:, place].numpy(), inside[:, place].numpy()).pvalue > 0.01

    @pytest.mark.parametrize("norm", NORMS)
    def test_in_a_box(self, norm: Norm) -> None:
        _, points = self.starts(norm, 200, 12, (0.0, 1.0))
        assert bool(((points >= 0) & (points <= 1)).all())

    def test_other_samples_are_other_points(self) -> None:
        x = images(4, 6)
        sets, draws, who = Ball("l2", 0.4).around(x), Draws(0, x), torch.arange(4)
        first, second = (random_start(sets, draws, who, sample=sample) for sample in (0, 1))
        assert not (first == second).any()
