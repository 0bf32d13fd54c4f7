"""Splitting noise, which certifies l1: by samples, or exactly by trying every one of its few outcomes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.lattice import check_lattice as lattice_levels
from verifix.kernels.noise import add_noise, random_words, rounded_up
from verifix.kernels.noise_reference import quotient
from verifix.smooth.noise.base import Noise, Samples
from verifix.smooth.noise.parameters import check_lattice, check_scale, check_whole
from verifix.smooth.noise.uniform import lipschitz_radius
from verifix.smooth.probabilities import Probabilities

_NO_INPUT = 2**32 - 1
"""Offsets are drawn under this number, which no input of a data set has."""


@dataclass(frozen=True)
class Splitting(Noise):
    """A coordinate in ``[0, 1]`` is replaced by the middle of its piece, after cuts ``2 scale`` apart at random.

    With cuts at ``s_i + 2 scale Z``, s_i uniform on ``[0, 2 scale)``, coordinate i becomes the mean of the ends of its
    piece, clipped to ``[0, 1]``. It differs between x and x' only if a cut falls between x_i and x'_i, which has
    probability at most ``|x_i - x'_i| / 2 scale``, however the cuts of different coordinates depend on one another.
    So the radius is ``scale (p_A - p_B)`` in l1: Levine & Feizi 2021, theorem 1.

    On a lattice ``k / lattice`` the cuts of all coordinates are tied to one: ``s_i = s + v_i`` modulo ``2 scale``, the
    offsets v fixed and s one of ``2 scale lattice`` half levels. The noise then has only so many outcomes, and
    :meth:`draw_all` with :meth:`exact_radius` certify from all of them (theorem 2 there): no sample, no alpha.

    Args:
        scale: half the distance of cuts; at least 1/2 and a coordinate is cut once at most.
        lattice: levels per unit; ``2 scale lattice`` must be a whole number. None draws all cuts independently,
            in floating point.
        offsets: seed of the offsets v, part of what defines the smoothed classifier.

    Raises:
        InvalidType, InvalidValue: for a scale that is not one number > 0 or does not fit the lattice.

    >>> noise = Splitting(1.0, lattice=2)
    >>> noise.evaluations
    4
    >>> noise.exact_radius(np.array([[3, 1], [2, 2]]), np.array([0, 0]))
    array([0.5, 0. ])
    """

    scale: float
    lattice: int | None = None
    offsets: int = 0

    name: ClassVar[str] = "splitting"
    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale("scale", self.scale))
        object.__setattr__(self, "lattice", check_lattice(self.lattice))
        object.__setattr__(self, "offsets", check_whole("offsets", self.offsets, least=0))
        if self.lattice is not None:
            exact = 2 * self.scale * self.lattice
            if round(exact) < 1 or abs(exact - round(exact)) > 1e-9 * exact or round(exact) > 2**20:
                remedy = f"2 scale lattice must be a whole number of cuts, 2^20 at most, here it is {exact:g}"
                raise InvalidValue("scale", self.scale, remedy)

    @property
    def evaluations(self) -> int | None:
        """How many outcomes the noise has; None without a lattice."""
        return None if self.lattice is None else round(2 * self.scale * self.lattice)

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        if self.lattice is not None:
            words = random_words(
                samples.inputs,
                words=2,
                **samples.names,
            )
            return self._split_levels(x, _below(words, self.evaluations or 1))
        half = rounded_up(self.scale)  # as the noise is: cuts must be as far apart as it is wide
        s = half + add_noise(
            torch.zeros_like(x),
            samples.inputs,
            law="uniform",
            scale=self.scale,
            **samples.names,
        )
        period = x.new_full((), 2 * half)  # a tensor: CUDA divides by numbers with their inverses
        above = torch.ceil((x[:, None] - s) / period)
        upper = (period * above + s).clamp(max=1)
        lower = (period * (above - 1) + s).clamp(min=0)
        return (upper + lower) / 2

    def draw_all(self, x: Tensor, start: int = 0, count: int | None = None) -> Tensor:
        """Outcomes ``start`` to ``start + count - 1`` (default: all) of the noise on each input, each equally likely:
        ``(n, count, ...)``. Needs a lattice."""
        if self.evaluations is None:
            raise InvalidValue("lattice", None, "only noise on a lattice has finitely many outcomes: give its levels")
        stop = self.evaluations if count is None else start + count
        if not 0 <= start <= stop <= self.evaluations:
            raise InvalidValue("start, count", f"{start}, {count}", f"there are {self.evaluations} outcomes")
        cuts = torch.arange(start, stop, device=x.device).expand(len(x), -1)
        return self._split_levels(x, cuts)

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        if self.evaluations is None or self.lattice is None:
            return lipschitz_radius(probabilities, self.scale)
        # cuts are whole levels apart, which the scale is only up to rounding
        return lipschitz_radius(probabilities, min(self.scale, self.evaluations / (2 * self.lattice)))

    def exact_radius(self, counts: object, top: object) -> NDArray[np.float64]:
        """The radius from the votes of all outcomes, where ties go to the smaller class; nan where top does not win.

        The largest r such that no perturbation of l1 norm at most ``r / lattice`` between lattice inputs changes the
        winner: a step of one level changes one vote at most, so every r with ``n_A - r > n_B + r``, or equality if
        class A comes before B, for each other class B. Unlike :meth:`radius` it includes its own boundary.

        Args:
            counts: ``(n, columns)`` votes of all outcomes; the columns may include one for answers that are invalid.
            top: ``(n,)`` the class of each input.
        """
        votes, index = np.asarray(counts), np.asarray(top)
        if self.evaluations is None or self.lattice is None:
            raise InvalidValue("lattice", None, "exact radii need noise on a lattice: give its levels")
        if votes.ndim != 2 or index.shape != votes.shape[:1]:
            raise InvalidValue("top", f"of shape {index.shape}", f"counts of shape {votes.shape} need one per row")
        if len(index) and not ((index >= 0) & (index < votes.shape[1])).all():
            raise InvalidValue("top", int(index.min()), f"must be a column of counts: 0 to {votes.shape[1] - 1}")
        if (votes < 0).any() or (votes.sum(axis=1) != self.evaluations).any():
            raise InvalidValue("counts", "votes", f"every row must hold all {self.evaluations} outcomes")
        columns = np.arange(votes.shape[1])
        lead = np.take_along_axis(votes, index[:, None], 1) - votes - (columns < index[:, None])
        lead[columns == index[:, None]] = 2 * self.evaluations
        steps = lead.min(axis=1, initial=2 * self.evaluations) // 2
        return np.where(steps >= 0, steps / self.lattice, np.nan)  # nearest is safe: no lattice distance in between

    def total_variation(self, coordinates: int) -> float:
        """The one cut is ``words N / 2^64`` rounded down, N outcomes: each is off by less than 2^-64."""
        return 0.0 if self.evaluations is None else self.evaluations * 2.0**-65

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "scale": self.scale, "lattice": self.lattice, "offsets": self.offsets}

    def _split_levels(self, x: Tensor, cuts: Tensor) -> Tensor:
        """The middles of pieces when the cut is half a level above ``cuts`` (n, count), in whole numbers throughout:
        quarters of a level."""
        levels, period = int(self.lattice or 0), int(self.evaluations or 0)
        inputs = torch.tensor([_NO_INPUT], device=x.device)
        words = random_words(inputs, words=2 * math.prod(x.shape[1:]), seed=self.offsets, purpose=0, start=0, count=1)
        offsets = _below(words.reshape(-1, 2), period).reshape(x.shape[1:])
        shape = (*cuts.shape, *(1,) * (x.dim() - 1))
        cut = (2 * (cuts.reshape(shape) + offsets) + 1).to(torch.int32)
        twice = 2 * lattice_levels(x, levels)[:, None]
        above = -torch.div(cut - twice, 2 * period, rounding_mode="floor")
        upper = (2 * period * above + cut).clamp(max=2 * levels)
        lower = (2 * period * (above - 1) + cut).clamp(min=0)
        return quotient(upper + lower, 4 * levels, x.dtype)


def _below(words: Tensor, limit: int) -> Tensor:
    """``floor(w limit / 2^64)`` of 64-bit numbers given as (..., 2) words, the high one first."""
    return (words[..., 0] * limit + (words[..., 1] * limit >> 32)) >> 32
