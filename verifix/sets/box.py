"""Boxes: every coordinate has its own interval."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.pull_lines import pull_lines
from verifix.sets.base import InputSet, NormBall, check_box, check_like, check_points
from verifix.tensors import axes_in_memory, contract, flatten, reorder


class Box(InputSet):
    """All ``x`` with ``lower <= x <= upper``, coordinate by coordinate.

    Args:
        lower, upper: ``(n, *shape)`` floating-point tensors in the units of the raw input. The interval of each
            coordinate is closed, and may be a single point.

    Raises:
        InvalidValue: for ``lower > upper``, NaN, infinity or shapes that differ.

    >>> box = Box(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    >>> box.support(torch.tensor([[[1.0, -1.0], [0.0, 2.0]]]))
    tensor([[0., 6.]])
    """

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        check_points("lower", lower)
        check_points("upper", upper)
        if lower.shape != upper.shape:
            raise InvalidValue(
                "upper", f"tensor of shape {tuple(upper.shape)}", f"must have lower's shape {tuple(lower.shape)}"
            )
        if lower.dtype != upper.dtype:
            raise InvalidType("upper", upper, f"a tensor of lower's dtype {lower.dtype}")
        check_box(lower, upper)
        self.lower, self.upper = lower, upper

    @property
    def center(self) -> Tensor:
        return self.lower + (self.upper - self.lower) / 2

    def hull(self) -> tuple[Tensor, Tensor]:
        return self.lower, self.upper

    def norm_ball(self) -> NormBall:
        return NormBall("linf", self.center, (self.upper - self.lower) / 2, True)

    def extrema(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return box_extrema(rows, self.lower, self.upper)

    def least(self, rows: Tensor) -> Tensor:
        return box_least(rows, self.lower, self.upper)

    def support(self, rows: Tensor) -> Tensor:
        return self.extrema(rows)[1]

    def magnitude(self) -> Tensor:
        # center + radius, each at most this; doubled because both enter the sum
        return 2 * torch.maximum(self.lower.abs(), self.upper.abs())

    def project(self, x: Tensor) -> Tensor:
        check_like("x", x, self.lower.shape)
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        check_like("x", x, self.lower.shape)
        inside = (x.double() >= self.lower.double() - tolerance) & (x.double() <= self.upper.double() + tolerance)
        return inside.flatten(1).all(1)

    def distance(self, x: Tensor) -> Tensor:
        check_like("x", x, self.lower.shape)
        return (x.double() - self.center.double()).abs().flatten(1).amax(1)

    def select(self, index: Tensor | slice) -> Box:
        return Box(self.lower[index], self.upper[index])

    def to(self, target: torch.dtype | torch.device) -> Box:
        return Box(self.lower.to(target), self.upper.to(target))

    def __repr__(self) -> str:
        return f"Box(n={len(self)}, shape={self.shape})"


def box_least(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Minimum of ``<row, x>`` over a box, in one sweep: ``(n, r)``."""
    order = axes_in_memory(rows)
    flat, low, high = (flatten(reorder(x, lead, order), lead) for x, lead in ((rows, 2), (lower, 1), (upper, 1)))
    return pull_lines(flat.expand(len(low), -1, -1), None, low, None, high)[1]


def box_extrema(rows: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of ``<row, x>`` over a box, as center and radius: both ``(n, r)``."""
    radius = (upper - lower) / 2
    middle = contract(rows, lower + radius)
    order = axes_in_memory(rows)
    flat, size = (
        flatten(reorder(x, lead, order), lead).expand(len(radius), *[-1] * lead) for x, lead in ((rows, 2), (radius, 1))
    )
    _, spread = pull_lines(flat, None, size, None, -size)
    return middle - spread, middle + spread
