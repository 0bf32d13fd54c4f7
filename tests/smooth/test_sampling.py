"""Votes under noise: the same whatever the batch and the threads, and those of the network as it is at test time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.certify.examples import linear
from verifix import zoo
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.noise import Gaussian, Purpose, Samples, Splitting
from verifix.smooth.sampling import TILE, Sampler


@contextmanager
def using(threads: int) -> Iterator[None]:
    """So many threads of torch, which nothing here may change."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        found = torch.get_num_threads()
        torch.set_num_threads(before)
    assert found == threads


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def network() -> tuple[nn.Module, Tensor]:
    """Convolutions, so that a pass of another size may round differently, at inputs near several boundaries."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip
    x = torch.rand(3, 1, 8, 8)
    model(x)
    with torch.no_grad():
        model.eval()[-1].bias -= model(x).mean(0)
    return model.train(), x


def counted_one_by_one(model: nn.Module, x: Tensor, noise: Any, seed: int, purpose: Purpose, names: range) -> Tensor:
    """The same by the shortest program: each sample on its own, in float64."""
    twin, counts = model.double().eval(), []
    for number, image in enumerate(x):
        samples = Samples(seed, purpose, torch.tensor([number]), names.start, len(names))
        with torch.no_grad():
            logits = torch.cat([twin(image[None].double()) for image in noise.draw(image[None], samples)[0]])
        counts.append(torch.bincount(logits.argmax(1), minlength=logits.shape[1] + 1))
    model.float().train()
    return torch.stack(counts)


class TestCounts:
    def test_those_of_each_sample_alone(self) -> None:
        model, x = network()
        votes = Sampler(model, Gaussian(0.3), classes=5, seed=7).votes(x, Purpose.ESTIMATION, start=31, count=222)
        expected = counted_one_by_one(model, x, Gaussian(0.3), 7, Purpose.ESTIMATION, range(31, 253))
        assert votes.sum(1).tolist() == [222] * 3
        assert (votes > 0).sum() > 6  # of interest: the votes are divided
        assert torch.equal(votes, expected)

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("batch", [1, 7, 100, 128, 1000, 4096])
    def test_batch_and_threads_change_nothing(self, batch: int, threads: int) -> None:
        model, x = network()
        expected = Sampler(model, Gaussian(0.3), classes=5).votes(x, Purpose.ESTIMATION, count=1234)
        with using(threads):
            sampler = Sampler(model, Gaussian(0.3), classes=5, batch=batch)
            assert torch.equal(sampler.votes(x, Purpose.ESTIMATION, count=1234), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mnist_small", "mnist_large"])
    def test_of_the_networks_of_the_literature(self, name: str) -> None:
        torch.manual_seed(0)
        model, x, found = getattr(zoo, name)(), torch.rand(2, 1, 28, 28), []
        with torch.no_grad():
            model[-1].bias -= model(x + torch.randn(100, 1, 28, 28)[:2] / 2).mean(0)
        for threads in (1, 2):
            for batch in (1, 10, 1000, 4096):
                with using(threads):
                    sampler = Sampler(model, Gaussian(0.5), classes=10, batch=batch)
                    found.append(sampler.votes(x, Purpose.ESTIMATION, count=1150))
        assert all(torch.equal(votes, found[0]) for votes in found)

    @pytest.mark.parametrize("first", [1, 50, 99, 100, 101, 250])
    def test_parts_add_up(self, first: int) -> None:
        model, x = network()
        sampler = Sampler(model, Gaussian(0.3), classes=5)
        whole = sampler.votes(x, Purpose.ESTIMATION, start=13, count=400)
        parts = sampler.votes(x, Purpose.ESTIMATION, start=13, count=first)
        parts += sampler.votes(x, Purpose.ESTIMATION, start=13 + first, count=400 - first)
        assert torch.equal(parts, whole)

    def test_inputs_are_named_and_not_counted(self) -> None:
        model, x = network()
        sampler = Sampler(model, Gaussian(0.3), classes=5)
        whole = sampler.votes(x, Purpose.ESTIMATION, count=300)
        alone = sampler.votes(x[2:], Purpose.ESTIMATION, count=300, inputs=torch.tensor([2]))
        other = sampler.votes(x[2:], Purpose.ESTIMATION, count=300)
        assert torch.equal(alone, whole[2:])
        assert not torch.equal(other, whole[2:])

    def test_purposes_and_seeds_are_different_samples(self) -> None:
        model, x = network()
        found = {
            tuple(Sampler(model, Gaussian(0.3), classes=5, seed=seed).votes(x, purpose, count=500).flatten().tolist())
            for seed in (0, 1)
            for purpose in (Purpose.SELECTION, Purpose.ESTIMATION, Purpose.PREDICTION)
        }
        assert len(found) == 6

    def test_none(self) -> None:
        model, x = network()
        sampler = Sampler(model, Gaussian(0.3), classes=5)
        assert sampler.votes(x, Purpose.SELECTION, count=0).tolist() == [[0] * 6] * 3
        assert sampler.votes(x[:0], Purpose.SELECTION, count=10).shape == (0, 6)

    def test_every_outcome_of_splitting_noise(self) -> None:
        noise, x = Splitting(0.75, lattice=4), torch.tensor([[0.25, 0.5], [1.0, 0.0]])
        model = linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.1])
        votes = Sampler(model, noise, classes=2).votes_of_all(x)
        expected = model(noise.draw_all(x).flatten(0, 1)).argmax(1).reshape(2, 6)
        assert votes.tolist() == [[6 - int(row.sum()), int(row.sum()), 0] for row in expected]


class TestModel:
    def test_is_left_as_it_was(self) -> None:
        model, x = network()
        flags = {name: module.training for name, module in model.named_modules()}
        flags["1"] = model[1].training = False
        before = {name: value.clone() for name, value in model.state_dict().items()}
        Sampler(model, Gaussian(0.3), classes=5).votes(x, Purpose.ESTIMATION, count=10)
        assert {name: module.training for name, module in model.named_modules()} == flags
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_later_weights_are_used(self) -> None:
        model, x = linear([[1.0], [0.0]]), torch.ones(1, 1)
        sampler = Sampler(model, Gaussian(0.1), classes=2)
        assert sampler.votes(x, Purpose.ESTIMATION, count=10).tolist() == [[10, 0, 0]]
        with torch.no_grad():
            model.weight.neg_()
        assert sampler.votes(x, Purpose.ESTIMATION, count=10).tolist() == [[0, 10, 0]]

    def test_modules_that_remember_do_not_disturb_each_other(self) -> None:
        class Remembering(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                self.seen = x.clone()
                barrier.wait(timeout=20)  # both threads are here, and each has left its own images behind
                return torch.stack([self.seen[:, 0], -self.seen[:, 0]], 1)

        barrier = threading.Barrier(2)
        with using(2):
            votes = Sampler(Remembering(), Gaussian(0.1), classes=2).votes(
                torch.tensor([[1.0], [-1.0]]), Purpose.ESTIMATION, count=TILE
            )
        assert votes.tolist() == [[TILE, 0, 0], [0, TILE, 0]]

    def test_nan_is_counted_apart(self) -> None:
        class SometimesNan(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.where(x > 0, torch.cat([x, -x], 1), torch.nan)

        votes = Sampler(SometimesNan(), Gaussian(1.0), classes=2).votes(
            torch.zeros(1, 1), Purpose.ESTIMATION, count=1000
        )
        assert votes.sum() == 1000
        assert votes[0, 1] == 0
        assert 400 < votes[0, 2] < 600

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_other_types_of_logits(self, dtype: torch.dtype) -> None:
        class Cast(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.cat([x, -x], 1).to(dtype)

        votes = Sampler(Cast(), Gaussian(0.1), classes=2).votes(torch.ones(1, 1), Purpose.ESTIMATION, count=10)
        assert votes.tolist() == [[10, 0, 0]]


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"classes": 1}, "classes = 1: must be at least 2"),
            ({"seed": -1}, "seed = -1: must be at least 0"),
            ({"seed": 2**63}, "below 2**63"),
            ({"batch": 0}, "batch = 0: must be at least 1"),
        ],
    )
    def test_values(self, change: dict[str, int], message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            Sampler(nn.Linear(2, 2), Gaussian(0.5), **{"classes": 2, **change})
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("model", "noise", "classes"),
        [(torch.sin, Gaussian(0.5), 2), (nn.Linear(2, 2), 0.5, 2), (nn.Linear(2, 2), Gaussian(0.5), 2.0)],
    )
    def test_types(self, model: Any, noise: Any, classes: Any) -> None:
        with pytest.raises(InvalidType):
            Sampler(model, noise, classes=classes)

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (nn.Linear(2, 3), r"model = Linear: must give \(batch, classes\) = \(100, 2\), got \(100, 3\)"),
            (nn.Identity(), r"got \(100, 2, 2\)"),
            (nn.LSTM(2, 2), "got a tuple"),
        ],
    )
    def test_shapes(self, model: nn.Module, message: str, threads: int) -> None:
        x = torch.zeros(4, 2, 2) if isinstance(model, nn.Identity) else torch.zeros(4, 2)
        with using(threads), pytest.raises(InvalidValue, match=message):
            Sampler(model, Gaussian(0.5), classes=2).votes(x, Purpose.SELECTION, count=200)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(1, 2, dtype=torch.float64), r"shape \(100, 2\) and type torch.float64: RuntimeError: mat1"),
            (torch.zeros(1, 3), r"shape \(100, 3\) and type torch.float32: RuntimeError: mat1"),
        ],
    )
    def test_inputs_that_the_model_cannot_take(self, x: Tensor, message: str) -> None:
        with pytest.raises(InvalidValue, match=f"model = Linear: fails on noisy inputs of {message}") as caught:
            Sampler(nn.Linear(2, 2), Gaussian(0.5), classes=2).votes(x, Purpose.SELECTION, count=5)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert "\n" not in str(caught.value)

    def test_numbers_of_inputs_are_a_tensor(self) -> None:
        with pytest.raises(InvalidType, match="inputs is a list"):
            Sampler(nn.Linear(2, 2), Gaussian(0.5), classes=2).votes(
                torch.zeros(1, 2), Purpose.SELECTION, count=5, inputs=[0]
            )

    def test_a_model_that_cannot_be_copied(self) -> None:
        model = nn.Linear(2, 2)
        model.lock = threading.Lock()  # type: ignore[assignment]
        with pytest.raises(InvalidValue, match="modules cannot be copied"):
            Sampler(model, Gaussian(0.5), classes=2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"count": -1}, "count = -1"),
            ({"count": 5, "start": -2}, "start = -2"),
            ({"count": 5, "inputs": torch.tensor([1, 2])}, "one number for each of the 1 inputs"),
        ],
    )
    def test_arguments_of_votes(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            Sampler(nn.Linear(2, 2), Gaussian(0.5), classes=2).votes(torch.zeros(1, 2), Purpose.SELECTION, **arguments)
        assert message in str(caught.value)

    def test_off_the_lattice(self) -> None:
        sampler = Sampler(nn.Linear(2, 2), Gaussian(0.5, lattice=255), classes=2)
        with pytest.raises(InvalidValue, match="lattice"):
            sampler.votes(torch.full((1, 2), 0.5), Purpose.SELECTION, count=5)

    def test_off_the_lattice_where_the_kernel_does_not_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a CUDA device kernels take the nearest lattice point: a certificate would be about another input."""
        from verifix.kernels import noise

        monkeypatch.setattr(
            noise, "_positions", lambda x, levels, most: noise._flat(noise.nearest_positions(x, levels))
        )
        sampler = Sampler(nn.Linear(2, 2), Gaussian(0.5, lattice=255), classes=2)
        with pytest.raises(InvalidValue, match="an entry is not a multiple of 1/255"):
            sampler.votes(torch.full((1, 2), 0.3001), Purpose.ESTIMATION, count=1)

    def test_noise_with_too_many_outcomes(self) -> None:
        with pytest.raises(InvalidValue, match="use splitting on a lattice"):
            Sampler(nn.Linear(2, 2), Gaussian(0.5), classes=2).votes_of_all(torch.zeros(1, 2))
