"""Contractions between coefficient rows and activations, and matrices by their entries; shared by every layer above."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Interval = tuple[Tensor, Tensor]
"""A lower and an upper side; or a midpoint and a radius, where that is said."""


class Entries(NamedTuple):
    """A matrix by its entries that are not zero: ``weights[k]`` in row ``outputs[k]`` and column ``inputs[k]``."""

    outputs: Tensor
    inputs: Tensor
    weights: Tensor


def contract(rows: Tensor, x: Tensor) -> Tensor:
    """Inner product of every row with the activation of its input: ``(n, r)``.

    Args:
        rows: ``(n, r, *shape)``, or ``(1, r, *shape)`` when all inputs share their rows.
        x: ``(n, *shape)``, or ``(1, *shape)`` when all inputs share it.

    >>> contract(torch.ones(1, 2, 3), torch.arange(6.0).reshape(2, 3))
    tensor([[ 3.,  3.],
            [12., 12.]])
    """
    order = axes_in_memory(rows)
    flat_rows, flat_x = flatten(reorder(rows, 2, order), 2), flatten(reorder(x, 1, order), 1)
    if flat_rows.shape[0] == 1:
        return flat_x @ flat_rows[0].T
    if flat_x.shape[0] == 1:
        return flat_rows @ flat_x[0]
    return torch.bmm(flat_rows, flat_x[:, :, None])[:, :, 0]


def axes_in_memory(rows: Tensor) -> list[int]:
    """The axes of ``rows (n, r, *shape)`` after the first two, counted from zero, as they lie in memory.

    >>> axes_in_memory(torch.zeros(1, 1, 4, 5, 3).permute(0, 1, 4, 2, 3))
    [1, 2, 0]
    """
    strides = rows.stride()[2:]
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


def reorder(x: Tensor, lead: int, order: list[int]) -> Tensor:
    """Axes in this order, after the first ``lead``."""
    return x if order == sorted(order) else x.permute(*range(lead), *(lead + axis for axis in order))


def flatten(x: Tensor, lead: int) -> Tensor:
    """Merge all axes after the first ``lead`` into one; an activation of shape ``()`` gets an axis of size 1.

    >>> flatten(torch.zeros(5, 2, 3), 1).shape, flatten(torch.zeros(5), 1).shape
    (torch.Size([5, 6]), torch.Size([5, 1]))
    """
    return x.flatten(lead) if x.dim() > lead else x.unsqueeze(lead)


def fold(rows: Tensor) -> Tensor:
    """Merge the input and row axes: ``(n, r, *shape)`` to ``(n * r, *shape)``, as batched operators want it."""
    return rows.flatten(0, 1)


def unfold(folded: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`fold` for the leading axes of ``like``: ``(n * r, *shape)`` to ``(n, r, *shape)``."""
    return folded.reshape(*like.shape[:2], *folded.shape[1:])
