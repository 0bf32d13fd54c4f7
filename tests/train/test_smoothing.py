from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.train.examples import digits, network, same_history, same_weights, settings, stop_after
from tests.train.noisy_examples import batch, noisy, plainly, probabilities
from verifix.certify.run import RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.train import TrainingDiverged, TrainSettings, hold_out, train, train_cascade
from verifix.train.distributed import Group
from verifix.train.log import MEASURED
from verifix.train.smoothing import (
    NoisyObjective,
    adre_penalty,
    inputs_at_once,
    log_mean_softmax,
    mean_cross_entropy,
    noisy_copies,
    training_mode,
)
from verifix.train.validation import evaluate_under_noise

ALONE = Group(0, 1, torch.device("cpu"))
pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = ("gaussian", "adre", "adre-adv", "smoothadv")


class TestObjective:
    @pytest.mark.parametrize(
        "how",
        [noisy("gaussian"), noisy("gaussian", noises=1), noisy("adre"), noisy("adre", adre_weight=2, noises=1)],
        ids=["gaussian", "gaussian, 1", "adre", "adre, 1"],
    )
    @pytest.mark.parametrize("epoch", [0, 3])
    def test_as_the_equations_say(self, how: TrainSettings, epoch: int) -> None:
        model, (x, y, inputs) = network().double(), batch()
        total, found = NoisyObjective(model, how, every_parameter=False)(x, y, inputs, 0.0, epoch, 0)
        f = probabilities(model, x, inputs, how, epoch)
        cross_entropy = plainly(f, y, noisy("gaussian")).sum()
        assert float(total.detach()) == pytest.approx(plainly(f, y, how).sum(), rel=1e-12)
        named = dict(zip(MEASURED, found.tolist(), strict=True))
        assert named["objective"] == pytest.approx(float(total.detach()), rel=1e-15)
        assert named["loss"] == pytest.approx(cross_entropy, rel=1e-12)
        assert named["errors"] == pytest.approx((f.argmax(2) != y.numpy()[:, None]).mean(1).sum(), rel=1e-12)
        assert named["examples"] == len(x)
        assert (named["robust_loss"], named["robust_errors"], named["smoothed_errors"]) == (0, 0, 0)

    def test_gradients(self) -> None:
        """Where the runner-up is one class alone, by differences."""
        torch.manual_seed(0)
        logits = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([0, 3, 4])
        assert torch.autograd.gradcheck(lambda z: mean_cross_entropy(z, y), logits)
        assert torch.autograd.gradcheck(log_mean_softmax, logits)
        assert torch.autograd.gradcheck(lambda z: adre_penalty(log_mean_softmax(z), y, 1e-2), logits)

    @pytest.mark.parametrize("method", ["adre", "adre-adv"])
    def test_weight_0_is_no_penalty(self, method: str) -> None:
        other = {"adre": "gaussian", "adre-adv": "smoothadv"}[method]
        without, with_zero = network(), network()
        a = train(without, digits(), noisy(other))
        b = train(with_zero, digits(), noisy(method, adre_weight=0))
        assert same_weights(without, with_zero)
        assert same_history(a.history, b.history)

    @given(scale=st.floats(0, 1e4), floor=st.floats(1e-30, 0.5), seed=st.integers(0, 10**6), weight=st.floats(0, 10))
    @examples(max_examples=60, deadline=None)
    def test_is_bounded_below(self, scale: float, floor: float, seed: int, weight: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (6,), generator=generator)
        penalty = adre_penalty(log_mean_softmax(logits), y, floor)
        assert torch.isfinite(penalty).all()
        slack = 1e-12 * abs(math.log(floor))
        assert (penalty >= math.log(floor) - slack).all()
        assert (mean_cross_entropy(logits, y) + weight * penalty >= weight * (math.log(floor) - slack)).all()

    def test_far_below_the_floor_the_penalty_has_no_gradient_left(self) -> None:
        """And what it has is finite, where the probability itself is not even a number above 0."""
        logits = torch.tensor([[[1000.0, 0.0, -5.0]]], requires_grad=True)
        value = adre_penalty(log_mean_softmax(logits), torch.tensor([0]), 1e-6)
        value.sum().backward()
        assert float(value.detach()) == pytest.approx(math.log(1e-6), rel=1e-6)
        assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-30

    def test_the_runner_up_is_never_the_label(self) -> None:
        """Neither where the label is the likeliest class nor where it is not; of several the first."""
        mean = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25]])
        y = torch.tensor([0, 0, 1, 0])
        torch.testing.assert_close(adre_penalty(mean.log(), y, 1e-9).exp(), torch.tensor([0.3, 0.7, 0.25, 0.5]))
        logits = mean.log().requires_grad_(True)
        adre_penalty(logits, y, 1e-9).sum().backward()
        assert logits.grad is not None
        assert logits.grad.nonzero().tolist() == [[0, 1], [1, 1], [2, 0], [3, 1]]

    def test_noise_is_that_of_the_example_and_the_epoch(self) -> None:
        model, how, (x, y, inputs) = network().double(), noisy("adre"), batch()
        objective = NoisyObjective(model, how, every_parameter=False)
        whole = float(objective(x, y, inputs, 0.0, 1, 0)[0].detach())
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        parts = [float(objective(x[rows], y[rows], inputs[rows], 0.0, 1, 7)[0].detach()) for rows in order.split(5)]
        assert sum(parts) == pytest.approx(whole, rel=1e-12)
        for other in (objective(x, y, inputs + 1, 0.0, 1, 0), objective(x, y, inputs, 0.0, 2, 0)):
            assert abs(float(other[0].detach()) - whole) > 1e-6 * whole

    def test_copies_of_one_epoch_are_the_samples_in_turn(self) -> None:
        x, _, inputs = batch(4)
        first, second = (noisy_copies(x, inputs, 0.25, 5, start, 3) for start in (0, 3))
        assert torch.equal(torch.cat([first, second], 1), noisy_copies(x, inputs, 0.25, 5, 0, 6))
        assert not torch.equal(first, second)


