"""Interval bound propagation, equation by equation."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.bounds.cases import input_sets
from tests.bounds.dense import interval_bounds, pieces
from tests.networks import relu_network, sequentials
from verifix.bounds import Engine, bounds, parse_method
from verifix.graph import capture
from verifix.graph.sequential import walk
from verifix.operations import Shape
from verifix.sets import Ball

(IBP,) = parse_method("ibp")
MONOTONE = (nn.ReLU, nn.Hardtanh, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.MaxPool2d)


def step(layer: nn.Module, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """One layer: increasing functions act on the ends; affine ones on ``mu`` and, with absolute weights, on ``r``."""
    if isinstance(layer, MONOTONE):
        return layer(lower), layer(upper)
    if isinstance(layer, nn.LeakyReLU):
        ends = torch.stack([layer(lower), layer(upper), torch.zeros_like(lower)])
        ends[2] = torch.where((lower < 0) & (upper > 0), ends[2], ends[0])
        return ends.amin(0), ends.amax(0)
    mu, r = (upper + lower) / 2, (upper - lower) / 2
    size = lower[0].numel()
    columns = layer(torch.eye(size, dtype=lower.dtype).reshape(size, *lower.shape[1:])) - layer(
        torch.zeros_like(lower[:1])
    )
    spread = (r.flatten(1) @ columns.flatten(1).abs()).reshape(len(r), *columns.shape[1:])
    return layer(mu) - spread, layer(mu) + spread


def layers(model: nn.Sequential) -> list[nn.Module]:
    return [inner for layer in model for inner in (layers(layer) if isinstance(layer, nn.Sequential) else [layer])]


@settings(max_examples=100)
@given(st.data(), sequentials())
@torch.no_grad()
def test_every_layer(data: st.DataObject, network: tuple[nn.Sequential, Shape]) -> None:
    model, shape = copy.deepcopy(network[0]).double(), network[1]
    graph = walk(model, shape)
    assert graph is not None
    inputs = data.draw(input_sets(shape, torch.float64))
    engine = Engine(graph, inputs, IBP, rounding=False)
    lower, upper = inputs.hull()
    for name, layer in zip(graph.nodes, layers(model), strict=True):
        lower, upper = step(layer, lower, upper)
        size = 1 + torch.maximum(lower.abs(), upper.abs()).max()
        for computed, expected in zip(engine._preactivation(name), (lower, upper), strict=True):
            assert ((computed - expected).abs() <= 1e-12 * size).all()


@settings(max_examples=50)
@given(st.lists(st.integers(1, 8), min_size=2, max_size=5), st.integers(0, 2**20), st.sampled_from((0.0, 0.1, 1.0)))
def test_margins_merge_the_last_layer(widths: list[int], seed: int, eps: float) -> None:
    """``ibp`` propagates intervals to the last layer, and folds the specification into that one (elision)."""
    model = relu_network(tuple(widths), seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, widths[0], generator=generator, dtype=torch.float64)
    c = torch.randn(3, widths[-1], generator=generator, dtype=torch.float64)
    lower, upper = bounds(model, Ball("linf", eps).around(x), "ibp", rows=c, rounding=False)
    network = pieces(model, (widths[0],))
    low, high = x[0].numpy() - eps, x[0].numpy() + eps
    if len(network) > 1:
        low, high = (np.maximum(side, 0) for side in interval_bounds(network[:-1], low, high)[-1])
    weight, bias = c.numpy() @ network[-1].weight, c.numpy() @ network[-1].bias
    mu, r = weight @ ((high + low) / 2) + bias, np.abs(weight) @ ((high - low) / 2)
    np.testing.assert_allclose(lower[0].detach().numpy(), mu - r, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(upper[0].detach().numpy(), mu + r, rtol=1e-12, atol=1e-12)


def test_every_node_of_a_network() -> None:
    """Asked for a hidden node, ``ibp`` gives the interval pass's answer: one affine layer on the interval before it."""
    model = relu_network((3, 6, 5, 2), 0)
    x = torch.rand(1, 3, dtype=torch.float64)
    graph = capture(model, x)
    expected = interval_bounds(pieces(model, (3,)), x[0].numpy() - 0.1, x[0].numpy() + 0.1)
    for name, interval in zip(("0", "2", "4"), expected, strict=True):
        for side, wanted in zip(
            bounds(graph, Ball("linf", 0.1).around(x), "ibp", node=name, rounding=False), interval, strict=True
        ):
            np.testing.assert_allclose(side[0].detach().numpy(), wanted, rtol=1e-12, atol=1e-12)
