"""Capture: the graph is the model, its parameters stay live, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import verifix as vx
from tests.graph.networks import Residual, Wrapped, convolutional
from verifix.errors import UnsupportedOperation
from verifix.graph import Graph
from verifix.operations import Concatenation, Convolution, Dense, Scaling, Sum, TwoPiece


@dataclass
class Exported:
    model: nn.Module
    graph: Graph
    x: Tensor


@pytest.fixture(scope="module")
def residual() -> Iterator[Exported]:
    torch.manual_seed(3)
    model = Residual().train()
    model(torch.rand(16, 2, 6, 6))  # statistics that are not 0 and 1
    graph = vx.capture(model, torch.rand(1, 2, 6, 6))
    yield Exported(model.eval(), graph, torch.rand(5, 2, 6, 6))


def test_residual_and_dense_connections(residual: Exported) -> None:
    torch.testing.assert_close(residual.graph(residual.x), residual.model(residual.x))
    kinds = [type(node.operation) for node in residual.graph.nodes.values()]
    assert (kinds.count(Convolution), kinds.count(Sum), kinds.count(Concatenation), kinds.count(TwoPiece)) == (
        5,
        2,
        1,
        4,
    )


def test_layers_keep_their_names(residual: Exported) -> None:
    names = list(residual.graph.nodes)
    assert {"stem", "norm", "body.0", "body.1", "body.2", "down", "shortcut", "head", "act"} <= set(names)
    assert "act_1" in names  # the second use of one module
    assert "networks.py" in residual.graph.node("down").source
    assert "self.act(self.down(x))" in residual.graph.node("down").source


def test_any_batch_size_and_dtype(residual: Exported) -> None:
    for n in (0, 1, 7):
        x = torch.rand(n, 2, 6, 6)
        assert residual.graph(x).shape == (n, 3)
        torch.testing.assert_close(residual.graph(x), residual.model(x))
    assert residual.graph(residual.x.double()).dtype == torch.float64


def test_bounds_of_an_exported_graph_hold(residual: Exported) -> None:
    x = residual.x
    for method in ("ibp", "crown-ibp", "cap", "crown"):
        ball = vx.Ball("linf", 0.02, box=(0, 1)).around(x)
        lower, upper = vx.bounds(residual.graph, ball, method)
        for _ in range(50):
            value = residual.model(ball.project(x + 0.04 * (2 * torch.rand_like(x) - 1)))
            assert ((lower <= value) & (value <= upper)).all()


def test_walk_and_export_give_the_same_numbers() -> None:
    model = convolutional().train()
    model(torch.rand(16, 2, 6, 6))
    walked = vx.capture(model, torch.rand(1, 2, 6, 6))
    exported = vx.capture(Wrapped(model), torch.rand(1, 2, 6, 6))
    assert next(iter(exported.nodes)) == "inner.0"
    assert "0" in walked.nodes
    x = torch.rand(4, 2, 6, 6)
    model.eval()
    torch.testing.assert_close(walked(x), model(x))
    torch.testing.assert_close(exported(x), walked(x))
    ball = vx.Ball("l2", 0.3, box=(0, 1)).around(x)
    for method in ("ibp", "cap", "crown"):
        for ours, theirs in zip(vx.bounds(walked, ball, method), vx.bounds(exported, ball, method), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", [nn.Sequential, Wrapped], ids=["walked", "exported"])
def test_weights_and_statistics_stay_live(wrap: type) -> None:
    model = wrap(convolutional()).train()
    graph = vx.capture(model, torch.rand(1, 2, 6, 6))
    x = torch.rand(4, 2, 6, 6)
    for change in (train_one_step, new_statistics, nn.Module.double, new_statistics):
        before = graph(x.double())
        change(model)
        model.eval()
        x = x.to(next(model.parameters()).dtype)
        torch.testing.assert_close(graph(x), model(x))
        assert change is nn.Module.double or not torch.allclose(graph(x.double()), before)


def train_one_step(model: nn.Module) -> None:
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def new_statistics(model: nn.Module) -> None:
    model.train()
    dtype = next(model.parameters()).dtype
    for _ in range(20):
        model(3 * torch.rand(16, 2, 6, 6, dtype=dtype))


def test_gradients_reach_the_parameters(residual: Exported) -> None:
    model, graph, x = residual.model, residual.graph, residual.x
    parameters = list(model.parameters())
    ours = torch.autograd.grad(graph(x).square().sum(), parameters)
    theirs = torch.autograd.grad(model(x).square().sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "old weight_norm", "own"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_stay_live(kind: str) -> None:
    class Positive(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.exp()

    first = nn.Linear(4, 4)
    if kind == "own":
        nn.utils.parametrize.register_parametrization(first, "weight", Positive())
    elif kind == "old weight_norm":
        nn.utils.weight_norm(first)
    else:
        getattr(parametrizations, kind)(first)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2)).eval()
    graph = vx.capture(model, torch.zeros(1, 4))
    x = torch.randn(5, 4)
    torch.testing.assert_close(graph(x), model(x))
    before = graph(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    assert not torch.allclose(graph(x), before)
    torch.testing.assert_close(graph(x), model(x))
    assert [type(node.operation) for node in graph.nodes.values()] == [Dense, TwoPiece, Dense]
    ours = torch.autograd.grad(graph(x).sum(), list(model.parameters()))
    theirs = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x)))

    model = Tied()
    graph = vx.capture(model, torch.zeros(1, 3))
    with torch.no_grad():
        model.one.weight.mul_(3.0)
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph(x), model(x))


@pytest.mark.parametrize("wrap", [nn.Sequential, Wrapped], ids=["walked", "exported"])
def test_flags_and_gradients_are_left_as_they_were(wrap: type) -> None:
    model = wrap(convolutional())
    flags = {}
    for number, (name, module) in enumerate(model.named_modules()):
        module.training = flags[name] = number % 2 == 0
    model.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    vx.capture(model, torch.rand(2, 2, 6, 6))
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_flags_are_restored_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Softmax(1)).train()
    model[1].eval()
    with pytest.raises(UnsupportedOperation):
        vx.capture(model, torch.zeros(1, 3))
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_capture_is_of_test_time_whatever_the_flags_say() -> None:
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.9), nn.BatchNorm1d(50), nn.Linear(50, 2)).train()
    graph = vx.capture(model, torch.zeros(1, 3))
    x = torch.randn(6, 3)
    torch.testing.assert_close(graph(x), model.eval()(x))


@pytest.mark.parametrize("wrap", [nn.Sequential, Wrapped], ids=["walked", "exported"])
def test_a_first_layer_in_place_changes_neither_the_graph_nor_the_example(wrap: type) -> None:
    model = wrap(nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(3, 2)))
    example = -torch.ones(2, 3)
    graph = vx.capture(model, example)
    assert torch.equal(example, -torch.ones(2, 3))
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph(x), model(x.clone()))


def test_an_identity_is_a_network() -> None:
    graph = vx.capture(Wrapped(nn.Identity()), torch.zeros(1, 3))
    x = torch.randn(2, 3)
    assert torch.equal(graph(x), x)


def test_an_output_that_is_not_the_last_operation() -> None:
    class Early(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            _ = y + 1
            return y

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.linear(x).split([1, 2], 1)
            return first + 0 * second[:, :1]

    x = torch.randn(2, 3)
    for model in (Early(), Branch()):
        torch.testing.assert_close(vx.capture(model, x[:1])(x), model(x))


def test_a_default_argument_is_not_a_second_input() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, scale: float = 3.0, mask: Tensor | None = None) -> Tensor:
            return x * scale if mask is None else x * mask

    graph = vx.capture(Optional(), torch.zeros(1, 2))
    assert [type(node.operation) for node in graph.nodes.values()] == [Scaling]
    assert graph(torch.ones(1, 2)).tolist() == [[3.0, 3.0]]


def test_frozen_constants_are_cast_with_the_activations() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.tensor([0.1, 0.2, 0.3])  # neither a parameter nor a buffer

        def forward(self, x: Tensor) -> Tensor:
            return x * self.table + torch.tensor([1.0, 2.0, 3.0])

    model = Constant()
    graph = vx.capture(model, torch.zeros(1, 3))
    x = torch.randn(2, 3)
    torch.testing.assert_close(graph(x), model(x))
    assert graph(x.double()).dtype == torch.float64
