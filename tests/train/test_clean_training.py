"""Training with batch norm, initialisation and regularisers, as the loop does it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import verifix as vx
from tests.train.examples import digits, network, same_history, same_weights, settings, stop_after
from verifix.bounds import Engine, parse_method
from verifix.certify.run import RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidType, InvalidValue
from verifix.train import TrainSettings, evaluate, hold_out, robust_logits, train
from verifix.train.batch_norm import CleanStatistics
from verifix.train.distributed import Group
from verifix.train.initialisation import initialise
from verifix.train.regularisers import regularisation

ALONE = Group(0, 1, torch.device("cpu"))


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 12), nn.BatchNorm1d(12, momentum=0.3), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


def by_hand(model: nn.Sequential, data: Dataset, how: TrainSettings) -> list[float]:
    """The same training, written down plainly, with torch's own batch norm: the robust loss of every step."""
    graph = vx.capture(model, data.images[:1])
    if how.initialisation == "ibp":
        initialise(graph, how.stream("initialisation"))
    clean = CleanStatistics(graph if how.batch_norm == "clean" else None)
    optimiser = torch.optim.Adam(model.parameters())
    (method,) = parse_method(how.method)
    losses, steps = [], math.ceil(len(data) / how.batch)
    for epoch in range(how.epochs):
        generator = torch.Generator().manual_seed(how.stream("order", epoch))
        for step, index in enumerate(torch.randperm(len(data), generator=generator).split(how.batch)):
            x, y, eps = data.images[index], data.labels[index], how.eps_at(epoch + step / steps)
            sets = vx.Ball(how.norm, eps, how.box).around(x)
            with clean.of(x):
                worst = robust_logits(graph, y, sets, how.method)
                loss = F.cross_entropy(worst, y)
                losses.append(loss.item())
                if how.regulariser:
                    weight = how.regulariser * (1 - eps / how.eps)
                    engine = Engine(graph, sets, method, rounding=False)
                    loss = loss + weight * regularisation(engine, how.regulariser_tolerance)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        clean.reestimate(data.images, ALONE, 7)
    return losses


class TestWhatIsTrained:
    @pytest.mark.parametrize(
        "changes",
        [
            {"batch_norm": "clean"},
            {"batch_norm": "clean", "method": "ibp", "eps_start": 0.01},
            {"initialisation": "ibp"},
            {"regulariser": 0.7, "regulariser_tolerance": 0.8},
            {"batch_norm": "clean", "initialisation": "ibp", "regulariser": 0.5, "method": "ibp"},
            {"regulariser": 0.5, "method": "cap", "eps_schedule": "smoothed"},
        ],
        ids=str,
    )
    def test_as_written_down_plainly(self, changes: dict[str, Any]) -> None:
        how = settings(**changes, validation=0, epochs=2)
        data = digits(50).to(torch.float64)
        ours, theirs = normed().double(), normed().double().eval()
        result = train(ours, data, how)
        losses = by_hand(theirs, data, how)
        steps = math.ceil(len(data) / how.batch)
        weights = torch.tensor([len(part) for part in torch.arange(len(data)).split(how.batch)])
        means = [float((weights * torch.tensor(losses[i : i + steps])).sum()) / len(data) for i in (0, steps)]
        assert [epoch.train.robust_loss for epoch in result.history] == pytest.approx(means, rel=1e-6)
        for name, value in theirs.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(result.last[name], value, rtol=1e-5, atol=1e-8, msg=name)

    def test_batches_of_one_use_what_is_stored(self) -> None:
        how = settings(batch_norm="clean", validation=0, epochs=2, batch=1)
        model, data = normed(), digits(6)
        result = train(model, data, how)
        assert result.last["1.num_batches_tracked"] == 0
        assert not torch.equal(result.last["1.running_var"], torch.ones(4))  # that of the population

    def test_in_parts_by_memory(self) -> None:
        """Statistics are of parts, so that losses differ, and the same number of steps is tracked."""
        results = []
        for memory in (1 << 30, (8 << 20) + 500_000):
            model = normed().double()
            result = train(
                model, digits(60).to(torch.float64), settings(batch_norm="clean", epochs=2, validation=0, memory=memory)
            )
            assert result.last["1.num_batches_tracked"] == 6
            results.append(result.last)
        assert not torch.allclose(results[0]["7.weight"], results[1]["7.weight"], rtol=1e-6)
        torch.testing.assert_close(results[0]["7.weight"], results[1]["7.weight"], rtol=0.3, atol=0.1)

    def test_what_is_validated_and_kept_has_statistics_of_the_population(self) -> None:
        data, how = digits(100), settings(batch_norm="clean", epochs=2, eps_ramp=1)
        rest, held_out = hold_out(data, how)
        model = normed()
        result = train(model, data, how)
        for state in (result.last, model.state_dict()):
            again = normed()
            again.load_state_dict(state)
            CleanStatistics(vx.capture(again.eval(), data.images[:1])).reestimate(rest.images, ALONE, 17)
            for name, value in again.state_dict().items():
                torch.testing.assert_close(value, state[name], rtol=1e-5, atol=1e-6, msg=name)
        assert held_out is not None and result.best.validation is not None
        graph = vx.capture(model, data.images[:1])
        assert evaluate(graph, held_out, how, ALONE) == result.best.validation

    def test_measuring_the_landscape_moves_no_statistics(self, tmp_path: Path) -> None:
        how, states = settings(batch_norm="clean", regulariser=0.5, epochs=1), []
        for every in (None, 2):
            out = tmp_path / str(every)
            states.append(train(normed(), digits(60), how, out=out, landscape_every=every).last)
        assert same_weights(*states)
        assert len((tmp_path / "2" / "landscape.jsonl").read_text().splitlines()) == 2

    def test_dropout_does_nothing(self) -> None:
        states = []
        for drop in (nn.Identity(), nn.Dropout(0.5)):
            model = normed()
            model.insert(4, drop)
            states.append(train(model, digits(50), settings(batch_norm="clean", epochs=1)).last)
        assert same_weights(*states)

    def test_a_network_that_torch_export_captures(self) -> None:
        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = normed()

            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = self.inner(x)
                return result

        how = settings(batch_norm="clean", initialisation="ibp", epochs=2)
        walked, exported = normed().double(), Wrapped().double()
        train(walked, digits(50).to(torch.float64), how)
        train(exported, digits(50).to(torch.float64), how)
        for mine, other in zip(walked.state_dict().values(), exported.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)

    def test_standard_training_is_torchs_own(self) -> None:
        """Batch norm in training mode, of all layers but dropout."""
        how = settings(method="none", eps=0.0, batch_norm="clean", validation=0, epochs=1, optimiser="sgd", lr=0.1)
        data, ours, theirs = digits(50).to(torch.float64), normed().double(), normed().double().train()
        result = train(ours, data, how)
        optimiser = torch.optim.SGD(theirs.parameters(), 0.1, 0.9)
        order = torch.randperm(50, generator=torch.Generator().manual_seed(how.stream("order", 0)))
        for index in order.split(20):
            optimiser.zero_grad()
            F.cross_entropy(theirs(data.images[index]), data.labels[index]).backward()
            optimiser.step()
        for name, value in theirs.named_parameters():
            torch.testing.assert_close(result.last[name], value.detach(), rtol=1e-6, atol=1e-9)


