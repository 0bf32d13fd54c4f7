"""The lines of ReLU, compiled: those of plain torch in every bit, with its gradients, in every corner."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.kernels.extension import _C, ISAS
from verifix.kernels.relu_lines import expressible, relu_lines
from verifix.operations import Lines, Slopes, piecewise
from verifix.operations.piecewise import TwoPiece

CORNERS = [-torch.inf, -3e38, -2.0, -1.0, -1e-42, -0.0, 0.0, 1e-42, 1.0, 2.0, 3e38, torch.inf, torch.nan]
DTYPES = (torch.float32, torch.float64)


def bounds(dtype: torch.dtype, count: int = 40000) -> tuple[Tensor, Tensor]:
    """Intervals on either side of zero and around it."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, count // 4, dtype=dtype, generator=generator)
    return torch.minimum(first, second).requires_grad_(), torch.maximum(first, second).requires_grad_()


def everything(lower: Tensor, upper: Tensor, slopes: Slopes) -> list[Tensor]:
    """Lines, and gradients of a weighted sum of them."""
    lines = TwoPiece(tuple(lower.shape[1:])).lines(lower, upper, slopes)
    assert isinstance(lines, Lines)
    assert lines.lower_offset is None
    assert lines.upper_offset is not None
    found = [lines.lower_slope, lines.upper_slope, lines.upper_offset]
    weight = torch.arange(lower.numel(), dtype=lower.dtype).reshape(lower.shape).cos()
    total = (lines.upper_slope * weight).sum() + (lines.upper_offset * weight.flip(0)).sum()
    if slopes == "same":
        total = total + (lines.lower_slope * weight.square()).sum()
    return [*found, *torch.autograd.grad(total, (lower, upper))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slopes", ["same", "adaptive"])
def test_lines_are_those_of_plain_torch(dtype: torch.dtype, slopes: Slopes, monkeypatch: pytest.MonkeyPatch) -> None:
    lower, upper = bounds(dtype)
    assert expressible(lower, upper)
    ours = everything(lower, upper, slopes)
    monkeypatch.setattr(piecewise, "fused", lambda lower, upper: False)
    theirs = everything(lower, upper, slopes)
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(ours[3:], theirs[3:], strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_corners(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any two of zeros, subnormal numbers, numbers whose width overflows, infinities, and NaN."""
    lower, upper = (
        torch.tensor(side, dtype=dtype)[None].requires_grad_()
        for side in zip(*itertools.product(CORNERS, CORNERS), strict=True)
    )
    ours = everything(lower, upper, "adaptive")[:3]
    monkeypatch.setattr(piecewise, "fused", lambda lower, upper: False)
    for a, b in zip(ours, everything(lower, upper, "adaptive")[:3], strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        assert torch.equal(a.isnan(), b.isnan())


def test_gradients() -> None:
    lower, upper = bounds(torch.float64, 40)

    def of(lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        return relu_lines(lower, upper)[:2]

    assert torch.autograd.gradcheck(of, (lower, upper))
    assert torch.autograd.gradgradcheck(of, (lower, upper))
    point = torch.zeros(1, 1, requires_grad=True)  # where all is zero: of an undecided unit, and finite
    assert [x.tolist() for x in torch.autograd.grad(relu_lines(point, point)[0].sum(), point)] == [[[1.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_whatever_runs_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    lower, upper = bounds(dtype)
    before, seen = torch.get_num_threads(), []
    try:
        for isa, threads in itertools.product(ISAS, (1, 2, 3)):
            monkeypatch.setattr("verifix.kernels.native.isa", lambda isa=isa: isa)
            torch.set_num_threads(threads)
            seen.append(everything(lower, upper, "adaptive"))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))
    transposed = everything(lower.detach().T.contiguous().T.requires_grad_(), upper, "adaptive")
    assert all(torch.equal(a, b) for a, b in zip(seen[0], transposed, strict=True))


def test_where_it_is_used() -> None:
    lower, upper = bounds(torch.float32, 40)
    assert expressible(lower, upper.detach())
    assert expressible(lower.detach(), upper)
    assert not expressible(lower.detach(), upper.detach())
    assert not expressible(lower, upper.double())
    assert not expressible(lower, upper[:1])
    assert not expressible(lower.half(), upper.half())
    assert not expressible(lower.to("meta"), upper.to("meta"))
    with torch.no_grad():
        assert not expressible(lower, upper)
    for slopes in get_args(Slopes):  # whatever the rule, something is recorded and nothing is of another shape
        assert TwoPiece((10,)).lines(lower, upper, slopes) is not None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": -1}, "count"), ({"arrays": [0] * 5}, "null pointer"), ({"threads": 0}, "threads"),
        ({"isa": "none"}, "none"), ({"dtype": "int8"}, "int8"),
    ],
)  # fmt: skip
def test_bad_arguments(changed: dict[str, Any], message: str) -> None:
    x = torch.ones(8)
    good = {"count": 8, "arrays": [x.data_ptr()] * 5, "dtype": "float32", "threads": 1, "isa": "base"}
    with pytest.raises(ValueError, match=message):
        _C.relu_lines(**(good | changed))
