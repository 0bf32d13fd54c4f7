from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from tests.train.examples import digits, network, same_history, same_weights, settings
from verifix.data import Dataset, load
from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation
from verifix.graph import Graph
from verifix.train import (
    Progress,
    TrainingDiverged,
    TrainSettings,
    evaluate,
    hold_out,
    robust_logits,
    robust_loss,
    train,
)
from verifix.train.distributed import Group
from verifix.train.loss import bounded_logits
from verifix.zoo import ResidualDense

ALONE = Group(0, 1, torch.device("cpu"))


def by_hand(model: nn.Module, data: Dataset, how: TrainSettings) -> list[float]:
    """The same training, written down plainly: the loss of every step."""
    graph = vx.capture(model, data.images[:1])
    if how.optimiser == "adam":
        optimiser: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), weight_decay=how.weight_decay)
    else:
        optimiser = torch.optim.SGD(model.parameters(), momentum=how.momentum, weight_decay=how.weight_decay)
    losses = []
    steps = math.ceil(len(data) / how.batch)
    for epoch in range(how.epochs):
        generator = torch.Generator().manual_seed(how.stream("order", epoch))
        order = torch.randperm(len(data), generator=generator)
        for step in range(steps):
            position = epoch + step / steps
            index = order[step * how.batch : (step + 1) * how.batch]
            loss = loss_by_hand(model, graph, data.images[index], data.labels[index], how, how.eps_at(position))
            optimiser.param_groups[0]["lr"] = how.lr_at(position)
            optimiser.zero_grad()
            loss.backward()
            if how.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), how.clip)
            optimiser.step()
            losses.append(loss.item())
    return losses


def loss_by_hand(model: nn.Module, graph: Graph, x: Tensor, y: Tensor, how: TrainSettings, eps: float) -> Tensor:
    sets, share = vx.Ball(how.norm, eps, how.box).around(x), eps / how.eps if how.eps else 1.0
    if (how.beta, how.kappa) == ((1, 1), (0, 0)):
        return robust_loss(graph, y, sets, how.method)
    beta, kappa = (pair[0] + share * (pair[1] - pair[0]) for pair in (how.beta, how.kappa))
    worst = beta * robust_logits(graph, y, sets, how.method) + (1 - beta) * robust_logits(graph, y, sets, "ibp")
    loss = kappa * nn.functional.cross_entropy(model(x), y) + (1 - kappa) * nn.functional.cross_entropy(worst, y)
    return loss + how.l1 * torch.cat([p.abs().flatten() for p in model.parameters() if p.dim() > 1]).sum()


class TestWhatIsTrained:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"method": "cap", "norm": "l2", "eps": 0.2, "box": None},
            {"method": "cap+ibp"},
            {"optimiser": "sgd", "lr": 0.1, "momentum": 0.8, "weight_decay": 1e-3, "lr_schedule": "cosine"},
            {"clip": 0.05, "lr_schedule": "multistep", "lr_milestones": (1, 2), "weight_decay": 1e-2},
            {"eps_schedule": "smoothed", "eps_start": 0, "eps_ramp": 3},
            {"beta": (1, 0), "kappa": (1, 0.5), "l1": 1e-3, "eps_ramp": 2, "eps_test": 0.02},
            {"method": "cap", "beta": (0, 0.7), "eps_warmup": 1, "eps_ramp": 1.5},
            {"kappa": (0, 0.3), "eps_warmup": 0.5, "lr_schedule": "step", "lr_every": 1, "memory": 9 << 20},
        ],
        ids=str,
    )
    def test_as_written_down_plainly(self, changes: dict[str, Any]) -> None:
        how = settings(**changes, validation=0)
        data = digits(50).to(torch.float64)
        ours, theirs = network().double(), network().double()
        losses: list[float] = []
        train(ours, data, how, progress=lambda progress: losses.append(progress.loss))
        expected = by_hand(theirs, data, how)
        # a mean and a sum that is divided differ by rounding, which a few steps in float64 keep small
        assert losses == pytest.approx(expected, rel=1e-9)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-9)

    def test_standard_training_is_plain_cross_entropy(self) -> None:
        how = settings(method="none", eps=0.0, optimiser="sgd", lr=0.2, validation=0)
        data, model = digits(50).to(torch.float64), network().double()
        losses: list[float] = []
        result = train(model, data, how, progress=lambda progress: losses.append(progress.loss))
        assert losses == pytest.approx(by_hand(network().double(), data, how_without_bounds(how)), rel=1e-9)
        assert result.best.train.robust_error is None

    def test_every_example_once_in_every_epoch_in_an_order_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Tensor] = []
        around = vx.Ball.around

        def watch(ball: vx.Ball, x: Tensor) -> Any:
            seen.append(x)
            return around(ball, x)

        data = digits(45)
        monkeypatch.setattr(vx.Ball, "around", watch)
        result = train(network(), data, settings(validation=0, epochs=2))
        batches = seen[2:]  # before them all of the data, looked at for the box, and two examples tried
        assert [len(x) for x in batches] == [20, 20, 5] * 2
        first, second = (torch.cat(batches[i : i + 3]) for i in (0, 3))
        assert not torch.equal(first, second)
        for epoch in (first, second):
            assert sorted(map(str, epoch.tolist())) == sorted(map(str, data.images.tolist()))
        assert [epoch.train.examples for epoch in result.history] == [45, 45]

    def test_frozen_parameters_stay(self) -> None:
        model = network()
        model[1].weight.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train(model, digits(), settings())
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == ["1.bias", "3.weight", "3.bias"]

    def test_a_network_that_torch_export_captures(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), ResidualDense(64), nn.Linear(64, 10))
        before = model[1].main[0].weight.clone()
        result = train(model, digits(), settings(epochs=8, lr=3e-3))
        assert result.history[-1].train.loss < result.history[0].train.loss
        assert not torch.equal(model[1].main[0].weight, before)

    def test_two_points_of_the_plane_in_one_batch(self) -> None:
        """The toy problem: all points at once, nothing held out."""
        torch.manual_seed(0)
        points = torch.tensor([[0.2, 0.3], [0.8, 0.7], [0.2, 0.8], [0.7, 0.2]])
        data = Dataset("toy", "train", points, torch.tensor([0, 1, 1, 0]), classes=2)
        model = nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2))
        how = TrainSettings(eps=0.08, method="cap", epochs=150, batch=4, validation=0, lr=3e-3)
        result = train(model, data, how)
        assert vx.certify(model, points, data.labels, vx.Ball("linf", 0.08), "cap").verified.all()
        assert result.best.epoch == 150
        assert same_weights(model, result.last)