class TestModes:
    """Batch norm and dropout."""

    def model(self) -> nn.Sequential:
        torch.manual_seed(0)
        layers = (nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
        return nn.Sequential(nn.Flatten(), *layers)

    def test_batch_norm_learns_the_statistics_of_noisy_copies(self) -> None:
        model, how, (x, y, inputs) = self.model().double(), noisy("gaussian"), batch()
        norm = model[2]
        assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None
        NoisyObjective(model, how, every_parameter=False)(x, y, inputs, 0.0, 0, 0)
        copies = noisy_copies(x, inputs, 0.25, how.stream("noise"), 0, 3)
        hidden = model[1](copies.flatten(0, 1).flatten(1))
        torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(0))
        assert not any(module.training for module in model.modules())

    def test_an_attack_changes_no_statistics(self) -> None:
        model, (x, y, inputs) = self.model().double(), batch()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        NoisyObjective(model, noisy("smoothadv"), every_parameter=False)._attack(x, y, inputs, 0.5, 0)
        assert same_weights(model, before)

    def test_frozen_batch_norm_keeps_its_statistics(self) -> None:
        model = self.model()
        model[2].requires_grad_(False)
        before = {name: value.clone() for name, value in model[2].state_dict().items()}
        train(model, digits(), noisy("gaussian"))
        assert same_weights(model[2], before)

    def test_a_single_copy_uses_the_stored_statistics(self) -> None:
        model = self.model()
        with training_mode(model, copies=1):
            assert not model.training
        with training_mode(model, copies=2):
            assert model.training and model[2].training
        result = train(model, digits(41), noisy("gaussian", noises=1, batch=20, validation=0))  # 20, 20 and 1
        assert math.isfinite(result.best.train.loss)

    def test_resumes_bit_for_bit(self, tmp_path: Path) -> None:
        """Running statistics are kept, and dropout draws the same, whatever was drawn before."""
        how, whole = noisy("adre", epochs=2), self.model()
        state = torch.get_rng_state()
        result = train(whole, digits(), how, out=tmp_path / "whole")
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(RunInterrupted):
            train(self.model(), digits(), how, out=tmp_path / "a", progress=stop_after(3), checkpoint_seconds=0)
        again = self.model()
        torch.rand(3)
        resumed = train(again, digits(), how, out=tmp_path / "a", resume=True)
        assert same_weights(again, whole) and same_history(resumed.history, result.history)
        assert not same_weights(whole[2], self.model()[2])


