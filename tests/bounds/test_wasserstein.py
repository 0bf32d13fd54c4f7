"""Bounds over Wasserstein balls: no image of a ball leaves them, and they start from the support function."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import verifix as vx
from verifix.bounds import NAMED, Engine, Estimator, parse_method
from verifix.errors import InvalidValue
from verifix.graph import INPUT, capture
from verifix.sets import Box, Wasserstein, WassersteinBall

DTYPES = (torch.float32, torch.float64)
METHODS = (*NAMED, "interval:zero", "both:adaptive", "filtered:same", "cap+ibp")
THREATS = (
    Wasserstein(0.1, window=3),
    Wasserstein(0.5, ground="l1", mass="raw"),
    Wasserstein(0.05, ground="squared-euclidean", window=3, variant="balanced-box"),
    Wasserstein(0.3, variant="clamp-after"),
    Wasserstein(0.1, ground="l1", window=None, transport="flow"),
    Wasserstein(0.0),
)


class Residual(nn.Module):
    """Two affine branches from the input, one of them joined after a ReLU; and one from the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.shortcut, self.last = nn.Conv2d(2, 3, 1), nn.Linear(60, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(torch.relu(self.first((x - 0.3) / 0.5))) + self.shortcut(x)
        return self.last(torch.relu(hidden).flatten(1))


def networks() -> list[nn.Module]:
    convolution = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    dense = nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3))
    pooled = nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))
    return [convolution, dense, pooled, Residual()]


def images(n: int = 2) -> Tensor:
    x = torch.rand(n, 2, 4, 5, dtype=torch.float64)
    return torch.where(torch.rand(n, 2, 4, 5) < 0.6, x, 0.0).float()


def points(ball: WassersteinBall, model: nn.Module, count: int = 6) -> Tensor:
    """Images of each ball in float64, ``(n, count, C, H, W)``: maximisers along gradients and along noise, mixed."""
    exact = ball.to(torch.float64)
    x, found = exact.center, [exact.center]
    while len(found) < count:
        at = found[-1].clone().requires_grad_()
        out = model(at)
        weights = torch.randn(out.shape[1], dtype=torch.float64)
        (gradient,) = torch.autograd.grad((out * weights).sum(), at)
        z = exact.maximiser(gradient if len(found) % 3 else torch.randn_like(x))
        share = torch.rand(len(x), 1, 1, 1, dtype=torch.float64) if len(found) % 2 else 1.0
        found.append(x + share * (z - x) if ball.threat.variant != "clamp-after" else z)
    return torch.stack(found, 1)


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.integers(0, 3),
    st.sampled_from(THREATS),
    st.sampled_from(METHODS),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_no_image_leaves_the_bounds(
    seed: int, network: int, threat: Wasserstein, method: str, dtype: torch.dtype, compiled: bool
) -> None:
    torch.manual_seed(seed)
    model = networks()[network].eval()
    exact = copy.deepcopy(model).double()
    x = images()
    inputs = threat.around(0.9 * x.to(dtype) + 1e-3)
    graph = capture(model, x)
    with torch.set_grad_enabled(not compiled):
        lower, upper = vx.bounds(graph, inputs, method)
    z = points(inputs, exact)
    values = exact(z.flatten(0, 1)).unflatten(0, z.shape[:2]).detach()
    assert (lower.detach().double()[:, None] <= values).all()
    assert (values <= upper.detach().double()[:, None]).all()
    if method in ("ibp", "crown"):
        hidden = next(name for name in graph.nodes if graph.nonlinear(name) == [] and name != INPUT)
        low, high = vx.bounds(graph, inputs, method, node=hidden)
        values = capture(exact, x.double()).activations(z.flatten(0, 1))[hidden].unflatten(0, z.shape[:2]).detach()
        assert (low.detach().double()[:, None] <= values).all()
        assert (values <= high.detach().double()[:, None]).all()


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "cap", "crown", "filtered:adaptive"])
@pytest.mark.parametrize("network", [0, 1, 3])
def test_first_layer_is_bounded_by_the_support_function(method: str, network: int) -> None:
    """Whatever the method: up to rounding exactly the extrema of its rows, far inside of what the pixels allow."""
    model = networks()[network].double().eval()
    x = images().double()
    inputs = Wasserstein(0.05, window=3).around(x)
    graph = capture(model, x)
    reads = next(node.inputs[0] for node in graph.nodes.values() if graph.nonlinear(node.name) == [node])
    engine = Engine(graph, inputs, parse_method(method)[0])
    lower, upper = (side.flatten(1) for side in engine.preactivation(graph.nonlinear(graph.output)[0]))
    size = upper.shape[1]
    at = torch.zeros(1, *x.shape[1:], dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda z: graph.activations(z)[reads].flatten())(at).reshape(1, size, *x.shape[1:])
    offset = graph.activations(at)[reads].flatten()
    torch.testing.assert_close(upper, inputs.support(jacobian) + offset, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lower, -inputs.support(-jacobian) + offset, rtol=1e-9, atol=1e-9)
    by_pixels = Box(*inputs.hull()).support(jacobian) + offset
    assert (upper <= by_pixels + 1e-9).all()
    assert (upper < by_pixels - 1e-3).double().mean() > 0.5


