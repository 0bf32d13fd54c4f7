"""What the engine and the attacks need to know of a set of inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue

Norm = Literal["linf", "l2", "l1"]


@dataclass(frozen=True)
class NormBall:
    """All ``x'`` with ``||(x' - center) / radius||_p <= 1``; ``radius`` is ``(n or 1, ...)``, broadcastable to them.

    Attributes:
        whole: whether this is the set itself, and not a ball that holds it.
    """

    norm: Norm
    center: Tensor
    radius: Tensor
    whole: bool


class InputSet(ABC):
    """A batch of sets, one around (or in place of) each of ``n`` inputs of shape ``shape``.

    Every set is compact, and all but unions are convex. ``support`` is all that bounds need; ``hull`` starts the
    interval pass; ``project`` and ``contains`` serve attacks and checks.
    """

    @property
    @abstractmethod
    def center(self) -> Tensor:
        """A point of each set, ``(n, *shape)``: the input itself for a ball, the midpoint for a box."""

    @abstractmethod
    def hull(self) -> tuple[Tensor, Tensor]:
        """The smallest box that holds each set: lower and upper, ``(n, *shape)``."""

    @abstractmethod
    def support(self, rows: Tensor) -> Tensor:
        """``max <row, x>`` over each set, ``(n, r)``, for rows ``(n, r, *shape)`` or ``(1, r, *shape)``."""

    @abstractmethod
    def magnitude(self) -> Tensor:
        """A bound on ``|x|`` and on every term that ``support`` adds up, ``(n, *shape)``; see ``bounds.rounding``."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point (Euclidean) of each set to ``x``, ``(n, *shape)``; ``contains`` holds for the result."""

    @abstractmethod
    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        """Whether each ``x`` lies in its set, decided in float64, ``(n,)``; ``tolerance`` is added to the radius."""

    @abstractmethod
    def distance(self, x: Tensor) -> Tensor:
        """How far each ``x`` is from its center, in the units of the set's radius and in float64, ``(n,)``; a box has
        no norm of its own and takes l_inf."""

    @abstractmethod
    def select(self, index: Tensor | slice) -> InputSet:
        """The sets of some of the inputs."""

    @abstractmethod
    def to(self, target: torch.dtype | torch.device) -> InputSet:
        """The same sets, computed with in another dtype or on another device."""

    def finite(self) -> bool:
        """Whether the type of the inputs holds every point of every set."""
        return all(bool(torch.isfinite(side).all()) for side in self.hull())

    @property
    def starts_from_support(self) -> bool:
        """Whether bounds of single coordinates say little of the set, so that the interval pass starts behind the first
        affine operations, with what ``support`` says of them."""
        return False

    def norm_ball(self) -> NormBall | None:
        """The sets as balls of one norm without a box, or such balls that hold them; None where there are none."""
        return None

    def least(self, rows: Tensor) -> Tensor:
        """``min <row, x>`` over each set, ``(n, r)``."""
        return -self.support(-rows)

    def extrema(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``min`` and ``max`` of ``<row, x>`` over each set, both ``(n, r)``."""
        return -self.support(-rows), self.support(rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.center.shape[1:])

    def __len__(self) -> int:
        return self.center.shape[0]


def check_points(name: str, x: object) -> Tensor:
    """Refuse what cannot be a batch of inputs: not a tensor, not floating point, no batch axis, NaN or infinite."""
    if not isinstance(x, Tensor):
        raise InvalidType(name, x, "a torch.Tensor of shape (n, ...)")
    if not x.is_floating_point():
        raise InvalidType(name, x, f"a floating-point tensor, not {x.dtype} (for example {name}.float())")
    if x.dim() < 2:
        raise InvalidValue(name, f"tensor of shape {tuple(x.shape)}", "must be a batch (n, ...) of inputs")
    if x.numel() and bool(torch.isfinite(torch.stack(torch.aminmax(x.detach()))).all()):
        return x  # one sweep: NaN goes through minima and maxima
    broken = (~torch.isfinite(x.detach())).flatten(1).any(1)
    if broken.any():
        first = int(broken.nonzero()[0])
        raise InvalidValue(
            name, f"{int(broken.sum())} of {len(x)} inputs with NaN or infinity (first: {first})", "clean the data"
        )
    return x


def check_like(name: str, x: object, shape: torch.Size) -> Tensor:
    """Refuse what is not a tensor of real numbers of the shape of the inputs: nothing is broadcast."""
    if not isinstance(x, Tensor):
        raise InvalidType(name, x, f"a torch.Tensor of shape {tuple(shape)}")
    if not x.is_floating_point():
        raise InvalidType(name, x, f"a floating-point tensor, not {x.dtype}")
    if x.shape != shape:
        raise InvalidValue(name, f"tensor of shape {tuple(x.shape)}", f"must be {tuple(shape)}")
    return x


def check_box(lower: Tensor, upper: Tensor) -> None:
    """Refuse a box with NaN or with ``lower > upper`` anywhere."""
    bad = ~(lower <= upper)
    if bad.any():
        position = tuple(int(i) for i in bad.nonzero()[0])
        where = f" at {position}" if position else ""
        raise InvalidValue(
            "box", f"[{float(lower[position]):g}, {float(upper[position]):g}]{where}", "needs lower <= upper, no NaN"
        )
