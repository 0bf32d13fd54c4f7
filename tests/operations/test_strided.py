"""The adjoint of strided convolutions: against transposed convolutions, and twice differentiable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

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


@pytest.mark.parametrize("stride", [(2, 2), (3, 1)])
def test_gradients(stride: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 2, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def of(*arguments: torch.Tensor) -> torch.Tensor:
        return strided_adjoint(*arguments, stride, (1, 1), (0, 0))

    assert torch.autograd.gradcheck(of, (rows, weight))
    assert torch.autograd.gradgradcheck(of, (rows, weight))
