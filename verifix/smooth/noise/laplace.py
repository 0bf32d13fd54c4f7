"""Laplace noise, which certifies l1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from verifix.smooth.noise.additive import Additive
from verifix.smooth.noise.parameters import check_lattice, check_scale
from verifix.smooth.noise.rounding import lowered
from verifix.smooth.probabilities import Probabilities


@dataclass(frozen=True)
class Laplace(Additive):
    """Independent Laplace noise on every coordinate, of density ``exp(-|t| / scale) / (2 scale)``.

    The radius is ``scale / 2 (v(p_A) - v(p_B))`` in l1, v the quantile of the Laplace law of scale 1: ``v(p) = log 2p``
    up to 1/2 and ``-log 2(1 - p)`` from there. It is what the normal quantile is to the Gaussian, tight (a half-space
    along a coordinate attains it), and never below the two forms in the literature, ``scale / 2 log(p_A / p_B)`` and
    ``-scale log(1 - p_A + p_B)`` (Lecuyer et al. 2019; Teng et al. 2020). Proof in docs/smoothing-families.md:
    along one coordinate the likelihood ratio is monotone, so half-lines are the worst classifiers and ``v`` of a
    smoothed probability changes by at most ``|t| / scale``; a perturbation is a chain of such steps.

    Args:
        scale: of the law, in units of the input; its standard deviation is ``sqrt(2) scale``.
        lattice: levels per unit, as for :class:`~verifix.smooth.noise.gaussian.Gaussian`.

    Raises:
        InvalidType, InvalidValue: if scale is not one finite number > 0, lattice not a whole number >= 1.

    >>> import numpy as np
    >>> from verifix.smooth.probabilities import Probabilities
    >>> bounds = Probabilities(top=np.array([0.99, 0.4]), failure=np.array([0.01, 0.6]), other=np.array([0.01, 0.1]))
    >>> Laplace(1.0).radius(bounds).round(4)
    array([3.912 , 0.6931])
    """

    scale: float
    lattice: int | None = None

    name: ClassVar[str] = "laplace"
    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale("scale", self.scale))
        object.__setattr__(self, "lattice", check_lattice(self.lattice))

    @property
    def spread(self) -> float:
        return self.scale

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        return laplace_radius(probabilities, self.scale)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "scale": self.scale, "lattice": self.lattice}


def laplace_radius(probabilities: Probabilities, scale: float) -> NDArray[np.float64]:
    """``scale / 2 (v(p_A) - v(p_B))``, rounded down; nan where it is not positive. See :class:`Laplace`."""
    top, failure, other = probabilities.top, probabilities.failure, probabilities.other
    with np.errstate(divide="ignore", invalid="ignore"):
        # where p_A > 1/2 only the complement keeps its relative accuracy, and doubling is exact
        of_top = np.where(failure < 0.5, -np.log(2 * failure), np.log(2 * np.minimum(top, 0.5)))
        of_other = np.log(2 * other)  # below 1/2 where there is a lead
        difference = of_top - of_other
        # each logarithm is trusted to 4 units in the last place, then differences and product to half a unit each
        doubt = (np.abs(of_top) + np.abs(of_other)) * 2.0**-49
        radius = np.where(difference == np.inf, np.inf, lowered(scale / 2 * (difference - doubt), 3))
    return np.where(radius > 0, radius, np.nan)
