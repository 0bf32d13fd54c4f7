"""The lines of ReLU, compiled: those of plain torch in every bit, with its gradients, in every corner."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.extension import _C, ISAS
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import relu_lines_reference as reference
from verifix.kernels.relu_lines import relu_lines
from verifix.operations import Lines, Slopes
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
@pytest.mark.parametrize("count", [0, 4, 40000])
def test_kernel_is_the_reference(count: int, dtype: torch.dtype) -> None:
    """In every bit, and so is the gradient; that is the gradient which torch finds for the formulas."""
    lower, upper = bounds(dtype, count)
    found, plain = relu_lines(lower, upper), reference.relu_lines(lower, upper)
    toward = [torch.randn(x.shape, dtype=dtype) for x in found[:2]]
    gradient = torch.autograd.grad(found[:2], (lower, upper), toward)
    wanted = reference.gradient(lower.detach(), upper.detach(), *toward)
    for ours, theirs in zip((*found, *gradient), (*plain, *wanted), strict=True):
        assert torch.equal(ours, theirs)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for ours, theirs in zip(gradient, torch.autograd.grad(plain[:2], (lower, upper), toward), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_corners(dtype: torch.dtype) -> None:
    """Any two of zeros, subnormal numbers, numbers whose width overflows, infinities, and NaN."""
    lower, upper = (torch.tensor(side, dtype=dtype) for side in zip(*itertools.product(CORNERS, CORNERS), strict=True))
    toward = torch.linspace(-1, 1, len(lower), dtype=dtype)
    ours = (*relu_lines(lower, upper), *torch.ops.verifix.relu_lines_gradient(lower, upper, toward, toward.cos()))
    theirs = (*reference.relu_lines(lower, upper), *reference.gradient(lower, upper, toward, toward.cos()))
    for a, b in zip(ours, theirs, strict=True):
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


def test_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    lower, upper = bounds(torch.float32, 400)
    wanted = everything(lower, upper, "same")
    monkeypatch.setattr("verifix.kernels.native.module_or_none", lambda name: None)
    assert all(torch.equal(a, b) for a, b in zip(everything(lower, upper, "same"), wanted, strict=True))


def test_types_without_a_kernel_take_plain_torch() -> None:
    lower, upper = torch.tensor([-1.0, 1.0]).half().requires_grad_(), torch.tensor([3.0, 2.0]).half()
    slope, offset, steep = relu_lines(lower, upper)
    assert slope.dtype == offset.dtype == steep.dtype == torch.float16
    assert (slope.tolist(), offset.tolist(), steep.tolist()) == ([0.75, 1.0], [0.75, 0.0], [1.0, 1.0])
    assert torch.autograd.grad(offset.sum(), lower)[0].tolist() == [-0.5625, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_keep_their_contract(dtype: torch.dtype) -> None:
    lower, upper = bounds(dtype, 40)
    for pair in ((lower, upper), (lower.T, upper.T), (lower.detach(), upper), (lower[:0], upper[:0])):
        torch.library.opcheck(torch.ops.verifix.relu_lines.default, pair)
    pair = (lower.detach(), upper.detach())
    torch.library.opcheck(torch.ops.verifix.relu_lines_gradient.default, (*pair, *pair))
    torch.library.opcheck(torch.ops.verifix.relu_lines_gradient.default, tuple(x.T for x in (*pair, *pair)))


def test_wrong_arguments() -> None:
    lower = torch.ones(2, 3)
    with pytest.raises(InvalidType, match="lower"):
        relu_lines(1.0, lower)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="upper"):
        relu_lines(lower, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"lower.dtype = torch.int64: must be a floating"):
        relu_lines(lower.long(), lower.long())
    for bad in (lower[:1], lower.double(), lower.to("meta")):
        with pytest.raises(InvalidValue, match=r"upper = .*: must be torch.float32, \(2, 3\), on cpu"):
            relu_lines(lower, bad)
        with pytest.raises(InvalidValue, match="of_offset"):
            torch.ops.verifix.relu_lines_gradient(lower, lower, lower, bad)


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
