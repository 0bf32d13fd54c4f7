"""lp balls, weighted by coordinate, with or without a box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets.base import InputSet, Norm, NormBall, check_box, check_like, check_points
from verifix.sets.box import box_extrema, box_least
from verifix.sets.project import project_l1, project_l2, project_linf
from verifix.sets.support import l1_box_support, l2_box_support, scaled_problem
from verifix.tensors import contract

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
SPELLINGS: dict[object, Norm] = {
    "linf": "linf",
    "inf": "linf",
    math.inf: "linf",
    "l2": "l2",
    "2": "l2",
    2: "l2",
    "l1": "l1",
    "1": "l1",
    1: "l1",
}
"""What is understood as each norm."""


@dataclass(frozen=True)
class Ball:
    """A perturbation budget: which norm, how much, and which box the input must stay in.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"`` (``inf``, 2, 1 are understood).
        eps: the radius, in units of the raw input: a number, ``(n,)`` for one radius per input, or a tensor with as
            many axes as the inputs, broadcastable to them, for one radius per coordinate. With radii ``w`` per
            coordinate the set is ``||(x' - x) / w||_p <= 1``; a radius of zero fixes its coordinate.
        box: ``None``, or ``(lower, upper)`` numbers or tensors that every input lies in and must stay in.
            The box is never dropped: bounds are taken over the intersection.

    Raises:
        InvalidValue: for a negative or NaN eps, an unknown norm, ``lower > upper``.

    >>> import torch
    >>> ball = Ball("linf", eps=0.25, box=(0, 1)).around(torch.tensor([[0.0, 0.5]]))
    >>> ball.hull()
    (tensor([[0.0000, 0.2500]]), tensor([[0.2500, 0.7500]]))
    """

    norm: Norm
    eps: float | Tensor
    box: tuple[float | Tensor, float | Tensor] | None = None

    def __post_init__(self) -> None:
        key: object = self.norm.lower() if isinstance(self.norm, str) else self.norm
        if isinstance(key, bool) or not isinstance(key, (str, int, float)) or key not in SPELLINGS:
            raise InvalidValue("norm", repr(self.norm), f"choose one of {', '.join(NORMS)}")
        object.__setattr__(self, "norm", SPELLINGS[key])
        if not _is_number(self.eps):
            raise InvalidType("eps", self.eps, "a number or a torch.Tensor")
        eps = torch.as_tensor(self.eps, dtype=torch.float64)
        bad = ~((eps >= 0) & torch.isfinite(eps))
        if bad.any():
            raise InvalidValue("eps", float(eps[bad][0]), "must be finite and >= 0")
        if self.box is not None:
            if not isinstance(self.box, (tuple, list)) or len(self.box) != 2 or not all(map(_is_number, self.box)):
                raise InvalidType("box", self.box, "a pair (lower, upper) of numbers or tensors")
            lower, upper = (torch.as_tensor(side, dtype=torch.float64) for side in self.box)
            try:
                lower, upper = torch.broadcast_tensors(lower, upper)
            except RuntimeError as error:
                shapes = f"sides of shapes {tuple(lower.shape)} and {tuple(upper.shape)}"
                raise InvalidValue("box", shapes, "must fit each other") from error
            check_box(lower, upper)

    def around(self, x: Tensor) -> LpBall:
        """The balls around a batch of inputs ``(n, *shape)``.

        Raises:
            InvalidValue: when ``x`` holds NaN, or lies outside the box, or eps does not fit its shape.
        """
        return LpBall(x, self.norm, self.eps, self.box)

    def settings(self) -> dict[str, Any]:
        """What a run records of the threat model."""
        box = None if self.box is None else [_plain(side) for side in self.box]
        return {"norm": self.norm, "eps": _plain(self.eps), "box": box}


class LpBall(InputSet):
    """Balls of one norm around a batch of inputs, intersected with a box; made by :meth:`Ball.around`."""

    def __init__(
        self, center: Tensor, norm: Norm, eps: float | Tensor, box: tuple[float | Tensor, float | Tensor] | None
    ) -> None:
        check_points("x", center)
        self._center = center
        self.norm = norm
        self.eps = _broadcast_eps(torch.as_tensor(eps, dtype=torch.float64, device=center.device), center)
        self.box: tuple[Tensor, Tensor] | None = None
        if box is not None:
            lower, upper = (torch.as_tensor(side, dtype=torch.float64, device=center.device) for side in box)
            self.box = (_lead("box", lower, center), _lead("box", upper, center))
            if self._surely_inside():
                return
            self._check_inside()
            lower, upper = self.box
            exact = self._center.detach().double()
            if bool(((exact < lower) | (exact > upper)).any()):
                # inside as far as the inputs' dtype can tell; a side of 0.3 is not 0.3 in float32
                self.box = (torch.minimum(lower, exact), torch.maximum(upper, exact))

    def _surely_inside(self) -> bool:
        """Whether one box for all coordinates holds every input, which the least and the largest say in one sweep."""
        lower, upper = self.box or (None, None)
        if lower is None or upper is None or lower.numel() != 1 or upper.numel() != 1 or not self._center.numel():
            return False
        least, largest = torch.aminmax(self._center.detach())
        return bool((least.double() >= lower).all()) and bool((largest.double() <= upper).all())

    def _check_inside(self) -> None:
        lower, upper = self._box()
        outside = ((self._center < lower) | (self._center > upper)).flatten(1).any(1)
        if outside.any():
            low, high = float(self._center.min()), float(self._center.max())
            raise InvalidValue(
                "x",
                f"{int(outside.sum())} of {len(self)} inputs outside the box "
                f"[{float(lower.min()):g}, {float(upper.max()):g}] (values from {low:.4g} to {high:.4g})",
                "the likely cause is normalised data: pass raw inputs and make mean and std part of the network, "
                "or give the box in their units",
            )

    def _box(self) -> tuple[Tensor, Tensor]:
        if self.box is None:
            raise InvalidValue("box", None, "this ball has no box")
        return self.box[0].to(self._center.dtype), self.box[1].to(self._center.dtype)

    def _eps(self) -> Tensor:
        return self.eps.to(self._center.dtype)

    @property
    def center(self) -> Tensor:
        return self._center

    def hull(self) -> tuple[Tensor, Tensor]:
        lower, upper = self._center - self._eps(), self._center + self._eps()
        if self.box is None:
            return lower, upper
        low, high = self._box()
        return torch.maximum(lower, low), torch.minimum(upper, high)

    def norm_ball(self) -> NormBall:
        if self.box is None or self.norm != "linf":
            return NormBall(self.norm, self._center, self._eps(), self.box is None)
        lower, upper = self.hull()
        radius = (upper - lower) / 2
        return NormBall("linf", lower + radius, radius, True)

    def extrema(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if self.box is not None:
            if self.norm == "linf":
                return box_extrema(rows, *self.hull())
            return super().extrema(rows)
        middle = contract(rows, self._center)
        spread = self._dual_norm(rows)
        return middle - spread, middle + spread

    def least(self, rows: Tensor) -> Tensor:
        return box_least(rows, *self.hull()) if self.norm == "linf" else super().least(rows)

    def support(self, rows: Tensor) -> Tensor:
        if self.box is None or self.norm == "linf":
            return self.extrema(rows)[1]
        low, high = self._box()
        weight = self._eps().expand_as(self._center).flatten(1)[:, None]
        below = (self._center - low).flatten(1)[:, None]
        above = (high - self._center).flatten(1)[:, None]
        h, room = scaled_problem(rows.flatten(2), weight, below, above)
        solve = l1_box_support if self.norm == "l1" else l2_box_support
        return contract(rows, self._center) + solve(h, room)

    def _dual_norm(self, rows: Tensor) -> Tensor:
        if self.norm == "linf":
            return contract(rows.abs(), self._eps().expand(-1, *self.shape))
        per_input = self.eps.shape[1:].numel() == 1
        scaled = rows if per_input else rows * self._eps()[:, None]
        flat = scaled.flatten(2)
        size = _euclidean(flat) if self.norm == "l2" else _largest(flat)
        return size * self._eps().reshape(-1, 1) if per_input else size

    def magnitude(self) -> Tensor:
        # x and eps enter every sum once. With a box: center and radius of the hull; or x, the gains h t <= |g| eps and,
        # for l2, twice half the multiplier, which is at most 2 sum |g| eps. A side of the box counts only where it is
        # within eps of x.
        size = self._center.abs() + self._eps()
        return size if self.box is None else 4 * size

    def project(self, x: Tensor) -> Tensor:
        check_like("x", x, self._center.shape)
        center = self._center.double()
        box = None if self.box is None else (self.box[0] - center, self.box[1] - center)
        step = x.double() - center
        solve = {"linf": project_linf, "l2": project_l2, "l1": project_l1}[self.norm]
        moved = center + solve(step, self.eps, box)
        if self.box is not None:
            moved = torch.minimum(torch.maximum(moved, self.box[0]), self.box[1])
        return self._pull_inside(moved.to(x.dtype))

    def _pull_inside(self, x: Tensor) -> Tensor:
        """Undo the rounding of the last cast: move coordinates one unit towards the center where the set was left."""
        outside = (~self.contains(x)).nonzero()[:, 0]
        for _ in range(8):
            if not len(outside):
                return x
            part = self.select(outside)
            moved = torch.nextafter(x[outside], part._center.to(x.dtype))
            x[outside] = moved
            outside = outside[~part.contains(moved)]
        x[outside] = self._center[outside].to(x.dtype)
        return x

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        check_like("x", x, self._center.shape)
        step = (x.double() - self._center.double()).flatten(1)
        eps = self.eps.expand_as(self._center).flatten(1)
        free = eps > 0
        fixed_still = (free | (step.abs() <= tolerance)).all(1)
        if self.norm == "linf":
            inside = (step.abs() <= eps + tolerance).all(1)
        else:
            ratio = torch.where(free, step / torch.where(free, eps, 1.0), 0.0)
            size = torch.linalg.vector_norm(ratio, ord=2.0 if self.norm == "l2" else 1.0, dim=1)
            slack = tolerance / eps.amax(1).clamp(min=1e-300)
            inside = fixed_still & (size <= 1 + slack)
        if self.box is not None:
            low, high = self.box
            inside &= ((x.double() >= low - tolerance) & (x.double() <= high + tolerance)).flatten(1).all(1)
        return inside

    def distance(self, x: Tensor) -> Tensor:
        check_like("x", x, self._center.shape)
        step, eps = x.double() - self._center.double(), self.eps.expand_as(self._center)
        if (
            self.eps.shape[1:].numel() > 1
        ):  # by the coordinate with the largest radius; infinite where a fixed one moved
            step = torch.where(step == 0, 0.0, step * eps.flatten(1).amax(1).reshape(-1, *[1] * (step.dim() - 1)) / eps)
        order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[self.norm]
        return torch.linalg.vector_norm(step.flatten(1), ord=order, dim=1)

    def select(self, index: Tensor | slice) -> LpBall:
        box = None if self.box is None else (_pick(self.box[0], index), _pick(self.box[1], index))
        return self._copy(self._center[index], _pick(self.eps, index), box)

    def with_eps(self, eps: Tensor) -> LpBall:
        """The balls of other radii, ``(n,)`` float64, around the same inputs."""
        eps = _broadcast_eps(eps.to(self._center.device), self._center)
        return self._copy(self._center, eps, self.box)

    def to(self, target: torch.dtype | torch.device) -> LpBall:
        if isinstance(target, torch.dtype):
            return self._copy(self._center.to(target), self.eps, self.box)
        box = None if self.box is None else (self.box[0].to(target), self.box[1].to(target))
        return self._copy(self._center.to(target), self.eps.to(target), box)

    def _copy(self, center: Tensor, eps: Tensor, box: tuple[Tensor, Tensor] | None) -> LpBall:
        copy = object.__new__(LpBall)
        copy._center, copy.norm, copy.eps, copy.box = center, self.norm, eps, box
        return copy

    def __repr__(self) -> str:
        return f"LpBall(n={len(self)}, shape={self.shape}, norm={self.norm!r}, box={self.box is not None})"


def _is_number(side: object) -> bool:
    return isinstance(side, (int, float, Tensor)) and not isinstance(side, bool)


def _plain(side: float | Tensor) -> Any:
    return side.tolist() if isinstance(side, Tensor) else float(side)


def _euclidean(flat: Tensor) -> Tensor:
    """Euclidean norms along the last axis; the squares can neither underflow nor overflow."""
    scale = _largest(flat.detach())[:, :, None]
    scale = torch.where((scale > 0) & torch.isfinite(scale), scale, 1.0)
    return torch.linalg.vector_norm(flat / scale, dim=2) * scale[:, :, 0]


def _largest(flat: Tensor) -> Tensor:
    return flat.abs().amax(2) if flat.shape[2] else flat.new_zeros(flat.shape[:2])


def _pick(side: Tensor, index: Tensor | slice) -> Tensor:
    return side if side.shape[0] == 1 else side[index]


def _broadcast_eps(eps: Tensor, center: Tensor) -> Tensor:
    if eps.dim() == 1 and eps.shape[0] == center.shape[0]:
        eps = eps.reshape(-1, *[1] * (center.dim() - 1))
    return _lead("eps", eps, center)


def _lead(name: str, side: Tensor, center: Tensor) -> Tensor:
    """Give a number or a broadcastable tensor the axes of the inputs: ``(1 or n, ...)``."""
    lead = side.reshape([1] * (center.dim() - side.dim()) + list(side.shape)) if side.dim() < center.dim() else side
    try:
        fits = torch.broadcast_shapes(lead.shape, center.shape) == center.shape
    except RuntimeError:
        fits = False
    if not fits or (name == "eps" and 0 < side.dim() < center.dim()):
        raise InvalidValue(
            name,
            f"tensor of shape {tuple(side.shape)}",
            f"must be a number, or fit the inputs {tuple(center.shape)} axis by axis",
        )
    return lead
