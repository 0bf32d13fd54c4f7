"""The Wasserstein threat model: how much mass an adversary may move how far, and by which rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets.base import check_like
from verifix.sets.wasserstein.ball import WassersteinBall
from verifix.sets.wasserstein.ground import Ground, window_cost

Mass = Literal["normalised", "raw"]
Variant = Literal["balanced", "balanced-box", "clamp-after"]
Transport = Literal["local", "flow"]
_CHOICES = {
    "mass": ("normalised", "raw"),
    "variant": ("balanced", "balanced-box", "clamp-after"),
    "transport": ("local", "flow"),
}


@dataclass(frozen=True)
class Wasserstein:
    """A perturbation budget of mass times distance (``docs/wasserstein.md``).

    Images are ``(n, C, H, W)``, nonnegative; mass moves inside a channel, and all channels share the budget.

    Args:
        eps: a number, or ``(n,)``, one for each input. In (fraction of mass) x (distance) for ``mass="normalised"``, in
            (pixel value) x (distance) for ``mass="raw"``.
        ground: the distance of two pixels: ``"euclidean"``, ``"squared-euclidean"`` or ``"l1"``, in pixels.
        window: mass moves at most ``window // 2`` pixels in each direction; odd. None for ``transport="flow"``.
        mass: whether the budget is ``eps`` times the mass of the image over all channels, or ``eps``.
        variant: ``"balanced"``: mass is moved, nothing else. ``"balanced-box"``: and the image stays in the box.
            ``"clamp-after"``: the moved image is clamped into the box, which loses mass.
        transport: ``"local"``: directly from pixel to pixel of the window. ``"flow"``: any distance, which needs
            ``ground="l1"``.
        box: numbers ``(lower, upper)`` with ``lower <= 0 < upper``; ``"balanced"`` does not use it.

    Raises:
        InvalidType: an argument is not of its type.
        InvalidValue: an argument is out of its range, or does not fit the others.

    >>> w = Wasserstein(eps=0.5, window=3)
    >>> x = torch.tensor([[[[0.0, 1.0, 0.0]]]])
    >>> w.support(x, torch.tensor([[[[0.0, 0.0, 2.0]]]]))
    tensor([1.0000], dtype=torch.float64)
    """

    eps: float | Tensor
    ground: Ground = "euclidean"
    window: int | None = 5
    mass: Mass = "normalised"
    variant: Variant = "balanced"
    transport: Transport = "local"
    box: tuple[float, float] = (0.0, 1.0)

    norm = "wasserstein"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidValue(name, repr(getattr(self, name)), f"choose one of {', '.join(choices)}")
        if isinstance(self.eps, bool) or not isinstance(self.eps, (int, float, Tensor)):
            raise InvalidType("eps", self.eps, "a number or a torch.Tensor")
        eps = torch.as_tensor(self.eps, dtype=torch.float64)
        if eps.dim() > 1:
            raise InvalidValue("eps", f"tensor of shape {tuple(eps.shape)}", "must be a number, or (n,)")
        bad = ~((eps >= 0) & torch.isfinite(eps))
        if bad.any():
            raise InvalidValue("eps", float(eps[bad][0]), "must be finite and >= 0")
        window_cost(self.ground, 1 if self.window is None else self.window)
        self._check_transport()
        self._check_box()

    def _check_transport(self) -> None:
        if self.transport == "local":
            if self.window is None:
                raise InvalidValue("window", None, "transport = local needs an odd window, for example 5")
            return
        if self.window is not None:
            raise InvalidValue("window", self.window, "transport = flow knows no window: give window=None")
        if self.ground != "l1":
            raise InvalidValue("ground", self.ground, "transport = flow moves mass along the grid: give ground='l1'")

    def _check_box(self) -> None:
        box = self.box
        numbers = (
            isinstance(box, (tuple, list)) and len(box) == 2 and all(isinstance(side, (int, float)) for side in box)
        )
        if not numbers:
            raise InvalidType("box", box, "a pair (lower, upper) of numbers")
        if not (box[0] <= 0 < box[1] and math.isfinite(box[0]) and math.isfinite(box[1])):
            raise InvalidValue("box", f"[{box[0]}, {box[1]}]", "needs lower <= 0 < upper: images are nonnegative")
        object.__setattr__(self, "box", (float(box[0]), float(box[1])))

    def around(self, x: Tensor) -> WassersteinBall:
        """The balls around a batch of images ``(n, C, H, W)``.

        Raises:
            InvalidValue: x holds NaN, infinity or negative numbers, or is outside the box of a variant that has one; an
                image has no mass and the budget is a fraction of it; eps does not fit.
        """
        return WassersteinBall(x, self)

    def settings(self) -> dict[str, Any]:
        """What a run records of the threat model."""
        eps = self.eps.tolist() if isinstance(self.eps, Tensor) else float(self.eps)
        return {
            "norm": self.norm,
            "eps": eps,
            "box": None if self.variant == "balanced" else list(self.box),
            "ground": self.ground,
            "window": self.window,
            "mass": self.mass,
            "variant": self.variant,
            "transport": self.transport,
        }

    def support(self, x: Tensor, g: Tensor) -> Tensor:
        """``max <g, z>`` over the ball around each image, for ``g`` of the shape of ``x``: ``(n,)`` float64.

        Never below the maximum in real arithmetic. Above it by at most ``1e-9`` of the sum of ``|g| z`` for
        ``variant="balanced"``; the other variants have a gap (:class:`WassersteinBall`).
        """
        ball = self.around(x)
        return ball.upper(check_like("g", g, x.shape)[:, None])[:, 0]

    def maximiser(self, x: Tensor, g: Tensor) -> Tensor:
        """A point of the ball around each image with the largest ``<g, z>`` (``variant="balanced"``), like ``x``."""
        return self.around(x).maximiser(g)

    def project(self, x: Tensor, v: Tensor, method: str = "exact", **options: Any) -> Tensor:
        """The point of the ball around each image ``x`` that is nearest (Euclidean) to ``v``, like ``x``."""
        ball = self.around(x)
        return ball.project(check_like("v", v, x.shape), method, **options)

    def distance(self, x: Tensor, z: Tensor) -> Tensor:
        """The cost of the cheapest plan from ``x`` to ``z``, in the units of eps, ``(n,)`` float64; infinite where no
        plan leads there."""
        ball = self.around(x)
        return ball.distance(check_like("z", z, x.shape))

    def contains(self, x: Tensor, z: Tensor, tolerance: float = 0.0) -> Tensor:
        """Whether each ``z`` is in the ball around its image, decided in float64, ``(n,)``."""
        ball = self.around(x)
        return ball.contains(check_like("z", z, x.shape), tolerance)
