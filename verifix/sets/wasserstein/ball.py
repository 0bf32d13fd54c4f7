"""Wasserstein balls around a batch of images: what the engine and the attacks need to know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.sets.base import InputSet, check_like, check_points
from verifix.sets.wasserstein.ground import window_cost
from verifix.sets.wasserstein.hull import flow_hull, window_hull

if TYPE_CHECKING:
    from verifix.sets.wasserstein.threat import Wasserstein

_ABOVE = 1.0 + 2.0**-40
"""A budget in float64 times this is at least the budget in real arithmetic, for images of up to 2^60 entries."""


class WassersteinBall(InputSet):
    """All images that a plan within the budget makes of each image of a batch; made by ``Wasserstein.around``.

    Attributes:
        threat: the threat model.
        eps: ``(n,)`` float64, in its units.
        budget: ``(n,)`` float64, in (pixel value) x (distance): what the cost of a plan may be.
        cost: ``(K,)`` float64, the cost of each offset of the window.
        box: ``(lower, upper)`` float64 ``(n, 1, 1, 1)``; None for ``variant="balanced"``.

    ``variant="clamp-after"`` is not convex; ``support`` is that of a convex set that holds it.
    """

    norm = "wasserstein"

    def __init__(self, center: Tensor, threat: Wasserstein) -> None:
        _check_images(center)
        self._center, self.threat = center, threat
        self.eps = _per_image(torch.as_tensor(threat.eps, dtype=torch.float64, device=center.device), len(center))
        self._mass = total_mass(center)
        if threat.mass == "normalised" and not bool((self._mass > 0).all()):
            number = int((self._mass <= 0).nonzero()[0])
            raise InvalidValue("x", f"image {number} has no mass", "a budget in fractions of its mass moves nothing")
        self.box: tuple[Tensor, Tensor] | None = None
        if threat.variant != "balanced":
            self.box = self._sides(threat.box)

    def _sides(self, box: tuple[float, float]) -> tuple[Tensor, Tensor]:
        largest = self._center.flatten(1).amax(1)
        outside = largest > torch.as_tensor(box[1], dtype=self._center.dtype)
        if outside.any():
            raise InvalidValue(
                "x",
                f"{int(outside.sum())} of {len(self)} inputs outside the box [{box[0]:g}, {box[1]:g}] "
                f"(values up to {float(largest.max()):.4g})",
                "pass raw inputs and make mean and std part of the network, or give the box in their units",
            )
        # inside as far as the inputs' dtype can tell; a side of 0.3 is not 0.3 in float32
        upper = largest.double().clamp(min=box[1]).reshape(-1, 1, 1, 1)
        return torch.full_like(upper, box[0]), upper

    @property
    def center(self) -> Tensor:
        return self._center

    @property
    def starts_from_support(self) -> bool:
        return True

    @property
    def budget(self) -> Tensor:
        return self.eps * self._mass if self.threat.mass == "normalised" else self.eps

    @property
    def budget_above(self) -> Tensor:
        """At least the budget in real arithmetic: what bounds are computed with."""
        # a product below the normal range is not rounded relative to its size
        return torch.where(self.eps > 0, self.budget * _ABOVE + torch.finfo(torch.float64).tiny, 0.0)

    @property
    def reach(self) -> Tensor:
        """The eps from which on the budget forbids nothing, ``(n,)`` float64."""
        height, width = self.shape[1:]
        farthest = float(height + width - 2) if self.threat.window is None else float(self.cost.max())
        if self.threat.mass == "normalised":
            return torch.full_like(self._mass, farthest)
        return farthest * self._mass * _ABOVE

    @property
    def cost(self) -> Tensor:
        if self.threat.window is None:
            raise InvalidValue("window", None, "transport = flow has no plans of a window")
        return window_cost(self.threat.ground, self.threat.window).to(self._center.device)

    def balanced_hull(self) -> tuple[Tensor, Tensor]:
        """What every pixel can lose and gain where no box is in the way, float64 ``(n, C, H, W)``."""
        x, budget = self._center.detach().double(), self.budget_above
        if self.threat.window is None:
            return flow_hull(x, budget)
        return window_hull(x, self.cost, budget, self.threat.window)

    def hull(self) -> tuple[Tensor, Tensor]:
        lower, upper = self.balanced_hull()
        if self.box is not None:
            upper = torch.minimum(upper, self.box[1])
        return _rounded(lower, self._center.dtype, -torch.inf), _rounded(upper, self._center.dtype, torch.inf)

    def finite(self) -> bool:
        # no pixel holds more than the whole image; far cheaper than the hull, which decides the rest
        return bool((self._mass < torch.finfo(self._center.dtype).max).all()) or super().finite()

    def magnitude(self) -> Tensor:
        # the support function is rounded outward by itself: what counts is how large a point of the set can be
        return 2 * self.hull()[1]

    def upper(self, rows: Tensor) -> Tensor:
        """``max <row, z>`` over each ball, ``(n, r)`` float64, for rows ``(n, r, C, H, W)`` or ``(1, r, C, H, W)``:
        never below it in real arithmetic; see ``support.py``."""
        from verifix.sets.wasserstein.support import upper_bounds

        return upper_bounds(self, rows)

    def support(self, rows: Tensor) -> Tensor:
        return _rounded(self.upper(rows), self._center.dtype, torch.inf)

    def maximiser(self, g: Tensor) -> Tensor:
        """A point of each ball with the largest ``<g, z>``, for ``g`` ``(n, C, H, W)``, of the images' type."""
        from verifix.sets.wasserstein.support import maximiser

        return maximiser(self, check_like("g", g, self._center.shape))

    def project(self, x: Tensor, method: str = "exact", **options: Any) -> Tensor:
        """The nearest point of each ball: exactly, or (``"sinkhorn"``) for an entropic cost."""
        check_like("x", x, self._center.shape)
        if method == "exact":
            from verifix.sets.wasserstein.projection import project_exact

            return project_exact(self, x, **options)
        if method == "sinkhorn":
            from verifix.sets.wasserstein.sinkhorn import project_sinkhorn

            return project_sinkhorn(self, x, **options)
        raise InvalidValue("method", repr(method), "choose one of exact, sinkhorn")

    def distance(self, x: Tensor) -> Tensor:
        """The cost of the cheapest plan from each center to ``x``, in the units of eps, ``(n,)`` float64."""
        from verifix.sets.wasserstein.distance import distance

        return distance(self, check_like("x", x, self._center.shape))

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        from verifix.sets.wasserstein.distance import contains

        return contains(self, check_like("x", x, self._center.shape), tolerance)

    def select(self, index: Tensor | slice) -> WassersteinBall:
        box = None if self.box is None else (self.box[0][index], self.box[1][index])
        return self._copy(self._center[index], self.eps[index], self._mass[index], box)

    def with_eps(self, eps: Tensor) -> WassersteinBall:
        """The balls of other radii, ``(n,)`` float64, around the same images."""
        return self._copy(self._center, _per_image(eps.to(self._center.device), len(self)), self._mass, self.box)

    def to(self, target: torch.dtype | torch.device) -> WassersteinBall:
        if isinstance(target, torch.dtype):
            return self._copy(self._center.to(target), self.eps, self._mass, self.box)
        box = None if self.box is None else (self.box[0].to(target), self.box[1].to(target))
        return self._copy(self._center.to(target), self.eps.to(target), self._mass.to(target), box)

    def _copy(self, center: Tensor, eps: Tensor, mass: Tensor, box: tuple[Tensor, Tensor] | None) -> WassersteinBall:
        copy = object.__new__(WassersteinBall)
        copy._center, copy.threat, copy.eps, copy._mass, copy.box = center, self.threat, eps, mass, box
        return copy

    def __repr__(self) -> str:
        return f"WassersteinBall(n={len(self)}, shape={self.shape}, {self.threat.variant}, {self.threat.ground})"


