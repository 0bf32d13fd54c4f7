"""Adversarial training: at one ball and over unions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.train.examples import digits, network, same_history, same_weights, settings, stop_after
from verifix.attack import PGD, WorstOf
from verifix.certify.run import RunInterrupted
from verifix.cli.main import main
from verifix.data import Dataset
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Union
from verifix.train import TrainSettings, evaluate_attacked, train, train_cascade
from verifix.train.adversarial import AdversarialObjective, adversarial_examples, validation_attack
from verifix.train.checks import ADVERSARIAL, OVER_UNIONS
from verifix.train.distributed import Group

pytestmark = pytest.mark.usefixtures("one_thread")
UNION = "linf:0.1,l2:0.5,l1:1.5"
ALONE = Group.current(torch.device("cpu"))


def adversarial(method: str, **changes: Any) -> TrainSettings:
    usual: dict[str, Any] = {"method": method, "eps": 0.1, "attack_steps": 2, "optimiser": "sgd", "lr": 0.1}
    if method in OVER_UNIONS:
        usual |= {"union": UNION, "eps": 0.0}
    if method == "fgsm":
        usual["attack_steps"] = None
    return settings(**{**usual, **changes})


def batch(n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    data = digits(n).to(torch.float64)
    return data.images, data.labels, torch.arange(n)


def with_batch_norm() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
    return nn.Sequential(nn.Flatten(), *layers)


class TestObjective:
    @pytest.mark.parametrize("method", ADVERSARIAL)
    def test_is_the_loss_at_points_of_the_threat_model(self, method: str) -> None:
        model, how, (x, y, inputs) = network().double(), adversarial(method), batch()
        total, measured = AdversarialObjective(model, how, every_parameter=False)(x, y, inputs, 0.5 * how.eps, 2, 0)
        points = adversarial_examples(model, x, y, how, 0.5 * how.eps, how.stream("attack", 2))
        each = 3 if method == "augmentation" else 1
        assert points.shape == (each * len(x), *x.shape[1:])
        losses = F.cross_entropy(model(points), y.repeat(each), reduction="none")
        torch.testing.assert_close(total, losses.sum() / each)
        torch.testing.assert_close(float(measured[3]), float(losses.sum().detach()) / each)  # the robust loss
        torch.testing.assert_close(float(measured[1]), float(F.cross_entropy(model(x), y, reduction="sum").detach()))
        threat = how.threat(0.5 * how.eps)
        members = threat.members if isinstance(threat, Union) else (threat,)
        sets = [member.around(x) for member in members]
        if method == "augmentation":
            assert all(bool(part.contains(at).all()) for part, at in zip(sets, points.chunk(3), strict=True))
        else:
            assert torch.stack([part.contains(points) for part in sets]).any(0).all()
        assert (losses.reshape(each, -1).mean(0) > F.cross_entropy(model(x), y, reduction="none")).all()
        assert all(parameter.grad is None for parameter in model.parameters())
        total.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_worst_is_the_largest_loss_of_what_augmentation_trains_on(self) -> None:
        model, (x, y, _) = network().double(), batch()
        many = adversarial_examples(model, x, y, adversarial("augmentation"), 1.0, 7).reshape(3, *x.shape)
        losses = torch.stack([F.cross_entropy(model(points), y, reduction="none") for points in many])
        worst = adversarial_examples(model, x, y, adversarial("worst"), 1.0, 7)
        assert torch.equal(worst, many[losses.argmax(0), torch.arange(len(x))])

    def test_a_step_of_fgsm_is_that_of_algorithm_7(self) -> None:
        model, (x, y, _) = network().double(), batch()
        how = adversarial("fgsm", box=None)
        seen: list[Tensor] = []

        class Watch(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x.detach().clone())
                return model(x)  # type: ignore[no-any-return]

        found = adversarial_examples(Watch(), x, y, how, 0.1, 3)
        start = next(points for points in seen if points.shape == x.shape and not torch.equal(points, x))
        assert float((start - x).abs().max()) <= 0.1
        leaf = start.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        expected = x + (start + 0.125 * gradient.sign() - x).clamp(-0.1, 0.1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    def test_radius_zero_is_the_input_itself(self) -> None:
        model, (x, y, inputs) = network().double(), batch()
        total, measured = AdversarialObjective(model, adversarial("msd"), every_parameter=False)(
            x, y, inputs, 0.0, 0, 0
        )
        torch.testing.assert_close(total, F.cross_entropy(model(x), y, reduction="sum"))
        assert measured[1] == measured[3] and measured[2] == measured[4]

    @pytest.mark.parametrize("method", ["pgd", "augmentation"])
    def test_points_depend_on_the_example_and_the_epoch_alone(self, method: str) -> None:
        model, how, (x, y, inputs) = network().double(), adversarial(method), batch()
        objective = AdversarialObjective(model, how, every_parameter=False)
        whole = float(objective(x, y, inputs, how.eps, 1, 0)[0].detach())
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        parts = [float(objective(x[rows], y[rows], inputs[rows], how.eps, 1, 7)[0].detach()) for rows in order.split(5)]
        assert sum(parts) == pytest.approx(whole, rel=1e-9)
        assert abs(float(objective(x, y, inputs, how.eps, 2, 0)[0].detach()) - whole) > 1e-9 * whole

    def test_statistics_are_those_of_the_points_found(self) -> None:
        """The attack itself runs in eval mode, and leaves no trace."""
        model, how, (x, y, inputs) = with_batch_norm().double(), adversarial("msd"), batch()
        points = adversarial_examples(model, x, y, how, 1.0, how.stream("attack", 0))
        norm = model[2]
        assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None
        assert not norm.running_mean.any()
        AdversarialObjective(model, how, every_parameter=False)(x, y, inputs, 1.0, 0, 0)
        torch.testing.assert_close(norm.running_mean, 0.1 * model[1](points.flatten(1)).mean(0))
        assert not any(module.training for module in model.modules())


class TestTraining:
    @pytest.mark.parametrize("method", ADVERSARIAL)
    def test_resumes_bit_for_bit(self, method: str, tmp_path: Path) -> None:
        how, whole = adversarial(method, epochs=2, batch=30, validation_every=2), with_batch_norm()
        result = train(whole, digits(50), how)
        for stop in (1, 3):
            out = tmp_path / str(stop)
            with pytest.raises(RunInterrupted):
                train(with_batch_norm(), digits(50), how, out=out, progress=stop_after(stop), checkpoint_seconds=0)
            again = with_batch_norm()
            torch.rand(3)
            resumed = train(again, digits(50), how, out=out, resume=True)
            assert same_weights(again, whole) and same_history(resumed.history, result.history)
        written = json.loads((tmp_path / "1" / "settings.json").read_text())["settings"]
        assert written["method"] == method and written.get("union") == how.union

    def test_a_budget_that_cuts_batches_changes_the_order_of_sums_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data, runs = digits(60).to(torch.float64), []
        for together in (1000, 7):
            monkeypatch.setattr("verifix.train.trainer.inputs_at_once", lambda *_, n=together: n)
            model = network().double()
            train(model, data, adversarial("augmentation", epochs=1, batch=60, validation=0))  # one step
            runs.append(model)
        for name, value in runs[0].state_dict().items():
            torch.testing.assert_close(runs[1].state_dict()[name], value, rtol=1e-9, atol=1e-12)

    def test_it_learns_to_withstand_its_union(self) -> None:
        data, errors, union = digits(300), {}, "linf:0.15,l2:0.7,l1:2"
        for method in ("none", "msd"):
            how = settings(eps=0.0, method="none") if method == "none" else adversarial("msd", union=union)
            changes = {"epochs": 8, "eps_ramp": 3, "optimiser": "adam", "lr": 1e-2, "validation": 0}
            model = network()
            train(model, data, TrainSettings.from_json({**how.to_json(), **changes}))
            measured = evaluate_attacked(model, digits(400), adversarial("msd", union=union), ALONE)
            errors[method] = measured.robust_error or 0.0
        assert errors["msd"] < 0.75 * errors["none"]

    def test_any_module_can_be_trained(self) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.rand(64, 10, generator=torch.Generator().manual_seed(0)))

            def forward(self, x: Tensor) -> Tensor:
                return torch.special.erfcx(x.flatten(1) @ self.weight) * self.weight[0]

        model = Odd()
        before = model.weight.detach().clone()
        train(model, digits(40), adversarial("pgd", epochs=1, lr=1e-3))
        assert not torch.equal(model.weight.detach(), before)

    def test_the_best_epoch_withstands_most(self) -> None:
        result = train(network(), digits(150), adversarial("pgd", epochs=5, lr=0.5))
        found = [epoch.validation.rank for epoch in result.history if epoch.validation is not None and epoch.epoch >= 2]
        assert result.best.validation is not None and result.best.validation.rank == min(found)

    def test_a_cascade_needs_bounds(self) -> None:
        with pytest.raises(InvalidValue, match="method = pgd: a cascade is made of what bounds certify"):
            train_cascade(lambda _: network(), digits(), adversarial("pgd"), stages=2)

    def test_inputs_outside_the_box(self) -> None:
        data = digits(20)
        outside = Dataset(data.name, data.split, data.images * 2, data.labels, classes=10)
        with pytest.raises(InvalidValue, match="outside the box"):
            train(network(), outside, adversarial("msd"))


class TestValidation:
    @pytest.mark.parametrize("method", ["pgd", "msd"])
    def test_counts_what_its_attack_finds(self, method: str) -> None:
        model, data, how = network(), digits(40), adversarial(method, attack_steps=2)
        train(model, digits(200), adversarial("pgd", epochs=6, lr=0.3, eps=0.05, eps_ramp=1))
        found = evaluate_attacked(model, data, how, ALONE)
        attack = validation_attack(how)
        assert isinstance(attack, WorstOf if method == "msd" else PGD)
        pgd = attack.attacks[0] if isinstance(attack, WorstOf) else attack
        assert isinstance(pgd, PGD) and pgd.steps == 20  # however short training's own attack is
        result = attack(model, data.images, data.labels, how.threat(), seed=how.stream("validation attack"))
        assert found.robust_error == pytest.approx(float(result.success.double().mean()))
        wrong = model(data.images).argmax(1) != data.labels
        assert found.error == pytest.approx(float(wrong.double().mean()))
        assert found.robust_error is not None and found.error < found.robust_error < 1
        assert evaluate_attacked(model, data, how, ALONE, together=7).robust_error == found.robust_error

    def test_a_blind_attack_counts_against_the_network(self) -> None:
        class Flat(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return 5 * torch.eye(10)[x.flatten(1).sum(1).long() * 0 + 3]

        data = digits(200)
        data = data.select((data.labels == 3).nonzero()[:, 0][:10])
        found = evaluate_attacked(Flat(), data, adversarial("pgd"), ALONE)
        assert (found.error, found.robust_error) == (0.0, 1.0)


class TestSettings:
    def test_defaults(self) -> None:
        pgd, fgsm = (TrainSettings(method=method, eps=0.2) for method in ("pgd", "fgsm"))
        assert (pgd.attack_steps, pgd.attack_step, pgd.eps_start) == (10, 0.25, 0.02)
        assert (fgsm.attack_steps, fgsm.attack_step) == (1, 1.25)
        union = TrainSettings(method="worst", union=" linf:0.1, l1:2", box=(0, 1), attack_steps=5)
        assert (union.union, union.eps, union.eps_start, union.attack_step) == ("linf:0.1,l1:2", 1.0, 0.1, 0.5)
        assert TrainSettings.from_json(json.loads(json.dumps(union.to_json()))) == union

    def test_radii_rise_together(self) -> None:
        how = adversarial("msd", epochs=4, eps_ramp=2)
        threat = how.threat(how.eps_at(1.0))
        assert isinstance(threat, Union)
        assert [float(ball.eps) for ball in threat.members] == pytest.approx([0.055, 0.275, 0.825])
        full = how.threat()
        assert isinstance(full, Union) and full.members[0] == Ball("linf", 0.1, (0, 1))
        assert not how.reached(1.9) and how.reached(2.0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"method": "msd"}, "union = None: method msd needs norms and radii"),
            ({"method": "pgd", "eps": 0.1, "union": UNION}, "union = .*: method pgd has no use for it: choose one of"),
            ({"method": "cap", "eps": 0.1, "union": UNION}, "union = .*: method cap has no use for it"),
            ({"method": "msd", "union": "linf:0,l2:0"}, "union = 'linf:0,l2:0': method msd needs a radius above 0"),
            ({"method": "msd", "union": UNION, "norm": "l2"}, "norm = 'l2': the union says which norms: leave it out"),
            ({"method": "worst", "union": "linf"}, "union = 'linf': needs norms and radii"),
            ({"method": "worst", "union": "l7:1"}, "norm = 'l7': choose one of"),
            ({"method": "pgd"}, r"eps = 0\.0: method pgd needs the radius of its attack"),
            ({"method": "pgd", "eps": 0.1, "attack_step": 0}, "attack_step = 0: must be finite and above 0"),
            ({"method": "pgd", "eps": 0.1, "attack_steps": 0}, "attack_steps = 0: must be at least 1"),
            ({"method": "fgsm", "eps": 0.1, "attack_steps": 2}, "attack_steps = 2: fgsm has one step"),
            ({"method": "pgd", "eps": 0.1, "attack_eps": 0.1}, r"attack_eps = 0\.1: method pgd has no use for it"),
            ({"method": "pgd", "eps": 0.1, "sigma": 0.1}, r"sigma = 0\.1: method pgd has no use for it"),
            ({"method": "pgd", "eps": 0.1, "estimator": "median:5"}, "estimator = median:5: method pgd has nothing"),
            ({"method": "crown", "eps": 0.1, "attack_steps": 3}, "attack_steps = 3: method crown has no use"),
        ],
    )
    def test_what_does_not_belong(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue, match=message):
            TrainSettings(**changes)

    def test_a_union_that_is_no_text(self) -> None:
        with pytest.raises(InvalidType, match="union"):
            TrainSettings(method="msd", union=3)  # type: ignore[arg-type]


class TestCommand:
    def test_over_a_union(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "run"
        arguments = ["train", "verifix.zoo:digits_small", "--data", "digits", "--limit", "60", "--method", "msd"]
        arguments += ["--union", "linf:0.1,l1:1", "--box", "0", "1", "--attack-steps", "2", "--epochs", "1"]
        arguments += ["--validation", "10", "--threads", "1", "--out", str(out)]
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert "union of balls linf:0.1,l1:1 within [0, 1]" in shown and "robust error" in shown
        (line,) = (out / "log.jsonl").read_text().splitlines()
        assert json.loads(line)["eps"] < 1 and (out / "best.safetensors").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--method", "msd"], "union = None: method msd needs norms and radii"),
            (["--method", "pgd"], "eps = None: name the radius to train for"),
            (["--method", "msd", "--union", UNION, "--eps", "0"], "eps = 0.0: of msd it is a factor of all radii"),
            (["--method", "worst", "--union", "linf=0.3"], "union = 'linf=0.3': needs norms and radii"),
            (["--eps", "0.1", "--union", UNION], "method cap has no use for it"),
        ],
    )
    def test_bad_input(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        code = main(["train", "verifix.zoo:digits_small", "--data", "digits", *arguments, "--out", str(out)])
        assert code == 2 and not out.exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
