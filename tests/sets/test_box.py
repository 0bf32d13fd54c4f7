"""Boxes: what they accept, membership, projection, selection and casting. Their support is in test_support.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Box

LOWER = torch.tensor([[0.0, -1.0], [1.0, 2.0]])
UPPER = torch.tensor([[0.5, 1.0], [1.0, 4.0]])


@pytest.mark.parametrize(
    ("lower", "upper", "error", "message"),
    [
        (UPPER, LOWER, InvalidValue, r"^box = \[0.5, 0\] at \(0, 0\): needs lower <= upper, no NaN$"),
        (torch.full((2, 2), math.nan), UPPER, InvalidValue, r"^lower = 2 of 2 inputs with NaN or infinity"),
        (LOWER, torch.full((2, 2), math.inf), InvalidValue, r"^upper = 2 of 2 inputs with NaN or infinity"),
        (LOWER, UPPER[:1], InvalidValue, r"^upper = tensor of shape \(1, 2\): must have lower's shape \(2, 2\)$"),
        (LOWER, UPPER.double(), InvalidType, r"^upper is a Tensor: pass a tensor of lower's dtype torch.float32$"),
        ([[0.0]], UPPER, InvalidType, r"^lower is a list"),
        (LOWER, 1.0, InvalidType, r"^upper is a float"),
        (torch.zeros(2), torch.ones(2), InvalidValue, r"^lower = tensor of shape \(2,\): must be a batch"),
        (LOWER.long(), UPPER.long(), InvalidType, r"^lower is a Tensor: .*torch.int64"),
    ],
)
def test_boxes_that_cannot_be(lower: Any, upper: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Box(lower, upper)


def test_center_hull_and_magnitude() -> None:
    box = Box(LOWER, UPPER)
    assert torch.equal(box.center, torch.tensor([[0.25, 0.0], [1.0, 3.0]]))
    assert torch.equal(box.hull()[0], LOWER)
    assert torch.equal(box.hull()[1], UPPER)
    assert (box.magnitude() >= torch.maximum(LOWER.abs(), UPPER.abs())).all()
    assert (len(box), box.shape, repr(box)) == (2, (2,), "Box(n=2, shape=(2,))")


def test_contains_is_closed_and_takes_a_tolerance() -> None:
    box = Box(LOWER, UPPER)
    assert box.contains(LOWER).all()
    assert box.contains(UPPER).all()
    outside = torch.tensor([[0.5 + 1e-6, 0.0], [1.0, 3.0]])
    assert box.contains(outside).tolist() == [False, True]
    assert box.contains(outside, tolerance=1e-5).tolist() == [True, True]
    assert box.contains(torch.full((2, 2), math.nan)).tolist() == [False, False]


def test_project_clips() -> None:
    box = Box(LOWER, UPPER)
    x = torch.tensor([[9.0, 0.5], [-9.0, -9.0]])
    assert torch.equal(box.project(x), torch.tensor([[0.5, 0.5], [1.0, 2.0]]))
    assert box.contains(box.project(x)).all()


@pytest.mark.parametrize("index", [slice(0, 1), torch.tensor([1, 1]), torch.tensor([False, True])])
def test_select(index: Tensor | slice) -> None:
    part = Box(LOWER, UPPER).select(index)
    assert torch.equal(part.lower, LOWER[index])
    assert torch.equal(part.upper, UPPER[index])


def test_to() -> None:
    box = Box(LOWER, UPPER).to(torch.float64)
    assert box.center.dtype == box.support(torch.ones(1, 1, 2, dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(box.to(torch.device("cpu")).upper, UPPER.double())
