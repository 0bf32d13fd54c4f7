from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import verifix as vx
from tests.certify.examples import linear
from tests.networks import relu_network
from verifix.attack import PGD, attack_cascade
from verifix.bounds import NAMED
from verifix.certify import Cascade
from verifix.data import Dataset, load
from verifix.models import load_stages
from verifix.train import robust_loss

LINE = linear([[0.0], [1.0]])
"""Class 1 where x > 0."""
CONSTANT = linear([[0.0], [0.0]], [0.0, 1.0])
"""Class 1 everywhere."""


class TestByHand:
    X = torch.tensor([[-0.4], [-2.0], [2.0]])

    def test_rule_without_agreement_is_broken(self) -> None:
        """Stage 1 certifies class 1 for -0.4; a perturbation to below -0.5 makes stage 0 certify class 0."""
        cascade = Cascade([LINE, CONSTANT], vx.Ball("linf", 0.5))
        result = attack_cascade(cascade, self.X, agreement=False)
        assert result.success.tolist() == [True, False, False]
        assert -0.9 <= float(result.examples[0]) < -0.5
        assert (int(result.answers.stages[0]), int(result.answers.predictions[0])) == (0, 0)
        assert cascade.around(self.X).contains(result.examples).all()

    def test_algorithm_4_is_not(self) -> None:
        cascade = Cascade([LINE, CONSTANT], vx.Ball("linf", 0.5))
        result = attack_cascade(cascade, self.X, restarts=3)
        assert cascade.predict(self.X).labels.tolist() == [-1, 0, 1]
        assert result.success.tolist() == [False, False, False]

    def test_abstentions_can_be_forced(self) -> None:
        """What a certificate does not exclude: at 0.6 the answer is 1, and beside it there is none."""
        cascade = Cascade([LINE, LINE], vx.Ball("linf", 0.5))
        answers = cascade.predict(torch.tensor([[0.6], [0.4]]))
        assert answers.labels.tolist() == [1, -1]
        assert not attack_cascade(cascade, torch.tensor([[0.6]])).success.any()


class TestRandomNetworks:
    def cascade(self, seed: int, ball: vx.Ball, method: str = "cap") -> Cascade:
        stages = [relu_network((2, 6, 3), 3 * seed + stage, scale=2.0) for stage in range(3)]
        return Cascade(stages, ball, method)

    @settings(max_examples=15)
    @given(
        seed=st.integers(0, 10**6),
        norm=st.sampled_from(["linf", "l2", "l1"]),
        box=st.sampled_from([None, (0.0, 1.0)]),
        method=st.sampled_from(["cap", "crown-ibp+ibp"]),
    )
    def test_certificates_hold(self, seed: int, norm: str, box: tuple[float, float] | None, method: str) -> None:
        torch.manual_seed(seed)
        ball = vx.Ball(norm, 0.1, box)  # type: ignore[arg-type]
        x = torch.rand(12, 2, dtype=torch.float64)
        result = attack_cascade(self.cascade(seed, ball, method), x, steps=10, restarts=2, seed=seed)
        assert not result.success.any()

    def test_the_attack_finds_what_is_there(self) -> None:
        """The same attack breaks the rule without agreement, so it is not weak."""
        broken = 0
        for seed in range(5):
            torch.manual_seed(seed)
            x, cascade = torch.rand(40, 2, dtype=torch.float64), self.cascade(seed, vx.Ball("linf", 0.15, (0, 1)))
            assert not attack_cascade(cascade, x, steps=10, restarts=2).success.any()
            broken += int(attack_cascade(cascade, x, agreement=False, steps=10, restarts=2).success.sum())
        assert broken > 0


@pytest.fixture(scope="module")
def digits() -> tuple[Cascade, Dataset]:
    """Two stages, briefly trained by the robust loss; the second on what the first does not certify."""
    data, ball, stages = load("digits:train").first(600), vx.Ball("linf", 0.05, (0, 1)), []
    x, y = data.images, data.labels
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
        graph, optimizer = vx.capture(model, x[:1]), torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(60):
            part = torch.randperm(len(x))[:100]
            sets = vx.Ball("linf", 0.05 * min(1.0, step / 30), (0, 1)).around(x[part])
            loss = F.cross_entropy(model(x[part]), y[part]) / 2 + robust_loss(graph, y[part], sets, NAMED["cap"]) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        stages.append(model)
        left = Cascade([model], ball).predict(x).stages < 0
        x, y = x[left], y[left]
    return Cascade(stages, ball), load("digits:test").first(60)


def test_digits(digits: tuple[Cascade, Dataset]) -> None:
    cascade, data = digits
    answers = cascade.predict(data.images)
    assert {0, 1} <= set(answers.stages[answers.labels >= 0].tolist())
    assert not attack_cascade(cascade, data.images, steps=15, restarts=2).success.any()


@pytest.mark.slow
def test_published_cascade(data_dir: Path, models_dir: Path) -> None:
    """Plain gradient descent on the first stage changes answers of the rule without agreement, which is the one that
    published errors count by; of algorithm 4 none."""
    data = load(f"mnist:{data_dir / 'mnist'}").first(200)
    weights = models_dir / "convex_adversarial" / "mnist_small_0_3.pth"
    stages = load_stages("verifix.zoo:mnist_small", weights, input_shape=data.input_shape)
    assert stages is not None
    cascade = Cascade(stages, vx.Ball("linf", 0.3, (0, 1)))
    before = cascade.predict(data.images)
    found = PGD()(stages[0], data.images, before.predictions, cascade.around(data.images))
    assert cascade.around(data.images).contains(found.examples).all()
    after = cascade.predict(found.examples)
    counted_right = (before.stages >= 0) & (before.predictions == data.labels)
    assert ((after.stages >= 0) & (after.predictions != before.predictions) & counted_right).any()
    assert not ((before.labels >= 0) & (after.labels >= 0) & (after.labels != before.labels)).any()
