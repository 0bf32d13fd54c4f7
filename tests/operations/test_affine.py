"""Affine operations against the matrix that their own forward map spells out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.operations.table import AFFINE, Row, convolution, dense, inputs_of, names
from verifix.errors import InvalidValue
from verifix.operations import Affine, Convolution, Movement, Pooling, Reduction, Sum, fixed, module_batch_norm
from verifix.tensors import flatten


@dataclass(frozen=True)
class Dense:
    """The map as a matrix over all inputs side by side, and its offset."""

    operation: Affine
    matrix: Tensor
    offset: Tensor

    def split(self, flat: Tensor) -> list[Tensor]:
        sizes = [math.prod(shape) for shape in self.operation.inputs]
        parts = zip(flat.split(sizes, 1), self.operation.inputs, strict=True)
        return [part.reshape(len(flat), *shape) for part, shape in parts]


@pytest.fixture(params=AFFINE, ids=names(AFFINE))
def spelled(request: pytest.FixtureRequest) -> Dense:
    operation, _ = request.param.make()
    size = sum(math.prod(shape) for shape in operation.inputs)
    with torch.no_grad():
        blank = Dense(operation, torch.empty(0), torch.empty(0))
        offset = flatten(operation.forward(*blank.split(torch.zeros(1, size, dtype=torch.float64))), 1)
        columns = flatten(operation.forward(*blank.split(torch.eye(size, dtype=torch.float64))), 1) - offset
    # entries that are zero up to cancellation of the offset are zero
    return Dense(operation, torch.where(columns.abs() < 1e-14, 0.0, columns).T, offset[0])


def flat(parts: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([flatten(part, 1) for part in parts], 1)


@torch.no_grad()
def test_adjoint_is_the_transposed_matrix(spelled: Dense) -> None:
    operation = spelled.operation
    rows = torch.randn(5, *operation.shape, dtype=torch.float64)
    parts = operation.adjoint(rows)
    assert [part.shape for part in parts] == [(5, *shape) for shape in operation.inputs]
    torch.testing.assert_close(flat(parts), flatten(rows, 1) @ spelled.matrix, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_entries_spell_out_the_matrix(spelled: Dense) -> None:
    entries = spelled.operation.entries()
    if isinstance(spelled.operation, Movement | Pooling | Reduction):
        assert entries is not None
    if entries is not None:
        assert entries.weights.dtype == torch.float64
        matrix = torch.zeros_like(spelled.matrix).index_put(entries[:2], entries.weights, accumulate=True)
        torch.testing.assert_close(matrix, spelled.matrix, rtol=1e-14, atol=0)


@torch.no_grad()
def test_adjoint_identity(spelled: Dense) -> None:
    operation = spelled.operation
    x = inputs_of(operation, 4)
    rows = torch.randn(4, *operation.shape, dtype=torch.float64)
    linear = flatten(operation.forward(*x), 1) - spelled.offset
    left = (linear * flatten(rows, 1)).sum(1)
    right = (flat(x) * flat(operation.adjoint(rows))).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_absolute_is_the_matrix_of_absolute_values(spelled: Dense) -> None:
    operation = spelled.operation
    size = spelled.matrix.shape[1]
    columns = flatten(operation.absolute(*spelled.split(torch.eye(size, dtype=torch.float64))), 1)
    torch.testing.assert_close(columns.T, spelled.matrix.abs(), rtol=1e-12, atol=1e-14)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_offset_is_the_image_of_zero(spelled: Dense, dtype: torch.dtype) -> None:
    operation = spelled.operation
    like = torch.zeros((), dtype=dtype)
    offset, size = operation.offset(like), operation.offset_size(like)
    if offset is None:
        assert size is None
        assert not spelled.offset.any()
    else:
        assert offset.dtype == dtype
        whole = offset.expand(1, *operation.shape).flatten()
        torch.testing.assert_close(whole.double(), spelled.offset, rtol=1e-6, atol=1e-6)
        assert size is not None
        assert (size.expand(1, *operation.shape).flatten() >= whole.abs()).all()


@torch.no_grad()
def test_interval_is_reached_at_corners(spelled: Dense) -> None:
    operation, matrix = spelled.operation, spelled.matrix
    lower = torch.randn(1, matrix.shape[1], dtype=torch.float64)
    upper = lower + torch.rand_like(lower)
    low, high = operation.interval(spelled.split(lower), spelled.split(upper))
    lowest = torch.where(matrix > 0, lower, upper)  # the corner of each output
    highest = torch.where(matrix > 0, upper, lower)
    each = torch.arange(len(matrix))
    reached_low = flatten(operation.forward(*spelled.split(lowest)), 1)[each, each]
    reached_high = flatten(operation.forward(*spelled.split(highest)), 1)[each, each]
    torch.testing.assert_close(low.flatten(), reached_low, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high.flatten(), reached_high, rtol=1e-12, atol=1e-12)


def test_roundings_count_every_term_of_a_row_and_of_a_column(spelled: Dense) -> None:
    operation = spelled.operation
    if isinstance(operation, Pooling):  # two products, one after the other
        terms = sum(most_terms(matrix) for matrix in operation.matrices)
    else:
        terms = most_terms(spelled.matrix)
    assert operation.roundings >= terms


def most_terms(matrix: Tensor) -> int:
    used = matrix != 0
    return max((int(used.sum(axis).max()) for axis in (0, 1) if used.numel()), default=0)


@torch.no_grad()
@pytest.mark.parametrize("case", AFFINE, ids=names(AFFINE))
def test_rounding_errors_stay_below_what_is_accounted(case: Row) -> None:
    operation, reference = case.make()
    if isinstance(reference, nn.Module):
        reference.float()  # both in the very same weights
    unit = torch.finfo(torch.float32).eps / 2
    factor = (operation.roundings + 4) * unit
    scale = 10 ** torch.empty(()).uniform_(-3, 3)
    x = [scale * part for part in inputs_of(operation, 3, torch.float32)]
    exact = operation.forward(*(part.double() for part in x))
    size = operation.absolute(*(part.double().abs() for part in x))
    constant = operation.offset_size(exact)
    size = size if constant is None else size + constant
    assert ((operation.forward(*x).double() - exact).abs() <= factor * size).all()

    rows = torch.randn(3, *operation.shape)
    pulled = flat(operation.adjoint(rows)).double()
    exact_rows = flat(operation.adjoint(rows.double()))
    columns = torch.eye(exact_rows.shape[1], dtype=torch.float64)
    sizes = [math.prod(shape) for shape in operation.inputs]
    split = [part.reshape(-1, *shape) for part, shape in zip(columns.split(sizes, 1), operation.inputs, strict=True)]
    bound = flatten(rows.double().abs(), 1) @ flatten(operation.absolute(*split), 1).T
    assert ((pulled - exact_rows).abs() <= factor * bound).all()


@pytest.mark.parametrize("name", ["dense", "conv2d-groups", "conv1d", "batch-norm-image", "batch-norm-features"])
def test_parameters_are_read_at_each_use_and_get_gradients(name: str) -> None:
    operation, module = next(row for row in AFFINE if row.name == name).make()
    x = inputs_of(operation, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-3.0)
    torch.testing.assert_close(operation.forward(*x), module(*x))
    rows = torch.randn(2, *operation.shape, dtype=torch.float64)
    offset = operation.offset(x[0])
    for value, wanted in (
        (operation.forward(*x), {"weight", "bias"}),
        (operation.adjoint(rows)[0], {"weight"}),
        (operation.absolute(*x), {"weight"}),
        (offset, {"bias"}),
    ):
        assert value is not None
        named = [(n, p) for n, p in module.named_parameters() if n in wanted]
        for gradient in torch.autograd.grad(value.sum(), [p for _, p in named], retain_graph=True):
            assert gradient.abs().sum() > 0


def test_statistics_of_batch_normalisation_are_read_at_each_use() -> None:
    module = nn.BatchNorm2d(3).eval()
    operation = module_batch_norm((3, 2, 2), module)
    x = torch.randn(4, 3, 2, 2)
    module.train()
    module(10 + 5 * x)
    module.eval()
    torch.testing.assert_close(operation.forward(x), module(x))


def test_the_dtype_is_that_of_the_activations() -> None:
    linear = nn.Linear(3, 2)
    operation = dense((3,), linear)
    assert operation.forward(torch.zeros(1, 3, dtype=torch.float64)).dtype == torch.float64
    assert operation.adjoint(torch.zeros(1, 2, dtype=torch.float64))[0].dtype == torch.float64
    linear.double()
    assert operation.forward(torch.zeros(1, 3)).dtype == torch.float32


def test_convolutions_that_do_not_fit_are_refused() -> None:
    module = nn.Conv2d(1, 1, 5, dilation=2)
    with pytest.raises(InvalidValue, match=r"^convolution kernel = \(5, 5\) with dilation \(2, 2\): .*\(8, 9\)"):
        convolution((1, 8, 9), module)
    with pytest.raises(InvalidValue, match=r"^convolution input = shape \(8, 9\) without batch: needs \(channels, 2"):
        convolution((8, 9), module)
    weight = fixed(torch.zeros(1, 1, 3))
    with pytest.raises(InvalidValue, match="1 spatial axes"):
        Convolution((1, 4, 4), weight, None, (1,), (0,), (1,), 1)


def test_a_sum_needs_two_inputs_of_one_shape() -> None:
    with pytest.raises(
        InvalidValue, match=r"^sum = inputs of shapes \[\(2,\), \(3,\)\]: needs two inputs of one shape$"
    ):
        Sum([(2,), (3,)])
    with pytest.raises(InvalidValue, match="needs two inputs"):
        Sum([(2,)])