def how_without_bounds(how: TrainSettings) -> TrainSettings:
    """At eps 0 every bound is the value itself."""
    return TrainSettings.from_json({**how.to_json(), "method": "cap", "eps": 0.0, "eps_start": 0.0})


class TestRobustness:
    def test_certified_error_falls_far_below_that_of_standard_training(self) -> None:
        data, test = load("digits:train").first(600), load("digits:test")
        ball = vx.Ball("linf", 0.12, (0, 1))
        errors = {}
        for method, eps in (("none", 0.0), ("crown-ibp", 0.12)):
            how = TrainSettings(eps=eps, box=(0, 1), method=method, epochs=20, lr=5e-3, eps_ramp=10)
            model = network()
            train(model, data, how)
            verified = vx.certify(model, test.images, test.labels, ball, "crown-ibp").verified
            errors[method] = 1 - float(verified.double().mean())
        assert errors["crown-ibp"] < 0.75 * errors["none"]

    def test_measures_are_those_of_certify_up_to_rounding(self) -> None:
        """What validation calls a robust error certify, which accounts for rounding, does not verify."""
        data, model, how = digits(200), network(), settings(method="cap", epochs=2)
        train(model, data, how)
        measured = evaluate(vx.capture(model, data.images[:1]), data, how, ALONE)
        result = vx.certify(model, data.images, data.labels, how.ball(), "cap")
        assert measured.examples == 200
        assert measured.error == pytest.approx((result.predictions != data.labels).double().mean().item())
        assert measured.robust_error == pytest.approx(1 - result.verified.double().mean().item(), abs=1 / 200)
        assert measured.robust_error is not None and measured.robust_loss is not None
        assert measured.error <= measured.robust_error
        assert measured.loss <= measured.robust_loss

    def test_measures_are_those_of_the_radius_of_validation(self) -> None:
        """By the method's own bound; and by the best of it and of ``ibp`` where training relies on that in the end."""
        data, model = digits(200), network()
        how = settings(eps=0.06, eps_test=0.03, beta=(0, 1), epochs=3)
        train(model, data, how)
        graph = vx.capture(model, data.images[:1])
        for beta, method in (((0, 1), "crown-ibp"), ((1, 0), "crown-ibp+ibp"), ((1, 0.5), "crown-ibp+ibp")):
            measured = evaluate(graph, data, replace(how, beta=beta), ALONE)
            inputs = vx.Ball("linf", 0.03, (0, 1)).around(data.images)
            with torch.no_grad():
                worst = robust_logits(graph, data.labels, inputs, method)
            loss = float(nn.functional.cross_entropy(worst.double(), data.labels))
            assert measured.robust_loss == pytest.approx(loss, rel=1e-5)
            verified = vx.certify(model, data.images, data.labels, vx.Ball("linf", 0.03, (0, 1)), method).verified
            assert measured.robust_error == pytest.approx(1 - verified.double().mean().item(), abs=1 / 200)
        larger = evaluate(graph, data, replace(how, eps_test=None), ALONE)
        assert measured.robust_loss is not None and larger.robust_loss is not None
        assert larger.robust_loss > measured.robust_loss

    def test_of_several_methods_the_best_of_each_margin(self) -> None:
        data = digits(20)
        graph = vx.capture(network(), data.images[:1])
        sets = vx.Ball("linf", 0.05, (0, 1)).around(data.images)
        each = [robust_logits(graph, data.labels, sets, method) for method in ("cap", "ibp")]
        assert torch.equal(robust_logits(graph, data.labels, sets, "cap+ibp"), torch.minimum(*each))


