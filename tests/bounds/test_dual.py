"""The engine with ``same`` slopes is the dual network of Wong and Kolter, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.bounds.dense import activation_bounds, dual_objective, interval_bounds, pieces
from tests.networks import relu_network
from verifix.bounds import Engine, parse_method
from verifix.graph import capture
from verifix.sets import Ball
from verifix.sets.ball import NORMS, Norm

(CAP,) = parse_method("cap")


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.integers(0, 2**20),
    st.sampled_from(NORMS),
    st.sampled_from((0.0, 0.05, 0.3, 2.0)),
)
def test_equation_3_8(widths: list[int], seed: int, norm: Norm, eps: float) -> None:
    model = relu_network(tuple(widths), seed)
    x = torch.randn(2, widths[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    c = torch.randn(3, widths[-1], generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    engine = Engine(capture(model, x), Ball(norm, eps).around(x), CAP, rounding=False)
    lower, upper = engine.rows(engine.graph.output, c[None])
    assert upper is not None
    network = pieces(model, (widths[0],))
    for i in range(len(x)):
        expected = activation_bounds(network, x[i].numpy(), eps, norm)
        for piece, interval in zip(network, expected, strict=True):
            for side, wanted in zip(engine.node(piece.name), interval, strict=True):
                np.testing.assert_allclose(side[i].detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
        for sign, computed in ((1, lower), (-1, -upper)):
            objective = dual_objective(network, expected[:-1], x[i].numpy(), eps, norm, sign * c.numpy())
            np.testing.assert_allclose(computed[i].detach().numpy(), objective, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_convolutions(norm: Norm, seed: int) -> None:
    """Strides, padding, groups, batch normalisation and average pooling, against their dense matrices."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    engine = Engine(capture(model, x), Ball(norm, 0.1).around(x), CAP, rounding=False)
    network = pieces(model, (1, 6, 6))
    expected = activation_bounds(network, x.flatten().numpy(), 0.1, norm)
    for piece, interval in zip(network, expected, strict=True):
        for side, wanted in zip(engine.node(piece.name), interval, strict=True):
            np.testing.assert_allclose(side.detach().numpy().flatten(), wanted, rtol=1e-9, atol=1e-9)
    c = np.eye(3)[[0, 0]] - np.eye(3)[[1, 2]]
    lower, _ = engine.rows("9", torch.from_numpy(c)[None], upper=False)
    objective = dual_objective(network, expected[:-1], x.flatten().numpy(), 0.1, norm, c)
    np.testing.assert_allclose(lower[0].detach().numpy(), objective, rtol=1e-9, atol=1e-9)


def test_interval_intermediate() -> None:
    """Equation 3.8 holds for any pre-activation bounds: those of the interval pass too."""
    model = relu_network((4, 8, 8, 3), 5)
    x = torch.rand(1, 4, dtype=torch.float64)
    (method,) = parse_method("interval:same")
    lower, _ = Engine(capture(model, x), Ball("linf", 0.2).around(x), method, rounding=False).rows(
        "4", torch.eye(3).double()[None]
    )
    network = pieces(model, (4,))
    center = x[0].numpy()
    hidden = interval_bounds(network, center - 0.2, center + 0.2)[:-1]
    np.testing.assert_allclose(
        lower[0].detach().numpy(), dual_objective(network, hidden, center, 0.2, "linf", np.eye(3)), rtol=1e-9, atol=1e-9
    )
