from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import verifix as vx
from verifix.errors import InvalidValue
from verifix.train.initialisation import drawn_weights, initialise
from verifix.zoo import ResidualDense, cnn7


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16, 200), nn.ReLU(), nn.Linear(200, 3),
    )  # fmt: skip


def deviations(model: nn.Module, example: Tensor) -> dict[str, float]:
    """By parameter, relative to ``sqrt(2 pi)``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    drawn = drawn_weights(vx.capture(model, example))
    return {names[id(one.weight)]: one.deviation / math.sqrt(2 * math.pi) for one in drawn}


class Block(nn.Module):
    """A residual add that is read by a convolution, after a ReLU and pooling, and by a dense layer, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.after, self.dense = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = F.avg_pool2d(torch.relu(x + self.branch(x)), 2)
        x = self.after(x) + x
        result: Tensor = self.last(torch.relu(self.dense(torch.relu(x).flatten(1))))
        return result


class TestDeviations:
    def test_one_over_the_inputs_of_an_output(self) -> None:
        found = deviations(small(), torch.rand(1, 2, 8, 8))
        assert found == pytest.approx({"0.weight": 1 / 18, "2.weight": 1 / (16 * 9), "5.weight": 1 / 1024})

    def test_halved_where_a_sum_is_read(self) -> None:
        found = deviations(Block(), torch.rand(2, 1, 8, 8))
        expected = {"first.weight": 1 / 9, "branch.weight": 1 / 36, "after.weight": 0.5 / 36, "dense.weight": 0.5 / 64}
        assert found == pytest.approx(expected)

    def test_that_of_batch_norm_stays(self) -> None:
        found = deviations(cnn7(1, 8, 2), torch.rand(2, 1, 8, 8))
        assert list(found) == [f"{number}.weight" for number in (0, 3, 6, 9, 12, 16)]

    def test_the_last_by_use_and_not_by_name(self) -> None:
        class Swapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.output, self.hidden = nn.Linear(4, 2), nn.Linear(3, 4)

            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = self.output(torch.relu(self.hidden(x)))
                return result

        assert list(deviations(Swapped(), torch.rand(2, 3))) == ["hidden.weight"]

    def test_a_layer_that_is_used_twice_once_and_not_where_it_is_the_last(self) -> None:
        twice = nn.Linear(4, 4)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(4, 2))
        assert list(deviations(model, torch.rand(1, 3))) == ["0.weight", "2.weight"]
        assert list(deviations(model[:5], torch.rand(1, 3))) == ["0.weight"]


class TestDraws:
    def test_as_said_and_nothing_else(self) -> None:
        model = small()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        graph = vx.capture(model, torch.rand(1, 2, 8, 8))
        initialise(graph, seed=3)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == ["0.weight", "2.weight", "5.weight"]
        for drawn in drawn_weights(graph):
            n = drawn.weight.numel()
            assert drawn.weight.std().item() == pytest.approx(drawn.deviation, rel=4 / math.sqrt(2 * n))
            assert abs(drawn.weight.mean().item()) <= 4 * drawn.deviation / math.sqrt(n)

    def test_of_the_seed_alone(self) -> None:
        weights = []
        for seed, dtype in ((3, torch.float32), (3, torch.float32), (3, torch.float64), (4, torch.float32)):
            model = small().to(dtype)
            torch.rand(5)
            initialise(vx.capture(model, torch.rand(1, 2, 8, 8, dtype=dtype)), seed)
            weights.append(model.state_dict()["5.weight"])
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(weights[0], weights[2].float())
        assert not torch.equal(weights[0], weights[3])

    def test_frozen_weights_stay(self) -> None:
        model = small()
        model[2].weight.requires_grad_(False)
        before = model.state_dict()["2.weight"].clone()
        initialise(vx.capture(model, torch.rand(1, 2, 8, 8)), 0)
        assert torch.equal(model.state_dict()["2.weight"], before)
        assert list(deviations(model, torch.rand(1, 2, 8, 8))) == ["0.weight", "5.weight"]

    def test_intervals_keep_their_width(self) -> None:
        """Within a third for each of ten layers, where torch's own initialisation makes them a thousand times wider."""

        def widths(seed: int | None) -> list[float]:
            torch.manual_seed(0)
            layers = [layer for _ in range(10) for layer in (nn.Linear(300, 300), nn.ReLU())]
            model = nn.Sequential(*layers, nn.Linear(300, 2))
            for layer in layers[::2]:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            x = torch.rand(4, 300)
            graph = vx.capture(model, x)
            if seed is not None:
                initialise(graph, seed)
            sets = vx.Ball("linf", 1e-3).around(x)
            names = [node.inputs[0] for node in graph.nonlinear(graph.output)]
            bounds = [vx.bounds(graph, sets, "ibp", node=name) for name in names]
            return [(upper - lower).mean().item() for lower, upper in bounds]

        ours, theirs = widths(0), widths(None)
        assert ours[0] == pytest.approx(4e-3, rel=0.1)  # twice that of the inputs, which a ReLU halves
        assert all(4e-3 / 3 < width < 4e-3 * 3 for width in ours)
        assert theirs[-1] > 1e3 * theirs[0]


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.rand(4, 3)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(F.linear(x, self.weight * 2)))
        return result


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 2)), "but the last"),
        (lambda: nn.Sequential(nn.ReLU()), "but the last"),
        (Computed, "computed from others"),
    ],
    ids=["one layer", "none", "computed"],
)
def test_refused(build: Callable[[], nn.Module], why: str) -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InvalidValue, match=why):
        initialise(vx.capture(model, torch.rand(2, 3)), 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_residual_dense_of_the_zoo() -> None:
    model = nn.Sequential(ResidualDense(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    found = deviations(model, torch.rand(2, 6))
    assert found["1.weight"] == pytest.approx(0.5 / 6)
    assert found["0.main.0.weight"] == found["0.main.2.weight"] == pytest.approx(1 / 6)
