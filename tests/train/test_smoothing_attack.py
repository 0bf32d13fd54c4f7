"""The attacks of training under noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.train.examples import digits, network
from tests.train.noisy_examples import batch, noisy, plainly, probabilities
from verifix.train import TrainSettings, train
from verifix.train.smoothing import (
    NoisyObjective,
    logits_of,
    noisy_copies,
)
from verifix.train.smoothing_attack import attack

pytestmark = pytest.mark.usefixtures("one_thread")


class TestAttack:
    def attacked(self, how: TrainSettings, monkeypatch: pytest.MonkeyPatch, eps: float) -> tuple[list[Tensor], Tensor]:
        """The points at which the network was asked, less their noise, and the loss at the last ones."""
        model, (x, y, inputs) = network().double(), batch()
        seen: list[Tensor] = []

        def watch(model: nn.Module, copies: Tensor) -> Tensor:
            noise = noisy_copies(torch.zeros_like(x), inputs, 0.25, how.stream("noise"), 2 * 3, 3)
            assert model.training == (len(seen) == (how.attack_steps or 0))
            points = copies.detach() - noise
            torch.testing.assert_close(points, points[:, :1].expand_as(points), rtol=0, atol=1e-12)
            seen.append(points[:, 0])
            return logits_of(model, copies)

        monkeypatch.setattr("verifix.train.smoothing.logits_of", watch)
        total, _ = NoisyObjective(model, how, every_parameter=False)(x, y, inputs, eps, 2, 0)
        f = probabilities(model, seen[-1], inputs, how, 2)
        torch.testing.assert_close(total.detach(), torch.tensor(plainly(f, y, how).sum()), rtol=1e-9, atol=0)
        return seen, x

    @pytest.mark.parametrize("method", ["adre-adv", "smoothadv"])
    @pytest.mark.parametrize("box", [(0, 1), None])
    def test_the_same_noise_throughout_and_points_in_ball_and_box(
        self, method: str, box: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        how = noisy(method, attack_eps=1.0, attack_steps=3, box=box)
        seen, x = self.attacked(how, monkeypatch, 0.75)
        assert len(seen) == 4  # three steps, and the loss at the last point
        torch.testing.assert_close(seen[0], x, rtol=0, atol=1e-12)
        steps = [float((a - x).flatten(1).norm(dim=1).max()) for a in seen]
        assert steps[1] == pytest.approx(0.5 if box is None else steps[1], rel=1e-9)  # 2/3 of 0.75
        assert max(steps) <= 0.75 * (1 + 1e-12)
        assert steps[3] > 0.6
        if box is not None:
            assert all(a.min() >= -1e-12 and a.max() <= 1 + 1e-12 for a in seen)

    @pytest.mark.parametrize("method", ["adre-adv", "smoothadv"])
    def test_raises_its_objective(self, method: str) -> None:
        model, how, (x, y, inputs) = network().double(), noisy(method, attack_steps=5, attack_step=0.1), batch()
        train(model, digits().to(torch.float64), noisy("gaussian"))
        objective = NoisyObjective(model, how, every_parameter=False)
        found = objective._attack(x, y, inputs, 0.5, 0)
        values = [
            objective.attack_objective(logits_of(model, noisy_copies(at, inputs, 0.25, how.stream("noise"), 0, 3)), y)
            for at in (x, found)
        ]
        assert (values[1] > values[0]).all()

    def test_is_that_of_the_equations(self) -> None:
        """One step to the edge goes along the gradient of what is to be large, by differences."""
        model, how, (x, y, inputs) = (
            network().double(),
            noisy("adre-adv", attack_steps=1, adre_weight=0.7, box=None),
            batch(2),
        )
        found = NoisyObjective(model, how, every_parameter=False)._attack(x, y, inputs, 0.5, 0)

        def value(at: Tensor) -> float:
            mean, label = probabilities(model, at[None], inputs[:1], how, 0)[0].mean(0), int(y[0])
            return -math.log(mean[label]) + 0.7 * math.log(np.delete(mean, label).max() + 1e-6)

        gradient = torch.zeros(64, dtype=torch.float64)
        for i in range(64):
            step = torch.zeros(64, dtype=torch.float64)
            step[i] = 1e-6
            up, down = (value(x[0] + s * step.reshape(x[0].shape)) for s in (1, -1))
            gradient[i] = (up - down) / 2e-6
        direction = (found[0] - x[0]).flatten()
        assert float(direction.norm()) == pytest.approx(0.5, rel=1e-9)
        assert float(direction @ gradient) >= 0.5 * float(gradient.norm()) * (1 - 1e-5)

    def test_nothing_underflows_and_a_vanishing_gradient_gets_a_random_direction(self) -> None:
        x = torch.full((3, 2), 0.5)
        slopes = torch.tensor([[1e-38, 0.0], [0.0, 0.0], [0.0, -3e30]])
        asked: list[list[int]] = []

        def direction(rows: Tensor, step: int) -> Tensor:
            asked.append([step, *rows.tolist()])
            return torch.tensor([[3.0, 4.0]])

        found = attack(lambda x: (x * slopes).sum(1), x, eps=0.25, step=0.2, steps=1, box=None, direction=direction)
        torch.testing.assert_close(found, x + torch.tensor([[0.2, 0.0], [0.12, 0.16], [0.0, -0.2]]))
        assert asked == [[0, 1]]

    def test_random_directions_are_those_of_the_example(self) -> None:
        model, how = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(), noisy("smoothadv", attack_steps=1)
        nn.init.zeros_(model[1].weight)
        x, y, inputs = batch(6)
        objective = NoisyObjective(model, how, every_parameter=False)
        found = objective._attack(x, y, inputs, 0.5, 1)
        change = (found - x).flatten(1)
        torch.testing.assert_close(change.norm(dim=1), torch.full((6,), 0.5, dtype=torch.float64))
        assert len({tuple(row.tolist()) for row in change}) == 6
        torch.testing.assert_close(objective._attack(x[3:], y[3:], inputs[3:], 0.5, 1), found[3:])
        assert not torch.equal(objective._attack(x, y, inputs, 0.5, 2), found)

    @given(seed=st.integers(0, 10**6), eps=st.floats(1e-3, 10), step=st.floats(1e-3, 10))
    @examples(max_examples=60, deadline=None)
    def test_ball_and_box_in_float32(self, seed: int, eps: float, step: float) -> None:
        """From -1 to a small side of the box, rounding would go beyond it."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.where(torch.rand(5, 7, generator=generator) < 0.5, -1.0, torch.rand(5, 7, generator=generator) / 10)
        slopes = torch.randn(5, 7, generator=generator)
        found = attack(
            lambda x: (x * slopes).sum(1),
            x,
            eps=eps,
            step=step,
            steps=3,
            box=(-1, 0.1),
            direction=lambda rows, _: x[rows],
        )
        assert found.min() >= -1 and found.max() <= torch.tensor(0.1)
        distance = (found.double() - x.double()).norm(dim=1)
        assert (distance <= eps * (1 + 1e-6) + 1e-6).all()  # a few units of float32, of norms and of points near 1

    def test_grows_over_the_warmup(self) -> None:
        how = noisy("smoothadv", epochs=4, attack_eps=0.8, attack_warmup=2)
        assert [how.eps_at(position) for position in (0, 0.5, 1, 2, 4)] == [0, 0.2, 0.4, 0.8, 0.8]
        assert noisy("adre-adv", attack_warmup=0).eps_at(0) == 0.5
        history = train(network(), digits(), how).history
        assert [round(epoch.eps, 3) for epoch in history] == [0.32, 0.72, 0.8, 0.8]
        assert not history[0].best
        assert history[1].best or history[2].best  # the first that ends at the full radius can be
