"""Rows through lines: against plain torch and its own derivative, in every corner, on every instruction set."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.extension import ISAS
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import pull_lines_reference as reference
from verifix.kernels.pull_lines import pull_lines

MASKS = [mask for mask in itertools.product((True, False), repeat=5) if any(mask[:4])]
DTYPES = (torch.float32, torch.float64)


def drawn(
    shape: tuple[int, int, int], dtype: torch.dtype, mask: tuple[bool, ...], seed: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Rows with zeros among them, lines, and a shift."""
    n, r, m = shape
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, r, m, dtype=dtype, generator=generator)
    rows[torch.rand(n, r, m, generator=generator) < 0.2] = 0.0
    shapes = [(n, m)] * 4 + [(m,)]
    lines = [
        torch.randn(shape, dtype=dtype, generator=generator) if there else None
        for shape, there in zip(shapes, mask, strict=True)
    ]
    return rows.requires_grad_(), [None if line is None else line.requires_grad_() for line in lines]


def everything(rows: Tensor, lines: list[Tensor | None], found: tuple[Tensor | None, Tensor]) -> list[Tensor]:
    """The results, and the gradients of a sum of them with fixed weights."""
    results = [x for x in found if x is not None]
    weights = [torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape).cos() for x in results]
    total = torch.stack([(x * weight).sum() for x, weight in zip(results, weights, strict=True)]).sum()
    leaves = [rows, *(line for line in lines if line is not None)]
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return [*results, *gradients]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 300)),
    st.sampled_from(DTYPES),
    st.sampled_from(MASKS),
    st.integers(0, 2**32),
)
def test_kernel_is_the_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, mask: tuple[bool, ...], seed: int
) -> None:
    rows, lines = drawn(shape, dtype, mask, seed)
    n, r, m = shape
    found = everything(rows, lines, pull_lines(rows, *lines))
    slope_p, offset_p, slope_n, offset_n, shift = lines
    pulled, offset = reference.pull_lines(rows, (slope_p, offset_p, slope_n, offset_n, shift), True)
    wanted: list[Tensor] = [pulled, offset] if mask[0] or mask[2] else [offset]
    of_pulled, of_offset = (torch.arange(size, dtype=dtype).cos() for size in (n * r * m, n * r))
    gradients = reference.gradient(
        rows.detach(), (slope_p, offset_p, slope_n, offset_n, shift),
        of_pulled.reshape(shape) if mask[0] or mask[2] else None, of_offset.reshape(n, r),
    )  # fmt: skip
    wanted += [x for x, there in zip(gradients, (True, *mask), strict=True) if there]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            ours.detach(), theirs.detach(), rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-12
        )


@pytest.mark.parametrize("mask", MASKS)
def test_gradients(mask: tuple[bool, ...]) -> None:
    rows, lines = drawn((2, 3, 5), torch.float64, mask, 0)
    rows = torch.where(rows == 0, 0.5, rows).detach().requires_grad_()  # away from the kink
    given = [line for line in lines if line is not None]

    def of(rows: Tensor, *some: Tensor) -> tuple[Tensor, ...]:
        left = list(some)
        full = [left.pop(0) if there else None for there in mask]
        return tuple(x for x in pull_lines(rows, *full) if x is not None)

    assert torch.autograd.gradcheck(of, (rows, *given))
    assert torch.autograd.gradgradcheck(of, (rows, *given))


