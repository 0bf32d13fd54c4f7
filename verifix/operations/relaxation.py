"""Linear functions that enclose a nonlinear operation, and how coefficient rows are pulled back through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.pull_lines import pull_lines
from verifix.tensors import axes_in_memory, flatten, reorder

Pulled = tuple[Tensor | None, Tensor]


class Relaxation(ABC):
    """Encloses ``h(z)`` for one nonlinear operation and a batch of intervals."""

    parallel: ClassVar[bool] = False

    @abstractmethod
    def below(self, rows: Tensor) -> Pulled:
        """``rows (b, r, *out)`` to ``(rows', offset)`` with ``rows . h(z) >= rows' . z + offset`` on the interval.

        ``rows'`` is ``(n, r, *in)``, or None for zero; ``offset`` is ``(n, r)``.
        """

    @abstractmethod
    def above(self, rows: Tensor) -> Pulled:
        """The same with ``<=``."""

    @abstractmethod
    def magnitude(self, size: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """A bound on the sum of absolute values of all terms, from one for the input, and from the bounds that the
        relaxation was made of: ``(n, *in)`` to ``(n, *out)``."""

    @abstractmethod
    def slab(self, lower: Tensor, upper: Tensor) -> Slab:
        """The operation between two parallel planes, from the bounds that the relaxation was made of.

        Raises:
            InvalidValue: its lines are not parallel.
        """

    @abstractmethod
    def select(self, index: Tensor) -> Relaxation:
        """The relaxation of some of the inputs."""

    @abstractmethod
    def split(self, count: int) -> Sequence[Relaxation]:
        """The relaxations of so many inputs each, in their order."""


@dataclass(frozen=True)
class Slab:
    """``|h(z) - linear(z) - middle| <= radius`` on the interval.

    Attributes:
        linear: ``(n or 1, k, *in)`` to ``(n, k, *out)``.
        middle, radius: ``(n, *out)``; together at most three times the magnitude of the relaxation.
    """

    linear: Callable[[Tensor], Tensor]
    middle: Tensor
    radius: Tensor


@dataclass(frozen=True)
class Lines(Relaxation):
    """``lower_slope z + lower_offset <= h(z) <= upper_slope z + upper_offset``, elementwise; tensors ``(n, *shape)``.

    An offset of None is zero. Where ``upper_slope`` is ``lower_slope`` (the same tensor) the lines are parallel, and
    rows for lower and upper bounds stay equal. ``scale`` bounds the values that went into the offsets beside the
    pre-activation, for activations that do not vanish at zero.
    """

    lower_slope: Tensor
    lower_offset: Tensor | None
    upper_slope: Tensor
    upper_offset: Tensor | None
    scale: float = 0.0

    @property
    def parallel(self) -> bool:  # type: ignore[override]
        return self.lower_slope is self.upper_slope

    def below(self, rows: Tensor, shift: Tensor | None = None) -> Pulled:
        """With a ``shift (*in)`` the result is about ``z - shift``."""
        return pull(rows, self.lower_slope, self.lower_offset, self.upper_slope, self.upper_offset, shift)

    def above(self, rows: Tensor, shift: Tensor | None = None) -> Pulled:
        return pull(rows, self.upper_slope, self.upper_offset, self.lower_slope, self.lower_offset, shift)

    def shared(self, rows: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Both directions at once, for parallel lines: pulled rows, offset below, offset above."""
        pulled, below = self.below(rows)
        if self.lower_offset is None and self.upper_offset is None:
            return pulled, below, below
        return pulled, below, pull(rows, None, self.upper_offset, None, self.lower_offset)[1]

    def slab(self, lower: Tensor, upper: Tensor) -> Slab:
        if not self.parallel:
            raise InvalidValue("slopes", "lines that are not parallel", "random projections need slopes='same'")
        slope = self.lower_slope
        low = torch.zeros_like(slope) if self.lower_offset is None else self.lower_offset
        high = torch.zeros_like(slope) if self.upper_offset is None else self.upper_offset
        return Slab(lambda rows: rows * slope[:, None], (low + high) / 2, (high - low) / 2)

    def select(self, index: Tensor) -> Lines:
        lower_slope = self.lower_slope[index]
        upper_slope = lower_slope if self.parallel else self.upper_slope[index]
        low, high = (None if side is None else side[index] for side in (self.lower_offset, self.upper_offset))
        return Lines(lower_slope, low, upper_slope, high, self.scale)

    def split(self, count: int) -> list[Lines]:
        lower_slope = self.lower_slope.split(count)
        upper_slope = lower_slope if self.parallel else self.upper_slope.split(count)
        low, high = (
            [None] * len(lower_slope) if side is None else side.split(count)
            for side in (self.lower_offset, self.upper_offset)
        )
        return [Lines(*lines, self.scale) for lines in zip(lower_slope, low, upper_slope, high, strict=True)]

    def magnitude(self, size: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        size = steepest(self.lower_slope, self.upper_slope) * largest(size, lower, upper)
        offsets = [offset.abs() for offset in (self.lower_offset, self.upper_offset) if offset is not None]
        if offsets:
            size = size + torch.stack(torch.broadcast_tensors(*offsets)).amax(0)
        return size + self.scale


def largest(size: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The larger of a magnitude and the absolute values of bounds."""
    return torch.maximum(size, torch.maximum(-lower, upper))


def steepest(first: Tensor, second: Tensor) -> Tensor:
    """The larger absolute value of two slopes."""
    return first.abs() if first is second else torch.maximum(first.abs(), second.abs())


def pull(
    rows: Tensor,
    slope_p: Tensor | None,
    offset_p: Tensor | None,
    slope_n: Tensor | None,
    offset_n: Tensor | None,
    shift: Tensor | None = None,
) -> Pulled:
    """:func:`verifix.kernels.pull_lines` for ``rows (n or 1, r, *shape)``, lines ``(n, *shape)`` and a shift
    ``(*shape)``, in the order of memory. At least one line is given.
    """
    lines = (slope_p, offset_p, slope_n, offset_n)
    n, shape = max(len(line) for line in lines if line is not None), rows.shape[2:]
    order = axes_in_memory(rows)
    rows = reorder(rows, 2, order)
    lain = rows.shape[2:]
    flat = flatten(rows, 2).expand(n, -1, -1)
    a, b, c, d = (None if line is None else flatten(reorder(line.expand(n, *shape), 1, order), 1) for line in lines)
    lain_shift = None if shift is None else flatten(reorder(shift, 0, order), 0)
    pulled, offset = pull_lines(flat, a, b, c, d, lain_shift)
    if pulled is None:
        return None, offset
    back = sorted(range(len(order)), key=order.__getitem__)
    return reorder(pulled.reshape(*pulled.shape[:2], *lain), 2, back), offset


@dataclass(frozen=True)
class Levels(Relaxation):
    """``lower <= h(z) <= upper``: no dependence on the input is kept. Interval bound propagation, as two flat lines."""

    lower: Tensor
    upper: Tensor

    def below(self, rows: Tensor) -> Pulled:
        return pull(rows, None, self.lower, None, self.upper)

    def above(self, rows: Tensor) -> Pulled:
        return pull(rows, None, self.upper, None, self.lower)

    def slab(self, lower: Tensor, upper: Tensor) -> Slab:
        def linear(rows: Tensor) -> Tensor:
            return rows.new_zeros(len(self.lower), rows.shape[1], *self.lower.shape[1:])

        return Slab(linear, (self.lower + self.upper) / 2, (self.upper - self.lower) / 2)

    def select(self, index: Tensor) -> Levels:
        return Levels(self.lower[index], self.upper[index])

    def split(self, count: int) -> list[Levels]:
        return [Levels(*levels) for levels in zip(self.lower.split(count), self.upper.split(count), strict=True)]

    def magnitude(self, size: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.maximum(-self.lower, self.upper)
