"""Verdicts at the edge: ties, rounding, overflow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from tests.certify.examples import digits, linear
from verifix.certify.certify import _round_down
from verifix.sets.ball import NORMS, Norm

METHODS = ["ibp", "crown-ibp", "cap", "crown"]
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""The order of the norm that measures rows, for each norm that measures steps."""


def largest_safe_eps(weight: list[list[float]], x: Tensor, norm: Norm) -> float:
    """For two classes and a linear network: where the margin reaches zero."""
    row = torch.tensor(weight, dtype=torch.float64)
    row = row[0] - row[1]
    return float(row @ x[0].double()) / float(torch.linalg.vector_norm(row, DUAL[norm]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_network_is_verified_up_to_the_exact_radius(norm: Norm, method: str) -> None:
    weight, x, y = [[1.0, 2.0], [-0.5, 0.25]], torch.tensor([[0.3, 0.7]]), torch.tensor([0])
    model = linear(weight)
    radius = largest_safe_eps(weight, x, norm)
    for eps, wanted in ((0.0, "verified"), (radius * (1 - 1e-9), "verified"), (radius * (1 + 1e-9), "unknown")):
        result = vx.certify(model, x, y, vx.Ball(norm, eps), method)
        assert result.verdicts.tolist() == [wanted]
        exact = float((radius - eps) * torch.linalg.vector_norm(torch.tensor([1.5, 1.75]).double(), DUAL[norm]))
        assert result.margins[0, 1].item() <= exact + 1e-15
        assert result.margins[0, 1].item() == pytest.approx(exact, abs=1e-5)


def test_a_tie_is_not_verified() -> None:
    model = linear([[1.0], [1.0]])
    x = torch.ones(2, 1)
    result = vx.certify(model, x, torch.tensor([0, 1]), vx.Ball("linf", 0.0))
    assert result.predictions.tolist() == [0, 0]
    assert result.verdicts.tolist() == ["unknown", "falsified"]
    assert not (result.margin > 0).any()


def test_a_margin_that_float32_cannot_decide_is_decided_in_float64() -> None:
    model = linear([[1000.0, 0.0], [1000.0, 1.0]])
    x = torch.tensor([[1.0, -1e-5], [1.0, 1e-5], [1.0, -1.0]])
    result = vx.certify(model, x, torch.zeros(3, dtype=torch.int64), vx.Ball("linf", 0.0), "cap")
    assert result.recomputed.tolist() == [True, True, False]
    assert result.verdicts.tolist()[0] in ("verified", "falsified")  # as the model's own float32 has it
    assert result.margins[0, 1].item() == pytest.approx(1e-5, rel=1e-6)
    assert result.margins.dtype == torch.float32
    assert result.verdicts.tolist()[1] != "verified"
    assert result.verdicts.tolist()[2] == "verified"


def test_the_radius_is_not_rounded_to_float32() -> None:
    # 0.7 is more than its float32; x lies between the two
    model, x = linear([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([[0.699999995]], dtype=torch.float64)
    assert torch.tensor(0.7).double().item() < x.item() < 0.7
    y = torch.tensor([0])
    assert vx.certify(model, x, y, vx.Ball("linf", 0.7), "cap").verdicts.tolist() == ["unknown"]
    assert vx.certify(model, x, y, vx.Ball("linf", 0.69999999), "cap").verdicts.tolist() == ["verified"]


def test_float64_inputs_are_decided_in_float64() -> None:
    model, x, y = digits()
    single = vx.certify(model, x, y, vx.Ball("linf", 0.01))
    double = vx.certify(model.double(), x.double(), y, vx.Ball("linf", 0.01))
    assert double.margins.dtype == torch.float64
    assert not double.recomputed.any()
    torch.testing.assert_close(double.margins.float(), single.margins, rtol=1e-3, atol=1e-4)


def test_rounding_down_never_raises_a_bound() -> None:
    exact = torch.randn(1000, dtype=torch.float64) * 10.0 ** torch.randint(-45, 39, (1000,))
    exact = torch.cat([exact, torch.tensor([0.0, 1e-50, -1e-50, 1e39, -1e39, torch.nan], dtype=torch.float64)])
    short = _round_down(exact, torch.float32)
    assert short.dtype == torch.float32
    assert ((short.double() <= exact) | exact.isnan()).all()
    assert short[-1].isnan()
    assert torch.isfinite(short[-3])


@pytest.mark.parametrize("size", [1e25, 1e200])
@pytest.mark.parametrize("method", METHODS)
def test_overflow_is_unknown(size: float, method: str) -> None:
    dtype = torch.float32 if size < 1e30 else torch.float64
    first = linear([[size], [size]], dtype=dtype)
    model = nn.Sequential(first, nn.ReLU(), linear([[size, 0.0], [-size, 0.0]], dtype=dtype))
    x = torch.ones(1, 1, dtype=dtype)
    assert not torch.isfinite(model(x)).all()
    result = vx.certify(model, x, torch.tensor([0]), vx.Ball("linf", 0.1), method)
    assert result.verdicts.tolist() == ["unknown"]
    assert not result.counterexamples


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_radius_that_overflows_is_unknown(norm: Norm, method: str) -> None:
    model = nn.Sequential(linear([[1e10], [1e10]]), nn.ReLU(), linear([[1e10, 0.0], [0.0, 1.0]], [1e30, 0.0]))
    x, y = torch.ones(2, 1), torch.tensor([0, 0])
    result = vx.certify(model, x, y, vx.Ball(norm, torch.tensor([1e38, 1e300], dtype=torch.float64)), method)
    assert "verified" not in result.verdicts.tolist()


def test_nan_logits_are_never_verified_nor_falsified() -> None:
    class Overflowing(nn.Module):
        """Infinity less infinity, for large inputs."""

        def forward(self, x: Tensor) -> Tensor:
            big = x * 1e38
            return torch.cat([1.0 + 0 * x, big * 10 - big * 10], 1)

    x = torch.tensor([[1e-3], [9.0]])
    result = vx.certify(Overflowing(), x, torch.tensor([0, 1]), vx.Ball("linf", 0.0))
    assert result.verdicts.tolist()[1] == "unknown"
    assert 1 not in result.counterexamples


def test_a_threshold_is_not_rounded_in_its_favour() -> None:
    # x - 0.1 over a point: 0.1 in float32 is more than 0.1
    model = linear([[1.0]])
    x = torch.tensor([[0.1]])
    for threshold in (-0.1, -float(x)):
        result = vx.certify(model, x, vx.Rows(torch.ones(1, 1), threshold), vx.Ball("linf", 0.0))
        assert (result.verdicts.tolist() == ["verified"]) <= (threshold == -0.1)
    result = vx.certify(model, x, vx.Rows(torch.ones(1, 1), math.nextafter(-float(x), -1)), vx.Ball("linf", 0.0))
    assert result.verdicts.tolist() != ["verified"]