def test_known_numbers() -> None:
    """Below 3 relu(z1) - 2 relu(z2) with z in [-1, 1]: by the line 0 and by the chord (z + 1) / 2."""
    rows = torch.tensor([[[3.0, -2.0]]], requires_grad=True)
    pulled, offset = pull_lines(rows, torch.zeros(1, 2), None, torch.full((1, 2), 0.5), torch.full((1, 2), 0.5))
    assert pulled is not None
    assert pulled.tolist() == [[[0.0, -1.0]]]
    assert offset.tolist() == [[-1.0]]
    _, about = pull_lines(
        rows, torch.zeros(1, 2), None, torch.full((1, 2), 0.5), torch.full((1, 2), 0.5), torch.tensor([5.0, 3.0])
    )
    assert about.tolist() == [[-4.0]]  # with z - (5, 3) for z: -1 - 1 * 3
    (gradient,) = torch.autograd.grad(pulled.sum() + offset.sum(), rows)
    assert gradient.tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_not_finite_is_never_lost(bad: float, which: int, sign: float) -> None:
    lines = [torch.ones(1, 40) for _ in range(4)]
    lines[which][0, 33] = bad
    pulled, offset = pull_lines(torch.full((1, 2, 40), sign), *lines)
    assert pulled is not None
    if which % 2:
        assert not offset.isfinite().any()
    else:
        assert not pulled[:, :, 33].isfinite().any()
    rows = torch.ones(1, 1, 40)
    rows[0, 0, 7] = torch.nan
    pulled, offset = pull_lines(rows, *(torch.ones(1, 40) for _ in range(4)))
    assert pulled is not None
    assert pulled[0, 0, 7].isnan()
    assert offset.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_whatever_runs_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, lines = drawn((5, 7, 1001), dtype, (True, True, True, True, True), 3)
    before, seen = torch.get_num_threads(), []
    try:
        for isa, threads in itertools.product(ISAS, (1, 2, 3)):
            monkeypatch.setattr("verifix.kernels.native.isa", lambda isa=isa: isa)
            torch.set_num_threads(threads)
            seen.append(everything(rows, lines, pull_lines(rows, *lines)))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))
    rows_of_one, lines_of_one = (
        rows[2:3],
        [None if line is None else line[2:3] if line.dim() == 2 else line for line in lines],
    )
    alone = pull_lines(rows_of_one, *lines_of_one)
    assert alone[0] is not None
    assert torch.equal(alone[0], seen[0][0][2:3])
    assert torch.equal(alone[1], seen[0][1][2:3])


def test_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, lines = drawn((2, 3, 50), torch.float64, (True, False, True, True, True), 1)
    wanted = everything(rows, lines, pull_lines(rows, *lines))
    monkeypatch.setattr("verifix.kernels.native.module_or_none", lambda name: None)
    found = everything(rows, lines, pull_lines(rows, *lines))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mask", [(True,) * 5, (True, False, True, True, False), (False, True, False, True, False)])
def test_operators_keep_their_contract(mask: tuple[bool, ...]) -> None:
    rows, lines = drawn((2, 3, 20), torch.float64, mask, 2)
    wants_rows = mask[0]
    torch.library.opcheck(torch.ops.verifix.pull_lines.default, (rows, *lines, wants_rows))
    plain = [None if line is None else line.detach() for line in lines]
    of_pulled = torch.ones(2, 3, 20, dtype=torch.float64) if wants_rows else None
    wanted = [True, *mask]
    arguments: tuple[Any, ...] = (rows.detach(), *plain, of_pulled, torch.ones(2, 3, dtype=torch.float64), wanted)
    torch.library.opcheck(torch.ops.verifix.pull_lines_gradient.default, arguments)


def test_types_without_a_kernel_take_plain_torch() -> None:
    rows, line = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[0.5, 0.25]])
    pulled, offset = pull_lines(rows.half(), line.half(), None, line.half(), None)
    assert pulled is not None
    assert pulled.dtype == offset.dtype == torch.float16
    assert pulled.tolist() == [[[1.0, -0.25]]]


def test_bad_arguments() -> None:
    rows, line = torch.ones(2, 3, 4), torch.ones(2, 4)
    with pytest.raises(InvalidType, match="rows"):
        pull_lines(None, line, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="offset_n"):
        pull_lines(rows, line, None, None, 1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="rows"):
        pull_lines(rows[0], line, None, None, None)
    with pytest.raises(InvalidValue, match="rows"):
        pull_lines(rows.long(), line.long(), None, None, None)
    for bad in (torch.ones(1, 4), torch.ones(2, 3), line.double()):
        with pytest.raises(InvalidValue, match="slope_n"):
            pull_lines(rows, line, None, bad, None)
    with pytest.raises(InvalidValue, match="shift"):
        pull_lines(rows, line, None, line, None, line)
