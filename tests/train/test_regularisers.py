from __future__ import annotations

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import verifix as vx
from verifix.bounds import Engine, Method, parse_method
from verifix.errors import InvalidValue
from verifix.sets import InputSet
from verifix.train.regularisers import balance, regularisation, regularised, tightness

Interval = tuple[Tensor, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.LeakyReLU(0.1), nn.Linear(7, 3)).double()


def engine(model: nn.Module, method: str = "ibp", eps: float = 0.1, inputs: Tensor | None = None) -> Engine:
    x = torch.rand(4, 5, dtype=torch.float64) if inputs is None else inputs
    (choice,) = parse_method(method)
    return Engine(vx.capture(model, x.detach()), vx.Ball("linf", eps).around(x), choice, rounding=False)


def published(inputs: Interval, layers: list[Interval], t: float) -> tuple[float, float]:
    """As the paper writes them, with numpy; undefined where a ratio is."""
    tight, balanced = 0.0, 0.0
    for lower, upper in [(low.detach().numpy(), high.detach().numpy()) for low, high in layers]:
        center = (lower + upper) / 2
        ratio = float((inputs[1] - inputs[0]).mean()) / np.mean(upper - lower)
        tight += max(0.0, t - ratio)
        active, inactive, mu = center[lower > 0], center[upper < 0], center.mean()
        for r in (active.sum() / -inactive.sum(), np.sum((active - mu) ** 2) / np.sum((inactive - mu) ** 2)):
            balanced += max(0.0, t - min(r, 1 / r))
    return tight / (t * len(layers)), balanced / (t * len(layers))


def intervals(seed: int, shift: float) -> list[Interval]:
    generator = torch.Generator().manual_seed(seed)
    lowers = [3 * torch.randn(3, 40, generator=generator, dtype=torch.float64) + shift for _ in range(3)]
    return [(low, low + torch.rand(3, 40, generator=generator, dtype=torch.float64)) for low in lowers]


class TestAsPublished:
    @hypothesis.settings(max_examples=30)
    @given(st.integers(0, 1000), st.floats(-3, 3), st.floats(0.05, 1.0), st.floats(0.0, 2.0))
    def test_where_all_ratios_are_defined(self, seed: int, shift: float, tolerance: float, width: float) -> None:
        layers = intervals(seed, shift)
        zero = torch.zeros(3, 2, dtype=torch.float64)
        ours = tightness((zero, zero + width), layers, tolerance), balance(layers, tolerance)
        assert torch.stack(ours).tolist() == pytest.approx(
            published((zero, zero + width), layers, tolerance), abs=1e-12
        )

    @pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
    def test_on_the_bounds_of_the_graph(self, method: str) -> None:
        model = network()
        found = engine(model, method)
        names = ["0", "2"]
        layers = [vx.bounds(found.graph, found.inputs, "ibp", node=name, rounding=False) for name in names]
        expected = sum(published(found.inputs.hull(), layers, 0.7))
        assert regularisation(found, 0.7).item() == pytest.approx(expected, rel=1e-12)
        assert expected > 0.1


class TestCorners:
    def test_nothing_to_do(self) -> None:
        one = torch.ones(1, 4)
        balanced = torch.tensor([[3.0, 1.0, -1.0, -3.0]])
        assert balance([(balanced - 0.1, balanced + 0.1)]).item() == 0
        assert tightness((0 * one, one), [(0 * one, 2 * one)], 0.5).item() == 0  # exactly at the tolerance

    def test_units_of_one_kind(self) -> None:
        lower = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
        found = balance([(lower, lower + 1)])
        assert found.item() == 2
        (gradient,) = torch.autograd.grad(found, lower, allow_unused=True)
        assert torch.equal(gradient, torch.zeros(1, 3))

    def test_units_of_neither_kind(self) -> None:
        lower = -torch.ones(2, 3, requires_grad=True)
        found = balance([(lower, torch.ones(2, 3))])
        assert found.item() == 0
        assert not torch.autograd.grad(found, lower)[0].isnan().any()

    def test_no_width(self) -> None:
        model = network()
        found = engine(model, eps=0.0)
        narrow = tightness(found.inputs.hull(), [found.node("0"), found.node("2")])
        assert narrow.item() == 0
        total = regularisation(found)
        gradients = torch.autograd.grad(total, list(model.parameters())[:2])
        assert total.item() > 0  # balance has a meaning without width
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def test_values_stay_in_their_ranges(self) -> None:
        for shift in (-9.0, 0.0, 9.0):
            layers = intervals(0, shift)
            assert 0 <= tightness((torch.zeros(1, 1), torch.full((1, 1), 1e-9)), layers).item() <= 1
            assert 0 <= balance(layers).item() <= 2


class TestGradients:
    @pytest.mark.parametrize("method", ["ibp", "crown-ibp", "cap"])
    def test_gradcheck(self, method: str) -> None:
        model = network()
        x = torch.rand(3, 5, dtype=torch.float64)
        graph = vx.capture(model, x)
        (choice,) = parse_method(method)
        parameters = list(model.parameters())[:3]

        def value(*_: Tensor) -> Tensor:
            return regularisation(Engine(graph, vx.Ball("linf", 0.05).around(x), choice, rounding=False), 0.9)

        assert value().item() > 0
        assert torch.autograd.gradcheck(value, parameters)

    def test_steps_down_it_tighten_and_balance(self) -> None:
        model = network()
        x = torch.rand(64, 5, dtype=torch.float64)
        graph = vx.capture(model, x)
        optimiser = torch.optim.SGD(model.parameters(), 0.05)
        values = []
        for _ in range(60):
            found = Engine(graph, vx.Ball("linf", 0.01).around(x), Method("interval", "constant"), rounding=False)
            value = regularisation(found)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            values.append(value.item())
        assert values[-1] < 0.5 * values[0]


def test_what_the_loss_has_computed_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine(network(), "crown-ibp")
    found.rows(found.graph.output, torch.eye(3, dtype=torch.float64)[None], upper=False)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Engine, "_compute_preactivation", fail)
    assert regularisation(found).item() > 0


def test_the_nodes_that_it_is_about() -> None:
    class Absolute(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs()

    model = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 4), Absolute(), nn.Linear(4, 4), nn.ReLU())
    graph = vx.capture(model, torch.rand(2, 5))
    assert [node.inputs[0] for node in regularised(graph)] == ["2", "4"]


@pytest.mark.parametrize("build", [lambda: nn.Sequential(nn.Linear(5, 2)), lambda: nn.Sequential(nn.Tanh())])
def test_networks_without_such_units(build: Callable[[], nn.Module]) -> None:
    x = torch.rand(2, 5)
    sets: InputSet = vx.Ball("linf", 0.1).around(x)
    with pytest.raises(InvalidValue, match="no ReLU"):
        regularisation(Engine(vx.capture(build(), x), sets, Method("interval", "constant")))
