from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from verifix.errors import InvalidValue
from verifix.models import load_model
from verifix.train import robust_loss
from verifix.train.batch_norm import CleanStatistics
from verifix.train.distributed import Group

ALONE = Group(0, 1, torch.device("cpu"))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


class Residual(nn.Module):
    """Not sequential, so that torch.export captures it; the second norm has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, momentum=0.3)
        self.branch, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3, affine=False)
        self.dense, self.last, self.norm_of_last = nn.Linear(48, 5), nn.Linear(5, 3), nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.other(self.branch(x)))
        result: Tensor = self.last(torch.relu(self.norm_of_last(self.dense(self.drop(x).flatten(1)))))
        return result


def walked() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(48, 5), nn.BatchNorm1d(5, momentum=None), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


BUILD = {"walked": walked, "exported": Residual}
each = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def drawn(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """In float64, with parameters and statistics that are not those to begin with."""
    torch.manual_seed(seed)
    model = build().double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.2)
    return model


def images(n: int = 8) -> Tensor:
    return torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norms_in_training(model: nn.Module) -> nn.Module:
    """Torch's own: statistics of the batch, and dropout off."""
    for module in model.modules():
        module.train(isinstance(module, NORMS))
    return model


class TestSteps:
    @each
    def test_values_gradients_and_statistics_are_those_of_torch(self, build: Callable[[], nn.Module]) -> None:
        ours, theirs, x = drawn(build), norms_in_training(drawn(build)), images()
        graph = vx.capture(ours, x)
        clean = CleanStatistics(graph)
        for part in (x[:5], x[3:], x):
            ours.zero_grad()
            theirs.zero_grad()
            with clean.recording() as update, clean.of(part) as values:
                outputs = graph(part)
            close(values[graph.output], outputs)
            expected = theirs(part)
            close(outputs, expected)
            outputs.pow(3).sum().backward()
            expected.pow(3).sum().backward()
            for mine, weight in zip(ours.parameters(), theirs.parameters(), strict=True):
                close(mine.grad, weight.grad)
            update()
            for (name, stored), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
                close(stored, other, msg=name)
        assert not ours.training

    def test_bounds_are_of_the_network_with_these_constants(self) -> None:
        model, x = drawn(walked), images()
        graph = vx.capture(model, x)
        sets = vx.Ball("linf", 0.05).around(x)
        frozen = copy.deepcopy(model)
        for module in frozen.modules():
            if isinstance(module, NORMS):
                module.momentum = 1.0
        norms_in_training(frozen)(x)
        for module in frozen.modules():  # stored is the unbiased variance, and the biased one normalises
            if isinstance(module, NORMS) and module.running_var is not None:
                n = len(x) if isinstance(module, nn.BatchNorm1d) else len(x) * 16
                module.running_var *= (n - 1) / n
        for method in ("ibp", "crown-ibp", "tight-smooth"):
            expected = vx.bounds(frozen.eval(), sets, method)
            with CleanStatistics(graph).of(x):
                found = vx.bounds(graph, sets, method)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("method", ["ibp", "crown-ibp", "cap"])
    def test_gradcheck_of_a_loss_of_bounds(self, method: str) -> None:
        model, x = drawn(walked), images(3)
        graph = vx.capture(model, x)
        clean, sets, y = CleanStatistics(graph), vx.Ball("linf", 0.01).around(x), torch.tensor([0, 2, 1])
        wanted = [parameter for name, parameter in model.named_parameters() if name[0] in "016"]

        def loss(*_: Tensor) -> Tensor:
            with clean.of(x):
                return robust_loss(graph, y, sets, method)

        assert torch.autograd.gradcheck(loss, wanted, atol=1e-6)

    def test_parts_move_what_is_stored_once_and_together(self) -> None:
        model, x = drawn(walked), images(9)
        graph = vx.capture(model, x)
        clean = CleanStatistics(graph)
        at_first = model[0](x).detach()  # type: ignore[index]
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with clean.recording() as update:
            for part in x.split(4):  # the last has one input, and no statistics
                with clean.of(part):
                    graph(part)
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        update()
        after = dict(model.named_buffers())
        expected = at_first[:8].var((0, 2, 3))
        close(after["1.running_var"], 0.9 * before["1.running_var"] + 0.1 * expected)
        mean = at_first[:8].mean((0, 2, 3))
        close(after["1.running_mean"], 0.9 * before["1.running_mean"] + 0.1 * mean)
        assert after["1.num_batches_tracked"] == before["1.num_batches_tracked"] + 1

    def test_a_single_input_uses_what_is_stored(self) -> None:
        model, x = drawn(walked), images(1)
        graph = vx.capture(model, x)
        clean = CleanStatistics(graph)
        before = copy.deepcopy(model.state_dict())
        with clean.recording() as update, clean.of(x) as values:
            close(graph(x), model(x))
        assert not values
        update()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_outside_of_a_step_nothing_is_recorded_and_nothing_stays(self) -> None:
        model, x = drawn(walked), images()
        graph = vx.capture(model, x)
        clean = CleanStatistics(graph)
        with clean.of(x):
            different = graph(x)
        with clean.recording() as update:
            pass
        update()
        with pytest.raises(ZeroDivisionError), clean.of(x):
            raise ZeroDivisionError
        close(graph(x), model(x))
        assert not torch.allclose(different, graph(x))

    def test_frozen_batch_norm_keeps_its_statistics(self) -> None:
        model, x = drawn(walked), images()
        model[1].requires_grad_(False)  # type: ignore[index]
        graph = vx.capture(model, x)
        clean = CleanStatistics(graph)
        assert len(clean.buffers) == 3
        before = model.state_dict()["1.running_mean"].clone()
        with clean.recording() as update, clean.of(x) as values:
            close(values["1"], model[:2](x))  # type: ignore[index]
        update()
        clean.reestimate(x, ALONE, 8)
        assert torch.equal(model.state_dict()["1.running_mean"], before)