class TestBest:
    def test_has_the_smallest_robust_validation_error_at_the_full_eps(self) -> None:
        how = settings(epochs=9, eps_ramp=4, lr=2e-2)
        data, model = digits(200), network()
        result = train(model, data, how)
        eligible = [epoch for epoch in result.history if epoch.epoch >= 4]
        ranks = [epoch.validation.rank for epoch in eligible if epoch.validation is not None]
        assert result.best.validation is not None
        assert result.best.validation.rank == min(ranks)
        assert not any(epoch.best for epoch in result.history[:3])
        held_out = hold_out(data, how)[1]
        assert held_out is not None
        again = evaluate(vx.capture(model, data.images[:1]), held_out, how, ALONE)
        assert again == result.best.validation  # the model has the best weights now

    def test_patience_counts_from_the_full_eps(self) -> None:
        how = settings(epochs=40, eps_ramp=6, lr=1e-9, patience=3)  # nothing ever becomes better
        result = train(network(), digits(), how)
        assert result.stopped_early
        assert result.best.epoch >= 6
        assert len(result.history) == result.best.epoch + 3

    def test_validation_now_and_then_and_at_the_end(self) -> None:
        result = train(network(), digits(), settings(epochs=5, validation_every=2, validation_limit=4))
        looked = {epoch.epoch: epoch.validation.examples for epoch in result.history if epoch.validation}
        assert looked == {2: 4, 4: 4, 5: 4}

    def test_validation_examples_of_ones_own(self) -> None:
        result = train(network(), digits(), settings(), validation=load("digits:test").first(7))
        assert {epoch.train.examples for epoch in result.history} == {90}
        assert {epoch.validation.examples for epoch in result.history if epoch.validation} == {7}

    def test_held_out_examples_are_not_trained_on(self) -> None:
        data = digits()
        rest, held_out = hold_out(data, settings(validation=30))
        assert held_out is not None
        assert (len(rest), len(held_out)) == (60, 30)
        both = [*rest.images.tolist(), *held_out.images.tolist()]
        assert sorted(map(str, both)) == sorted(map(str, data.images.tolist()))
        other = hold_out(data, settings(validation=30, seed=1))[1]
        assert other is not None and not torch.equal(other.images, held_out.images)


class TestReproducible:
    def test_the_seed_and_nothing_else(self) -> None:
        runs = []
        for seed, noise in ((3, 1), (3, 2), (4, 1)):
            model = network()
            torch.manual_seed(noise)  # what others have drawn must not matter
            runs.append((model, train(model, digits(), settings(seed=seed)).history))
        assert same_weights(runs[0][0], runs[1][0])
        assert same_history(runs[0][1], runs[1][1])
        assert not same_weights(runs[0][0], runs[2][0])

    def test_progress_names_every_step(self) -> None:
        steps: list[Progress] = []
        epochs: list[int] = []

        def ended(history: Sequence[Any]) -> None:
            epochs.append(len(history))

        train(network(), digits(), settings(epochs=2), progress=steps.append, on_epoch=ended)
        assert [(at.epoch, at.step, at.steps) for at in steps] == [(e, s, 5) for e in (1, 2) for s in range(1, 6)]
        assert steps[-1].eps == 0.03
        assert epochs == [1, 2]