class TestResume:
    @pytest.mark.parametrize("steps", [1, 3, 4, 7])
    def test_bit_for_bit(self, steps: int, tmp_path: Path) -> None:
        how = settings(batch_norm="clean", initialisation="ibp", regulariser=0.5, epochs=3, validation=0.2)
        whole, data = normed(), digits(70)
        result = train(whole, data, how)
        with pytest.raises(RunInterrupted):
            train(normed(), data, how, out=tmp_path, checkpoint_seconds=0, progress=stop_after(steps))
        again = normed(1)  # what it is before does not matter: everything comes from the checkpoint
        resumed = train(again, data, how, out=tmp_path, resume=True)
        assert same_weights(again, whole) and same_weights(resumed.last, result.last)
        assert same_history(resumed.history, result.history)


class TestInitialisation:
    def test_by_the_seed_before_the_first_step_and_not_on_resume(self, tmp_path: Path) -> None:
        weights = []
        for seed, start in ((0, 0), (0, 1), (5, 0)):
            model = network(start)
            last = model.state_dict()["3.weight"].clone()
            with pytest.raises(RunInterrupted):
                folder = tmp_path / f"{seed}-{start}"
                how = settings(initialisation="ibp", lr=1e-12, seed=seed)
                train(model, digits(), how, out=folder, checkpoint_seconds=0, progress=stop_after(1))
            weights.append(model.state_dict()["1.weight"])
            torch.testing.assert_close(model.state_dict()["3.weight"], last)
        torch.testing.assert_close(weights[0], weights[1])
        assert not torch.allclose(weights[0], weights[2])
        assert weights[0].std().item() == pytest.approx(math.sqrt(2 * math.pi) / 64, rel=0.1)

    def test_where_it_is_not_asked_for_weights_are_what_they_were(self) -> None:
        model = network()
        before = copy.deepcopy(model.state_dict())
        train(model, digits(), settings(lr=1e-12, epochs=1))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before[name])


class TestRefused:
    @pytest.mark.parametrize(
        ("model", "changes", "why"),
        [
            (network(), {"batch_norm": "clean"}, "no batch norm to train"),
            (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"initialisation": "ibp"}, "but the last"),
            (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"regulariser": 0.5}, "no ReLU"),
        ],
        ids=["batch norm", "initialisation", "regulariser"],
    )
    def test_networks_and_nothing_is_written(
        self, model: nn.Module, changes: dict[str, Any], why: str, tmp_path: Path
    ) -> None:
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InvalidValue, match=why):
            train(model, digits(), settings(**changes), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert same_weights(before, model.state_dict())

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"initialisation": "xavier"}, "choose one of none, ibp"),
            ({"batch_norm": "batch"}, "choose one of stored, clean"),
            ({"regulariser": -0.5}, "at least 0"),
            ({"regulariser": math.nan}, "at least 0"),
            ({"regulariser_tolerance": 0}, "above 0"),
            ({"method": "pgd", "batch_norm": "clean"}, "no use for it"),
            ({"method": "pgd", "initialisation": "ibp"}, "no use for it"),
            ({"method": "none", "eps": 0.0, "regulariser": 0.5}, "no use for it"),
        ],
        ids=str,
    )
    def test_settings(self, changes: dict[str, Any], why: str) -> None:
        with pytest.raises(InvalidValue, match=why):
            settings(**changes)

    def test_memory_for_a_single_input(self) -> None:
        with pytest.raises(InvalidValue, match="two inputs at once"):
            train(
                normed().double(), digits().to(torch.float64), settings(batch_norm="clean", memory=(8 << 20) + 200_000)
            )

    def test_types(self) -> None:
        with pytest.raises(InvalidType, match="a number"):
            settings(regulariser="much")