class TestPopulation:
    @each
    def test_layer_by_layer(self, build: Callable[[], nn.Module]) -> None:
        """Afterwards each layer's inputs, at test time, have exactly the stored mean and unbiased variance."""
        model, x = drawn(build), images(23)
        CleanStatistics(vx.capture(model, x)).reestimate(x, ALONE, 5)
        seen: list[tuple[nn.Module, Tensor]] = []
        norms = [module for module in model.modules() if isinstance(module, NORMS)]
        for norm in norms:
            norm.register_forward_hook(lambda module, inputs, _: seen.append((module, inputs[0])))
        model(x)
        assert len(seen) == len(norms)
        for module, inputs in seen:
            variance, mean = torch.var_mean(inputs, (0, *range(2, inputs.dim())))
            close(module.running_mean, mean)
            close(module.running_var, variance)

    def test_does_not_depend_on_what_was_stored_nor_on_the_cut(self) -> None:
        stored = []
        for seed, together in ((0, 300), (1, 3)):
            model, x = drawn(walked), images(23)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if "running" in name:
                        buffer.add_(seed * 10)
            CleanStatistics(vx.capture(model, x)).reestimate(x, ALONE, together)
            stored.append([buffer for name, buffer in model.named_buffers() if "running" in name])
        for first, second in zip(*stored, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)

    def test_in_float32_of_values_far_from_zero(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
        x = 1000 + torch.randn(500, 3)
        clean = CleanStatistics(vx.capture(model, x))
        for _ in range(2):  # the second time, distances are from the right place
            clean.reestimate(x, ALONE, 64)
        variance, mean = torch.var_mean(x.double(), 0)
        torch.testing.assert_close(model[0].running_mean.double(), mean, rtol=1e-7, atol=0)
        torch.testing.assert_close(model[0].running_var.double(), variance, rtol=1e-4, atol=0)

    def test_shares_of_several_processes_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each process in its turn: first what it would send, then with all that they send."""
        x, size = images(23), 3
        alone = drawn(walked)
        CleanStatistics(vx.capture(alone, x)).reestimate(x, ALONE, 5)
        models = [drawn(walked) for _ in range(size)]
        counts = []
        for layer in range(2):
            sent: list[Tensor] = []

            def send(_: Group, values: Tensor, sent: list[Tensor] = sent) -> Tensor:
                sent.append(values)
                return values

            def receive(_: Group, values: Tensor, sent: list[Tensor] = sent) -> Tensor:
                return torch.stack(sent).sum(0)

            for talk in (send, receive):
                monkeypatch.setattr(Group, "sum", talk)
                for rank, model in enumerate(models):
                    clean = CleanStatistics(vx.capture(model if talk is receive else copy.deepcopy(model), x))
                    clean._layers = dict(list(clean._layers.items())[layer : layer + 1])
                    clean.reestimate(x, Group(rank, size, torch.device("cpu")), 5)
            counts.append([int(values[0]) for values in sent])
        assert counts == [[7 * 16, 8 * 16, 8 * 16], [7, 8, 8]]
        for model in models:
            for ours, theirs in zip(model.buffers(), alone.buffers(), strict=True):
                close(ours, theirs)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.dense(self.norm(x.flatten(1))))
        return result


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(16))
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return nn.functional.batch_norm(x, self.get_buffer("spread") * 0, self.get_buffer("spread"), self.weight)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), "no batch norm to train"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1).requires_grad_(False), nn.Flatten()), "no batch norm to train"),
        (Twice, "more than once"),
        (Foreign, "no buffers of the network"),
    ],
    ids=["none", "frozen", "twice", "foreign"],
)
def test_refused(build: Callable[[], nn.Module], why: str) -> None:
    model, x = build().eval(), images().float()
    with pytest.raises(InvalidValue, match=why):
        CleanStatistics(vx.capture(model, x))


def test_an_exported_program(tmp_path: Path) -> None:
    x = images().float()
    model = drawn(Residual).float()
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2"))
    graph = vx.capture(loaded, x)
    clean = CleanStatistics(graph)
    assert len(clean.buffers) == 9
    with clean.recording() as update, clean.of(x) as values:
        expected = norms_in_training(model)(x)
        torch.testing.assert_close(values[graph.output], expected)
    update()
    clean.reestimate(x, ALONE, 8)
    model.eval()
    CleanStatistics(vx.capture(model, x)).reestimate(x, ALONE, 8)
    torch.testing.assert_close(loaded(x), model(x))
