"""The operator abs_median: its contract, its gradient, its errors, and its place in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.awkward import awkward_values, bits, first_attaining
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import abs_median, reference

DTYPES = [torch.float32, torch.float64]


def assert_same(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(bits(got[0]), bits(wanted[0]))
    assert torch.equal(got[1], wanted[1])


@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 40), st.integers(0, 70)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_operator_and_reference_give_the_first_entry_that_attains_the_median(
    shape: tuple[int, int, int], dtype: torch.dtype, seed: int
) -> None:
    x = awkward_values(shape, dtype, seed)
    wanted = first_attaining(x)
    assert_same(abs_median(x), wanted)
    assert_same(reference.abs_median(x), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_columns_by_hand(dtype: torch.dtype) -> None:
    nan, inf = torch.nan, torch.inf
    columns = {
        (5.0,): (5.0, 0),
        (-2.0, 1.0): (1.0, 1),  # even k: the lower one
        (3.0, -1.0, 2.0, -5.0): (2.0, 2),
        (2.0, -2.0, 2.0): (2.0, 0),  # ties: the first
        (-0.0, 0.0, 0.0): (0.0, 0),
        (1.0, -inf, inf): (inf, 1),
        (1.0, nan, -nan, 0.0): (nan, 1),
        (5e-324 if dtype == torch.float64 else 1e-45, 0.0, 1.0): (5e-324 if dtype == torch.float64 else 1e-45, 0),
    }
    for column, (value, position) in columns.items():
        x = torch.tensor(column, dtype=dtype).reshape(1, -1, 1)
        assert_same(abs_median(x), (torch.tensor([[value]], dtype=dtype), torch.tensor([[position]])))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 4), (4, 3, 0), (0, 1, 0), (1, 1, 1)])
def test_empty_and_single(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x = torch.full(shape, -3.0, dtype=dtype)
    values, index = abs_median(x)
    assert values.shape == index.shape == (shape[0], shape[2])
    assert values.dtype == dtype and index.dtype == torch.int64
    assert torch.equal(values, torch.full_like(values, 3.0)) and not index.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    x = awkward_values((5, 9, 6), dtype, seed=1)
    permuted = x.permute(2, 1, 0)
    assert not permuted.is_contiguous()
    assert_same(abs_median(permuted), abs_median(permuted.contiguous()))
    sliced = x[1::2, ::3, 1::2]
    assert_same(abs_median(sliced), abs_median(sliced.contiguous()))
    for size in [(7, 9, 6), (5, 9, 6), (5, 4, 6), (5, 9, 3)]:
        one = [slice(None, 1) if a != b else slice(None) for a, b in zip(size, x.shape, strict=True)]
        expanded = x[tuple(one)].expand(size)
        assert_same(abs_median(expanded), abs_median(expanded.contiguous()))


@pytest.mark.parametrize("k", [1, 4, 5])
@pytest.mark.parametrize("function", [abs_median, reference.abs_median], ids=["operator", "reference"])
def test_first_and_second_gradient(function: object, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(2, k, 3, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: function(x)[0].square(), x)


def test_gradient_is_the_sign_at_the_index() -> None:
    x = awkward_values((3, 8, 5), torch.float64, seed=2).requires_grad_()
    values, index = abs_median(x)
    assert not index.requires_grad
    weight = torch.arange(15.0, dtype=torch.float64).reshape(3, 5) + 1
    (gradient,) = torch.autograd.grad(values, x, weight)
    wanted = torch.zeros_like(x)
    at = index.unsqueeze(1)
    wanted.scatter_(1, at, weight.unsqueeze(1) * x.detach().gather(1, at).sign())
    assert torch.equal(gradient, wanted)
    (of_reference,) = torch.autograd.grad(reference.abs_median(x)[0], x, weight)
    number = ~values.isnan().unsqueeze(1).expand_as(x)
    assert torch.equal(gradient[number], of_reference[number])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 4, 1), (0, 3, 2), (2, 1, 0)])
def test_opcheck(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x = awkward_values(shape, dtype, seed=3, nan=False)
    for argument in (x, x.clone().requires_grad_(), x.permute(2, 1, 0), x[:1].expand(4 * min(shape[0], 1), *shape[1:])):
        torch.library.opcheck(torch.ops.verifix.abs_median.default, (argument,))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_into_one_graph(backend: str) -> None:
    def loss(x: Tensor) -> Tensor:
        values, index = abs_median(2 * x)
        return (values * (index + 1)).sum()

    x = awkward_values((3, 10, 4), torch.float64, seed=4, nan=False).clamp(-10, 10).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    assert torch.equal(compiled(x), loss(x))
    (got,), (wanted,) = torch.autograd.grad(compiled(x), x), torch.autograd.grad(loss(x), x)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1.0], InvalidType, "x is a list: pass a torch.Tensor"),
        (torch.zeros(2, 3), InvalidValue, r"x.shape = \(2, 3\): must be \(batch, k, n\)"),
        (torch.zeros(2, 0, 3), InvalidValue, r"x.shape = \(2, 0, 3\): k must be at least 1"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), InvalidValue, r"x.dtype = torch.int64: must be torch.float32"),
        (torch.zeros(1, 1, 1, dtype=torch.float16), InvalidValue, r"x.dtype = torch.float16: must be torch.float32"),
        (torch.zeros(2, 0, 3, device="meta"), InvalidValue, r"x.shape = \(2, 0, 3\)"),
    ],
)
def test_wrong_arguments(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        abs_median(x)  # type: ignore[arg-type]
