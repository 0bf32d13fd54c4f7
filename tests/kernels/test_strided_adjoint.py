"""The adjoint of strided convolutions: against transposed convolutions, and twice differentiable."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.kernels.extension import ISAS
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import native
from verifix.kernels import strided_adjoint_reference as reference
from verifix.kernels.strided_adjoint import strided_adjoint

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=150, deadline=None)
@given(
    pairs, pairs, st.tuples(st.integers(0, 3), st.integers(0, 3)), pairs,
    st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
)  # fmt: skip
def test_any_geometry(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    plane: tuple[int, int],
    rest: tuple[int, int],
    sizes: tuple[int, int, int],
    last: bool,
) -> None:
    assume(all(r < s for r, s in zip(rest, stride, strict=True)))
    size = [(h - 1) * s + k - 2 * p + r for h, s, k, p, r in zip(plane, stride, kernel, padding, rest, strict=True)]
    assume(min(size) > 0)
    count, inputs, outputs = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    rows = torch.randn(count, outputs, *plane, dtype=torch.float64, generator=generator)
    rows = (rows.contiguous(memory_format=torch.channels_last) if last else rows).requires_grad_()
    weight = torch.randn(outputs, inputs, *kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    wanted = (
        F.conv_transpose2d(rows, weight, None, stride, padding, rest) if count else rows.new_zeros(0, inputs, *size)
    )
    found = strided_adjoint(rows, weight, stride, padding, rest)
    torch.testing.assert_close(found, wanted)
    if not count:
        return
    toward = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, (rows, weight), toward),
        torch.autograd.grad(wanted, (rows, weight), toward),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "weight", "stride", "padding", "rest"),
    [
        ((7, 16, 14, 14), (16, 1, 4, 4), (2, 2), (1, 1), (0, 0)),
        ((3, 16, 5, 6), (16, 3, 4, 3), (2, 3), (1, 0), (1, 2)),
        ((2, 32, 3, 3), (32, 2, 5, 5), (2, 2), (3, 4), (1, 0)),
        ((2, 16, 2, 2), (16, 1, 8, 8), (4, 4), (7, 7), (3, 3)),  # the largest number of taps; most of them in padding
        ((2, 48, 4, 4), (48, 2, 2, 2), (3, 3), (0, 1), (2, 2)),  # strides that leave pixels out
    ],
)
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_few_input_channels(
    rows: Any, weight: Any, stride: Any, padding: Any, rest: Any, wanted: Any, dtype: torch.dtype, monkeypatch: Any
) -> None:
    """Compiled: as transposed convolutions and as the reference, with the same bits whatever runs it."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (
        torch.randn(shape, dtype=dtype, generator=generator, requires_grad=want)
        for shape, want in zip((rows, weight), wanted, strict=True)
    )
    leaves = [x for x in (rows, weight) if x.requires_grad]
    plain = F.conv_transpose2d(rows, weight, None, stride, padding, rest)
    toward = torch.randn(plain.shape, dtype=dtype, generator=generator)
    theirs = [plain, *torch.autograd.grad(plain, leaves, toward)]
    gradients = reference.gradient(rows.detach(), weight.detach(), toward, stride, padding, wanted)
    oracle = [reference.strided_adjoint(rows, weight, stride, padding, rest), *(x for x in gradients if x is not None)]
    before, seen = torch.get_num_threads(), []
    try:
        for isa, threads in itertools.product(ISAS, (1, 2, 3)):
            monkeypatch.setattr("verifix.kernels.native.isa", lambda isa=isa: isa)
            torch.set_num_threads(threads)
            found = strided_adjoint(rows, weight, stride, padding, rest)
            seen.append([found, *torch.autograd.grad(found, leaves, toward)])
    finally:
        torch.set_num_threads(before)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for ours, wants, also in zip(seen[0], theirs, oracle, strict=True):
        torch.testing.assert_close(ours, wants, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(ours, also, rtol=tolerance, atol=tolerance)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_few_input_channels_twice_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 8, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(8, 1, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)

    def of(*arguments: torch.Tensor) -> torch.Tensor:
        return strided_adjoint(*arguments, (2, 1), (1, 0), (0, 0))

    assert torch.autograd.gradcheck(of, (rows, weight))
    assert torch.autograd.gradgradcheck(of, (rows, weight))


NO_PADDING = ((2, 2), (0, 0), (0, 0))


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that plain torch takes the place of what is not, or is missing."""
    asked: list[str] = []
    monkeypatch.setattr(native, "module_or_none", lambda name: asked.append(name))
    for dtype, channels, inputs, taps, compiled in [
        (torch.float32, 16, 1, (3, 3), True),
        (torch.float32, 16, 4, (4, 4), True),
        (torch.float32, 16, 1, (9, 8), False),
        (torch.float32, 16, 2, (4, 9), False),
        (torch.float32, 8, 1, (3, 3), False),
        (torch.float64, 8, 1, (3, 3), True),
        (torch.float16, 32, 1, (3, 3), False),
    ]:
        rows, weight = torch.rand(2, channels, 2, 3), torch.rand(channels, inputs, *taps, requires_grad=True)
        wanted = F.conv_transpose2d(rows, weight, None, *NO_PADDING)
        found = strided_adjoint(rows.to(dtype), weight.to(dtype), *NO_PADDING)
        tolerance = 2e-2 if dtype == torch.float16 else 1e-5
        torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance)
        gradients = [torch.autograd.grad(x.square().sum(), weight)[0] for x in (found.float(), wanted)]
        torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)
        assert asked == ["verifix._C"] * 2 * compiled
        asked.clear()
    strided_adjoint(torch.ones(0, 16, 2, 2), torch.ones(16, 1, 3, 3), *NO_PADDING)
    strided_adjoint(torch.ones(1, 16, 2, 2, device="meta"), torch.ones(16, 1, 3, 3, device="meta"), *NO_PADDING)
    assert asked == []


@pytest.mark.parametrize(
    ("n", "channels", "inputs", "last", "wanted"),
    [
        (2, 16, 1, False, (True, True)),
        (2, 16, 3, True, (True, False)),
        (0, 16, 1, False, (True, True)),
        (2, 5, 1, True, (True, True)),
        (2, 5, 3, False, (False, True)),
    ],
)
def test_operators_keep_their_contract(
    n: int, channels: int, inputs: int, last: bool, wanted: tuple[bool, bool]
) -> None:
    """Compiled and not; rows with channels last in memory or first."""
    order = torch.channels_last if last else torch.contiguous_format
    rows = torch.rand(n, channels, 3, 4).contiguous(memory_format=order)
    weight, geometry = torch.rand(channels, inputs, 3, 2), ((2, 1), (1, 0), (1, 0))
    pair = [x.clone().requires_grad_(want) for x, want in zip((rows, weight), wanted, strict=True)]
    torch.library.opcheck(torch.ops.verifix.strided_adjoint.default, (*pair, *geometry))
    of_result = torch.rand_like(strided_adjoint(rows, weight, *geometry))
    arguments = (rows, weight, of_result, *geometry, list(wanted))
    torch.library.opcheck(torch.ops.verifix.strided_adjoint_gradient.default, arguments)


def test_wrong_arguments() -> None:
    rows, weight = torch.ones(2, 4, 3, 3), torch.ones(4, 1, 2, 2)
    with pytest.raises(InvalidType, match="rows"):
        strided_adjoint(1, weight, *NO_PADDING)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="weight"):
        strided_adjoint(rows, None, *NO_PADDING)  # type: ignore[arg-type]
    for bad in (rows[0], rows.long()):
        with pytest.raises(InvalidValue, match=r"rows = .* must be \(n, channels, height, width\)"):
            strided_adjoint(bad, weight, *NO_PADDING)
    for bad in (weight[0], weight[:3]):
        with pytest.raises(InvalidValue, match=r"weight.shape = .* must be \(4, inputs, taps, taps\)"):
            strided_adjoint(rows, bad, *NO_PADDING)
    for bad in (weight.double(), weight.to("meta")):
        with pytest.raises(InvalidValue, match=r"weight = .* must be torch.float32 on cpu"):
            strided_adjoint(rows, bad, *NO_PADDING)
    for geometry, name in [
        (((0, 1), (0, 0), (0, 0)), "stride"), (((2,), (0, 0), (0, 0)), "stride"),
        (((2, 2), (0, -1), (0, 0)), "padding"), (((2, 2), (3, 0), (0, 0)), "padding"),
        (((2, 2), (0, 0), (-1, 0)), "rest"), (((2, 2), (0, 0), (0, 2)), "rest"),
    ]:  # fmt: skip
        with pytest.raises(InvalidValue, match=f"^{name} = "):
            strided_adjoint(rows, weight, *geometry)
    result = strided_adjoint(rows, weight, *NO_PADDING)
    for bad in (result[:1], result.double(), result[0]):
        with pytest.raises(InvalidValue, match=r"of_result = .* must be torch.float32, \(2, 1, 6, 6\), on cpu"):
            torch.ops.verifix.strided_adjoint_gradient(rows, weight, bad, *NO_PADDING, [True, True])


@pytest.mark.parametrize("stride", [(2, 2), (3, 1)])
def test_gradients(stride: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 2, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def of(*arguments: torch.Tensor) -> torch.Tensor:
        return strided_adjoint(*arguments, stride, (1, 1), (0, 0))

    assert torch.autograd.gradcheck(of, (rows, weight))
    assert torch.autograd.gradgradcheck(of, (rows, weight))
