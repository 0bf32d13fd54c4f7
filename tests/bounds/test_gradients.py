"""Bounds can be trained through: gradients of certified margins, checked numerically in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from tests.networks import relu_network
from verifix.bounds import Engine, bounds, parse_method
from verifix.graph import Graph, capture
from verifix.sets import Ball, Box, InputSet
from verifix.sets.ball import NORMS, Norm

METHODS = ("ibp", "crown-ibp", "cap", "crown", "both:zero", "filtered:same", "interval:one")
ROWS = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]], dtype=torch.float64)


def margins(graph: Graph, inputs: InputSet, method: str) -> Tensor:
    """Lower bounds of two margins, ``(n, 2)``."""
    lower, _ = Engine(graph, inputs, parse_method(method)[0], rounding=False).rows(graph.output, ROWS, upper=False)
    return lower


def check_weights(model: nn.Module, inputs: InputSet, method: str) -> None:
    graph = capture(model, inputs.center)
    # gradcheck moves the parameters in place, and the graph reads them anew
    assert gradcheck(lambda *_: margins(graph, inputs, method), tuple(model.parameters()))


def points(*shape: int) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("norm", "box"), [("linf", None), ("linf", (0, 1)), ("l2", None), ("l2", (0, 1)), ("l1", (0, 1))]
)
def test_weights_of_a_relu_network(method: str, norm: Norm, box: tuple[float, float] | None) -> None:
    check_weights(relu_network((3, 5, 4, 3), 1), Ball(norm, 0.3, box).around(points(3)), method)


def test_the_relu_network_has_units_of_every_kind() -> None:
    graph = capture(relu_network((3, 5, 4, 3), 1), points(3))
    engine = Engine(graph, Ball("linf", 0.3).around(points(3)), parse_method("cap")[0])
    lower, upper = (torch.cat([engine.node(name)[side] for name in ("0", "2")], 1) for side in (0, 1))
    assert (lower > 0).any()
    assert (upper < 0).any()
    assert ((lower < 0) & (upper > 0)).any()


LAYERS: dict[str, tuple[nn.Module, ...]] = {
    "batch normalisation": (
        nn.Conv2d(1, 2, 3, 2, 1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 2, groups=2),
        nn.ReLU(),
    ),
    "average pooling": (nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2, 1, 1)),
    "max pooling": (nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, 1, 1), nn.ReLU()),
    "sigmoid": (nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Conv2d(2, 2, 1), nn.Sigmoid()),
    "tanh": (nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 1), nn.Tanh()),
    "hardtanh": (nn.Conv2d(1, 2, 3), nn.Hardtanh(-0.4, 0.3), nn.Conv2d(2, 2, 1), nn.Hardtanh()),
    "leaky": (nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.1), nn.Conv2d(2, 2, 1), nn.LeakyReLU(-0.5)),
}


@pytest.mark.parametrize("method", ("ibp", "crown-ibp", "cap", "crown"))
@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_every_activation(name: str, method: str) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(*copy.deepcopy(LAYERS[name])).double()
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.7)
    size = body.eval()(torch.zeros(1, 1, 4, 4).double()).numel()
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(size, 3).double()).eval()
    check_weights(model, Ball("linf", 0.4).around(points(1, 4, 4)), method)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x)) * self.scale + x
        return self.last(torch.cat([hidden, torch.relu(self.second(hidden)) - x], 1))


@pytest.mark.parametrize("method", ("ibp", "crown-ibp", "cap", "crown"))
def test_weights_of_an_exported_network_with_branches(method: str) -> None:
    torch.manual_seed(2)
    check_weights(Residual().double(), Ball("linf", 0.2).around(points(3)), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
def test_inputs(method: str, norm: Norm) -> None:
    graph = capture(relu_network((3, 5, 4, 3), 1), points(3))
    assert gradcheck(lambda x: margins(graph, Ball(norm, 0.3).around(x), method), points(3).requires_grad_())


@pytest.mark.parametrize("method", METHODS)
def test_sides_of_a_box(method: str) -> None:
    graph = capture(relu_network((3, 5, 4, 3), 1), points(3))
    lower = points(3).requires_grad_()
    width = torch.full_like(lower, 0.3).requires_grad_()
    assert gradcheck(lambda a, w: margins(graph, Box(a, a + w), method), (lower, width))


@pytest.mark.parametrize("method", METHODS)
def test_rounding_bounds_leave_gradients_alone(method: str) -> None:
    """Widened or not, a bound has the same gradient, but for lines on intervals that differ by rounding."""
    model = relu_network((3, 5, 4, 3), 1)
    found = []
    for rounding in (False, True):
        lower, _ = bounds(model, Ball("linf", 0.3).around(points(3)), method, rows=ROWS[0], rounding=rounding)
        found.append(torch.autograd.grad(lower.sum(), tuple(model.parameters())))
    for plain, widened in zip(*found, strict=True):
        torch.testing.assert_close(plain, widened, rtol=1e-9, atol=1e-9)
