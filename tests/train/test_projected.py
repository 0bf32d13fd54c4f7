"""Training through projected norms, and batches worked through in parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from verifix.bounds import tiles
from verifix.certify import certify
from verifix.data import load
from verifix.train import TrainSettings, train


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )  # fmt: skip


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("norm", "eps", "estimator"), [("linf", 0.05, "median:20"), ("l2", 0.2, "gaussian:20")])
def test_it_learns_what_exact_bounds_then_certify(norm: str, eps: float, estimator: str) -> None:
    data, test = load("digits:train").first(600), load("digits:test").first(200)
    model = network()
    settings = TrainSettings(norm=norm, eps=eps, estimator=estimator, epochs=6, lr=3e-3, validation=0)  # type: ignore[arg-type]
    before = certify(model.eval(), test.images, test.labels, settings.ball(), "cap").verified.float().mean()
    train(model, data, settings)
    after = certify(model, test.images, test.labels, settings.ball(), "cap").verified.float().mean()
    assert before < 0.2
    assert after > 0.5


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("digits:train").first(60)
    found = []
    for memory in (1 << 30, None):
        model = network().double()
        used: list[int] = []

        def noted(*arguments: object, used: list[int] = used) -> int:
            used.append(tiles.inputs_per_step(*arguments))  # type: ignore[arg-type]
            return used[-1]

        monkeypatch.setattr("verifix.train.trainer.inputs_per_step", noted)
        graph_bytes = 12 << 20 if memory is None else memory
        settings = TrainSettings(eps=0.05, estimator="median:8", epochs=2, batch=30, memory=graph_bytes, validation=0)
        train(model, data.to(torch.float64), settings)
        monkeypatch.undo()
        assert (used[0] >= 30) == (memory is not None)
        assert used[0] > 1
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_a_budget_that_one_example_exceeds_is_refused() -> None:
    settings = TrainSettings(eps=0.05, estimator="median:8", epochs=1, memory=(8 << 20) + 1000, validation=0)
    with pytest.raises(ValueError, match=r"memory .* needs at least \d+ bytes"):
        train(network().double(), load("digits:train").first(20).to(torch.float64), settings)


def test_every_step_draws_anew_and_seeds_repeat() -> None:
    data = load("digits:train").first(40)

    def after(seed: int, estimator: str = "median:5") -> torch.Tensor:
        model = network()
        settings = TrainSettings(
            eps=0.05, estimator=estimator, epochs=1, batch=40, seed=seed, validation=0, optimiser="sgd", lr=0.1
        )
        train(model, data, settings)
        return weights(model)

    settings = TrainSettings(eps=0.05, estimator="median:5")
    assert settings.methods(3)[0].estimator.seed == 3
    assert settings.exact_methods[0].estimator.exact
    assert torch.equal(after(1), after(1))
    # one step on all examples: nothing but their order and the draws differs
    assert (after(1) - after(2)).abs().max() > 100 * (after(1, "exact") - after(2, "exact")).abs().max()


@pytest.mark.parametrize(
    "arguments",
    [{"estimator": "mean:5"}, {"estimator": 5}, {"method": "crown"}, {"method": "none", "eps": 0.0}, {"memory": 0}],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^(estimator|memory) "):
        TrainSettings(**{"eps": 0.1, "estimator": "median:5"} | arguments)  # type: ignore[arg-type]
