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
from verifix.kernels.narrow_adjoint import expressible
from verifix.operations.strided import strided_adjoint

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
    """Compiled: as transposed convolutions, with the same bits whatever runs it."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (
        torch.randn(shape, dtype=dtype, generator=generator, requires_grad=want)
        for shape, want in zip((rows, weight), wanted, strict=True)
    )
    leaves = [x for x in (rows, weight) if x.requires_grad]
    assert expressible(rows, weight)
    plain = F.conv_transpose2d(rows, weight, None, stride, padding, rest)
    toward = torch.randn(plain.shape, dtype=dtype, generator=generator)
    theirs = [plain, *torch.autograd.grad(plain, leaves, toward)]
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
    for ours, wants in zip(seen[0], theirs, strict=True):
        torch.testing.assert_close(ours, wants, rtol=tolerance, atol=tolerance)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_few_input_channels_twice_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 8, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(8, 1, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert expressible(rows, weight)

    def of(*arguments: torch.Tensor) -> torch.Tensor:
        return strided_adjoint(*arguments, (2, 1), (1, 0), (0, 0))

    assert torch.autograd.gradcheck(of, (rows, weight))
    assert torch.autograd.gradgradcheck(of, (rows, weight))


def test_what_has_no_compiled_adjoint() -> None:
    rows, weight = torch.ones(1, 16, 2, 2), torch.ones(16, 1, 3, 3)
    assert expressible(rows, weight)
    assert not expressible(rows, torch.ones(16, 1, 9, 8))
    assert not expressible(rows[:, :8], weight[:8])
    assert not expressible(rows[:0], weight)
    assert not expressible(rows.half(), weight.half())
    assert not expressible(rows.to("meta"), weight)


@pytest.mark.parametrize("stride", [(2, 2), (3, 1)])
def test_gradients(stride: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 2, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def of(*arguments: torch.Tensor) -> torch.Tensor:
        return strided_adjoint(*arguments, stride, (1, 1), (0, 0))

    assert torch.autograd.gradcheck(of, (rows, weight))
    assert torch.autograd.gradgradcheck(of, (rows, weight))
