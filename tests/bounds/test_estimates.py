"""How good estimates are, on random and on trained layers: unbiased, and better with more rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from verifix.bounds.estimates import RelativeErrors, relative_errors
from verifix.bounds.estimator import Estimator
from verifix.data import load
from verifix.sets import Ball
from verifix.train import TrainSettings, train


def network(trained: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )  # fmt: skip
    if trained:
        settings = TrainSettings(eps=0.05, estimator="median:20", epochs=4, lr=3e-3, validation=0)
        train(model, load("digits:train").first(400), settings)
    return model.double()


def errors(model: nn.Module, k: int, draws: int) -> RelativeErrors:
    x = load("digits:test").first(8).images.double()
    return relative_errors(model, Ball("linf", 0.05).around(x), Estimator("median", k), "2", draws=draws)


@pytest.mark.parametrize("trained", [False, True])
def test_estimates_of_a_layer_are_unbiased_and_fall_with_the_rows(trained: bool) -> None:
    model = network(trained)
    found = {k: errors(model, k, draws=160) for k in (10, 50, 100)}
    for k, part in found.items():
        assert part.errors.numel() >= 10_000
        # entries share their draws: what is independent are the means of the draws
        means = part.errors.flatten(1).nanmean(1)
        assert abs(float(means.mean())) < 4 * float(means.std()) / math.sqrt(len(means))
        # the deviation of a median of k is about pi / (2 sqrt(k)), with heavier tails for few
        assert part.deviation == pytest.approx(math.pi / 2 / math.sqrt(k), rel=0.35 if k == 10 else 0.15)
    assert found[10].deviation > 1.5 * found[50].deviation > 1.8 * found[100].deviation


def test_an_exact_estimator_is_refused() -> None:
    with pytest.raises(TypeError, match="estimator"):
        relative_errors(network(False), Ball("linf", 0.05).around(torch.rand(1, 1, 8, 8).double()), Estimator(), "2")
