"""Values, gradients and curvature of smooth networks: against arithmetic of 60 digits."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import nn

from tests.smooth.biased.search import NORMS, ORDER, Norm
from tests.smooth.biased.test_differentiable import bilinear_norm, random_network
from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation
from verifix.smooth.biased import SmoothNetwork
from verifix.smooth.biased.network import spectral_norm
from verifix.smooth.biased.rounding import DUAL

ACTIVATIONS: list[Any] = [nn.Tanh, nn.Sigmoid, nn.Softplus, lambda: nn.Softplus(beta=5)]


def exact(model: nn.Sequential, x: list[float]) -> tuple[Any, list[Any]]:
    """Value and gradient in 60 digits."""
    with mpmath.workdps(60):
        values = [mpmath.mpf(entry) for entry in x]
        jacobian = [[mpmath.mpf(int(i == j)) for j in range(len(x))] for i in range(len(x))]
        for layer in model:
            if isinstance(layer, nn.Linear):
                weight, bias = layer.weight.tolist(), layer.bias.tolist()
                values = [
                    mpmath.fsum([mpmath.mpf(w) * v for w, v in zip(row, values, strict=True)]) + mpmath.mpf(b)
                    for row, b in zip(weight, bias, strict=True)
                ]
                jacobian = [
                    [mpmath.fsum([mpmath.mpf(w) * line[j] for w, line in zip(row, jacobian, strict=True)])
                     for j in range(len(x))]
                    for row in weight
                ]  # fmt: skip
                continue
            if isinstance(layer, nn.Tanh):
                slopes = [1 - mpmath.tanh(v) ** 2 for v in values]
                values = [mpmath.tanh(v) for v in values]
            else:
                beta = mpmath.mpf(layer.beta) if isinstance(layer, nn.Softplus) else mpmath.mpf(1)
                sigmoid = [1 / (1 + mpmath.exp(-beta * v)) for v in values]
                if isinstance(layer, nn.Softplus):
                    slopes, values = sigmoid, [mpmath.log(1 + mpmath.exp(beta * v)) / beta for v in values]
                else:
                    slopes, values = [s * (1 - s) for s in sigmoid], sigmoid
            jacobian = [[s * entry for entry in line] for s, line in zip(slopes, jacobian, strict=True)]
        if len(values) == 2:
            return values[1] - values[0], [b - a for a, b in zip(*jacobian, strict=True)]
        return values[0], jacobian[0]


def exact_norm(vector: list[Any], order: float) -> Any:
    sizes = [abs(entry) for entry in vector]
    if order == 2:
        return mpmath.sqrt(mpmath.fsum([s * s for s in sizes]))
    return max(sizes) if order == math.inf else mpmath.fsum(sizes)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_errors_hold(activation: Any, scale: float) -> None:
    generator = torch.Generator().manual_seed(7)
    for case in range(8):
        model = random_network(generator, 3, activation)
        x = scale * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        norm = NORMS[case % 3]
        found = SmoothNetwork(model).expand(x, norm)
        for i, row in enumerate(x.tolist()):
            value, gradient = exact(model, row)
            with mpmath.workdps(60):
                assert abs(value - mpmath.mpf(found.values[i].item())) <= found.value_errors[i].item()
                size = exact_norm(gradient, DUAL[norm])
                assert found.slope_lower[i].item() <= size <= found.slope_upper[i].item()
        assert (found.value_errors < 1e-11 * (1 + scale)).all()
        assert (found.slope_upper - found.slope_lower < 1e-10 * (1 + scale)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_curvature_holds(activation: Any, norm: Norm) -> None:
    """No Hessian is larger, and gradients change no faster."""
    generator = torch.Generator().manual_seed(8)
    for _ in range(15):
        base = SmoothNetwork(random_network(generator, 3, activation))
        limit = base.curvature(norm)
        points = torch.randn(20, 3, generator=generator, dtype=torch.float64)
        for point in points:
            hessian = torch.autograd.functional.hessian(lambda x, base=base: base.value(x[None])[0], point)
            assert bilinear_norm(hessian, norm) <= limit * (1 + 1e-9)
        x = torch.cat([points, points + 0.01 * torch.randn(points.shape, generator=generator, dtype=torch.float64)])
        x.requires_grad_(True)
        (gradients,) = torch.autograd.grad(base.value(x).sum(), x)
        change = torch.linalg.vector_norm(gradients[:20] - gradients[20:], ord=DUAL[norm], dim=1)
        moved = torch.linalg.vector_norm((x[:20] - x[20:]).detach(), ord=ORDER[norm], dim=1)
        assert (change <= limit * moved * (1 + 1e-9)).all()


def test_curvature_is_attained() -> None:
    """By one unit at the bend of its activation, whatever the norm."""
    for activation, bend, second in (
        (nn.Tanh(), math.atanh(1 / math.sqrt(3)), 4 / (3 * math.sqrt(3))),
        (nn.Sigmoid(), math.log(2 + math.sqrt(3)), 1 / (6 * math.sqrt(3))),
        (nn.Softplus(beta=2), 0.0, 0.5),
    ):
        model = nn.Sequential(nn.Linear(2, 1, bias=False), activation, nn.Linear(1, 1)).double()
        weight = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
        with torch.no_grad():
            model[0].weight.copy_(weight)
            model[2].weight.fill_(-3.0)
        base = SmoothNetwork(model)
        point = bend * weight[0]
        hessian = torch.autograd.functional.hessian(lambda x, base=base: base.value(x[None])[0], point)
        for norm in NORMS:
            assert base.curvature(norm) == pytest.approx(bilinear_norm(hessian, norm), rel=1e-9)
            size = torch.linalg.vector_norm(weight[0], ord=DUAL[norm])
            assert base.curvature(norm) == pytest.approx(3 * second * float(size) ** 2, rel=1e-9)


def test_a_linear_network_has_none() -> None:
    assert SmoothNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 1))).curvature("l2") == 0.0


def test_spectral_norm() -> None:
    """Above the largest singular value of 60 digits, and near it."""
    generator = torch.Generator().manual_seed(9)
    for shape in ((1, 5), (4, 2), (5, 5)):
        weight = torch.randn(shape, generator=generator, dtype=torch.float64)
        with mpmath.workdps(60):
            largest = max(mpmath.svd_r(mpmath.matrix(weight.tolist()), compute_uv=False))
            assert largest <= mpmath.mpf(spectral_norm(weight)) <= largest * (1 + mpmath.mpf(10) ** -9)
    assert spectral_norm(torch.zeros(3, 2, dtype=torch.float64)) < 1e-300


def test_two_outputs_are_a_difference() -> None:
    model = random_network(torch.Generator().manual_seed(10), 3, nn.Tanh, outputs=2)
    x = torch.randn(6, 3, dtype=torch.float64)
    logits = model(x)
    assert torch.allclose(SmoothNetwork(model).value(x), logits[:, 1] - logits[:, 0], atol=1e-12)


def test_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 5), nn.Softplus()), nn.Linear(5, 1))
    x = torch.rand(3, 1, 4, 4)
    found = SmoothNetwork(model).expand(x.double(), "linf")
    assert torch.allclose(found.values, model.double()(x.double())[:, 0].detach(), atol=1e-8)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)), UnsupportedOperation, "GELU.*SmoothFunction"),
        (nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d(2), nn.Linear(2, 1)), UnsupportedOperation, "its gradient jumps"),
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)), InvalidValue, "model = 3 outputs: must have one"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), InvalidValue, "two linear layers in a row"),
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh()), InvalidValue, "must end with a Linear layer"),
        (nn.Sequential(nn.Tanh(), nn.Linear(3, 1)), InvalidValue, r"Tanh\(\) without a linear layer before it"),
        (nn.Sequential(), InvalidValue, "must end with a Linear layer"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softplus(beta=-1), nn.Linear(2, 1)), InvalidValue, "beta = -1"),
        (torch.tanh, InvalidType, "model is a"),
    ],
)
def test_refused(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SmoothNetwork(model)


def test_wrong_size_or_weights() -> None:
    base = SmoothNetwork(nn.Linear(2, 1))
    with pytest.raises(InvalidValue, match="x = inputs of 3 numbers: the network takes 2"):
        base.expand(torch.zeros(1, 3, dtype=torch.float64), "l2")
    broken = nn.Linear(2, 1)
    with torch.no_grad():
        broken.weight.fill_(math.nan)
    with pytest.raises(InvalidValue, match="NaN or infinite weights"):
        SmoothNetwork(broken)
