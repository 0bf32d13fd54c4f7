"""What an operation is to the engine: affine, or nonlinear between two lines.

Shapes never include the batch axis. Every operation knows the shapes of its inputs from the day it is made, and reads
its parameters anew at each use, so that bounds follow training and can be trained through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor, nn

from verifix.operations.relaxation import Relaxation
from verifix.tensors import Entries

Shape = tuple[int, ...]
Value = Callable[[], Tensor]
Slopes = Literal["same", "adaptive", "zero", "one", "constant"]


def live(module: nn.Module, name: str) -> Value:
    """A parameter or buffer of a module, read at each use."""
    return lambda: getattr(module, name)


def fixed(tensor: Tensor) -> Value:
    """A constant."""
    return lambda: tensor


_FIXED: ContextVar[bool] = ContextVar("fixed", default=False)


@contextmanager
def parameters_fixed() -> Iterator[None]:
    """Meanwhile parameters and buffers are read as constants: no gradients flow to them, and none are prepared."""
    token = _FIXED.set(True)
    try:
        yield
    finally:
        _FIXED.reset(token)


def read(value: Value, like: Tensor) -> Tensor:
    """The value in the dtype and on the device of ``like``."""
    found = value().to(like)
    return found.detach() if _FIXED.get() else found


class Operation(ABC):
    """One node's map from its inputs to its output, batch first.

    Attributes:
        inputs: the shapes of the inputs.
        shape: the shape of the output.
    """

    inputs: tuple[Shape, ...]
    shape: Shape

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """The map itself: ``(n, *shape_i)`` to ``(n, *shape)``."""

    @abstractmethod
    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The image of a box, enclosed in a box."""

    @property
    @abstractmethod
    def roundings(self) -> int:
        """How many roundings one entry of its output, or of its adjoint, goes through; see ``bounds.rounding``."""


class Affine(Operation):
    """``y = W x + b`` over one or more inputs, given by ``W``, its adjoint, ``|W|`` and ``b``."""

    def linear(self, *inputs: Tensor) -> Tensor:
        """``W x``."""
        y = self.forward(*inputs)
        offset = self.offset(y)
        return y if offset is None else y - offset

    @abstractmethod
    def absolute(self, *inputs: Tensor) -> Tensor:
        """``|W| x``: what the map does to radii and magnitudes."""

    @abstractmethod
    def adjoint(self, rows: Tensor) -> tuple[Tensor, ...]:
        """``W^T`` on coefficient rows: ``(m, *shape)`` to one ``(m, *shape_i)`` for each input."""

    @abstractmethod
    def offset(self, like: Tensor) -> Tensor | None:
        """``b``, broadcastable to ``(1, *shape)``, or None where it is zero."""

    @property
    def mixes(self) -> bool:
        """Whether an output may depend on several entries, or two outputs on one."""
        return True

    def entries(self) -> Entries | None:
        """``W`` by its entries over flattened shapes, in float64, where it has one input and is fixed; else None."""
        return None

    def offset_size(self, like: Tensor) -> Tensor | None:
        """A bound on the absolute values of the terms that ``b`` is made of; see ``bounds.rounding``."""
        offset = self.offset(like)
        return None if offset is None else offset.abs()

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        radii = [(upper - lower) / 2 for lower, upper in zip(lowers, uppers, strict=True)]
        middle = self.forward(*(lower + radius for lower, radius in zip(lowers, radii, strict=True)))
        spread = self.absolute(*radii)
        return middle - spread, middle + spread


class Nonlinear(Operation):
    """An operation of one input that the engine encloses between two lines on an interval."""

    roundings: int = 8  # building a chord or a tangent, and evaluating it
    free: int = 0
    """How many slopes of each unit may be chosen, see :meth:`lines`."""

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where the operation is affine on ``[lower, upper]``, so that tighter bounds would give the same lines."""
        return torch.zeros_like(lower, dtype=torch.bool)

    def shares(self, lower: Tensor, upper: Tensor, slopes: Slopes) -> Tensor:
        """The shares that a rule's slopes are, ``(n, free, *shape)``: :meth:`lines` makes the same of either.

        Where there is nothing to choose, or a bound is not known, they are anything in [0, 1].
        """
        return lower.new_zeros(len(lower), 0, *lower.shape[1:])

    @abstractmethod
    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes | Tensor) -> Relaxation:
        """Lines that enclose the operation for every pre-activation in ``[lower, upper]``, ``(n, *input shape)``.

        Args:
            slopes: a rule by its name; or, where slopes are ``free``, shares in [0, 1] of the way from the least slope
                to the largest, ``(n, free, *shape)``. Where an operation is affine there is nothing to choose.
        """


def poison(lower: Tensor, upper: Tensor) -> Tensor:
    """Zero where the interval has a finite width, NaN elsewhere: one that is not known must not look as if it were."""
    finite = torch.isfinite(upper - lower)  # both ends are, and a slope over the width is not rounded to zero
    return torch.where(finite.detach(), 0.0, torch.nan).to(lower.dtype)