def test_a_network_without_nonlinear_operations_is_bounded_exactly() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(12, 3)).double()
    inputs = Wasserstein(0.1).around(images().double())
    for method in ("ibp", "crown"):
        lower, upper = vx.bounds(model, inputs, method)
        for k in range(3):
            (gradient,) = torch.autograd.grad(model(at := inputs.center.clone().requires_grad_())[:, k].sum(), at)
            for side, z in ((upper, inputs.maximiser(gradient)), (lower, inputs.maximiser(-gradient))):
                torch.testing.assert_close(side[:, k].detach(), model(z)[:, k].detach(), rtol=1e-9, atol=1e-9)


def test_a_nonlinear_first_operation_starts_from_the_hull() -> None:
    """Sound, though it says little."""

    class Clipped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(0.0, 0.5).flatten(1) @ torch.linspace(-1, 1, 120, dtype=x.dtype).reshape(40, 3)

    inputs = Wasserstein(0.1, window=3).around(images().double())
    z = points(inputs, Clipped())
    for method in ("ibp", "crown", "cap"):
        lower, upper = vx.bounds(Clipped(), inputs, method)
        values = Clipped()(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        assert (lower[:, None] <= values).all()
        assert (values <= upper[:, None]).all()
        assert not (upper - lower).isinf().any()


def test_eps_of_zero_is_the_network_itself() -> None:
    model = networks()[0].double().eval()
    x = images().double()
    lower, upper = vx.bounds(model, Wasserstein(0.0).around(x), "crown")
    torch.testing.assert_close(lower.detach(), model(x).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(upper.detach(), model(x).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("estimator", ["median:10", "geometric"])
def test_estimators_are_refused(estimator: str) -> None:
    inputs = Wasserstein(0.1).around(images())
    with pytest.raises(InvalidValue):
        vx.bounds(networks()[0], inputs, parse_method("cap", Estimator.parse(estimator))[0])


def decided(model: nn.Module, x: Tensor, inputs: Any, method: str = "crown") -> list[str]:
    verdicts: list[str] = vx.certify(model, x, model(x).argmax(1), inputs, method).verdicts.tolist()
    return verdicts


def test_certify_and_radius() -> None:
    """At the radius found every maximiser keeps the class; just above it there is no certificate."""
    torch.manual_seed(3)
    model, x = networks()[0].eval(), images(4)
    threat = Wasserstein(0.0, window=3)
    found = vx.radius(model, x, norm=threat, tolerance=1e-3)
    assert (found.radii > 0).all()
    ball = threat.around(x).with_eps(found.radii)
    exact = copy.deepcopy(model).double()
    assert decided(exact, x.double(), Wasserstein(found.radii, window=3)) == ["verified"] * 4
    z = points(ball, exact, 20)
    assert (exact(z.flatten(0, 1)).argmax(1).unflatten(0, (4, 20)) == model(x).argmax(1)[:, None]).all()
    above = found.uncertified.clamp(max=100.0)
    assert "verified" not in decided(exact, x.double(), Wasserstein(above, window=3))[: int(above.isfinite().sum())]
    with pytest.raises(InvalidValue, match="is part of the Wasserstein threat model"):
        vx.radius(model, x, norm=threat, box=(0, 1))