class TestDiverged:
    @pytest.mark.parametrize("optimiser", ["adam", "sgd"])
    def test_says_where_and_why(self, optimiser: str) -> None:
        how = settings(optimiser=optimiser, lr=1e30, eps_ramp=3)
        with pytest.raises(TrainingDiverged) as caught:
            train(network(), digits(), how)
        message = str(caught.value)
        assert "epoch 1, step " in message and " of 5, eps 0.0" in message
        assert "lr = 1e+30" in message and "too large" in message
        assert "smaller lr" in message and "\n" not in message

    def test_a_validation_loss_that_overflows_is_logged(self, tmp_path: Path) -> None:
        """It is that of the full eps, which training may not have reached."""
        how = settings(eps=1e37, box=None, eps_start=0, eps_ramp=3, batch=90, method="ibp")
        with pytest.raises(TrainingDiverged, match="in epoch 2, step 1 of 1"):
            train(network(), digits(), how, out=tmp_path)
        (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
        found = json.loads(line)["validation"]
        assert found["robust_error"] == 1.0 and found["robust_loss"] is None

    @pytest.mark.parametrize(
        ("call", "epoch", "step", "cause"), [(3, 1, 3, "eps rises too fast"), (12, 3, 2, "bounds at")]
    )
    def test_a_loss_is_refused_before_it_does_harm(
        self, call: int, epoch: int, step: int, cause: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Tensor] = []

        def broken(graph: Any, y: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Any]:
            calls.append(y)
            logits, engine = bounded_logits(graph, y, *args, **options)
            return logits * (math.inf if len(calls) == call else 1.0), engine

        monkeypatch.setattr("verifix.train.objective.bounded_logits", broken)
        model = network()
        pattern = rf"loss = nan in epoch {epoch}, step {step} of 5, eps 0.0.*: the likely cause is that .*{cause}"
        with pytest.raises(TrainingDiverged, match=pattern):
            train(model, digits(), settings(eps_ramp=2))
        assert len(calls) == call
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())

    def test_it_is_what_is_minimised_that_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Finite losses with a penalty that overflows; and a robust loss without weight that does."""
        with pytest.raises(TrainingDiverged, match="loss = inf in epoch 1, step 1 of 5"):
            train(network(), digits(), settings(l1=1e38))

        def broken(graph: Any, y: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Any]:
            logits, engine = bounded_logits(graph, y, *args, **options)
            return logits * math.inf, engine

        monkeypatch.setattr("verifix.train.objective.bounded_logits", broken)
        result = train(network(), digits(), settings(kappa=(1, 1)))
        assert math.isnan(result.history[0].train.robust_loss or 0.0)
        assert math.isfinite(result.history[0].train.objective or math.nan)


class TestWarmUp:
    def test_is_plain_training_and_moves_everything_but_the_learning_rate(self) -> None:
        shared = {"lr_schedule": "multistep", "lr_milestones": (1, 3), "validation": 0}
        how = settings(epochs=4, eps_warmup=2, eps_ramp=1, **shared)
        warm, plain = network(), network()
        result = train(warm, digits(), how)
        history = train(plain, digits(), settings(method="none", eps=0.0, epochs=4, **shared)).history
        for ours, theirs in zip(result.history[:2], history, strict=False):
            assert (ours.eps, ours.lr) == (0.0, theirs.lr)
            assert (ours.train.loss, ours.train.error) == (theirs.train.loss, theirs.train.error)
            assert ours.gradient == theirs.gradient
            assert ours.train.robust_loss == pytest.approx(ours.train.loss, rel=1e-6)
        assert [epoch.lr for epoch in result.history] == [epoch.lr for epoch in history]
        assert [epoch.best for epoch in result.history] == [False, False, True, True]
        assert result.history[2].eps == how.eps_at(2.8) < how.eps == result.history[3].eps
        assert result.history[3].train.robust_loss > result.history[3].train.loss  # type: ignore[operator]


class TestRefused:
    @pytest.mark.parametrize("settings_", [None, {"eps": 0.1}])
    def test_settings(self, settings_: Any) -> None:
        with pytest.raises(InvalidType, match=r"settings is a .*: pass verifix.train.TrainSettings"):
            train(network(), digits(), settings_)

    def test_data(self) -> None:
        with pytest.raises(InvalidType, match=r"data is a Tensor: pass a verifix.data.Dataset"):
            train(network(), digits().images, settings())  # type: ignore[arg-type]

    def test_inputs_outside_the_box(self) -> None:
        with pytest.raises(InvalidValue, match="inputs outside the box"):
            train(network(), digits(), settings(box=(0, 0.5)))

    def test_nothing_to_train(self) -> None:
        model = network()
        model.requires_grad_(False)
        with pytest.raises(InvalidValue, match="model = Sequential: has no parameter that requires a gradient"):
            train(model, digits(), settings())

    def test_too_few_examples(self) -> None:
        with pytest.raises(InvalidValue, match=r"validation = 90.0: leaves nothing of 90 examples to train on"):
            train(network(), digits(), settings(validation=90))

    def test_a_network_for_other_inputs(self) -> None:
        with pytest.raises(InvalidValue, match="MODEL = Sequential: fails on inputs of shape"):
            train(nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), digits(), settings())

    def test_an_operation_without_a_rule(self) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(()))

            def forward(self, x: Tensor) -> Tensor:
                return torch.special.erfcx(self.weight * x.flatten(1)[:, :10])

        with pytest.raises(UnsupportedOperation, match="erfcx"):
            train(Odd(), digits(), settings())

    def test_weights_of_something_else(self) -> None:
        with pytest.raises(InvalidValue, match="saved = Linear: is no part of the model"):
            train(network(), digits(), settings(), saved=nn.Linear(1, 1))