def total_mass(x: Tensor) -> Tensor:
    """The sum of each image ``(n, ...)``, ``(n,)`` float64: pair by pair, so that it does not depend on the batch."""
    x = x.detach().double().flatten(1)
    while x.shape[1] > 1:
        half = (x.shape[1] + 1) // 2
        x = torch.nn.functional.pad(x, (0, 2 * half - x.shape[1]))
        x = x[:, :half] + x[:, half:]
    return x.sum(1)


def _rounded(exact: Tensor, dtype: torch.dtype, side: float) -> Tensor:
    """Cast from float64 without ever moving away from ``side``."""
    short = exact.to(dtype)
    wrong = short.detach().double() > exact if side < 0 else short.detach().double() < exact
    outward = torch.where(wrong, torch.nextafter(short.detach(), torch.full_like(short, side)), short.detach())
    if not short.requires_grad:
        return outward
    # exact for what training meets: a unit in the last place, added
    return short + torch.where(wrong, outward - short.detach(), 0.0)


def _check_images(x: Tensor) -> None:
    check_points("x", x)
    if x.dim() != 4:
        raise InvalidValue("x", f"tensor of shape {tuple(x.shape)}", "must be images (n, C, H, W)")
    negative = (x < 0).flatten(1).any(1)
    if negative.any():
        number = int(negative.nonzero()[0])
        raise InvalidValue(
            "x",
            f"{int(negative.sum())} of {len(x)} images with negative pixels (first: {number})",
            "mass is nonnegative: pass raw images, and make mean and std part of the network",
        )


def _per_image(eps: Tensor, n: int) -> Tensor:
    if eps.dim() == 0:
        return eps.expand(n)
    if eps.shape != (n,):
        raise InvalidValue("eps", f"tensor of shape {tuple(eps.shape)}", f"must be a number, or ({n},) for {n} images")
    return eps
