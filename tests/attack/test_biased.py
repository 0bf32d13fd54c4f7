"""The attack that knows the oracle: it finds what is beyond certified radii, and nothing within."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.smooth.biased.search import NORMS, Norm, uniform
from tests.smooth.biased.test_differentiable import network
from tests.smooth.biased.test_linear import build
from tests.smooth.biased.test_multiclass import plane_problem
from verifix.attack import PGD, attack_biased
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball
from verifix.smooth.biased import BiasedLinear, NearestNeighbour


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [build, network])
def test_never_within(make: Any, norm: Norm) -> None:
    """And often just beyond: on small problems radii are close to what they stand for."""
    generator = torch.Generator().manual_seed(0)
    tried = beyond = 0
    for _ in range(3):
        classifier = make(generator, 2, norm)
        x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
        radii = classifier.certify(x).radii
        wanted = (radii > 1e-6) & (radii < 20)
        x, radii = x[wanted], radii[wanted]
        if not len(x):
            continue
        found = attack_biased(classifier, x, inputs=Ball(norm, 0.9999 * radii), steps=4)
        assert not found.success.any()
        assert torch.equal(found.predictions, classifier.predict(x))
        found = attack_biased(classifier, x, inputs=Ball(norm, 2 * radii), steps=8)
        assert Ball(norm, 2 * radii).around(x).contains(found.examples).all()
        moved = classifier.predict(found.examples) != classifier.predict(x)
        assert torch.equal(found.success, moved)
        tried, beyond = tried + len(x), beyond + int(found.success.sum())
    assert tried > 30 and beyond > (0.4 if make is build else 0.1) * tried


@pytest.mark.parametrize("norm", NORMS)
def test_logits(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(1)
    found_beyond = 0
    for _ in range(3):
        biased, x = plane_problem(generator)
        radii = biased.radius(x, norm=norm, max_eps=3.0, tolerance=1e-3)
        wanted = (radii.radii > 1e-6) & (radii.radii < 2.9)
        x, eps = x[wanted], radii.radii[wanted]
        y = radii.predictions[wanted]
        assert not attack_biased(biased, x, y, inputs=Ball(norm, 0.999 * eps), steps=6).success.any()
        found = attack_biased(biased, x, y, inputs=Ball(norm, 2 * eps), steps=8)
        assert (biased.logits(found.examples).argmax(1) != y)[found.success].all()
        found_beyond += int(found.success.sum())
    assert found_beyond > 6


def test_finds_what_plain_descent_does_not() -> None:
    """The base has no slope towards the border of the cells, so descent on the current piece cannot know of it."""
    oracle = NearestNeighbour(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([-1, 1]))
    classifier = BiasedLinear(torch.tensor([0.0, 1.0]), 0.0, oracle, alpha=10.0)
    x = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    ball = Ball("l2", 0.6)

    def scores(points: torch.Tensor) -> torch.Tensor:
        decision = classifier.decision(points)
        return torch.stack([torch.zeros_like(decision), decision], 1)

    assert not PGD()(scores, x, torch.tensor([1]), ball).success.any()
    found = attack_biased(classifier, x, inputs=ball)
    assert found.success.all() and (found.examples[:, 0] < 0).all() and found.predictions.tolist() == [-1]


def test_the_box_is_kept() -> None:
    """The border lies outside of it."""
    oracle = NearestNeighbour(torch.tensor([[-0.5], [0.5]]), torch.tensor([-1, 1]))
    classifier = BiasedLinear(torch.tensor([1.0]), 0.0, oracle, alpha=5.0)
    x = torch.tensor([[0.25]], dtype=torch.float64)
    assert attack_biased(classifier, x, inputs=Ball("l2", 0.5)).success.all()
    assert not attack_biased(classifier, x, inputs=Ball("l2", 0.5, box=(0.1, 1.0))).success.any()


def test_labels_and_determinism() -> None:
    generator = torch.Generator().manual_seed(2)
    classifier = build(generator, 3, "linf")
    x = torch.randn(5, 3, generator=generator)
    y = -classifier.predict(x)
    found = attack_biased(classifier, x, y, inputs=Ball("linf", 0.0))
    assert found.success.all()  # the inputs themselves have another class than y
    eps = uniform(generator, 0.1, 1)
    first, second = (attack_biased(classifier, x, inputs=Ball("linf", eps), restarts=3, seed=5) for _ in range(2))
    assert torch.equal(first.examples, second.examples)


def test_on_the_boundary() -> None:
    """A decision of exactly zero counts as positive, as for ``predict``; and no inputs are no trouble."""
    oracle = NearestNeighbour(torch.tensor([[1.0]]), torch.tensor([1]))
    classifier = BiasedLinear(torch.tensor([1.0]), -1.0, oracle, alpha=1.0)
    found = attack_biased(classifier, torch.zeros(1, 1), inputs=Ball("l2", 0.0))
    assert not found.success.any() and found.predictions.tolist() == classifier.predict(torch.zeros(1, 1)).tolist() == [
        1
    ]
    assert attack_biased(classifier, torch.zeros(0, 1), inputs=Ball("l2", 0.1)).success.shape == (0,)


def test_bad_input() -> None:
    oracle = NearestNeighbour(torch.zeros(1, 2), torch.tensor([1]))
    classifier: Any = BiasedLinear(torch.ones(2), 0.0, oracle, alpha=1.0)
    x, ball = torch.zeros(1, 2), Ball("l2", 0.1)
    with pytest.raises(InvalidType, match="classifier is a Linear"):
        attack_biased(nn.Linear(2, 2), x, inputs=ball)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="inputs is a float"):
        attack_biased(classifier, x, inputs=0.1)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="y = label 0"):
        attack_biased(classifier, x, torch.tensor([0]), inputs=ball)
    with pytest.raises(InvalidValue, match=r"y = tensor of shape \(2,\)"):
        attack_biased(classifier, x, torch.tensor([1, 1]), inputs=ball)
    with pytest.raises(InvalidType, match="x is a list"):
        attack_biased(classifier, [0.0, 0.0], inputs=ball)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="neighbours = -1"):
        attack_biased(classifier, x, inputs=ball, neighbours=-1)
