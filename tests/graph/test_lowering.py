"""Arguments of torch's layers, read as torch reads them."""

from __future__ import annotations

import pytest
import torch

from verifix.errors import InvalidValue
from verifix.graph.lowering import identity_of, moved, padding_of, pair


def test_pair() -> None:
    assert pair(3) == (3, 3)
    assert pair(3, 1) == (3,)
    assert pair([2], 2) == (2, 2)
    assert pair((1, 2)) == (1, 2)
    assert pair(None) == (None, None)


def test_padding() -> None:
    assert padding_of("valid", (3, 2), (1, 1)) == (0, 0)
    assert padding_of("same", (3, 5), (2, 1)) == (2, 2)
    assert padding_of("same", (3, 2), (1, 1)) is None
    assert padding_of("same", (3, 2), (1, 2)) == (1, 1)
    assert padding_of(1, (3, 3), (1, 1)) == (1, 1)
    assert padding_of((0, 1), (3, 3), (1, 1)) == (0, 1)


def test_movements_are_recognised() -> None:
    movement = moved((2, 3), lambda x: x.transpose(1, 2))
    assert movement.shape == (3, 2)
    assert movement.index.tolist() == [0, 3, 1, 4, 2, 5]
    assert identity_of((2, 3)).reshape_only
    assert moved((2, 3), lambda x: x.flatten(1)).reshape_only


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flip(0),
        lambda x: x.roll(1),
        lambda x: x[[0, 0]],
        lambda x: x[:1].expand(2, -1, -1),
        lambda x: x.transpose(0, 1),
        lambda x: x.reshape(-1, 2)[:2],
    ],
)
def test_movements_that_mix_inputs_of_the_batch_are_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(InvalidValue, match=r"^movement = an operation that mixes inputs of the batch"):
        moved((2, 3), function)


@pytest.mark.parametrize("function", [lambda x: x.flatten(), lambda x: x[0], lambda x: x.sum()])
def test_movements_that_lose_the_batch_are_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(InvalidValue, match=r"^movement = output of shape .*: the first axis must stay the batch$"):
        moved((5,), function)


def test_padding_of_movements_is_filled() -> None:
    movement = moved((2,), lambda x: torch.nn.functional.pad(x, (1, 0), value=-1), 0.5)
    assert movement.forward(torch.tensor([[3.0, 4.0]])).tolist() == [[0.5, 3.0, 4.0]]
