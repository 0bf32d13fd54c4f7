"""No point of the input set ever leaves the bounds, whatever the network, the set and the method."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.bounds.cases import METHODS, bounds, input_sets, points
from tests.networks import graphs, sequentials
from verifix.graph import INPUT, Graph, capture
from verifix.graph.sequential import walk
from verifix.sets import Ball

DTYPES = (torch.float32, torch.float64)


def violations(interval: tuple[Tensor, Tensor], values: Tensor) -> str:
    """What leaves the interval, compared in float64 and without tolerance; empty where nothing does."""
    lower, upper = (side.detach().double() for side in interval)
    if not (torch.isfinite(lower).all() and torch.isfinite(upper).all()):
        return "bounds that are not finite"
    values = values.detach()
    below, above = float((lower - values).max()), float((values - upper).max())
    return f"below by {below:.3g}, above by {above:.3g}" if max(below, above) > 0 else ""


@settings(max_examples=500)
@given(st.data(), graphs(), st.sampled_from(METHODS), st.sampled_from(DTYPES), st.booleans())
def test_graphs(data: st.DataObject, graph: Graph, method: str, dtype: torch.dtype, compiled: bool) -> None:
    """Every node of the graph, not only its output."""
    inputs = data.draw(input_sets(graph.input_shape, dtype))
    x = points(inputs, graph)
    values = graph.activations(x.flatten(0, 1))
    for name in (INPUT, *graph.nodes):
        found = violations(bounds(compiled, graph, inputs, method, node=name), values[name].unflatten(0, x.shape[:2]))
        assert not found, f"{name}: {found}"


@settings(max_examples=500)
@given(st.data(), sequentials(), st.sampled_from(METHODS), st.sampled_from(DTYPES), st.booleans())
def test_layers(
    data: st.DataObject, network: tuple[nn.Sequential, tuple[int, ...]], method: str, dtype: torch.dtype, compiled: bool
) -> None:
    """Networks of torch's layers, whose values torch computes."""
    model, shape = network
    graph = walk(model, shape)
    assert graph is not None
    exact = copy.deepcopy(model).double()
    inputs = data.draw(input_sets(shape, dtype))
    x = points(inputs, exact)
    values = exact(x.flatten(0, 1)).detach().unflatten(0, x.shape[:2])
    assert not violations(bounds(compiled, graph, inputs, method), values)


class Block(nn.Module):
    """Residual: convolutions with batch normalisation, a strided shortcut, and average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.shortcut = nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(2, 4, 1, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.first((x - 0.3) / 0.7)))
        joined = F.leaky_relu(self.second(hidden) + self.shortcut(x), 0.2)
        return self.last(F.adaptive_avg_pool2d(joined, 1).flatten(1))


class Dense(nn.Module):
    """Dense connections: every layer sees all before it; max pooling, padding with a value, and slices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1, dilation=1)
        self.last = nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.cat([x, torch.tanh(self.first(x))], 1)
        hidden = torch.cat([hidden, torch.sigmoid(self.second(hidden))], 1)
        pooled = F.max_pool2d(F.pad(hidden, (1, 0, 1, 0), value=0.25), 2, padding=1, ceil_mode=True)
        return self.last(pooled[:, :, 1:, :2].permute(0, 3, 1, 2).reshape(x.shape[0], -1))


class Arithmetic(nn.Module):
    """Constants and parameters on either side of every operator, absolute values and clamps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(8, 3)
        self.scale, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        flat = x[:, 0, 0]
        hidden = 1.5 - self.first(flat).abs() * self.scale + self.shift / 4
        clipped = torch.clamp(hidden, min=-0.2) - 0.1 * F.hardtanh(flat, -0.3, 0.6)
        joined = torch.stack([clipped, hidden.clamp(max=0.4) - 2 * F.relu6(7 * flat)], 2).transpose(1, 2)
        return self.last(joined.flatten(1) - joined.mean((1, 2), keepdim=True).flatten(1))


@pytest.mark.parametrize("kind", (Block, Dense, Arithmetic))
def test_exported_networks(kind: type[nn.Module]) -> None:
    """Networks with branches, captured by torch.export, by every method, over several sets."""
    torch.manual_seed(0)
    model = kind().eval()
    x = torch.rand(2, 2, 4, 4)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.2, 2)
    graph = capture(model, x)
    exact = copy.deepcopy(model).double()
    balls = (
        Ball("linf", 0.1),
        Ball("linf", 0.4, (0, 1)),
        Ball("l2", 0.8),
        Ball("l2", 0.8, (0, 1)),
        Ball("l1", 1.0, (0, 1)),
    )
    for ball, dtype in itertools.product(balls, DTYPES):
        inputs = ball.around(x.to(dtype))
        found = points(inputs, exact, count=20)
        values = exact(found.flatten(0, 1)).detach().unflatten(0, found.shape[:2])
        for method, compiled in itertools.product(METHODS, (False, True)):
            assert not violations(bounds(compiled, graph, inputs, method), values), (ball, method, compiled)


def test_the_points_reach_the_bounds() -> None:
    """The check can fail: where bounds are exact, the points that are tried attain them."""
    torch.manual_seed(0)
    graph = walk(nn.Sequential(nn.Linear(6, 3)).double(), (6,))
    assert graph is not None
    x = torch.rand(2, 6, dtype=torch.float64)
    eps = torch.rand(1, 6, dtype=torch.float64)
    for inputs in (
        Ball("linf", 0.3).around(x),
        Ball("l2", eps).around(x),
        Ball("l1", 0.3).around(x),
        Ball("linf", eps, (0, 1)).around(x),
    ):
        found = points(inputs, graph)
        values = graph(found.flatten(0, 1)).unflatten(0, found.shape[:2])
        lower, upper = bounds(False, graph, inputs, "cap")
        torch.testing.assert_close(values.amin(0), lower, rtol=0, atol=1e-12)
        torch.testing.assert_close(values.amax(0), upper, rtol=0, atol=1e-12)
        assert violations((lower + 1e-9, upper), values)
        assert violations((lower, upper - 1e-9), values)
