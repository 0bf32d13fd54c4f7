"""Specifications: margins of labels, and rows of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from verifix.certify.specification import check_labels
from verifix.errors import InvalidType, InvalidValue


def test_margins_are_the_label_less_every_other_class() -> None:
    labels = torch.tensor([2, 0, 1], dtype=torch.int32)
    margins = vx.Margins(labels, 3)
    logits = torch.tensor([[1.0, 5.0, 7.0], [4.0, 1.0, 2.0], [0.0, 3.0, 9.0]])
    rows = margins.rows(slice(None), logits)
    assert rows.dtype == torch.float32
    values = (rows * logits[:, None]).sum(2)
    assert values.tolist() == [[6.0, 2.0], [3.0, 2.0], [3.0, -6.0]]
    inf = torch.inf
    assert margins.spread(values, slice(None)).tolist() == [[6.0, 2.0, inf], [inf, 3.0, 2.0], [3.0, inf, -6.0]]


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([2, 0]), slice(0, 0)])
def test_margins_of_some_inputs(index: slice | Tensor) -> None:
    margins = vx.Margins(torch.tensor([2, 0, 1]), 4)
    like = torch.zeros((), dtype=torch.float64)
    rows = margins.rows(index, like)
    assert rows.dtype == torch.float64
    assert torch.equal(rows, margins.rows(slice(None), like)[index])
    assert margins.threshold(index, like).tolist() == [[0.0]]
    values = torch.arange(3 * len(rows), dtype=torch.float64).reshape(-1, 3)
    spread = margins.spread(values, index)
    assert spread.shape == (len(rows), 4)
    assert torch.isinf(spread).sum() == len(rows)


def test_margins_of_one_class_are_none() -> None:
    margins = vx.Margins(torch.tensor([0, 0]), 1)
    assert margins.rows(slice(None), torch.zeros(())).shape == (2, 0, 1)
    assert margins.spread(torch.zeros(2, 0), slice(None)).tolist() == [[torch.inf], [torch.inf]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_every_integer_dtype(dtype: torch.dtype) -> None:
    labels = check_labels(torch.tensor([0, 2], dtype=dtype), 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1], InvalidType, r"^y is a list: pass a torch.Tensor of class numbers \(n,\)$"),
        (None, InvalidType, r"^y is a NoneType: pass a torch.Tensor of class numbers \(n,\)$"),
        (torch.tensor([0.0]), InvalidType, r"^y is a Tensor: pass integer class numbers, not torch.float32$"),
        (torch.tensor([True]), InvalidType, r"^y is a Tensor: pass integer class numbers, not torch.bool$"),
        (torch.tensor([1j]), InvalidType, r"^y is a Tensor: pass integer class numbers, not torch.complex64$"),
        (torch.tensor(1), InvalidValue, r"^y = tensor of shape \(\): must be \(n,\)$"),
        (torch.eye(3).long(), InvalidValue, r"^y = tensor of shape \(3, 3\): must be \(n,\)$"),
        (torch.tensor([0, 3, 4]), InvalidValue, r"^y = label 3 at 1: labels must be in \[0, 2\] for this network$"),
        (torch.tensor([-1, 0]), InvalidValue, r"^y = label -1 at 0: labels must be in \[0, 2\] for this network$"),
    ],
)
def test_labels_that_cannot_be(labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vx.Margins(labels, 3)


def test_rows_of_all_inputs_and_of_each() -> None:
    like = torch.zeros((), dtype=torch.float64)
    shared = vx.Rows(torch.tensor([[1, -1, 0], [0, 1, 0]]), torch.tensor([0.5, -1.0]))
    assert shared.rows(slice(0, 1), like).tolist() == [[[1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]]
    assert shared.threshold(torch.tensor([3, 1]), like).tolist() == [[0.5, -1.0]]
    own = vx.Rows(torch.arange(12.0).reshape(2, 2, 3), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert own.rows(torch.tensor([1]), like).tolist() == [[[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]]
    assert own.threshold(slice(1, 2), like).tolist() == [[3.0, 4.0]]
    assert own.rows(slice(None), like).dtype == torch.float64
    assert vx.Rows(torch.ones(1, 3), 2).threshold(slice(None), like).tolist() == [[2.0]]
    values = torch.randn(2, 2)
    assert own.spread(values, slice(None)) is values


@pytest.mark.parametrize(
    ("matrix", "threshold", "error", "message"),
    [
        ([[1.0]], 0.0, InvalidType, r"^matrix is a list: pass a torch.Tensor$"),
        (torch.ones(3), 0.0, InvalidValue, r"^matrix = tensor of shape \(3,\): must be \(r, classes\) or"),
        (torch.ones(1, 1, 1, 1), 0.0, InvalidValue, r"^matrix = tensor of shape \(1, 1, 1, 1\)"),
        (torch.tensor([[1.0, torch.nan]]), 0.0, InvalidValue, r"^rows = NaN or infinite entries: must be finite$"),
        (torch.ones(1, 2), torch.inf, InvalidValue, r"^threshold = inf: must be finite$"),
        (torch.ones(1, 2), torch.tensor([torch.nan]), InvalidValue, r"^threshold = tensor\(\[nan\]\): must be finite$"),
        (torch.ones(1, 2), "0", InvalidType, r"^threshold is a str: pass a number or a torch.Tensor$"),
        (
            torch.ones(2, 3),
            torch.zeros(3),
            InvalidValue,
            r"^threshold = tensor of shape \(3,\): must be a number, \(2,\) or",
        ),
        (torch.ones(2, 3), torch.zeros(2, 1, 1), InvalidValue, r"^threshold = tensor of shape \(2, 1, 1\)"),
    ],
)
def test_rows_that_cannot_be(matrix: Any, threshold: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vx.Rows(matrix, threshold)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0]), r"^y = 1 labels: must be as many as the 2 inputs$"),
        (torch.tensor([0, 1, 2]), r"^y = 3 labels: must be as many as the 2 inputs$"),
        (torch.tensor([0, 3]), r"^y = label 3 at 1: labels must be in \[0, 2\] for this network$"),
        (vx.Margins(torch.tensor([0]), 3), r"^y = 1 labels: must be as many as the 2 inputs$"),
        (vx.Margins(torch.tensor([0, 1]), 4), r"^y = margins of 4 classes: the network has 3$"),
        (vx.Rows(torch.ones(1, 4)), r"^matrix = rows of 4 entries: the network has 3 classes$"),
        (vx.Rows(torch.ones(3, 1, 3)), r"^matrix = one for each of 3 inputs: must be as many as the 2 inputs, or one$"),
        (vx.Rows(torch.ones(1, 3), torch.zeros(3, 1)), r"^threshold = one for each of 3 inputs: must be as many"),
    ],
)
def test_certify_checks_that_the_specification_fits(y: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        vx.certify(nn.Linear(2, 3), torch.zeros(2, 2), y, vx.Ball("linf", 0.1))