class TestLoop:
    @pytest.mark.parametrize("method", METHODS)
    def test_resumes_bit_for_bit(self, method: str, tmp_path: Path) -> None:
        how, whole = noisy(method, box=(0, 1)), network()
        result = train(whole, digits(), how)
        for stop in (2, 5, 12):
            out = tmp_path / str(stop)
            with pytest.raises(RunInterrupted):
                train(network(), digits(), how, out=out, progress=stop_after(stop), checkpoint_seconds=0)
            again = network(seed=9)
            resumed = train(again, digits(), how, out=out, resume=True)
            assert same_weights(again, whole) and same_history(resumed.history, result.history)

    @pytest.mark.parametrize("method", METHODS)
    def test_parts_are_as_the_whole(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A budget that cuts batches changes nothing but the order of sums."""
        data, runs = digits().to(torch.float64), []
        for together in (1000, 7, 1):
            monkeypatch.setattr("verifix.train.trainer.inputs_at_once", lambda *_, n=together: n)
            model = network().double()
            runs.append((model, train(model, data, noisy(method))))
        for model, result in runs[1:]:
            for name, value in runs[0][0].state_dict().items():
                torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-8, atol=1e-11)
            found, expected = result.best.validation, runs[0][1].best.validation
            assert found is not None and expected is not None
            assert found.loss == pytest.approx(expected.loss, rel=1e-8)

    def test_any_module_can_be_trained(self) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(64, 10))

            def forward(self, x: Tensor) -> Tensor:
                return torch.special.erfcx(x.flatten(1) @ self.weight).sort(1).values * self.weight[0]

        model = Odd()
        result = train(model, digits(), noisy("adre", lr=1e-3))
        assert len(result.history) == 3 and not torch.equal(model.weight.detach(), torch.ones(64, 10))

    def test_it_learns_to_answer_under_noise(self) -> None:
        data = digits(600)
        errors = {}
        for method in ("none", "gaussian", "adre", "smoothadv"):
            how = settings(eps=0.0, method="none") if method == "none" else noisy(method, sigma=0.4, validation=0)
            model = network()
            how = TrainSettings.from_json(
                {**how.to_json(), "epochs": 12, "optimiser": "adam", "lr": 5e-3, "eps_ramp": 4}
            )
            train(model, data, how)
            measured = evaluate_under_noise(model, digits(1200), noisy("gaussian", sigma=0.4), ALONE)
            errors[method] = measured.error
        assert all(errors[method] < 0.8 * errors["none"] for method in ("gaussian", "adre", "smoothadv"))

    def test_diverges_with_a_message(self) -> None:
        with pytest.raises(TrainingDiverged, match=r"in epoch \d, step \d of 5, .*lr = 1e\+30"):
            train(network(), digits(), noisy("adre", lr=1e30))

    def test_a_cascade_needs_bounds(self) -> None:
        with pytest.raises(InvalidValue, match="method = gaussian: a cascade is made of what bounds certify"):
            train_cascade(lambda _: network(), digits(), noisy("gaussian"), stages=2)


class TestValidation:
    def test_votes_by_hand(self) -> None:
        model, data, how = network(), digits(40), noisy("gaussian", sigma=0.4, validation_noises=9)
        train(model, digits(300), noisy("gaussian", lr=0.5, epochs=4))
        found = evaluate_under_noise(model, data, how, ALONE)
        m, errors, wrong, radii, losses = 9, 0, 0, 0.0, 0.0
        from scipy.stats import norm

        for i in range(40):
            seed = how.stream("validation noise")
            copies = noisy_copies(data.images[i : i + 1], torch.tensor([i]), 0.4, seed, 0, m)
            logits = model(copies[0]).detach()
            label = int(data.labels[i])
            votes = np.bincount(logits.argmax(1).numpy(), minlength=10)
            errors += m - votes[label]
            wrong += int(votes.argmax() != label)
            radii += 0.4 * norm.ppf((votes[label] + 0.5) / (m + 1)) if votes[label] > m / 2 else 0.0
            losses += float(nn.functional.cross_entropy(logits.double(), torch.full((m,), label)))
        assert found.examples == 40 and radii > 0 and 0 < wrong < 30
        assert found.error == pytest.approx(errors / (40 * m), rel=1e-12)
        assert found.smoothed_error == wrong / 40
        assert found.estimated_radius == pytest.approx(radii / 40, rel=1e-9)
        assert found.loss == pytest.approx(losses / 40, rel=1e-5)
        assert (found.robust_error, found.robust_loss, found.objective) == (None, None, None)

    def test_does_not_depend_on_how_it_is_cut(self) -> None:
        model, data, how = network().double(), digits(40).to(torch.float64), noisy("gaussian")
        whole = evaluate_under_noise(model, data, how, ALONE)
        parts = evaluate_under_noise(model, data, how, ALONE, together=7)
        assert (whole.error, whole.smoothed_error) == (parts.error, parts.smoothed_error)
        assert whole.loss == pytest.approx(parts.loss, rel=1e-12)

    def test_nan_votes_for_nothing(self) -> None:
        class Broken(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.full((len(x), 10), math.nan)

        data = Dataset("npz", "test", torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), classes=10)
        found = evaluate_under_noise(Broken(), data, noisy("gaussian"), ALONE)
        assert (found.error, found.smoothed_error, found.estimated_radius) == (1.0, 1.0, 0.0)

    def test_the_best_epoch_has_the_largest_radius(self) -> None:
        how, data, model = noisy("adre", epochs=8, lr=0.5), digits(200), network()
        result = train(model, data, how)
        found = [epoch.validation.estimated_radius for epoch in result.history if epoch.validation is not None]
        assert result.best.validation is not None and result.best.validation.estimated_radius == max(
            value for value in found if value is not None
        )
        held_out = hold_out(data, how)[1]
        assert held_out is not None
        assert evaluate_under_noise(model, held_out, how, ALONE) == result.best.validation

    def test_epochs_record_what_was_minimised(self) -> None:
        (epoch,) = train(network(), digits(), noisy("adre", epochs=1)).history
        assert epoch.train.objective is not None and epoch.train.objective < epoch.train.loss
        assert epoch.train.robust_error is None and epoch.train.estimated_radius is None


class TestMemory:
    def test_a_budget_cuts_batches(self) -> None:
        model, example = network(), digits(2).images
        few, many = (inputs_at_once(model, example, noisy(memory=memory)) for memory in (9 << 20, 90 << 20))
        assert 1 <= few < many
        assert inputs_at_once(model, example, noisy(memory=90 << 20, noises=6)) == many // 2

    def test_what_autograd_keeps_is_counted(self) -> None:
        """Of a hidden layer of 2**18 numbers: those themselves at the least, at the most what else is made of them."""

        class Wide(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(2, 10))

            def forward(self, x: Tensor) -> Tensor:
                hidden = (x.flatten(1)[:, :1] * self.weight[0, 0]).expand(-1, 2**18).sigmoid()
                return (hidden * hidden).mean(1, keepdim=True) * self.weight.sum(0)

        together = inputs_at_once(Wide(), digits(2).images, noisy(noises=1, memory=1 << 30))
        hidden = 4 * 2**18
        assert (1 << 30) / (3 * 3 * hidden) <= together <= (1 << 30) / (3 * hidden)

    def test_too_little(self) -> None:
        with pytest.raises(
            InvalidValue, match=r"memory = 1000: a training step needs at least \d+ bytes for the copies"
        ):
            train(network(), digits(), noisy(memory=1000))
