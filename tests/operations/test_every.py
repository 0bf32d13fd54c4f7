"""What every operation must do, over the whole table."""

from __future__ import annotations

import inspect

import pytest
import torch

from tests.operations.table import EVERYTHING, Row, inputs_of, names
from verifix.operations import Affine, Nonlinear, Operation


@pytest.fixture(params=EVERYTHING, ids=names(EVERYTHING))
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


def test_names_are_unique() -> None:
    assert len(set(names(EVERYTHING))) == len(EVERYTHING)


def test_every_operation_is_in_the_table() -> None:
    def concrete(kind: type) -> set[type]:
        found = [concrete(sub) for sub in kind.__subclasses__() if sub.__module__.startswith("verifix.")]
        return set().union(set() if inspect.isabstract(kind) else {kind}, *found)

    assert {type(row.make()[0]) for row in EVERYTHING} == concrete(Operation)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_is_what_torch_computes(row: Row, n: int, dtype: torch.dtype) -> None:
    operation, reference = row.make()
    inputs = inputs_of(operation, n, dtype)
    got = operation.forward(*inputs)
    assert got.dtype == dtype
    assert got.shape == (n, *operation.shape)
    if n:
        wanted = reference(*(x.double() for x in inputs))
        torch.testing.assert_close(
            got.double(),
            wanted,
            rtol=1e-5 if dtype == torch.float32 else 1e-12,
            atol=1e-5 if dtype == torch.float32 else 1e-12,
        )


def test_it_is_affine_or_nonlinear_and_counts_its_roundings(row: Row) -> None:
    operation, _ = row.make()
    assert isinstance(operation, Affine) != isinstance(operation, Nonlinear)
    assert isinstance(operation.roundings, int)
    assert operation.roundings >= 1


def test_interval_encloses_and_is_a_point_for_a_point(row: Row) -> None:
    operation, _ = row.make()
    centers = inputs_of(operation, 4)
    radii = [2 * torch.rand_like(x) for x in centers]
    lower, upper = operation.interval([x - r for x, r in zip(centers, radii, strict=True)],
                                      [x + r for x, r in zip(centers, radii, strict=True)])  # fmt: skip
    assert lower.shape == upper.shape == (4, *operation.shape)
    for _ in range(50):
        points = [x + r * (2 * torch.rand_like(x) - 1) for x, r in zip(centers, radii, strict=True)]
        value = operation.forward(*points)
        assert (value >= lower - 1e-12).all()
        assert (value <= upper + 1e-12).all()
    low, high = operation.interval(centers, centers)
    exact = operation.forward(*centers)
    torch.testing.assert_close(low, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(high, exact, rtol=0, atol=1e-12)
